"""Carrying out a `WriteSet` inside one transaction.

Writers run one after another (SQLite: one writer, PostgreSQL: one advisory lock), so what was
read here still holds at commit, and the order of revisions is the order of commits.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

import msgspec

from skerry.manager.store import statements as sql
from skerry.manager.store.chain import audit_hash
from skerry.manager.store.codec import decode, encode, micros
from skerry.manager.store.fields import index_mark, terms_of
from skerry.manager.store.protocol import (
    AnyResource,
    Audit,
    Committed,
    Conflict,
    Delete,
    Event,
    LimitReached,
    NotFound,
    Put,
    SetValue,
    Take,
    WriteSet,
)
from skerry.manager.store.steps import Call, Steps

_NO_LIMIT = 2**62

RecordT = TypeVar("RecordT", Event, Audit)


@dataclass(frozen=True, slots=True)
class Retention:
    """How much history is kept. Audit records are kept for ever."""

    changes: int = 20_000
    events: int = 100_000
    events_age: timedelta = timedelta(days=30)


def apply(writes: WriteSet) -> Steps[Committed]:
    """All changes of the set in the order of its fields; raises without asking to undo."""
    for take in writes.takes:
        yield from _take(take)
    count = len(writes.puts) + len(writes.deletes)
    # By 0 when no object is written: the answer is the revision as it stands.
    last: int = (yield Call(sql.ADVANCE, {"sequence": "revision", "by": count}))[0][0]
    revision = last - count
    written = []
    for put in writes.puts:
        revision += 1
        written.append((yield from _put(put, revision)))
    for delete in writes.deletes:
        revision += 1
        yield from _delete(delete, revision)
    for value in writes.values:
        yield from _set_value(value)
    for event in writes.events:
        yield from _add_event(event)
    for audit in writes.audits:
        yield from _add_audit(audit)
    return Committed(revision=last, written=tuple(written))


def apply_and_tidy(writes: WriteSet, now: datetime, retention: Retention) -> Steps[Committed]:
    """As `apply`, and forget what is older than the retention or has expired."""
    committed = yield from apply(writes)
    yield from _tidy(now, retention)
    return committed


def _tidy(now: datetime, retention: Retention) -> Steps[None]:
    revision = (yield Call(sql.SEQUENCE, {"sequence": "revision"}))[0][0]
    to = revision - retention.changes
    if to > 0:
        yield Call(sql.CHANGES_PRUNE, {"to": to})
        yield Call(sql.RAISE_SEQUENCE, {"sequence": "pruned", "to": to})
    newest = (yield Call(sql.SEQUENCE, {"sequence": "event"}))[0][0]
    before = micros(now - retention.events_age)
    yield Call(sql.EVENTS_PRUNE, {"to": newest - retention.events, "before": before})
    yield Call(sql.VALUES_EXPIRE, {"now": micros(now)})


def reindex() -> Steps[bool]:
    """Rebuild the terms when the list of indexed fields changed. Answers whether it did."""
    rows = yield Call(sql.META_GET, {"k": "index"})
    if rows and rows[0][0] == index_mark():
        return False
    yield Call(sql.TERMS_CLEAR)
    last = ""
    while rows := (yield Call(sql.OBJECTS_ALL, {"uid": last, "limit": 500})):
        last = rows[-1][0]
        for _uid, kind, body in rows:
            resource = decode(kind, body)
            for path, value in sorted(terms_of(resource)):
                yield Call(sql.TERM_ADD, {**_key(resource), "path": path, "value": value})
    yield Call(sql.META_SET, {"k": "index", "v": index_mark()})
    return True


def _take(take: Take) -> Steps[None]:
    limit = _NO_LIMIT if take.limit is None else take.limit
    if limit > 0 and (yield Call(sql.TAKE, {"counter": take.counter, "limit": limit})):
        return
    raise LimitReached(f"counter {take.counter!r} is at its limit of {take.limit}")


def _put(put: Put, revision: int) -> Steps[AnyResource]:
    resource = put.resource
    key = _key(resource)
    old = yield from _current(resource.kind, resource.project, resource.name)
    if put.seen == 0:
        if old is not None:
            raise Conflict(
                f"{_shown(resource)} exists already",
                hint="read it and write with the revision that you saw",
            )
        uid = resource.uid or uuid.uuid4().hex
        if resource.uid and (taken := (yield Call(sql.UID_OWNER, {"uid": uid}))):
            raise Conflict(f"uid {uid!r} of {_shown(resource)} belongs to {'/'.join(taken[0])}")
        fresh = _stamped(resource, uid=uid, revision=revision, generation=1)
        yield Call(sql.OBJECT_ADD, {**key, "uid": uid, "revision": revision, "body": encode(fresh)})
    else:
        if old is None:
            raise NotFound(f"{_shown(resource)} does not exist any more")
        _check_seen(old, put.seen)
        if resource.uid not in ("", old.uid):
            raise Conflict(f"{_shown(resource)} has uid {old.uid!r}, not {resource.uid!r}")
        fresh = _stamped(
            resource,
            uid=old.uid,
            revision=revision,
            generation=old.metadata.generation + int(resource.spec != old.spec),
            created_at=resource.metadata.created_at or old.metadata.created_at,
        )
        yield Call(sql.OBJECT_REPLACE, {**key, "to_revision": revision, "to_body": encode(fresh)})
    yield from _index(old, fresh)
    yield _change(fresh, revision, deleted=False)
    return fresh


def _delete(delete: Delete, revision: int) -> Steps[None]:
    old = yield from _current(delete.kind, delete.project, delete.name)
    if old is None:
        raise NotFound(f"{delete.kind} {_path(delete.project, delete.name)} does not exist")
    _check_seen(old, delete.seen)
    yield Call(sql.OBJECT_REMOVE, _key(old))
    yield Call(sql.TERMS_REMOVE, _key(old))
    yield _change(old, revision, deleted=True)


def _current(kind: str, project: str, name: str) -> Steps[AnyResource | None]:
    rows = yield Call(sql.OBJECT, {"kind": kind, "project": project, "name": name})
    return decode(kind, rows[0][0]) if rows else None


def _check_seen(old: AnyResource, seen: int) -> None:
    if old.metadata.revision != seen:
        raise Conflict(
            f"{_shown(old)} is at revision {old.metadata.revision}, not {seen}",
            hint="read it again and repeat the change",
        )


def _index(old: AnyResource | None, new: AnyResource) -> Steps[None]:
    before = terms_of(old) if old is not None else set()
    after = terms_of(new)
    for path, value in sorted(before - after):
        yield Call(sql.TERM_REMOVE, {**_key(new), "path": path, "value": value})
    for path, value in sorted(after - before):
        yield Call(sql.TERM_ADD, {**_key(new), "path": path, "value": value})


def _change(resource: AnyResource, revision: int, *, deleted: bool) -> Call:
    return Call(
        sql.CHANGE_ADD,
        {
            **_key(resource),
            "revision": revision,
            "deleted": int(deleted),
            "body": encode(resource),
        },
    )


def _set_value(value: SetValue) -> Steps[None]:
    where = {"space": value.space, "key": value.key}
    if value.value is None:
        yield Call(sql.VALUE_REMOVE, where)
        return
    expires_at = None if value.expires_at is None else micros(value.expires_at)
    yield Call(sql.VALUE_SET, {**where, "value": value.value, "expires_at": expires_at})


def _add_event(said: Event) -> Steps[None]:
    event = _clean(said)
    sequence = (yield Call(sql.ADVANCE, {"sequence": "event", "by": 1}))[0][0]
    yield Call(sql.EVENT_ADD, {"sequence": sequence, **_columns(event)})


def _add_audit(said: Audit) -> Steps[None]:
    audit = _clean(said)
    sequence = (yield Call(sql.ADVANCE, {"sequence": "audit", "by": 1}))[0][0]
    rows = yield Call(sql.AUDIT_HASH, {"sequence": sequence - 1})
    previous = rows[0][0] if rows else ""
    yield Call(
        sql.AUDIT_ADD,
        {
            "sequence": sequence,
            **_columns(audit),
            "previous_hash": previous,
            "hash": audit_hash(sequence, audit, previous),
        },
    )


def _clean(record: RecordT) -> RecordT:
    """Messages quote foreign programs; what no database stores as text is replaced."""
    texts: dict[str, Any] = {
        name: text.replace("\x00", "\ufffd").encode(errors="replace").decode()
        for name in record.__slots__
        if isinstance(text := getattr(record, name), str)
    }
    return replace(record, **texts)


def _columns(record: Event | Audit) -> dict[str, Any]:
    columns = {name: getattr(record, name) for name in record.__slots__}
    columns["at"] = micros(record.at)
    return columns


def _stamped(resource: AnyResource, **changes: Any) -> AnyResource:
    metadata = msgspec.structs.replace(resource.metadata, **changes)
    return msgspec.structs.replace(resource, metadata=metadata)


def _key(resource: AnyResource) -> dict[str, Any]:
    return {"kind": resource.kind, "project": resource.project, "name": resource.name}


def _path(project: str, name: str) -> str:
    return f"{project}/{name}" if project else name


def _shown(resource: AnyResource) -> str:
    return f"{resource.kind} {_path(resource.project, resource.name)}"
