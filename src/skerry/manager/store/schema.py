"""Bringing a database to the schema that this version needs, when it is opened.

Migrations only add, so that the version that runs works with the schema of the next one and a
return is possible. A migration that breaks this rule raises `meta.usable_from`, and older
versions refuse the database by name instead of damaging it.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

from skerry.manager.store.errors import StoreTooNew

HEAD = "0001"

_MIGRATIONS = Path(__file__).parent / "migrations"


def migrate(connection: Connection) -> None:
    """Run the migrations that are missing. Raises StoreTooNew. The caller holds the only lock."""
    found = current(connection)
    if found == HEAD:
        return
    if found is not None and found not in known_versions():
        _check_usable(connection, found)
        return
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def current(connection: Connection) -> str | None:
    """The schema's version, None for an empty database."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    row = connection.execute(text("SELECT version_num FROM alembic_version")).first()
    return None if row is None else str(row[0])


def known_versions() -> frozenset[str]:
    """Every schema version that this program has a migration for."""
    scripts = ScriptDirectory(_MIGRATIONS)
    return frozenset(script.revision for script in scripts.walk_revisions())


def _check_usable(connection: Connection, found: str) -> None:
    row = connection.execute(text("SELECT value FROM meta WHERE key = 'usable_from'")).first()
    if row is not None and str(row[0]) > HEAD:
        raise StoreTooNew(
            f"the database has schema {found}, usable from {row[0]} on; this version knows {HEAD}",
            hint="run the newer skerry, or restore the backup made before the upgrade",
        )
