"""The agent's half that looks after the operating system: fetches images, judges trials, remembers.

Content is fetched beside the work on the cluster, because a thin line may take hours. Writing,
arming, restarting and the verdict are operations of the working half's journal, which lies on the
state partition and so outlives the restart. What to do is decided in plan.osupdate.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio
import msgspec
import structlog

from skerry.agent import facts
from skerry.agent.content import Content
from skerry.agent.identity import Identity
from skerry.agent.journal import Entry, EventLog, Failure, Verdict
from skerry.agent.osengine.engine import OsEngine
from skerry.agent.osmemory import OsMemory, load_memory, save_memory
from skerry.agent.standing import Standing
from skerry.agent.wanted import WantedOs, fetch_image, wanted_os
from skerry.lib.clock import Clock
from skerry.lib.errors import SkerryError
from skerry.lib.files import Root
from skerry.lib.proc import Runner
from skerry.model.artifact import ArtifactRef
from skerry.model.meta import Condition
from skerry.model.osstate import OsSlotState, OsState
from skerry.plan import steps as do
from skerry.plan.host import Refusal
from skerry.plan.osupdate import (
    STAGE_OS,
    UPDATE_OS,
    DesiredOs,
    FetchImage,
    OsMove,
    OsObserved,
    OsReturn,
    fallen_back_words,
    is_settled,
    judge,
    may_confirm_os,
    plan_os,
)

log = structlog.get_logger("skerry.agent.osupdate")

OsStep = (
    do.StageImage
    | do.ActivateImage
    | do.Restart
    | do.CheckImage
    | do.GateHost
    | do.ConfirmImage
    | do.RollBackImage
)

FetchContent = Callable[[Root, Content, ArtifactRef], Awaitable[None]]

_IDLE_S = 60.0
_TRIAL_LOOK_S = 5.0
_REST_MIN_S = 15.0
_REST_MAX_S = 3600.0
_GATE_LOOK_S = 5.0
# Right after a start the API still believes what it last heard of the node.
_SETTLE_S = 10.0
# Long enough for the syncing half to tell the centre that the machine restarts.
_TELL_S = 2.0
_LOOKS, _LOOK_AGAIN_S = 3, 5.0
_MAX_PROBLEMS = 8


class _FellBack(SkerryError):
    """The image on trial is not what the host goes on with."""

    def __init__(self, kind: OsReturn, message: str) -> None:
        super().__init__(message, reason=kind.reason, retryable=False)


async def _nothing() -> tuple[Condition, ...]:
    return ()


@dataclass
class OsUpdater:
    """Everything this half holds on to. `on_ready` wakes the working half, `health` asks it for
    the conditions of what runs on the host."""

    root: Root
    runner: Runner
    clock: Clock
    content: Content
    engine: OsEngine
    identity: Identity
    events: EventLog
    standing: Standing
    fetch: FetchContent = fetch_image
    on_ready: Callable[[], None] = lambda: None
    health: Callable[[], Awaitable[tuple[Condition, ...]]] = _nothing
    architecture: str = field(default_factory=facts.architecture)
    wake: anyio.Event = field(default_factory=anyio.Event)
    due: bool = False
    _wanted: WantedOs = WantedOs()
    _seen: OsObserved | None = None
    _fetched: str = ""
    _told: tuple[str, bool] = ("", False)
    _last_done: do.Operation | None = None
    _rest_s: float = 0.0
    _rest_until_s: float = 0.0
    _busy: anyio.Lock = field(default_factory=anyio.Lock)

    def nudge(self) -> None:
        """A new assignment is there."""
        self._rest_s, self._rest_until_s = 0.0, 0.0
        self._wake()

    async def begin(self) -> None:
        """Measure once before any work, so that nothing is begun beside a trial."""
        await self._look()

    async def run(self) -> None:
        """Look after the OS until cancelled."""
        while True:
            wake = self.wake
            wait_s = await self._guarded()
            with anyio.move_on_after(wait_s):
                await wake.wait()

    async def turn(self) -> float:
        """One round; seconds until the next."""
        wake = self.wake
        try:
            self._wanted = await wanted_os(
                self.root, self.content, self.identity, architecture=self.architecture
            )
            self._hear_retries()
            observed = await self._look()
            move = self._plan(observed)
            if isinstance(move, FetchImage) and self._wanted.os is not None:
                if not await self._fetch(self._wanted.os, wake):
                    return 0.0
                move = self._plan(observed)
        except SkerryError as exc:
            self._say(_failing(exc.reason or "AgentError", exc.message))
            return self._rest()
        self._tell(move, observed)
        self.due = isinstance(move, do.Operation)
        now = (self._wanted.assignment, is_settled(self._wanted.os, observed))
        left_s = self._rest_until_s - self.clock.monotonic() if self.due else 0.0
        if (self.due and left_s <= 0) or now != self._told:
            self._told = now
            self.on_ready()
        usual_s = _TRIAL_LOOK_S if observed.on_trial else _IDLE_S
        return min(left_s, usual_s) if left_s > 0 else usual_s

    def on_trial(self) -> bool:
        """Whether the running system has still to prove itself: nothing else begins then."""
        return self._seen is not None and self._seen.on_trial

    def settled(self, digest: str) -> bool:
        """Whether the OS is as the assignment of this digest wants it, and confirmed."""
        if self._wanted.assignment != digest or self._seen is None:
            self._wake()
            return False
        return is_settled(self._wanted.os, self._seen)

    async def move(self, healthy: tuple[str, ...]) -> do.Operation | None:
        """What the working half should carry out now, if anything. `healthy` are the types of the
        conditions that are True now."""
        if not self.due or self.clock.monotonic() < self._rest_until_s:
            return None
        self.due = False
        move = self._plan(await self._look(), healthy=healthy)
        if not isinstance(move, do.Operation):
            return None
        if move == self._last_done:
            # It ended well and is planned again: what it should change did not change. No spin.
            self._last_done, self._rest_until_s = None, self.clock.monotonic() + self._rest()
            return None
        return move

    def superseded(self, entry: Entry) -> bool:
        """Whether a gentle operation has lost its point because another image is wanted now."""
        return entry.operation.name == STAGE_OS and (
            self._wanted.os is None
            or self._wanted.os.artifact.digest != entry.operation.desired_digest
        )

    async def perform(self, step: OsStep, entry: Entry) -> None:
        """Do a step; doing it again is always right. Raises SkerryError with a reason."""
        match step:
            case do.StageImage():
                await self._stage(step)
            case do.ActivateImage():
                await self._activate(step)
            case do.Restart():
                await self._restart(step)
            case do.CheckImage():
                await self._check(entry)
            case do.GateHost():
                await self._gate(step, entry)
            case do.ConfirmImage():
                await self._confirm(entry)
            case do.RollBackImage():
                await self._roll_back()

    def ended(self, entry: Entry, verdict: Verdict, failure: Failure | None) -> None:
        """An operation ended: remember what it says about its image."""
        digest, name = entry.operation.desired_digest, entry.operation.name
        self.due = False
        if verdict is Verdict.DONE:
            self._last_done, self._rest_s = entry.operation, 0.0
            if name == UPDATE_OS:
                save_memory(self.root, self.memory().confirmed(digest))
                told = f"OS {_version_of(entry)} is confirmed"
                self.events.add("OsUpdated", told, at=self.clock.now())
        elif failure is not None:
            self._failed(entry, failure)
        self._wake()

    def memory(self) -> OsMemory:
        """What happened here before."""
        return load_memory(self.root)

    # -- steps -------------------------------------------------------------------------------

    async def _stage(self, step: do.StageImage) -> None:
        if await self._runs(step.image.digest):
            return  # It was armed and started already: the other slot is the way back now.
        async with self._busy:
            await self.engine.stage(step.image)

    async def _activate(self, step: do.ActivateImage) -> None:
        if await self._runs(step.image.digest):
            return
        await self._note_boot()
        async with self._busy:
            await self.engine.activate(step.image, trial_s=step.trial_s)

    async def _restart(self, step: do.Restart) -> None:
        observed = await self._look()
        armed_in = self.memory().armed_in or step.from_boot
        if step.unless_slot and observed.running == step.unless_slot:
            return
        if armed_in and observed.boot_id != armed_in:
            return
        log.info("os.restarting", slot=observed.running)
        await self.clock.sleep(_TELL_S)
        await self.runner.run(["systemctl", "reboot"], timeout_s=60)
        # The machine goes down and takes this with it.
        await self.clock.sleep(step.limit_s * 0.9)
        raise SkerryError(
            "the machine was told to restart and runs on",
            hint="see what holds it up with 'systemctl list-jobs'",
            reason="OsEngineFailed",
        )

    async def _check(self, entry: Entry) -> None:
        observed = await self._look()
        for _ in range(_LOOKS - 1):
            if observed.image or not observed.problems:
                break
            # A boot partition that is not there yet must not cost an image its chance.
            await self.clock.sleep(_LOOK_AGAIN_S)
            observed = await self._look()
        self._still_runs(entry, observed)

    async def _gate(self, step: do.GateHost, entry: Entry) -> None:
        """Raises OsReturned when something that was healthy before is not, OsInterrupted when
        only the line is missing: nobody knows whether the image or the site lost it."""
        self._still_runs(entry, await self._look())
        began_s = self.clock.monotonic()
        good_since_s: float | None = None
        lacking = ""
        while (ran_s := self.clock.monotonic() - began_s) < step.timeout_s:
            lacking = await self._lacking(step)
            if lacking:
                good_since_s = None
            elif good_since_s is None:
                good_since_s = ran_s
            line = may_confirm_os(
                line_before=step.line,
                synced=self.standing.synced,
                offline=self.standing.offline,
                ran_s=ran_s,
                timeout_s=step.timeout_s,
            )
            settled = good_since_s is not None and ran_s - good_since_s >= min(
                _SETTLE_S, step.timeout_s / 4
            )
            if settled and line:
                return
            await self.clock.sleep(_GATE_LOOK_S)
        kind = judge(verdict=bool(lacking), interrupted_before=self._interrupted(entry))
        what = lacking or "no manager answers any more"
        raise _FellBack(
            kind, f"OS {_version_of(entry)} was not healthy within {step.timeout_s:g} s: {what}"
        )

    async def _lacking(self, step: do.GateHost) -> str:
        """What was healthy before and is not now, in words; empty when nothing is."""
        try:
            found = {item.type: item for item in await self.health()}
        except SkerryError as exc:
            return exc.message
        for kind in step.healthy:
            item = found.get(kind)
            if item is None or item.status != "True":
                more = f": {item.message}" if item is not None and item.message else ""
                return f"{kind} is {item.status if item is not None else 'unknown'}{more}"
        return ""

    async def _confirm(self, entry: Entry) -> None:
        self._still_runs(entry, await self._look())
        async with self._busy:
            await self.engine.confirm()

    async def _roll_back(self) -> None:
        await self._note_boot()
        async with self._busy:
            await self.engine.roll_back()

    async def _runs(self, digest: str) -> bool:
        return (await self._look()).image == digest

    async def _note_boot(self) -> None:
        """Before a slot is armed or rolled back: the restart is due until the boot is another."""
        boot = (await self._look()).boot_id
        save_memory(self.root, msgspec.structs.replace(self.memory(), armed_in=boot))

    def _still_runs(self, entry: Entry, observed: OsObserved) -> None:
        if observed.image == entry.operation.desired_digest and observed.running:
            return
        kind = judge(verdict=False, interrupted_before=self._interrupted(entry))
        raise _FellBack(kind, fallen_back_words(_version_of(entry), observed, kind))

    # -- memory ------------------------------------------------------------------------------

    def _failed(self, entry: Entry, failure: Failure) -> None:
        digest = entry.operation.desired_digest
        reason = failure.reason
        if _restarted(entry, failure) and reason not in ("OsReturned", "OsInterrupted"):
            # The new system could not be confirmed for a reason that is not its health.
            kind = judge(verdict=False, interrupted_before=self._interrupted(entry))
            reason = kind.reason
        failure = msgspec.structs.replace(failure, reason=reason, message=failure.message[:1000])
        save_memory(self.root, self.memory().after(digest, failure))
        if reason in ("OsReturned", "OsInterrupted"):
            log.warning("os.returned", reason=reason, digest=digest)
        self._say(_failing(reason, failure.message))
        self._rest_until_s = self.clock.monotonic() + self._rest()

    def _interrupted(self, entry: Entry) -> int:
        return self.memory().interrupted.get(entry.operation.desired_digest, 0)

    def _hear_retries(self) -> None:
        memory, wanted = self.memory(), self._wanted.os
        if wanted is not None and wanted.retry_failed > memory.retries:
            fresh = OsMemory(retries=wanted.retry_failed, armed_in=memory.armed_in)
            save_memory(self.root, fresh)

    # -- looking and telling -----------------------------------------------------------------

    async def _guarded(self) -> float:
        try:
            return await self.turn()
        except OSError as exc:
            self._say(_failing("HostError", str(exc)))
        except Exception as exc:
            # It must not take the other halves down with it, least of all on trial.
            log.exception("os.defect")
            self._say(_failing("AgentError", f"{type(exc).__name__} in the agent; see its log"))
        return self._rest()

    async def _fetch(self, wanted: DesiredOs, wake: anyio.Event) -> bool:
        """Bring an image here; False when news came first. What is here already stays."""
        self._say(_updating(f"OS image {wanted.version} is being fetched"))
        failure: SkerryError | None = None
        async with anyio.create_task_group() as tg:

            async def interrupt() -> None:
                await wake.wait()
                tg.cancel_scope.cancel()

            tg.start_soon(interrupt)
            try:
                await self.fetch(self.root, self.content, wanted.artifact)
                self._fetched = wanted.artifact.digest
            except SkerryError as exc:
                failure = exc
            tg.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return self._fetched == wanted.artifact.digest

    async def _look(self) -> OsObserved:
        async with self._busy:
            self._seen = await self.engine.describe()
        self._report(self._seen)
        return self._seen

    def _plan(self, observed: OsObserved, *, healthy: tuple[str, ...] = ()) -> OsMove:
        wanted: DesiredOs | None = self._wanted.os
        return plan_os(
            wanted,
            observed,
            failed=frozenset(self.memory().failed),
            fetched=wanted is not None and wanted.artifact.digest == self._fetched,
            healthy=healthy,
            line=self.standing.synced and not self.standing.offline,
        )

    def _tell(self, move: OsMove, observed: OsObserved) -> None:
        wanted = self._wanted.os
        if isinstance(move, Refusal):
            known = self.memory().failed.get(wanted.artifact.digest) if wanted else None
            shown = known if known is not None and move.reason == "OsReturned" else move
            self._say(_failing(shown.reason, shown.message))
        elif observed.on_trial:
            version = observed.version
            self._say(_updating(f"OS {version} runs and has still to prove itself"))
        elif move is None:
            self._say(None if wanted is None else _updated(observed.version))
        elif wanted is not None and self.clock.monotonic() >= self._rest_until_s:
            self._say(_updating(f"OS image {wanted.version} is being put in place"))

    def _report(self, observed: OsObserved) -> None:
        state = OsState(
            engine=observed.engine.value,
            slot=observed.running,
            version=observed.version,
            image=observed.image,
            on_trial=observed.on_trial,
            recovery=observed.recovery,
            slots=tuple(
                OsSlotState(
                    name=slot.name, state=slot.state.value, version=slot.version, image=slot.image
                )
                for slot in observed.slots
            ),
            failed=tuple(sorted(self.memory().failed)),
            problems=tuple(item[:300] for item in observed.problems[:_MAX_PROBLEMS]),
        )
        problem = None
        if observed.problems:
            problem = Condition(
                type="OsHealthy",
                status="False",
                reason="OsProblem",
                message="; ".join(state.problems),
            )
        if (self.standing.os, self.standing.os_problem) != (state, problem):
            self.standing.os, self.standing.os_problem = state, problem
            self.standing.announce()

    def _say(self, condition: Condition | None) -> None:
        if self.standing.os_condition != condition:
            self.standing.os_condition = condition
            self.standing.announce()

    def _rest(self) -> float:
        self._rest_s = min(max(2 * self._rest_s, _REST_MIN_S), _REST_MAX_S)
        return self._rest_s

    def _wake(self) -> None:
        self.wake.set()
        self.wake = anyio.Event()


def _version_of(entry: Entry) -> str:
    versions = (getattr(step, "version", "") for step in entry.operation.steps)
    return next((version for version in versions if version), "of before")


def _restarted(entry: Entry, failure: Failure) -> bool:
    """Whether the step that failed comes after the restart."""
    after = False
    for step in entry.operation.steps:
        if after and step.title == failure.step:
            return True
        after = after or isinstance(step, do.Restart)
    return False


def _updating(message: str) -> Condition:
    return Condition(type="OsUpdated", status="Unknown", reason="OsUpdating", message=message)


def _updated(version: str) -> Condition:
    return Condition(type="OsUpdated", status="True", reason="Ready", message=version)


def _failing(reason: str, message: str) -> Condition:
    return Condition(type="OsUpdated", status="False", reason=reason, message=message)
