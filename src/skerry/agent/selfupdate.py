"""The agent's updating half: brings a newer agent, judges trials, remembers what failed.

It fetches beside the work on the cluster, because a thin line may take hours; the switch itself is
an operation of the working half's journal, so it never falls into the middle of another one. What
to do is decided in plan.agentupdate, how a trial is marked lies in trial.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import anyio
import msgspec
import structlog

from skerry.agent import facts, paths, trial
from skerry.agent.identity import Identity
from skerry.agent.journal import Entry, EventLog, Failure, Verdict
from skerry.agent.slots import AgentSlots, AgentStep
from skerry.agent.standing import Standing
from skerry.agent.wanted import desired_agent
from skerry.lib.clock import Clock
from skerry.lib.errors import SkerryError
from skerry.lib.files import Root
from skerry.model.kinds import AgentState
from skerry.model.meta import Condition, Record
from skerry.plan.agentupdate import (
    DesiredAgent,
    Fetch,
    Move,
    ObservedAgent,
    Restart,
    ReturnKind,
    judge,
    may_confirm,
    plan_agent,
    return_words,
)
from skerry.plan.host import Refusal
from skerry.plan.steps import Operation

log = structlog.get_logger("skerry.agent.selfupdate")

_TRIAL_LOOK_S = 1.0
_IDLE_S = 60.0
_REST_MIN_S = 15.0
_REST_MAX_S = 3600.0
_KEPT = 20


class AgentMemory(Record, frozen=True, kw_only=True):
    """Digests of agents that failed here, those that only met power cuts, and how many requests
    for another try were heard."""

    failed: dict[str, Failure] = {}
    interrupted: dict[str, int] = {}
    retries: int = 0


@dataclass
class Updater:
    """Everything the updating half holds on to. `on_ready` wakes the working half."""

    root: Root
    clock: Clock
    slots: AgentSlots
    identity: Identity
    events: EventLog
    standing: Standing
    on_ready: Callable[[], None] = lambda: None
    architecture: str = field(default_factory=facts.architecture)
    wake: anyio.Event = field(default_factory=anyio.Event)
    _wanted: DesiredAgent | None = None
    _fetched: str = ""
    _started_s: float = 0.0
    _rest_s: float = 0.0
    _rest_until_s: float = 0.0

    def nudge(self) -> None:
        """A new assignment is there."""
        self._rest_s = 0.0
        self.wake.set()
        self.wake = anyio.Event()

    async def begin(self) -> None:
        """Settle the last trial; to be called before any work. Raises TrialInvalid."""
        self._started_s = self.clock.monotonic()
        found = trial.returned(self.root, self.slots.own)
        if found is not None:
            mark, returned = found
            memory = self.memory()
            kind = judge(returned, interrupted_before=memory.interrupted.get(mark.digest, 0))
            words = return_words(returned, kind, self.slots.version)
            if kind is ReturnKind.FAILED:
                self._remember(mark.digest, "AgentReturned", words)
            elif kind is ReturnKind.INTERRUPTED:
                self._keep(
                    msgspec.structs.replace(
                        memory, interrupted={**memory.interrupted, mark.digest: 1}
                    )
                )
            self.events.add("AgentReturned", words, at=self.clock.now(), severity="warning")
            log.warning("agent.returned", version=mark.version, kind=kind.value)
        if trial.running(self.root) is None:
            await trial.clear(self.root, self.slots.runner)
        self._show(None)

    async def run(self) -> None:
        """Look after updates until cancelled."""
        while True:
            wake = self.wake
            wait_s = await self.turn()
            with anyio.move_on_after(wait_s):
                await wake.wait()

    async def turn(self) -> float:
        """One round; seconds until the next."""
        if self.on_trial():
            return await self._trial()
        try:
            self._wanted = await desired_agent(
                self.root, self.slots.content, self.identity, architecture=self.architecture
            )
            self._hear_retries()
            move = self._plan()
            if isinstance(move, Fetch) and self._wanted is not None:
                self._show(_updating(f"agent {self._wanted.version} is being fetched"))
                await self.slots.fetch(self._wanted.artifact)
                self._fetched = self._wanted.artifact.digest
                move = self._plan()
        except SkerryError as exc:
            self._show(_failing(exc.reason or "AgentError", exc.message))
            return self._rest()
        if isinstance(move, Refusal):
            known = self.memory().failed.get(self._wanted.artifact.digest) if self._wanted else None
            self._show(
                _failing(known.reason, known.message)
                if known is not None
                else _failing(move.reason, move.message)
            )
        elif move is None:
            self._show(None)
        else:
            if self._wanted is not None and self.clock.monotonic() >= self._rest_until_s:
                self._show(_updating(f"agent {self._wanted.version} is being put in place"))
            self.on_ready()
        return _IDLE_S

    def on_trial(self) -> bool:
        """Whether the running program has still to prove itself."""
        mark = trial.running(self.root)
        return mark is not None and mark.new == self.slots.own

    def move(self) -> Operation | Restart | None:
        """What the working half should carry out now, if anything."""
        if self.clock.monotonic() < self._rest_until_s:
            return None
        move = self._plan()
        return move if isinstance(move, Operation | Restart) else None

    async def perform(self, step: AgentStep) -> None:
        """Do a step of an update. Raises SkerryError with a reason."""
        digest = getattr(step, "digest", "")
        if digest in self.memory().failed and step.slot != self.slots.own:
            # The journal outlived the trial that its operation began.
            failure = self.memory().failed[digest]
            raise SkerryError(failure.message, reason=failure.reason)
        await self.slots.perform(step)

    async def restart(self) -> float:
        """Let systemd start what the link names; seconds until asking again."""
        log.info("agent.restarting", slot=self.slots.current())
        await self.slots.restart()
        return 30.0

    def ended(self, entry: Entry, verdict: Verdict, failure: Failure | None) -> None:
        """An update's operation ended: switched, or stopped before that."""
        if verdict is Verdict.DONE or failure is None:
            return
        if failure.reason == "AgentUnusable":
            self._remember(entry.operation.desired_digest, failure.reason, failure.message)
        self._show(_failing(failure.reason, failure.message))
        self._rest_until_s = self.clock.monotonic() + self._rest()

    def memory(self) -> AgentMemory:
        """What failed here before."""
        if not self.root.exists(paths.AGENT_MEMORY):
            return AgentMemory()
        return msgspec.json.decode(self.root.read(paths.AGENT_MEMORY), type=AgentMemory)

    async def _trial(self) -> float:
        mark = trial.running(self.root)
        if mark is None:
            return 0.0
        self._show(_updating(f"agent {mark.version} runs and has still to prove itself"))
        proved = may_confirm(
            worked=self.standing.worked,
            synced=self.standing.synced,
            offline=self.standing.offline,
            ran_s=self.clock.monotonic() - self._started_s,
            trial_s=mark.seconds,
        )
        if not proved:
            return _TRIAL_LOOK_S
        if not trial.confirm(self.root):
            return _TRIAL_LOOK_S  # The watchdog was first; it restarts the old agent.
        await trial.clear(self.root, self.slots.runner)
        self.events.add("AgentUpdated", f"agent {mark.version} runs", at=self.clock.now())
        log.info("agent.confirmed", version=mark.version)
        self._show(None)
        self.on_ready()
        return 0.0

    def _plan(self) -> Move:
        mark = trial.running(self.root)
        wanted = self._wanted
        fetched = wanted is not None and (
            self._fetched == wanted.artifact.digest or self.slots.has(wanted.artifact)
        )
        observed = ObservedAgent(
            version=self.slots.version,
            architecture=self.architecture,
            slot=self.slots.own,
            current=self.slots.current(),
            trial=mark.new if mark else "",
            fetched=fetched,
        )
        return plan_agent(wanted, observed, failed=frozenset(self.memory().failed))

    def _hear_retries(self) -> None:
        memory, wanted = self.memory(), self._wanted
        if wanted is not None and wanted.retry_failed > memory.retries:
            self._keep(AgentMemory(retries=wanted.retry_failed))

    def _remember(self, digest: str, reason: str, message: str) -> None:
        memory = self.memory()
        failure = Failure(reason=reason, message=message[:1000], at=self.clock.now())
        failed = dict(list({**memory.failed, digest: failure}.items())[-_KEPT:])
        self._keep(msgspec.structs.replace(memory, failed=failed))

    def _keep(self, memory: AgentMemory) -> None:
        self.root.write(paths.AGENT_MEMORY, msgspec.json.encode(memory), mode=0o600)

    def _rest(self) -> float:
        self._rest_s = min(max(2 * self._rest_s, _REST_MIN_S), _REST_MAX_S)
        return self._rest_s

    def _show(self, condition: Condition | None) -> None:
        state = AgentState(
            slot=self.slots.own,
            on_trial=self.on_trial(),
            failed=tuple(sorted(self.memory().failed)),
        )
        if (self.standing.agent, self.standing.agent_condition) != (state, condition):
            self.standing.agent, self.standing.agent_condition = state, condition
            self.standing.announce()


def _updating(message: str) -> Condition:
    return Condition(type="AgentUpdated", status="Unknown", reason="AgentUpdating", message=message)


def _failing(reason: str, message: str) -> Condition:
    return Condition(type="AgentUpdated", status="False", reason=reason, message=message)
