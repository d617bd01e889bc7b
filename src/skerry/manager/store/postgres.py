"""PostgreSQL through asyncpg: readers share a pool, writers take one advisory lock in turn.

The lock is taken first in every writing transaction and held to its end. So revisions become
visible in their order, also between managers: a slow transaction delays the later ones instead
of appearing behind them, where no watcher looks any more.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import asyncpg  # type: ignore[import-untyped]  # ships no types
from sqlalchemy import URL, Table, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from skerry.lib.errors import SkerryError
from skerry.manager.store import apply
from skerry.manager.store.errors import StoreUnavailable, unstorable
from skerry.manager.store.schema import migrate
from skerry.manager.store.sqlite import migrate_file, new_file
from skerry.manager.store.steps import Rows, Steps
from skerry.manager.store.tables import METADATA

T = TypeVar("T")

READERS = 8
WRITERS = 2  # one works while the next one already waits for the lock

# Kept for ever: managers of all versions that share a database must agree on them.
WRITE_LOCK = 0x736B657272790001
_MIGRATION_LOCK = 0x736B657272790002

_ROWS_HANDLED_INLINE = 100
_EXPORT_ROWS = 1000


class PostgresDatabase:
    """A `sql.Database` on a server. Made by `open_postgres`; belongs to one event loop."""

    def __init__(self, dsn: str, *, shown: str, timeout_s: float) -> None:
        self._dsn = dsn
        self._shown = shown
        self._timeout_s = timeout_s
        self._readers: Any = None
        self._writers: Any = None
        self._under_way = 0
        self._idle = anyio.Event()
        self._closed = False

    async def start(self) -> None:
        """Fill the pools."""
        with self._failures():
            self._readers = await self._pool(READERS)
            self._writers = await self._pool(WRITERS)

    async def read(self, steps: Steps[T]) -> T:
        """Run steps in one snapshot."""
        with self._used(), self._failures():
            async with (
                self._readers.acquire(timeout=self._timeout_s) as connection,
                connection.transaction(isolation="repeatable_read", readonly=True),
            ):
                result = await drive(connection, steps)
        return result

    async def write(self, steps: Steps[T]) -> T:
        """Run steps as one transaction, after every earlier one of any manager."""
        with self._used(), self._failures():
            async with (
                self._writers.acquire(timeout=self._timeout_s) as connection,
                connection.transaction(),
            ):
                await connection.execute("SELECT pg_advisory_xact_lock($1)", WRITE_LOCK)
                result = await drive(connection, steps)
        return result

    async def export(self, path: str) -> None:
        """Write everything into a SQLite file: the backup of both back ends is the same."""
        # In a thread with a loop of its own, since it mixes waiting for both databases.
        with self._used():
            await anyio.to_thread.run_sync(self._export, Path(path))

    async def close(self) -> None:
        """Ends after everything handed in so far."""
        self._closed = True
        if self._under_way:
            await self._idle.wait()
        for pool in (self._readers, self._writers):
            if pool is not None:
                try:
                    await asyncio.wait_for(pool.close(), self._timeout_s)
                except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                    pool.terminate()  # the server is gone; there is nothing left to wait for

    async def _pool(self, size: int) -> Any:
        return await asyncpg.create_pool(
            self._dsn,
            min_size=1,
            max_size=size,
            timeout=self._timeout_s,
            command_timeout=self._timeout_s,
            server_settings={"application_name": "skerry", "jit": "off"},
        )

    def _export(self, target: Path) -> None:
        with self._failures():
            asyncio.run(self._copy_into(target))

    async def _copy_into(self, target: Path) -> None:
        # pyright reads asyncpg's default of 60 as "whole numbers only"; any number will do.
        connection = await asyncpg.connect(
            self._dsn,
            timeout=self._timeout_s,  # pyright: ignore[reportArgumentType]
        )
        try:
            with new_file(target) as path:
                migrate_file(path)
                with closing(sqlite3.connect(path, isolation_level=None)) as into:
                    into.execute("BEGIN")
                    async with connection.transaction(isolation="repeatable_read", readonly=True):
                        for table in METADATA.sorted_tables:
                            await _copy_table(connection, table, into)
                    into.execute("COMMIT")
        finally:
            await connection.close()

    @contextmanager
    def _used(self) -> Iterator[None]:
        if self._closed:
            raise StoreUnavailable(f"the database {self._shown} was closed")
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            if self._closed and not self._under_way:
                self._idle.set()

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except SkerryError:
            raise
        except (
            asyncpg.DataError,
            asyncpg.exceptions.IntegrityConstraintViolationError,
            OverflowError,
            UnicodeEncodeError,
        ) as exc:
            raise unstorable(exc) from exc
        except (
            asyncpg.PostgresError,
            asyncpg.InterfaceError,
            OSError,
            TimeoutError,
        ) as exc:
            raise unavailable(self._shown, exc) from exc


async def _copy_table(connection: Any, table: Table, into: sqlite3.Connection) -> None:
    columns = ", ".join(f'"{column.name}"' for column in table.columns)
    marks = ", ".join("?" for _ in table.columns)
    into.execute(f'DELETE FROM "{table.name}"')  # noqa: S608  # names of our own tables
    cursor = await connection.cursor(f'SELECT {columns} FROM "{table.name}"')  # noqa: S608
    while rows := await cursor.fetch(_EXPORT_ROWS):
        into.executemany(
            f'INSERT INTO "{table.name}" ({columns}) VALUES ({marks})',  # noqa: S608
            [tuple(row) for row in rows],
        )


async def drive(connection: Any, steps: Steps[T]) -> T:
    """Run steps on a connection, inside whatever transaction it is in."""
    rows: Rows | None = None
    while True:
        # Decoding many objects takes long enough to be felt by others on the event loop.
        many = rows is not None and len(rows) > _ROWS_HANDLED_INLINE
        if many:
            call = await anyio.to_thread.run_sync(_advance, steps, rows)
        else:
            call = _advance(steps, rows)
        if isinstance(call, _Done):
            result: T = call.result
            return result
        sql = call.statement.postgres
        rows = await connection.fetch(sql.text, *sql.arguments(call.values))


class _Done:
    """The steps ended with this. StopIteration cannot leave a thread or a coroutine."""

    def __init__(self, result: Any) -> None:
        self.result = result


def _advance(steps: Steps[Any], rows: Rows | None) -> Any:
    try:
        return next(steps) if rows is None else steps.send(rows)
    except StopIteration as stop:
        return _Done(stop.value)


async def open_postgres(url: URL, *, timeout_s: float) -> PostgresDatabase:
    """Migrate and connect. Raises StoreUnavailable, StoreTooNew."""
    dsn = url.set(drivername="postgresql").render_as_string(hide_password=False)
    shown = url.set(drivername="postgresql").render_as_string(hide_password=True)
    await _migrate(dsn, shown, timeout_s)
    database = PostgresDatabase(dsn, shown=shown, timeout_s=timeout_s)
    try:
        await database.start()
        await database.write(apply.reindex())
    except BaseException:
        await database.close()
        raise
    return database


async def _migrate(dsn: str, shown: str, timeout_s: float) -> None:
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=partial(
            asyncpg.connect,
            dsn,
            timeout=timeout_s,  # pyright: ignore[reportArgumentType]  # see above
        ),
        poolclass=NullPool,
    )
    try:
        async with engine.begin() as connection:
            await connection.execute(
                text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK}
            )
            await connection.run_sync(migrate)
    except (
        SQLAlchemyError,
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        OSError,
        TimeoutError,
    ) as exc:
        raise unavailable(shown, exc) from exc
    finally:
        await engine.dispose()


def unavailable(shown: str, exc: Exception) -> StoreUnavailable:
    """What a failure of the server or the way to it means to people."""
    if isinstance(exc, asyncpg.DiskFullError):
        return StoreUnavailable(
            f"no space left for the database {shown}",
            hint="free some space at the PostgreSQL server; the work resumes by itself",
            reason="DiskFull",
        )
    problem = str(exc).strip() or type(exc).__name__
    return StoreUnavailable(f"the database {shown} does not answer: {problem}")
