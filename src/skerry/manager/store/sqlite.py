"""SQLite: one writer thread with group commit, a few read-only connections.

Many callers' transactions share one COMMIT, and so one fsync: each runs in its own savepoint, so
one that fails does not harm the others, and every caller is answered only after the COMMIT
returned. `synchronous=FULL` in WAL mode makes that durable against loss of power.
"""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from sqlalchemy import create_engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from skerry.lib.errors import NotAllowedHere
from skerry.manager.store import apply
from skerry.manager.store.errors import StoreUnavailable, unstorable
from skerry.manager.store.schema import migrate
from skerry.manager.store.steps import Rows, Steps

T = TypeVar("T")

MINIMUM_VERSION = (3, 35, 0)  # the first with RETURNING
READERS = 4
MAX_GROUP = 500

# What a caller's own values can cause; everything else of sqlite3 is the database's fault.
_BAD_VALUE = (
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,
    UnicodeEncodeError,
)


@dataclass(slots=True)
class _Job:
    """One caller's transaction and where to answer it."""

    steps: Steps[Any]
    answer: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None


class SqliteDatabase:
    """A `sql.Database` in one file. Made by `open_sqlite`."""

    def __init__(self, path: Path, busy_timeout_s: float) -> None:
        self._path = path
        self._busy_timeout_s = busy_timeout_s
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._readers: queue.LifoQueue[sqlite3.Connection] = queue.LifoQueue()
        self._reading = anyio.CapacityLimiter(READERS)
        self._closed = False
        self._connection = connect(path, busy_timeout_s)
        self._writer = threading.Thread(target=self._write_loop, name="store-writer", daemon=True)
        self._writer.start()

    async def read(self, steps: Steps[T]) -> T:
        """Run steps in one snapshot, in a thread."""
        self._check_open()
        return await anyio.to_thread.run_sync(
            self._read, steps, limiter=self._reading, abandon_on_cancel=False
        )

    async def write(self, steps: Steps[T]) -> T:
        """Hand steps to the writer and wait for the fsync of the group they are in."""
        self._check_open()
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.put(_Job(steps, answer))
        return await answer

    async def export(self, path: str) -> None:
        """Copy the database while it is written to; the file appears whole or not at all."""
        self._check_open()
        await anyio.to_thread.run_sync(self._export, Path(path))

    async def close(self) -> None:
        """Ends after everything handed in so far is committed."""
        if self._closed:
            return
        self._closed = True
        self._jobs.put(None)
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._writer.join)
            async with anyio.create_task_group() as group:
                for _ in range(READERS):  # wait until nobody reads
                    group.start_soon(self._reading.acquire_on_behalf_of, object())
        while not self._readers.empty():
            self._readers.get().close()

    # -- reading, in worker threads ------------------------------------------------------------

    def _read(self, steps: Steps[T]) -> T:
        try:
            try:
                connection = self._readers.get_nowait()
            except queue.Empty:
                connection = connect(self._path, self._busy_timeout_s, read_only=True)
            try:
                connection.execute("BEGIN")
                try:
                    return drive(connection, steps)
                finally:
                    connection.execute("ROLLBACK")
            finally:
                self._readers.put(connection)
        except sqlite3.Error as exc:
            raise unavailable(self._path, exc) from exc

    def _export(self, target: Path) -> None:
        try:
            with closing(connect(self._path, self._busy_timeout_s, read_only=True)) as source:
                copy_database(source, target)
        except (sqlite3.Error, OSError) as exc:
            raise unavailable(target, exc) from exc

    # -- writing, in the writer thread -----------------------------------------------------------

    def _write_loop(self) -> None:
        with closing(self._connection):
            ended = False
            while not ended:
                waiting = [self._jobs.get()]
                # Whoever came while the last group was made durable goes together.
                while len(waiting) < MAX_GROUP and not self._jobs.empty():
                    waiting.append(self._jobs.get())
                ended = None in waiting
                group = [job for job in waiting if job is not None]
                if group:
                    self._commit(group)
                    _answer(group)

    def _commit(self, group: list[_Job]) -> None:
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            for job in group:
                # A caller that gave up before its turn is not served.
                if not job.answer.cancelled():
                    _run_in_savepoint(connection, job)
            connection.execute("COMMIT")
        except Exception as exc:  # every caller must get an answer, whatever it was
            with suppress(sqlite3.Error):  # SQLite has undone it by itself after most failures
                connection.execute("ROLLBACK")
            failure = unavailable(self._path, exc) if isinstance(exc, sqlite3.Error) else exc
            # Of those refused too: it may have been for a sibling's write that is undone now.
            for job in group:
                job.error = failure

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable(f"the database {self._path} was closed")


def _run_in_savepoint(connection: sqlite3.Connection, job: _Job) -> None:
    connection.execute("SAVEPOINT one")
    try:
        job.result = drive(connection, job.steps)
    except _BAD_VALUE as exc:
        connection.execute("ROLLBACK TO one")
        job.error = unstorable(exc)
    except sqlite3.Error:
        # A full or failing disk concerns the whole group.
        raise
    except Exception as exc:
        connection.execute("ROLLBACK TO one")
        job.error = exc
    connection.execute("RELEASE one")


