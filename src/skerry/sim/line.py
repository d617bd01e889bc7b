"""Faults of a simulated fleet, and the lines that have them.

Which host gets which fault follows from the seed and the host's number alone, so a run can be
repeated and a larger fleet keeps the faults of the smaller one.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from dataclasses import dataclass

from skerry.agent.causes import ChannelFailed
from skerry.agent.channel import Channel
from skerry.lib.clock import Clock
from skerry.lib.errors import SkerryError
from skerry.wire import messages

_AWAY_S = (900.0, 7200.0)
_BACK_S = (30.0, 120.0)
_DELAY_S = (0.4, 4.0)


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong. Percentages are of hosts. An offline host is first seen for
    `first_contact_s`, because nobody misses a host that never was there."""

    offline_percent: int = 0
    slow: bool = False
    bad_updates_percent: int = 0
    first_contact_s: float = 20.0

    def __post_init__(self) -> None:
        for value in (self.offline_percent, self.bad_updates_percent):
            if not 0 <= value <= 100:
                raise SkerryError(f"not a percentage: {value}", hint="between 0 and 100")

    def offline(self, *, seed: int, number: int) -> bool:
        """Whether the host's line is down most of the time."""
        return _draw("offline", seed, number) < self.offline_percent

    def bad_updates(self, *, seed: int, number: int) -> bool:
        """Whether updates of the host fail after they were activated."""
        return _draw("update", seed, number) < self.bad_updates_percent


class Line:
    """The line of one host: when it is up, and how long an answer takes."""

    __slots__ = ("_clock", "_first_contact_s", "_offline", "_random", "_slow", "_turns_at", "_up")

    def __init__(self, faults: Faults, clock: Clock, *, seed: int, number: int) -> None:
        self._clock = clock
        self._slow = faults.slow
        self._first_contact_s = faults.first_contact_s
        self._offline = faults.offline(seed=seed, number=number)
        self._up = True
        self._turns_at = 0.0
        # Only hosts with a fault need chance; a generator is 2.5 KB.
        self._random = (
            random.Random(f"line {seed} {number}")  # noqa: S311  # repeatable on purpose
            if self._slow or self._offline
            else None
        )

    def seen(self) -> None:
        """The manager knows the host now; from here on the line may go."""
        if self._offline and not self._turns_at:
            self._turns_at = self._clock.monotonic() + self._first_contact_s

    async def cross(self, manager: str) -> None:
        """Wait as long as the line takes. Raises ChannelFailed when it is down."""
        if self._random is None:
            return
        if self._turns_at and self._clock.monotonic() >= self._turns_at:
            self._up = not self._up
            spell = _BACK_S if self._up else _AWAY_S
            self._turns_at = self._clock.monotonic() + self._random.uniform(*spell)
        if not self._up:
            raise ChannelFailed(
                f"no connection to {manager}: no route to host", reason="ManagerUnreachable"
            )
        if self._slow:
            await self._clock.sleep(self._random.uniform(*_DELAY_S))


class FaultyChannel:
    """A channel whose messages cross a line."""

    __slots__ = ("_behind", "_line", "_manager")

    def __init__(self, behind: Channel, line: Line, manager: str) -> None:
        self._behind = behind
        self._line = line
        self._manager = manager

    async def enrol(self, request: messages.EnrolRequest) -> messages.EnrolState:
        await self._line.cross(self._manager)
        return await self._behind.enrol(request)

    async def sync(self, request: messages.SyncRequest) -> messages.SyncAnswer:
        await self._line.cross(self._manager)
        answer = await self._behind.sync(request)
        self._line.seen()
        return answer

    async def renew(self, request: messages.RenewRequest) -> messages.RenewAnswer:
        await self._line.cross(self._manager)
        return await self._behind.renew(request)

    async def content(self, digest: str, *, start: int) -> AsyncIterator[bytes]:
        await self._line.cross(self._manager)
        async for chunk in self._behind.content(digest, start=start):
            yield chunk

    async def close(self) -> None:
        await self._behind.close()


def _draw(what: str, seed: int, number: int) -> float:
    """From 0 to below 100."""
    chance = random.Random(f"{what} {seed} {number}")  # noqa: S311  # repeatable on purpose
    return chance.random() * 100
