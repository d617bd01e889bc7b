"""A watch as an answer: one JSON object per line, an empty line now and then.

The empty lines find dead connections. A client goes on after a cut with `since=` the last revision
that it saw, and misses nothing. Whether the caller may still watch is asked again and again, so
that access that was taken away ends within `RECHECK_S`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from skerry.lib.clock import Clock
from skerry.lib.errors import SkerryError
from skerry.manager.services.centre import NotPermitted, NotSignedIn
from skerry.manager.store.protocol import Change

BEAT_S = 15.0
RECHECK_S = 4.0


class WatchAnswer(Response):
    """Streams changes until the client goes or the watch ends."""

    media_type = "application/jsonl"

    def __init__(
        self,
        changes: AsyncIterator[Change],
        clock: Clock,
        *,
        recheck: Callable[[], Awaitable[None]],
    ) -> None:
        """`recheck` raises when the caller may not watch any more."""
        super().__init__(headers={"cache-control": "no-store"})
        self._recheck = recheck
        self._changes = changes
        self._clock = clock
        self._sending = anyio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [pair for pair in self.raw_headers if pair[0] != b"content-length"]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async with anyio.create_task_group() as tg:

            async def read() -> None:
                await self._read(send)
                tg.cancel_scope.cancel()

            async def gone() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                tg.cancel_scope.cancel()

            tg.start_soon(read)
            tg.start_soon(gone)

            async def guard() -> None:
                await self._guard(send)
                tg.cancel_scope.cancel()

            tg.start_soon(guard)
            tg.start_soon(self._beat, send)
        with anyio.move_on_after(1, shield=True):
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _read(self, send: Send) -> None:
        try:
            async for change in self._changes:
                kind = "DELETED" if change.deleted else "CHANGED"
                await self._line(
                    send, {"type": kind, "revision": change.revision, "object": change.resource}
                )
        except SkerryError as exc:
            error = {"type": "ERROR", "reason": exc.reason, "message": exc.message}
            await self._line(send, error)

    async def _guard(self, send: Send) -> None:
        """Ends when the caller may not watch any more."""
        while True:
            await self._clock.sleep(RECHECK_S)
            try:
                await self._recheck()
            except (NotPermitted, NotSignedIn) as exc:
                error = {"type": "ERROR", "reason": exc.reason, "message": exc.message}
                await self._line(send, error)
                return
            except SkerryError:
                continue  # the store rests; the watch itself says so

    async def _beat(self, send: Send) -> None:
        while True:
            await self._clock.sleep(BEAT_S)
            await self._line(send, None)

    async def _line(self, send: Send, value: Any) -> None:
        body = b"\n" if value is None else msgspec.json.encode(value) + b"\n"
        async with self._sending:
            await send({"type": "http.response.body", "body": body, "more_body": True})
