"""The `Store` over any database that can drive steps.

All meaning is in `apply` and `reading`; a `Database` only runs them: reads in one snapshot,
writes one after another and durable. A watch waits for commits of this process by an event and
for those of others by polling, so a lost wake-up delays it and never loses a change.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol, TypeVar

import anyio

from skerry.lib.clock import Clock
from skerry.manager.store import apply, reading
from skerry.manager.store.protocol import (
    AnyResource,
    Change,
    Committed,
    Page,
    Query,
    StoredAudit,
    StoredEvent,
    WriteSet,
)
from skerry.manager.store.steps import Steps

T = TypeVar("T")

UPKEEP_EVERY_S = 60.0


class Database(Protocol):
    """Runs steps. Every method may raise StoreUnavailable."""

    async def read(self, steps: Steps[T]) -> T:
        """Run read-only steps in one snapshot."""
        ...

    async def write(self, steps: Steps[T]) -> T:
        """Run steps as one transaction, durable when it returns, in order with all others.

        An exception out of the steps undoes the transaction and is raised here.
        """
        ...

    async def export(self, path: str) -> None:
        """A consistent copy into a file."""
        ...

    async def close(self) -> None: ...


class SqlStore:
    """`protocol.Store` over a `Database`."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        *,
        retention: apply.Retention,
        poll_s: float,
    ) -> None:
        self.database = database
        self._clock = clock
        self._retention = retention
        self._poll_s = poll_s
        self._committed = anyio.Event()
        self._revision = 0
        self._kept_at = float("-inf")
        self._kept_revision = 0

    async def get(self, kind: str, project: str, name: str) -> AnyResource:
        """Raises NotFound."""
        return await self.database.read(reading.get(kind, project, name))

    async def get_by_uid(self, kind: str, uid: str) -> AnyResource:
        """Raises NotFound."""
        return await self.database.read(reading.get_by_uid(kind, uid))

    async def at_revision(
        self, kind: str, project: str, name: str, revision: int
    ) -> AnyResource | None:
        """None when that change is not kept."""
        return await self.database.read(reading.at_revision(kind, project, name, revision))

    async def list(self, query: Query) -> Page:
        """Raises SkerryError for an unknown kind or field and for a bad selector."""
        return await self.database.read(reading.page(query))

    async def tally(self, query: Query, path: str) -> dict[str, int]:
        """Raises SkerryError for a field that is not indexed."""
        return await self.database.read(reading.tally(query, path))

    async def commit(self, writes: WriteSet) -> Committed:
        """Durable when it returns. Raises Conflict, NotFound, LimitReached."""
        try:
            committed = await self.database.write(self._steps(writes))
        finally:
            # Also when the caller was cancelled: the transaction may have been committed.
            self._wake()
        self._revision = max(self._revision, committed.revision)
        return committed

    async def watch(self, kinds: Sequence[str], *, since: int) -> AsyncIterator[Change]:
        """Every change after `since` of these kinds (none named: of all), without end."""
        while True:
            # Taken before reading: a commit between the read and the wait sets this very event.
            committed = self._committed
            batch = await self.database.read(reading.changes(kinds, since))
            for change in batch.changes:
                yield change
            if batch.upto == since:
                with anyio.move_on_after(self._poll_s):
                    await committed.wait()
            since = batch.upto

    async def revision(self) -> int:
        return await self.database.read(reading.sequence("revision"))

    async def counter(self, name: str) -> int:
        """0 when it was never taken from."""
        return await self.database.read(reading.counter(name))

    async def value(self, space: str, key: str) -> bytes | None:
        return await self.database.read(reading.value(space, key, self._clock.now()))

    async def values(self, space: str) -> dict[str, bytes]:
        return await self.database.read(reading.values(space, self._clock.now()))

    async def events(
        self, *, kind: str = "", project: str = "", name: str = "", limit: int = 100, after: int = 0
    ) -> Sequence[StoredEvent]:
        """Newest first; `after` is a sequence to continue below."""
        return await self.database.read(reading.events(kind, project, name, limit, after))

    async def audits(self, *, after: int = 0, limit: int = 1000) -> Sequence[StoredAudit]:
        """Oldest first, above sequence `after`."""
        return await self.database.read(reading.audits(after, limit))

    async def audit_head(self) -> tuple[int, str]:
        """Sequence and hash of the last audit record; (0, "") when there is none."""
        return await self.database.read(reading.audit_head())

    async def backup(self, path: str) -> None:
        """A consistent copy into a file, while running."""
        await self.database.export(path)

    async def close(self) -> None:
        """Ends after the writes under way; watches end with StoreUnavailable."""
        self._wake()
        await self.database.close()

    def _wake(self) -> None:
        committed, self._committed = self._committed, anyio.Event()
        committed.set()

    def _steps(self, writes: WriteSet) -> Steps[Committed]:
        """The transaction; now and then with the upkeep, so that no task of its own is needed."""
        now = self._clock.monotonic()
        step = max(1, self._retention.changes // 10)
        if now - self._kept_at < UPKEEP_EVERY_S and self._revision - self._kept_revision < step:
            return apply.apply(writes)
        self._kept_at, self._kept_revision = now, self._revision
        return apply.apply_and_tidy(writes, self._clock.now(), self._retention)
