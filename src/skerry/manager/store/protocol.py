"""What the manager asks of a database.

Writing is a value: a `WriteSet` lists every change of one transaction and is applied whole or not
at all. Each object write names the revision that it saw (0: must not exist), so two writers never
overwrite each other. Revisions are given in commit order and never skipped by a watcher.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from skerry.lib.errors import SkerryError
from skerry.model.meta import Resource

AnyResource = Resource[Any, Any]


class NotFound(SkerryError):
    """No such object."""

    exit_code = 3


class Conflict(SkerryError):
    """The object changed since it was read, or exists already."""

    exit_code = 5


class LimitReached(SkerryError):
    """A counter is at its limit; nothing of the transaction was applied."""


class HistoryGone(SkerryError):
    """A watch wants changes older than the store keeps; list again and watch from there."""


@dataclass(frozen=True, slots=True)
class Put:
    """Create (`seen` 0) or replace an object that has revision `seen`."""

    resource: AnyResource
    seen: int


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove an object that has revision `seen`."""

    kind: str
    project: str
    name: str
    seen: int


@dataclass(frozen=True, slots=True)
class Take:
    """Count one use of `counter` unless it already stands at `limit` (None: no limit).

    One guarded UPDATE; raises LimitReached and rolls the whole transaction back.
    """

    counter: str
    limit: int | None


@dataclass(frozen=True, slots=True)
class Audit:
    """One audit record; the store numbers it, chains its hash and writes it with the rest."""

    at: datetime
    actor: str
    verb: str
    object_kind: str
    object_project: str
    object_name: str
    source: str = ""
    change: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to an object; kept in order, pruned by age and number."""

    at: datetime
    object_kind: str
    object_project: str
    object_name: str
    reason: str
    message: str
    severity: str = "info"


@dataclass(frozen=True, slots=True)
class SetValue:
    """A small named value outside the kinds (host counters, settings, sessions). None deletes.

    `expires_at` lets the store forget it.
    """

    space: str
    key: str
    value: bytes | None
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class WriteSet:
    """The changes of one transaction, applied in the order of the fields."""

    takes: tuple[Take, ...] = ()
    puts: tuple[Put, ...] = ()
    deletes: tuple[Delete, ...] = ()
    values: tuple[SetValue, ...] = ()
    events: tuple[Event, ...] = ()
    audits: tuple[Audit, ...] = ()


@dataclass(frozen=True, slots=True)
class Committed:
    """`revision` of the store after the commit; the written objects with theirs."""

    revision: int
    written: tuple[AnyResource, ...] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """Objects in order of (project, name). `after` continues; empty at the end."""

    items: tuple[AnyResource, ...]
    after: str
    revision: int
    total: int


@dataclass(frozen=True, slots=True)
class Change:
    """One change in commit order. `resource` is the object after it (before it, when deleted)."""

    revision: int
    deleted: bool
    resource: AnyResource


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event with its number."""

    sequence: int
    event: Event


@dataclass(frozen=True, slots=True)
class StoredAudit:
    """An audit record in the chain: `hash` covers the record and `previous_hash`."""

    sequence: int
    audit: Audit
    previous_hash: str
    hash: str


@dataclass(frozen=True, slots=True)
class Query:
    """Which objects: all conditions hold. `fields` compares dotted paths ("status.phase") with
    text, `labels` is a Kubernetes label selector text ("site=a,tier!=x,env in (a,b)")."""

    kind: str
    project: str | None = None
    labels: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    search: str = ""
    limit: int = 500
    after: str = ""


class Store(Protocol):
    """Durable objects. Every method may raise SkerryError when the database is unavailable."""

    async def get(self, kind: str, project: str, name: str) -> AnyResource:
        """Raises NotFound."""
        ...

    async def get_by_uid(self, kind: str, uid: str) -> AnyResource:
        """Raises NotFound."""
        ...

    async def at_revision(
        self, kind: str, project: str, name: str, revision: int
    ) -> AnyResource | None:
        """The object as it was written at this revision, or None when that is not kept."""
        ...

    async def list(self, query: Query) -> Page: ...

    async def tally(self, query: Query, path: str) -> dict[str, int]:
        """How many objects of a query have which value of an indexed field."""
        ...

    async def commit(self, writes: WriteSet) -> Committed:
        """Durable when it returns. Raises Conflict, NotFound, LimitReached."""
        ...

    def watch(self, kinds: Sequence[str], *, since: int) -> AsyncIterator[Change]:
        """Every change after revision `since`, in order, without end. Raises HistoryGone."""
        ...

    async def revision(self) -> int: ...

    async def counter(self, name: str) -> int: ...

    async def value(self, space: str, key: str) -> bytes | None: ...

    async def values(self, space: str) -> dict[str, bytes]: ...

    async def events(
        self, *, kind: str = "", project: str = "", name: str = "", limit: int = 100, after: int = 0
    ) -> Sequence[StoredEvent]:
        """Newest first; `after` is a sequence to continue below."""
        ...

    async def audits(self, *, after: int = 0, limit: int = 1000) -> Sequence[StoredAudit]:
        """Oldest first, above sequence `after`."""
        ...

    async def audit_head(self) -> tuple[int, str]:
        """Sequence and hash of the last audit record; (0, "") when there is none."""
        ...

    async def backup(self, path: str) -> None:
        """A consistent copy into a file, while running."""
        ...

    async def close(self) -> None: ...
