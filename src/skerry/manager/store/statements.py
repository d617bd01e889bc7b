"""The fixed statements. Values are named as the parameters in the text say (`bindparam`)."""

from __future__ import annotations

from typing import Any

from sqlalchemy import bindparam, delete, insert, or_, select, update
from sqlalchemy.sql.base import Executable

from skerry.manager.store.steps import Insert, Statement
from skerry.manager.store.tables import (
    AUDITS,
    CHANGES,
    COUNTERS,
    EVENTS,
    META,
    OBJECTS,
    SEQUENCES,
    TERMS,
    VALUES,
)

_o, _t, _c, _v, _e, _a = (t.c for t in (OBJECTS, TERMS, CHANGES, VALUES, EVENTS, AUDITS))

_THE_OBJECT = (
    (_o.kind == bindparam("kind"))
    & (_o.project == bindparam("project"))
    & (_o.name == bindparam("name"))
)

# -- numbers -----------------------------------------------------------------------------------

SEQUENCE = Statement(select(SEQUENCES.c.value).where(SEQUENCES.c.name == bindparam("sequence")))
ADVANCE = Statement(
    update(SEQUENCES)
    .where(SEQUENCES.c.name == bindparam("sequence"))
    .values(value=SEQUENCES.c.value + bindparam("by"))
    .returning(SEQUENCES.c.value)
)
RAISE_SEQUENCE = Statement(
    update(SEQUENCES)
    .where(SEQUENCES.c.name == bindparam("sequence"), SEQUENCES.c.value < bindparam("to"))
    .values(value=bindparam("to"))
)
META_GET = Statement(select(META.c.value).where(META.c.key == bindparam("k")))


def _meta_set(dialect_insert: Insert) -> Executable:
    statement: Executable = (
        dialect_insert(META)
        .values(key=bindparam("k"), value=bindparam("v"))
        .on_conflict_do_update(index_elements=["key"], set_={"value": bindparam("v")})
    )
    return statement


def _take(dialect_insert: Insert) -> Executable:
    # One guarded statement: inserts the first use, or counts one more while below the limit.
    statement: Executable = (
        dialect_insert(COUNTERS)
        .values(name=bindparam("counter"), value=1)
        .on_conflict_do_update(
            index_elements=["name"],
            set_={"value": COUNTERS.c.value + 1},
            where=COUNTERS.c.value < bindparam("limit"),
        )
        .returning(COUNTERS.c.value)
    )
    return statement


META_SET = Statement(_meta_set)
TAKE = Statement(_take)
COUNTER = Statement(select(COUNTERS.c.value).where(COUNTERS.c.name == bindparam("counter")))

# -- objects -----------------------------------------------------------------------------------

OBJECT = Statement(select(_o.body).where(_THE_OBJECT))
OBJECT_BY_UID = Statement(
    select(_o.body).where(_o.uid == bindparam("uid"), _o.kind == bindparam("kind"))
)
UID_OWNER = Statement(select(_o.kind, _o.project, _o.name).where(_o.uid == bindparam("uid")))
OBJECT_ADD = Statement(
    insert(OBJECTS).values({column.name: bindparam(column.name) for column in OBJECTS.columns})
)
OBJECT_REPLACE = Statement(
    update(OBJECTS)
    .where(_THE_OBJECT)
    .values(revision=bindparam("to_revision"), body=bindparam("to_body"))
)
OBJECT_REMOVE = Statement(delete(OBJECTS).where(_THE_OBJECT))
OBJECTS_ALL = Statement(
    select(_o.uid, _o.kind, _o.body)
    .where(_o.uid > bindparam("uid"))
    .order_by(_o.uid)
    .limit(bindparam("limit"))
)

TERM_ADD = Statement(
    insert(TERMS).values({column.name: bindparam(column.name) for column in TERMS.columns})
)
TERM_REMOVE = Statement(
    delete(TERMS).where(*(column == bindparam(column.name) for column in TERMS.columns))
)
TERMS_REMOVE = Statement(
    delete(TERMS).where(
        _t.kind == bindparam("kind"),
        _t.project == bindparam("project"),
        _t.name == bindparam("name"),
    )
)
TERMS_CLEAR = Statement(delete(TERMS))

# -- changes -----------------------------------------------------------------------------------

CHANGE_ADD = Statement(
    insert(CHANGES).values({column.name: bindparam(column.name) for column in CHANGES.columns})
)
CHANGE = Statement(
    select(_c.body).where(
        _c.revision == bindparam("revision"),
        _c.kind == bindparam("kind"),
        _c.project == bindparam("project"),
        _c.name == bindparam("name"),
        _c.deleted == 0,
    )
)
CHANGES_PRUNE = Statement(delete(CHANGES).where(_c.revision <= bindparam("to")))

# -- values ------------------------------------------------------------------------------------

_NOT_EXPIRED = or_(_v.expires_at.is_(None), _v.expires_at > bindparam("now"))

VALUE = Statement(
    select(_v.value).where(_v.space == bindparam("space"), _v.key == bindparam("key"), _NOT_EXPIRED)
)
VALUES_OF = Statement(
    select(_v.key, _v.value).where(_v.space == bindparam("space"), _NOT_EXPIRED).order_by(_v.key)
)
VALUE_REMOVE = Statement(
    delete(VALUES).where(_v.space == bindparam("space"), _v.key == bindparam("key"))
)
VALUES_EXPIRE = Statement(delete(VALUES).where(_v.expires_at <= bindparam("now")))


def _value_set(dialect_insert: Insert) -> Executable:
    fresh: dict[str, Any] = {"value": bindparam("value"), "expires_at": bindparam("expires_at")}
    statement: Executable = (
        dialect_insert(VALUES)
        .values(space=bindparam("space"), key=bindparam("key"), **fresh)
        .on_conflict_do_update(index_elements=["space", "key"], set_=fresh)
    )
    return statement


VALUE_SET = Statement(_value_set)

# -- events and audits -------------------------------------------------------------------------

EVENT_ADD = Statement(
    insert(EVENTS).values({column.name: bindparam(column.name) for column in EVENTS.columns})
)
EVENTS_PRUNE = Statement(
    delete(EVENTS).where(or_(_e.sequence <= bindparam("to"), _e.at < bindparam("before")))
)
AUDIT_ADD = Statement(
    insert(AUDITS).values({column.name: bindparam(column.name) for column in AUDITS.columns})
)
AUDIT_HASH = Statement(select(_a.hash).where(_a.sequence == bindparam("sequence")))
AUDITS_AFTER = Statement(
    select(AUDITS)
    .where(_a.sequence > bindparam("after"))
    .order_by(_a.sequence)
    .limit(bindparam("limit"))
)
