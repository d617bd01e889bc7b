"""A manager that answers from a script, for tests of whatever uses the client.

It remembers every request with its body, so that a test can say what was asked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx2
import msgspec

from skerry.client.api import Api
from skerry.client.contexts import Context
from skerry.lib.clock import ManualClock

CONTEXT = Context(name="test", server="http://127.0.0.1:1", token="key-1")  # noqa: S106  # a fake
Answer = Callable[[httpx2.Request], httpx2.Response]


class QuickClock(ManualClock):
    """A clock on which sleeping takes no time; `slept` records how long it would have."""

    def __init__(self) -> None:
        super().__init__()
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.advance(seconds)


@dataclass
class FakeManager:
    """Answers in turn; the last answer repeats."""

    answers: list[Answer]
    requests: list[httpx2.Request] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    clock: QuickClock = field(default_factory=QuickClock)

    def api(self) -> Api:
        transport = httpx2.MockTransport(self._handle)
        return Api(CONTEXT, transport=transport, clock=self.clock)

    async def _handle(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        self.bodies.append(await request.aread())
        answer = self.answers[0] if len(self.answers) == 1 else self.answers.pop(0)
        return answer(request)


def says(value: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Answer:
    """An answer with a JSON body."""
    kind = "application/problem+json" if status >= 400 else "application/json"

    def answer(_request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(
            status,
            content=msgspec.json.encode(value),
            headers={"content-type": kind, **(headers or {})},
        )

    return answer


def lines(*values: Any) -> Answer:
    """A watch's answer."""
    body = b"\n".join(msgspec.json.encode(value) for value in values) + b"\n\n"

    def answer(_request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, content=body)

    return answer


def breaks(request: httpx2.Request) -> httpx2.Response:
    """No answer at all."""
    raise httpx2.ReadError("connection reset")
