"""The durable journal: which operation runs, how far it is, and what failed for good.

The whole state is one small file replaced atomically before and after each step, so a crash at
any point leaves either the state before a step or the one after it. Steps are idempotent, hence
doing the interrupted one again is always right. Deciding what comes after a step's outcome is the
pure function `advance`.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

import msgspec

from skerry.agent import paths
from skerry.lib.files import Root
from skerry.model.meta import Record
from skerry.plan.desired import DesiredCluster
from skerry.plan.steps import Operation, Step
from skerry.wire.messages import HostEvent

MAX_EVENTS = 200


class Phase(StrEnum):
    """Forward carries the operation out, undo takes it back."""

    FORWARD = "forward"
    UNDO = "undo"


class Failure(Record, frozen=True, kw_only=True):
    """Why a step failed, in words for people."""

    reason: str
    message: str
    hint: str = ""
    step: str = ""
    at: datetime | None = None


class Entry(Record, frozen=True, kw_only=True):
    """The running operation. `cluster` is what it brings about, `previous` what undo returns to."""

    operation: Operation
    started_at: datetime
    phase: Phase = Phase.FORWARD
    index: int = 0
    attempts: int = 0
    failure: Failure | None = None
    cluster: DesiredCluster | None = None
    previous: DesiredCluster | None = None

    @property
    def steps(self) -> tuple[Step, ...]:
        return self.operation.steps if self.phase is Phase.FORWARD else self.operation.undo

    @property
    def step(self) -> Step | None:
        return self.steps[self.index] if self.index < len(self.steps) else None


class Verdict(StrEnum):
    """How an operation ended."""

    DONE = "done"
    RETURNED = "returned"
    STOPPED = "stopped"


class Outcome(Record, frozen=True, kw_only=True):
    """The entry to persist next, or how the operation ended; `wait_s` before the next try."""

    entry: Entry | None = None
    verdict: Verdict | None = None
    failure: Failure | None = None
    wait_s: float = 0.0


def advance(entry: Entry, failure: Failure | None, *, retryable: bool = True) -> Outcome:
    """What follows the current step's outcome (`failure` None: it succeeded).

    A failing step is tried `attempts` times. Then, from `undo_from` on, the operation turns to
    its undo; before that it stops and may be planned again. Undo itself never gives up: there is
    nothing better left to do.
    """
    step = entry.step
    if step is None or failure is None:
        return _forward(entry)
    if entry.phase is Phase.UNDO:
        again = msgspec.structs.replace(entry, attempts=entry.attempts + 1)
        return Outcome(entry=again, failure=failure, wait_s=_backoff(again.attempts))
    if retryable and entry.attempts + 1 < step.attempts:
        again = msgspec.structs.replace(entry, attempts=entry.attempts + 1, failure=failure)
        return Outcome(entry=again, failure=failure, wait_s=_backoff(again.attempts))
    if entry.operation.undo and entry.index >= entry.operation.undo_from:
        undo = msgspec.structs.replace(
            entry, phase=Phase.UNDO, index=0, attempts=0, failure=failure
        )
        return Outcome(entry=undo, failure=failure)
    return Outcome(verdict=Verdict.STOPPED, failure=failure)


def _forward(entry: Entry) -> Outcome:
    index = entry.index + 1
    if index < len(entry.steps):
        return Outcome(
            entry=msgspec.structs.replace(
                entry,
                index=index,
                attempts=0,
                failure=entry.failure if entry.phase is Phase.UNDO else None,
            )
        )
    if entry.phase is Phase.UNDO:
        return Outcome(verdict=Verdict.RETURNED, failure=entry.failure)
    return Outcome(verdict=Verdict.DONE)


def _backoff(attempts: int) -> float:
    return float(min(2 ** min(attempts, 8), 60))


class Journal:
    """The journal's files."""

    def __init__(self, root: Root) -> None:
        self._root = root

    def load(self) -> Entry | None:
        if not self._root.exists(paths.JOURNAL):
            return None
        return msgspec.json.decode(self._root.read(paths.JOURNAL), type=Entry)

    def save(self, entry: Entry) -> None:
        self._root.write(paths.JOURNAL, msgspec.json.encode(entry), mode=0o600)

    def clear(self) -> None:
        self._root.remove(paths.JOURNAL)

    def failed(self) -> dict[str, Failure]:
        """Cluster digests that failed here and are not tried again."""
        if not self._root.exists(paths.FAILED):
            return {}
        return msgspec.json.decode(self._root.read(paths.FAILED), type=dict[str, Failure])

    def remember_failed(self, digest: str, failure: Failure) -> None:
        failed = {**self.failed(), digest: failure}
        kept = dict(list(failed.items())[-20:])
        self._root.write(paths.FAILED, msgspec.json.encode(kept), mode=0o600)

    def forget_failed(self) -> None:
        self._root.remove(paths.FAILED)

    def retried(self) -> int:
        """Number of the last request to try again what failed; it survives a restart, because
        each request counts once."""
        return int(self._root.read(paths.RETRIED)) if self._root.exists(paths.RETRIED) else 0

    def save_retried(self, number: int) -> None:
        self._root.write(paths.RETRIED, str(number).encode(), mode=0o600)

    def last_good(self) -> DesiredCluster | None:
        if not self._root.exists(paths.LAST_GOOD):
            return None
        return msgspec.json.decode(self._root.read(paths.LAST_GOOD), type=DesiredCluster)

    def save_last_good(self, cluster: DesiredCluster | None) -> None:
        if cluster is None:
            self._root.remove(paths.LAST_GOOD)
            return
        self._root.write(paths.LAST_GOOD, msgspec.json.encode(cluster), mode=0o600)


class EventLog:
    """Events not yet confirmed by the manager; bounded, newest kept."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._events: list[HostEvent] = []
        self._sequence = 0
        if root.exists(paths.EVENTS):
            self._events = msgspec.json.decode(root.read(paths.EVENTS), type=list[HostEvent])
            self._sequence = self._events[-1].sequence if self._events else 0

    def add(self, reason: str, message: str, *, at: datetime, severity: str = "info") -> None:
        # Sequence numbers start from the time, so that a host that lost its state still grows.
        self._sequence = max(self._sequence + 1, int(at.timestamp() * 1000))
        self._events.append(
            HostEvent(
                sequence=self._sequence, at=at, reason=reason, message=message, severity=severity
            )
        )
        self._events = self._events[-MAX_EVENTS:]
        self._save()

    def waiting(self, limit: int = 50) -> tuple[HostEvent, ...]:
        return tuple(self._events[:limit])

    def confirm(self, through: int) -> None:
        kept = [event for event in self._events if event.sequence > through]
        if len(kept) != len(self._events):
            self._events = kept
            self._save()

    def _save(self) -> None:
        self._root.write(paths.EVENTS, msgspec.json.encode(self._events), mode=0o600)
