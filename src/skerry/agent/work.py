"""The agent's working half: observe, plan, carry out, one step at a time.

It needs no manager: what to do comes from the persisted assignment, how far it is from the
journal. An operation that does not disrupt is given up between steps when a newer assignment
arrives; one that disrupts is always brought to an end, forward or back.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import anyio
import msgspec
import structlog

from skerry.agent import accept, facts
from skerry.agent.content import Content
from skerry.agent.endings import done_words, returned_words
from skerry.agent.identity import HostKeys, Identity
from skerry.agent.journal import Entry, EventLog, Failure, Journal, Verdict, advance
from skerry.agent.kube.engine import KubeEngine
from skerry.agent.osupdate import OsStep, OsUpdater
from skerry.agent.redact import Redactor, redactor
from skerry.agent.selfupdate import Updater
from skerry.agent.slots import AgentStep
from skerry.agent.standing import Standing
from skerry.lib.clock import Clock
from skerry.lib.errors import SkerryError
from skerry.lib.files import Root
from skerry.model.kinds import DesiredMark, KubernetesState, Progress
from skerry.model.meta import Condition
from skerry.plan.agentupdate import UPDATE_AGENT, Restart
from skerry.plan.desired import DesiredCluster, DesiredHost
from skerry.plan.host import Refusal, cluster_digest, plan_host
from skerry.plan.observed import KubeObserved
from skerry.plan.osupdate import OS_OPERATIONS
from skerry.plan.steps import Operation

log = structlog.get_logger("skerry.agent.work")

_IDLE_S = 10.0
# A look at a cluster asks it a dozen questions, which cost its host CPU. What is well is looked at
# less often; a new assignment wakes the worker at once all the same.
_STEADY_S = 30.0
_STEP_LIMIT_S = 1800.0
_TRIAL_IDLE_S = 2.0


@dataclass
class Worker:
    """Everything the working half holds on to."""

    root: Root
    clock: Clock
    content: Content
    engine: KubeEngine
    keys: HostKeys
    identity: Identity
    journal: Journal
    events: EventLog
    standing: Standing
    updater: Updater | None = None
    os: OsUpdater | None = None
    wake: anyio.Event = field(default_factory=anyio.Event)
    idle_s: float = _IDLE_S
    _clean: Redactor = Redactor()
    _known: frozenset[str] = frozenset()
    _secret_digest: str = ""
    _secrets: tuple[str, ...] = ()
    _stopped: Failure | None = None
    _stopped_name: str = ""
    _tries: int = 0
    _next_try: float = 0.0
    _last_done: Operation | None = None
    _repeats: int = 0

    def nudge(self) -> None:
        """A new assignment is there."""
        self._stopped, self._tries = None, 0
        self.wake.set()
        self.wake = anyio.Event()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            wake = self.wake
            wait_s = await self._guarded()
            with anyio.move_on_after(wait_s):
                await wake.wait()

    async def _guarded(self) -> float:
        """A turn that never takes the syncing half down with it.

        A full disk, or a document that nobody foresaw, is reported and tried again: the journal
        holds how far the operation is, and the next assignment may be the remedy.
        """
        try:
            wait_s = await self.turn()
            self.standing.worked = True
            return wait_s
        except SkerryError as exc:
            failure = self._failure(exc.reason or "AgentError", exc.message, exc.hint, "")
        except OSError as exc:
            failure = self._failure("HostError", str(exc), "", "")
        except Exception as exc:
            # Not its text: an error that nobody foresaw may quote anything, a secret too.
            log.exception("work.defect")
            message = f"{type(exc).__name__} in the agent; its log has more"
            failure = self._failure("AgentError", message, "", "")
        self._tries += 1
        self._refused(failure)
        return self._delay()

    async def turn(self) -> float:
        """One round: finish the journal's operation or plan a new one. Seconds until the next."""
        entry = self.journal.load()
        self._learn(*((entry.cluster, entry.previous) if entry else ()))
        if entry is not None:
            await self._carry_out(entry)
            return 0.0
        wait_s = await self._update_agent()
        if wait_s is None:
            wait_s = await self._update_os()
        if wait_s is not None:
            return wait_s
        try:
            desired = await accept.desired_host(
                self.root,
                self.content,
                self.identity,
                self.keys,
                architecture=facts.architecture(),
            )
            if desired is not None:
                self._learn(desired.cluster)
            observed = await self.engine.observe()
        except SkerryError as exc:
            self._refused(Failure(reason=exc.reason or "AgentError", message=exc.message))
            return self._delay()
        if desired is None:
            self._show(observed, conditions=(), mark=None)
            return self.idle_s
        return await self._plan(desired, observed)

    async def _update_agent(self) -> float | None:
        """Replace the agent if that is due; None when there is nothing to do about it."""
        move = self.updater.move() if self.updater is not None else None
        if self.updater is None or move is None:
            return None
        if isinstance(move, Restart):
            return await self.updater.restart()
        entry = Entry(operation=move, started_at=self.clock.now())
        self.journal.save(entry)
        log.info("operation.started", operation=move.name, steps=len(move.steps))
        await self._carry_out(entry)
        return 0.0

    async def _update_os(self) -> float | None:
        """Replace the OS if that is due; None when there is nothing to do about it."""
        if self.os is None or (self.updater is not None and self.updater.on_trial()):
            return None
        move = await self.os.move(await self.healthy()) if self.os.due else None
        if move is None:
            # While a slot is on trial nothing else begins that only its successor would know.
            return _TRIAL_IDLE_S if self.os.on_trial() else None
        entry = Entry(operation=move, started_at=self.clock.now())
        self.journal.save(entry)
        log.info("operation.started", operation=move.name, steps=len(move.steps))
        await self._carry_out(entry)
        return 0.0

    async def healthy(self) -> tuple[str, ...]:
        """Types of the conditions of the last good cluster that are True now."""
        found = await self.health_now()
        return tuple(item.type for item in found if item.status == "True")

    async def health_now(self) -> tuple[Condition, ...]:
        """The conditions of the last good cluster, and what is reported of it, measured anew."""
        good = self.journal.last_good()
        if good is None:
            return ()
        self.standing.kubernetes = self._state(await self.engine.observe())
        return await self._health(good)

    def _learn(self, *clusters: DesiredCluster | None) -> None:
        """Know what must not be seen before anything can fail with it."""
        have = accept.stored(self.root, self.identity)
        digest = have.digest if have else ""
        if digest != self._secret_digest:
            try:
                self._secrets = accept.opened_secrets(self.root, self.identity, self.keys)
            except SkerryError:
                self._secrets = ()  # nothing of it will be used, so nothing can be quoted
            self._secret_digest = digest
        every = tuple(item for item in (*clusters, self.journal.last_good()) if item is not None)
        known = frozenset(
            (
                digest,
                *(cluster_digest(item) for item in every),
                *(layer.digest for item in every for layer in item.layers),
            )
        )
        if known != self._known:  # reading manifests is slow, and they seldom change
            self._known = known
            self._clean = redactor(self._secrets, *every)

    async def _plan(self, desired: DesiredHost, observed: KubeObserved) -> float:
        if desired.cluster is not None and desired.retry_failed != self.journal.retried():
            # Forgotten first: after a crash between the two it is only forgotten once more.
            self.journal.forget_failed()
            self.journal.save_retried(desired.retry_failed)
        failed = self.journal.failed()
        plan = plan_host(
            desired, observed, failed=frozenset(failed), last_good=self.journal.last_good()
        )
        if isinstance(plan, Refusal):
            known = failed.get(cluster_digest(desired.cluster)) if desired.cluster else None
            health = await self._health(self.journal.last_good())
            refused = Failure(reason=plan.reason, message=plan.message, hint=plan.hint)
            self._show(observed, conditions=(_reconciled(known or refused), *health), mark=None)
            return self.idle_s
        if plan is None:
            healthy = await self._settled(desired, observed)
            return max(self.idle_s, _STEADY_S) if healthy else self.idle_s
        if self.updater is not None and self.updater.on_trial():
            # An old agent that comes back must not find a journal that a newer one began.
            self._show(observed, conditions=self.standing.conditions, mark=None)
            return _TRIAL_IDLE_S
        left_s = self._next_try - self.clock.monotonic()
        if self._stopped is not None and left_s > 0:
            # The last try of this plan stopped: do not hammer, but see when its cause is gone.
            self.standing.kubernetes = self._state(observed)
            return min(left_s, self.idle_s)
        if plan == self._last_done:
            # It ended well and is planned again: what it should change did not change. No spin.
            self._last_done, self._repeats = None, min(self._repeats + 1, 8)
            return float(min(self.idle_s * 2**self._repeats, 300))
        good = self.journal.last_good()
        # What was measured is told before the work on it, which may take minutes or never end.
        self.standing.kubernetes = self._state(observed)
        entry = Entry(
            operation=plan,
            started_at=self.clock.now(),
            cluster=good if plan.to_last_good else desired.cluster,
            previous=good,
        )
        self.journal.save(entry)
        log.info("operation.started", operation=plan.name, steps=len(plan.steps))
        await self._carry_out(entry)
        return 0.0

    async def _settled(self, desired: DesiredHost, observed: KubeObserved) -> bool:
        """Nothing left to do: acknowledge what is healthy; whether it is."""
        self._stopped, self._tries, self._repeats = None, 0, 0
        # It did what it should: the same operation later (certificates, say) is no repetition.
        self._last_done = None
        health = await self._health(desired.cluster)
        healthy = all(condition.status == "True" for condition in health)
        if healthy and self.journal.last_good() != desired.cluster:
            self.journal.save_last_good(desired.cluster)
        proved = healthy and (self.os is None or self.os.settled(desired.digest))
        mark = DesiredMark(epoch=desired.epoch, digest=desired.digest) if proved else None
        self._show(observed, conditions=(_reconciled(None), *health), mark=mark)
        return healthy

    async def _health(self, cluster: DesiredCluster | None) -> tuple[Condition, ...]:
        if cluster is None:
            return ()
        try:
            return await self.engine.health(cluster)
        except SkerryError as exc:
            return (
                Condition(
                    type="KubernetesHealthy",
                    status="Unknown",
                    reason=exc.reason or "AgentError",
                    message=exc.message,
                ),
            )

    async def _carry_out(self, entry: Entry) -> None:
        current: Entry | None = entry
        while current is not None and current.step is not None:
            self._progress(current)
            failure, retryable = await self._perform(current)
            if failure is not None:
                self.events.add(
                    failure.reason, failure.message, at=self.clock.now(), severity="warning"
                )
                log.warning("step.failed", step=failure.step, reason=failure.reason)
            gentle = current.operation.name in OS_OPERATIONS
            if (failure is None or gentle) and self._abandon(current):
                self.journal.clear()
                self.standing.progress = None
                return
            outcome = advance(current, failure, retryable=retryable)
            if outcome.verdict is not None:
                self._end(current, outcome.verdict, outcome.failure)
                return
            current = outcome.entry
            if current is not None:
                self.journal.save(current)
            if outcome.wait_s:
                self._progress(current, outcome.failure)
                await self.clock.sleep(outcome.wait_s)
        self.journal.clear()

    def _abandon(self, entry: Entry) -> bool:
        """Whether a newer assignment makes going on pointless."""
        if self.os is not None and self.os.superseded(entry):
            return True
        if entry.operation.disruptive or entry.cluster is None:
            return False
        have = accept.stored(self.root, self.identity)
        return have is not None and have.digest != entry.operation.desired_digest

    async def _perform(self, entry: Entry) -> tuple[Failure | None, bool]:
        step = entry.step
        assert step is not None
        cluster = entry.cluster if entry.phase == "forward" else entry.previous
        log.info("step.started", step=step.title, phase=entry.phase.value)
        try:
            with anyio.fail_after(step.limit_s or _STEP_LIMIT_S):
                if isinstance(step, AgentStep):
                    await self._updating().perform(step)
                elif isinstance(step, OsStep):
                    await self._os_updating().perform(step, entry)
                else:
                    await self.engine.perform(step, cluster)
        except SkerryError as exc:
            return self._failure(exc.reason or "StepFailed", exc.message, exc.hint, step.title), (
                exc.retryable
            )
        except TimeoutError:
            message = f"{step.title} did not end within {step.limit_s:g} s"
            return self._failure("StepTimedOut", message, "", step.title), True
        except OSError as exc:
            # The disk or the kernel said no in a way that no step foresaw; another try may help.
            return self._failure("HostError", f"{step.title}: {exc}", "", step.title), True
        log.info("step.done", step=step.title)
        return None, False

    def _updating(self) -> Updater:
        if self.updater is None:
            raise SkerryError(
                "the journal holds an update of an agent that is not installed in slots",
                hint="install the agent with the install line",
                reason="AgentError",
            )
        return self.updater

    def _os_updating(self) -> OsUpdater:
        if self.os is None:
            raise SkerryError(
                "the journal holds an update of an OS that this agent has no engine for",
                hint="start the agent of the OS image",
                reason="AgentError",
            )
        return self.os

    def _failure(self, reason: str, message: str, hint: str, step: str) -> Failure:
        return Failure(
            reason=reason,
            message=self._clean(message)[:2000],
            hint=self._clean(hint),
            step=step,
            at=self.clock.now(),
        )

    def _end(self, entry: Entry, verdict: Verdict, failure: Failure | None) -> None:
        now = self.clock.now()
        operation = entry.operation
        if operation.name == UPDATE_AGENT:
            if self.updater is not None:
                self.updater.ended(entry, verdict, failure)
        elif operation.name in OS_OPERATIONS:
            self._os_updating().ended(entry, verdict, failure)
        elif verdict is Verdict.RETURNED:
            failure = failure or self._failure("StepFailed", "the operation failed", "", "")
            told = returned_words(operation, entry.cluster, entry.previous)
            back = Failure(
                reason="UpgradeReturned",
                message=f"{told}: {failure.message}",
                hint=failure.hint,
                step=failure.step,
                at=now,
            )
            if entry.cluster is not None:
                self.journal.remember_failed(cluster_digest(entry.cluster), back)
            self.events.add(back.reason, back.message, at=now, severity="warning")
        elif verdict is Verdict.STOPPED:
            self._stopped, self._tries = failure, self._tries + 1
            self._stopped_name = operation.name
            self._next_try = self.clock.monotonic() + self._delay()
            if failure is not None:
                self._refused(failure)
        else:
            self._stopped, self._last_done = None, operation
            self.events.add("OperationDone", done_words(operation, entry.cluster), at=now)
        self.journal.clear()
        log.info("operation.ended", operation=operation.name, verdict=verdict.value)
        self.standing.progress = None

    def _progress(self, entry: Entry | None, failure: Failure | None = None) -> None:
        if entry is None or entry.step is None:
            return
        self.standing.progress = Progress(
            operation=entry.operation.name,
            step=entry.step.title,
            index=entry.index,
            total=len(entry.steps),
            started_at=entry.started_at,
        )
        if entry.operation.name in (UPDATE_AGENT, *OS_OPERATIONS):
            self.standing.announce()  # It says nothing about the cluster.
            return
        shown = failure or entry.failure
        if shown is None and entry.operation.name == self._stopped_name:
            shown = self._stopped  # another try: its cause stands until the try ends well
        undo = entry.phase == "undo"
        self.standing.conditions = (
            Condition(
                type="Reconciled",
                status="False" if shown or undo else "Unknown",
                reason=shown.reason if shown else "InProgress",
                message=shown.message if shown else entry.step.title,
                since=self.clock.now(),
            ),
        )
        self.standing.announce()

    def _refused(self, failure: Failure) -> None:
        kept = tuple(item for item in self.standing.conditions if item.type != "Reconciled")
        self.standing.conditions = (self._clean.condition(_reconciled(failure)), *kept)
        self.standing.announce()

    def _show(
        self,
        observed: KubeObserved,
        *,
        conditions: tuple[Condition, ...],
        mark: DesiredMark | None,
    ) -> None:
        state = self._state(observed)
        conditions = tuple(self._clean.condition(item) for item in conditions)
        before = (
            self.standing.kubernetes,
            _without_times(self.standing.conditions),
            self.standing.acknowledged,
        )
        self.standing.kubernetes = state
        self.standing.progress = None
        self.standing.conditions = conditions
        if mark is not None:
            self.standing.acknowledged = mark
        if before != (state, _without_times(conditions), self.standing.acknowledged):
            self.standing.announce()

    def _state(self, observed: KubeObserved) -> KubernetesState:
        state = observed.to_state()
        return msgspec.structs.replace(
            state,
            failed=tuple(sorted(self.journal.failed())),
            layers=tuple(
                msgspec.structs.replace(layer, message=self._clean(layer.message))
                for layer in state.layers
            ),
        )

    def _delay(self) -> float:
        return float(min(5 * 2 ** min(self._tries, 6), 300)) if self._tries else self.idle_s


def _reconciled(failure: Failure | None) -> Condition:
    if failure is None:
        return Condition(type="Reconciled", status="True", reason="Reconciled")
    return Condition(
        type="Reconciled", status="False", reason=failure.reason, message=failure.message
    )


def _without_times(conditions: tuple[Condition, ...]) -> tuple[Condition, ...]:
    return tuple(msgspec.structs.replace(item, since=None) for item in conditions)
