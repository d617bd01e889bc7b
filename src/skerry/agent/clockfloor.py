"""The time floor: the newest time that a key of this host's manager vouched for.

Persisted in steps of an hour, so that it costs no write per answer. Without a battery a machine
starts years in the past; stepping its clock to the floor lets certificates count again before the
kubelet and the line to the manager need them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from skerry.agent import accept, paths
from skerry.agent.identity import Identity
from skerry.lib.clock import Clock
from skerry.lib.errors import SkerryError
from skerry.lib.files import Root
from skerry.lib.proc import Runner
from skerry.model.meta import Condition
from skerry.plan import clock as plan

log = structlog.get_logger("skerry.agent.clock")

SetClock = Callable[[datetime], None]


@dataclass
class ClockFloor:
    """`set_clock` steps the machine's clock; None where it is not this machine's own."""

    root: Root
    runner: Runner
    clock: Clock
    set_clock: SetClock | None = None
    _floor: datetime | None = None
    _kept: datetime | None = None

    def __post_init__(self) -> None:
        try:
            text = self.root.read(paths.CLOCK_FLOOR).decode()
            self._floor = self._kept = datetime.fromisoformat(text).astimezone(UTC)
        except (SkerryError, ValueError):
            pass  # first start, or torn by a broken disk: it grows again with the next answer

    @property
    def floor(self) -> datetime | None:
        return self._floor

    def saw(self, at: datetime) -> None:
        """A trusted key vouched for this time."""
        at = at.astimezone(UTC)
        if self._floor is not None and at <= self._floor:
            return
        self._floor = at
        if self._kept is None or at - self._kept >= plan.FAR:
            try:
                self.root.write(paths.CLOCK_FLOOR, at.isoformat().encode(), mode=0o600)
            except (SkerryError, OSError) as exc:
                log.warning("clock.floor_not_kept", message=str(exc))
                return
            self._kept = at

    def saw_assignment(self, identity: Identity) -> None:
        """Count the newest accepted assignment, however it came."""
        try:
            have = accept.stored(self.root, identity)
            if have is not None:
                self.saw(accept.open_assignment(have.envelope, identity).issued_at)
        except SkerryError:
            return  # the working half says what is wrong with it

    async def hold(self) -> str:
        """Step the clock up to the floor if it must be; what was done, in words, or "".

        Not being allowed to is no error of the caller: it is logged, and the line says ClockWrong.
        """
        now = self.clock.now()
        if self.set_clock is None or self._floor is None or now >= self._floor - plan.FAR:
            return ""
        target = plan.step_to(now, self._floor, kept=await self._keeps_time(), settable=True)
        if target is None:
            return ""
        try:
            self.set_clock(target)
        except OSError as exc:
            log.warning("clock.not_stepped", message=str(exc), floor=target.isoformat())
            return ""
        log.warning("clock.stepped", before=now.isoformat(), after=target.isoformat())
        return f"the clock showed {now:%Y-%m-%d %H:%M}, now {target:%Y-%m-%d %H:%M} UTC"

    def judge(self, manager: datetime) -> Condition | None:
        """What this host says about the clocks, its own and the manager's."""
        return plan.judge(self.clock.now(), manager, self._floor)

    async def _keeps_time(self) -> bool:
        """Whether a time service says that the clock is right (timedatectl(1))."""
        argv = ["timedatectl", "show", "--property=NTPSynchronized", "--value"]
        try:
            result = await self.runner.run(argv, timeout_s=10, check=False)
        except SkerryError:
            return False
        return result.ok and result.stdout.strip() == "yes"
