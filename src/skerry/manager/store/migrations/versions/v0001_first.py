"""The first schema: objects with their terms and changes, counters, values, events, audits."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def _key(name: str) -> sa.Column[str]:
    return sa.Column(name, _TEXT, primary_key=True)


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, _TEXT, nullable=False)


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False)


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, primary_key=True, autoincrement=False)


def upgrade() -> None:
    """Create everything; the sequences start at 0."""
    op.create_table("meta", _key("key"), _text("value"))
    sequences = op.create_table("sequences", _key("name"), _number("value"))
    op.bulk_insert(
        sequences,
        [{"name": name, "value": 0} for name in ("revision", "event", "audit", "pruned")],
    )
    op.create_table(
        "objects",
        _key("kind"),
        _key("project"),
        _key("name"),
        _text("uid"),
        _number("revision"),
        _text("body"),
    )
    op.create_index("objects_uid", "objects", ["uid"], unique=True)
    op.create_table(
        "terms",
        *map(_key, ("kind", "project", "name", "path", "value")),
        sqlite_with_rowid=False,
    )
    op.create_index("terms_lookup", "terms", ["kind", "path", "value", "project", "name"])
    op.create_table(
        "changes",
        _count("revision"),
        _text("kind"),
        _text("project"),
        _text("name"),
        _number("deleted"),
        _text("body"),
    )
    op.create_table("counters", _key("name"), _number("value"))
    op.create_table(
        "named_values",
        _key("space"),
        _key("key"),
        sa.Column("value", sa.LargeBinary, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=True),
    )
    op.create_index("named_values_expires_at", "named_values", ["expires_at"])
    _records()


def _records() -> None:
    op.create_table(
        "events",
        _count("sequence"),
        _number("at"),
        *map(_text, ("object_kind", "object_project", "object_name")),
        *map(_text, ("reason", "message", "severity")),
    )
    op.create_index(
        "events_object", "events", ["object_kind", "object_project", "object_name", "sequence"]
    )
    op.create_index("events_at", "events", ["at"])
    op.create_table(
        "audits",
        _count("sequence"),
        _number("at"),
        *map(_text, ("actor", "verb", "object_kind", "object_project", "object_name")),
        *map(_text, ("source", "change", "previous_hash", "hash")),
    )