def _answer(group: list[_Job]) -> None:
    """Give every caller its answer, with one wake-up per event loop."""
    loops: dict[asyncio.AbstractEventLoop, list[_Job]] = {}
    for job in group:
        loops.setdefault(job.answer.get_loop(), []).append(job)
    for loop, jobs in loops.items():
        try:
            loop.call_soon_threadsafe(_resolve, jobs)
        except RuntimeError:  # the loop is closed: nobody waits any more
            continue


def _resolve(jobs: list[_Job]) -> None:
    for job in jobs:
        if job.answer.done():
            continue
        if job.error is not None:
            job.answer.set_exception(job.error)
        else:
            job.answer.set_result(job.result)


def drive(connection: sqlite3.Connection, steps: Steps[T]) -> T:
    """Run steps on a connection, inside whatever transaction it is in."""
    try:
        call = next(steps)
        while True:
            sql = call.statement.sqlite
            rows: Rows = connection.execute(sql.text, sql.arguments(call.values)).fetchall()
            call = steps.send(rows)
    except StopIteration as stop:
        result: T = stop.value
        return result


def connect(path: Path, busy_timeout_s: float, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection in autocommit mode: transactions are begun by hand. Raises sqlite3.Error."""
    uri = path.absolute().as_uri() + ("?mode=ro" if read_only else "")
    connection = sqlite3.connect(
        uri, uri=True, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False
    )
    try:
        _configure(connection, read_only=read_only)
    except BaseException:
        connection.close()
        raise
    return connection


def _configure(connection: sqlite3.Connection, *, read_only: bool) -> None:
    if not read_only:
        connection.execute("PRAGMA journal_mode=WAL").fetchall()
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA cache_size=-16384")
    connection.execute("PRAGMA temp_store=MEMORY")


def open_sqlite(path: Path, *, busy_timeout_s: float = 30.0) -> SqliteDatabase:
    """Open or create the file, migrate it and start the writer. Blocks; call it in a thread.

    Raises StoreUnavailable, StoreTooNew, NotAllowedHere.
    """
    if sqlite3.sqlite_version_info < MINIMUM_VERSION:
        wanted = ".".join(map(str, MINIMUM_VERSION))
        raise NotAllowedHere(
            f"SQLite is {sqlite3.sqlite_version}, wanted {wanted} or newer",
            hint="use a newer Python build, or PostgreSQL with --database",
        )
    try:
        create_private(path)
        migrate_file(path, busy_timeout_s=busy_timeout_s)
        with closing(connect(path, busy_timeout_s)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            drive(connection, apply.reindex())
            connection.execute("COMMIT")
        return SqliteDatabase(path, busy_timeout_s)
    except (sqlite3.Error, OSError) as exc:
        raise unavailable(path, exc) from exc


def migrate_file(path: Path, *, busy_timeout_s: float = 30.0) -> None:
    """Bring a file to the newest schema. Raises StoreUnavailable, StoreTooNew."""
    engine = create_engine(
        "sqlite+pysqlite://",
        creator=partial(connect, path, busy_timeout_s),
        poolclass=NullPool,
    )
    # One writer at a time from the first look at the schema on, also between processes.
    event.listen(engine, "begin", lambda conn: conn.exec_driver_sql("BEGIN IMMEDIATE"))
    try:
        with engine.begin() as connection:
            migrate(connection)
    except SQLAlchemyError as exc:
        raise unavailable(path, exc) from exc
    finally:
        engine.dispose()


def copy_database(source: sqlite3.Connection, target: Path) -> None:
    """One consistent copy in one file without companions, so that it can be moved about."""
    with new_file(target) as path, closing(sqlite3.connect(path, isolation_level=None)) as into:
        source.backup(into)
        into.execute("PRAGMA journal_mode=DELETE").fetchall()


@contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """A place to write a new file to; put in place whole, durable and private at the end."""
    partial_path = target.with_name(target.name + ".partial")
    partial_path.unlink(missing_ok=True)
    create_private(partial_path)
    try:
        yield partial_path
        _fsync(partial_path)
        partial_path.replace(target)
        _fsync(target.parent)
    finally:
        partial_path.unlink(missing_ok=True)


def create_private(path: Path) -> None:
    """Make sure the file is there, from its first byte on readable by its owner only."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unavailable(path: Path, exc: Exception) -> StoreUnavailable:
    """What a failure of SQLite or the disk means to people."""
    text = str(exc)
    if "full" in text:
        return StoreUnavailable(
            f"no space left for the database {path}",
            hint="free some space on the file system that holds it; the work resumes by itself",
            reason="DiskFull",
        )
    if "not a database" in text or "malformed" in text:
        return StoreUnavailable(
            f"the database {path} is damaged: {text}",
            hint="stop skerry, keep the file, and restore the last backup",
        )
    return StoreUnavailable(f"the database {path} does not answer: {text}")
