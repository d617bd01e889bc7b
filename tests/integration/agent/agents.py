"""A real agent in this process: its core, its channel and its journal, on a disk in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import anyio

from skerry.agent.channel import certificate_begins
from skerry.agent.core import Parts, run_agent
from skerry.agent.identity import Identity, load_identity
from skerry.agent.register import prepare
from skerry.agent.show import status_text
from skerry.agent.sync import LocalStatus, load_status
from skerry.lib.clock import SystemClock
from skerry.lib.memory_files import MemoryRoot
from skerry.model.reasons import Cause, why
from skerry.sim.engine import KeptEngine
from skerry.sim.machines import Machine, MachineRunner, shape_files, shapes


class HastyClock(SystemClock):
    """Pauses are short. The hour may be another one, and may be set."""

    def __init__(self, offset: timedelta = timedelta()) -> None:
        self.offset = offset

    def now(self) -> datetime:
        return super().now() + self.offset

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(min(seconds, 0.05))

    def set(self, at: datetime) -> None:
        self.offset = at - super().now()


@dataclass
class Agent:
    """One host. `number` makes its machine."""

    manager: str
    authority: str
    number: int = 1
    token: str = ""
    pairing_key: str = ""
    root: MemoryRoot = field(default_factory=MemoryRoot)
    clock: HastyClock = field(default_factory=HastyClock)
    labels: dict[str, str] = field(default_factory=dict)
    runner: Any = None
    own_clock: bool = False
    parts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        machine = Machine(shape=shapes()[0], name=f"till-{self.number}", number=self.number, seed=1)
        for path, data in {**shape_files(machine.shape.shape), **machine.own_files()}.items():
            if not self.root.exists(path):
                self.root.write(path, data)
        self.runner = self.runner or MachineRunner(machine)

    def register(self) -> None:
        prepare(
            self.root,
            Identity(manager=self.manager, authorities=(self.authority,), labels=self.labels),
            token=self.token,
            pairing_key=self.pairing_key,
        )

    @property
    def identity(self) -> Identity:
        return load_identity(self.root)

    @property
    def status(self) -> LocalStatus | None:
        return load_status(self.root)

    @property
    def cause(self) -> Cause:
        """What a person on the host is told."""
        status = self.status
        assert status is not None
        return why(status.conditions, {"host": status.host_name})

    @property
    def screen(self) -> str:
        status = self.status
        assert status is not None
        return status_text(status)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Agent]:
        async with anyio.create_task_group() as tg:
            tg.start_soon(self._run)
            yield self
            tg.cancel_scope.cancel()

    async def _run(self) -> None:
        await run_agent(
            Parts(
                root=self.root,
                runner=self.runner,
                clock=self.clock,
                engine=lambda _: KeptEngine(self.root, self.clock, step_s=0),
                idle_s=0.05,
                hold_s=0,
                set_clock=self.clock.set if self.own_clock else None,
                certificate_begins=certificate_begins,
                **self.parts,
            )
        )

    async def until(
        self, done: Callable[[LocalStatus], bool], *, limit_s: float = 20
    ) -> LocalStatus:
        """Wait for a status; the last one is shown when it does not come."""
        try:
            with anyio.fail_after(limit_s):
                while (status := self.status) is None or not done(status):  # noqa: ASYNC110
                    await anyio.sleep(0.02)
                return status
        except TimeoutError:
            raise AssertionError(f"not in time; the host says: {self.status}") from None

    async def until_reason(self, reason: str, *, limit_s: float = 20) -> LocalStatus:
        return await self.until(lambda _: self.cause.reason == reason, limit_s=limit_s)

    async def until_synced(self) -> LocalStatus:
        return await self.until(
            lambda status: any(
                item.type == "Synced" and item.status == "True" for item in status.conditions
            )
        )
