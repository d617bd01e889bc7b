"""From a URL to an open store.

`sqlite:////absolute/path` (three slashes: relative path) or `postgresql://user@host/name`.
Migrations run here, before anything else reads.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import anyio.to_thread
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from skerry.lib.clock import Clock, SystemClock
from skerry.lib.errors import SkerryError
from skerry.manager.store.apply import Retention
from skerry.manager.store.protocol import Store
from skerry.manager.store.sql import Database, SqlStore
from skerry.manager.store.sqlite import open_sqlite


async def open_store(
    url: str,
    *,
    clock: Clock | None = None,
    retention: Retention | None = None,
    poll_s: float = 1.0,
    timeout_s: float = 30.0,
) -> Store:
    """Open, migrate and answer the store at `url`; the caller closes it.

    `poll_s` is how soon a watch sees what another process wrote, `timeout_s` how long a locked or
    silent database is waited for. Raises StoreUnavailable, StoreTooNew, SkerryError for a bad URL.
    """
    return SqlStore(
        await open_database(url, timeout_s=timeout_s),
        clock or SystemClock(),
        retention=retention or Retention(),
        poll_s=poll_s,
    )


async def open_database(url: str, *, timeout_s: float = 30.0) -> Database:
    """The back end alone, migrated."""
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        return await anyio.to_thread.run_sync(
            partial(open_sqlite, sqlite_path(parsed), busy_timeout_s=timeout_s)
        )
    # Imported here: the driver is needed by those who use it only.
    from skerry.manager.store.postgres import open_postgres

    return await open_postgres(parsed, timeout_s=timeout_s)


def parse_url(url: str) -> URL:
    """Raises SkerryError for anything but a SQLite or PostgreSQL URL."""
    try:
        parsed = make_url(url)
    except ArgumentError as exc:
        raise _bad_url() from exc
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise _bad_url()
    return parsed


def sqlite_path(url: URL) -> Path:
    """The file of a SQLite URL. Raises SkerryError when there is none."""
    if not url.database or url.database == ":memory:":
        raise SkerryError(
            "a SQLite database needs a file", hint="write sqlite:////var/lib/skerry/manager.db"
        )
    return Path(url.database)


def _bad_url() -> SkerryError:
    # The text is not shown: it may hold a password.
    return SkerryError(
        "the database URL cannot be read",
        hint="write sqlite:////absolute/path or postgresql://user:password@host/name",
    )
