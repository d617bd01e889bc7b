"""Restoring a backup. Making one is `Store.backup`, while the manager runs.

A backup is one SQLite file with the store's own tables, whatever back end wrote it, so it can be
restored into either and moves a manager from one to the other. A store that holds anything is
never overwritten.

What comes back is marked as restored, so that its manager only observes until a person confirms,
and is without sessions: who signed out after the backup stays signed out.
"""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio.to_thread
import msgspec
from sqlalchemy import Table, bindparam, delete, func, insert, select

from skerry.lib.clock import Clock, SystemClock
from skerry.lib.errors import SkerryError
from skerry.manager.store import statements as sql
from skerry.manager.store.errors import StoreUnavailable
from skerry.manager.store.opening import open_database, parse_url, sqlite_path
from skerry.manager.store.sqlite import copy_database, drive, migrate_file, unavailable
from skerry.manager.store.steps import Call, Statement, Steps
from skerry.manager.store.tables import METADATA, OBJECTS, SEQUENCES, VALUES
from skerry.model.meta import Record

_ROWS = 1000
RESTORED_SPACE = "manager"
RESTORED_KEY = "restored"
SESSION_SPACE = "session"


class RestoreMark(Record, frozen=True, kw_only=True):
    """Kept in a store that came from a backup: when, and from what."""

    at: datetime
    source: str


class BackupRefused(SkerryError):
    """The file is not a sound backup, or the place to restore to is not empty."""


async def restore(path: str, url: str, *, clock: Clock | None = None) -> None:
    """Fill the empty store at `url` from a backup; nothing changes when it fails.

    Raises BackupRefused, StoreUnavailable, StoreTooNew.
    """
    parsed = parse_url(url)
    mark = RestoreMark(at=(clock or SystemClock()).now(), source=f"backup {Path(path).name}")
    if parsed.get_backend_name() == "sqlite":
        await anyio.to_thread.run_sync(_restore_file, Path(path), sqlite_path(parsed), mark)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "backup.db"
        await anyio.to_thread.run_sync(_checked_copy, Path(path), copy, mark)
        database = await open_database(url)
        try:
            with closing(sqlite3.connect(copy, check_same_thread=False)) as source:
                await database.write(_fill(source, url=parsed.render_as_string()))
        finally:
            await database.close()


def _restore_file(backup: Path, target: Path, mark: RestoreMark) -> None:
    # An existing file is refused even when empty of objects: a running manager may hold it open.
    # A write-ahead log left beside it would be played into the restored file.
    for path in (target, target.with_name(target.name + "-wal")):
        if path.exists():
            raise BackupRefused(
                f"{path} exists", hint="stop the manager and move the database and its -wal away"
            )
    _checked_copy(backup, target, mark)


def _checked_copy(backup: Path, target: Path, mark: RestoreMark) -> None:
    """A marked copy with the newest schema; nothing is left beside it when the backup is bad."""
    if not backup.is_file():
        raise BackupRefused(f"there is no backup {backup}")
    staged = target.with_name(target.name + ".restoring")
    try:
        with closing(sqlite3.connect(f"{backup.absolute().as_uri()}?mode=ro", uri=True)) as source:
            _check(source, backup)
            copy_database(source, staged)
        migrate_file(staged)
        with closing(sqlite3.connect(staged, isolation_level=None)) as migrated:
            drive(migrated, _mark(mark))
            copy_database(migrated, target)
    except (sqlite3.Error, OSError) as exc:
        raise unavailable(backup, exc) from exc
    except StoreUnavailable as exc:
        raise BackupRefused(f"the backup {backup} cannot be used: {exc}") from exc
    finally:
        for left in (staged, *(staged.with_name(staged.name + end) for end in ("-wal", "-shm"))):
            left.unlink(missing_ok=True)


def _check(source: sqlite3.Connection, backup: Path) -> None:
    try:
        problems = [row[0] for row in source.execute("PRAGMA integrity_check(1)")]
        source.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.DatabaseError as exc:
        raise BackupRefused(f"{backup} is not a backup of skerry: {exc}") from exc
    if problems != ["ok"]:
        raise BackupRefused(f"the backup {backup} is damaged: {problems[0]}")


def _mark(mark: RestoreMark) -> Steps[None]:
    sessions = delete(VALUES).where(VALUES.c.space == bindparam("sessions"))
    yield Call(Statement(sessions), {"sessions": SESSION_SPACE})
    yield Call(
        sql.VALUE_SET,
        {
            "space": RESTORED_SPACE,
            "key": RESTORED_KEY,
            "value": msgspec.json.encode(mark),
            "expires_at": None,
        },
    )


def _fill(source: sqlite3.Connection, *, url: str) -> Steps[None]:
    for table in (OBJECTS, SEQUENCES):
        used = select(func.count()).select_from(table)
        if table is SEQUENCES:
            used = used.where(SEQUENCES.c.value != 0)
        if (yield Call(Statement(used)))[0][0]:
            raise BackupRefused(
                f"the database {url} holds a store already",
                hint="restore into a database that was just created",
            )
    for table in METADATA.sorted_tables:
        yield Call(Statement(delete(table)))
        yield from _fill_table(source, table)


def _fill_table(source: sqlite3.Connection, table: Table) -> Steps[None]:
    names = [column.name for column in table.columns]
    columns = ", ".join(f'"{name}"' for name in names)
    add = Statement(insert(table).values({name: bindparam(name) for name in names}))
    rows = source.execute(f'SELECT {columns} FROM "{table.name}"')  # noqa: S608  # own names
    while batch := rows.fetchmany(_ROWS):
        for row in batch:
            record: dict[str, Any] = dict(zip(names, row, strict=True))
            yield Call(add, record)
