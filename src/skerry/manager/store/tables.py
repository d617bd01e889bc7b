"""The tables, in one place, for every back end.

The migrations build exactly these (a test compares them). Columns are integers, text and bytes
only, so that no driver converts anything: times are microseconds since 1970 (UTC), objects are
JSON text. Text compares by bytes on every back end (collation C on PostgreSQL).
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, LargeBinary, MetaData, Table, Text

_TEXT = Text().with_variant(Text(collation="C"), "postgresql")

METADATA = MetaData()

META = Table(
    "meta",
    METADATA,
    Column("key", _TEXT, primary_key=True),
    Column("value", _TEXT, nullable=False),
)

# Numbers that only grow: "revision", "event", "audit", and "pruned" (the highest revision whose
# change is no longer kept).
SEQUENCES = Table(
    "sequences",
    METADATA,
    Column("name", _TEXT, primary_key=True),
    Column("value", BigInteger, nullable=False),
)

OBJECTS = Table(
    "objects",
    METADATA,
    Column("kind", _TEXT, primary_key=True),
    Column("project", _TEXT, primary_key=True),
    Column("name", _TEXT, primary_key=True),
    Column("uid", _TEXT, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("body", _TEXT, nullable=False),
    Index("objects_uid", "uid", unique=True),
)

# What can be selected without reading bodies: labels (path "label:KEY") and indexed fields.
TERMS = Table(
    "terms",
    METADATA,
    Column("kind", _TEXT, primary_key=True),
    Column("project", _TEXT, primary_key=True),
    Column("name", _TEXT, primary_key=True),
    Column("path", _TEXT, primary_key=True),
    Column("value", _TEXT, primary_key=True),
    Index("terms_lookup", "kind", "path", "value", "project", "name"),
    sqlite_with_rowid=False,
)

CHANGES = Table(
    "changes",
    METADATA,
    Column("revision", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", _TEXT, nullable=False),
    Column("project", _TEXT, nullable=False),
    Column("name", _TEXT, nullable=False),
    Column("deleted", BigInteger, nullable=False),
    Column("body", _TEXT, nullable=False),
)

COUNTERS = Table(
    "counters",
    METADATA,
    Column("name", _TEXT, primary_key=True),
    Column("value", BigInteger, nullable=False),
)

VALUES = Table(
    "named_values",
    METADATA,
    Column("space", _TEXT, primary_key=True),
    Column("key", _TEXT, primary_key=True),
    Column("value", LargeBinary, nullable=False),
    Column("expires_at", BigInteger, nullable=True),
    Index("named_values_expires_at", "expires_at"),
)

EVENTS = Table(
    "events",
    METADATA,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("at", BigInteger, nullable=False),
    Column("object_kind", _TEXT, nullable=False),
    Column("object_project", _TEXT, nullable=False),
    Column("object_name", _TEXT, nullable=False),
    Column("reason", _TEXT, nullable=False),
    Column("message", _TEXT, nullable=False),
    Column("severity", _TEXT, nullable=False),
    Index("events_object", "object_kind", "object_project", "object_name", "sequence"),
    Index("events_at", "at"),
)

AUDITS = Table(
    "audits",
    METADATA,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("at", BigInteger, nullable=False),
    Column("actor", _TEXT, nullable=False),
    Column("verb", _TEXT, nullable=False),
    Column("object_kind", _TEXT, nullable=False),
    Column("object_project", _TEXT, nullable=False),
    Column("object_name", _TEXT, nullable=False),
    Column("source", _TEXT, nullable=False),
    Column("change", _TEXT, nullable=False),
    Column("previous_hash", _TEXT, nullable=False),
    Column("hash", _TEXT, nullable=False),
)
