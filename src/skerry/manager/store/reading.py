"""Reads, each within one snapshot.

A list is answered from the terms when labels and fields allow it; what terms cannot express
(`<`, `>`, fields that are not indexed) is found by decoding the candidates in batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import ColumnElement, String, and_, exists, func, or_, select, tuple_
from sqlalchemy import literal as literal_

from skerry.lib.errors import SkerryError
from skerry.manager.store import statements as sql
from skerry.manager.store.codec import decode, from_micros, kind_of, micros
from skerry.manager.store.fields import LABEL, FieldPath, find_field, is_indexed, term_value
from skerry.manager.store.protocol import (
    AnyResource,
    Audit,
    Change,
    Event,
    HistoryGone,
    NotFound,
    Page,
    Query,
    StoredAudit,
    StoredEvent,
)
from skerry.manager.store.steps import Call, Rows, Statement, Steps
from skerry.manager.store.tables import CHANGES, EVENTS, OBJECTS, TERMS
from skerry.model.selectors import Operator, Requirement, parse_selector

MAX_LIMIT = 5000
_SCAN_ROWS = 1000

_o, _t, _c, _e = OBJECTS.c, TERMS.c, CHANGES.c, EVENTS.c
_COLUMNS = {"metadata.name": _o.name, "metadata.project": _o.project, "metadata.uid": _o.uid}


def get(kind: str, project: str, name: str) -> Steps[AnyResource]:
    """Raises NotFound."""
    kind_of(kind)
    rows = yield Call(sql.OBJECT, {"kind": kind, "project": project, "name": name})
    if not rows:
        shown = f"{project}/{name}" if project else name
        raise NotFound(f"{kind} {shown} does not exist")
    return decode(kind, rows[0][0])


def get_by_uid(kind: str, uid: str) -> Steps[AnyResource]:
    """Raises NotFound."""
    kind_of(kind)
    rows = yield Call(sql.OBJECT_BY_UID, {"kind": kind, "uid": uid})
    if not rows:
        raise NotFound(f"{kind} with uid {uid} does not exist")
    return decode(kind, rows[0][0])


def sequence(name: str) -> Steps[int]:
    """How far one of the store's own numbers is."""
    return int((yield Call(sql.SEQUENCE, {"sequence": name}))[0][0])


def counter(name: str) -> Steps[int]:
    """0 for a counter that was never taken from."""
    rows = yield Call(sql.COUNTER, {"counter": name})
    return int(rows[0][0]) if rows else 0


def value(space: str, key: str, now: datetime) -> Steps[bytes | None]:
    """None when there is none or it has expired."""
    rows = yield Call(sql.VALUE, {"space": space, "key": key, "now": micros(now)})
    return bytes(rows[0][0]) if rows else None


def values(space: str, now: datetime) -> Steps[dict[str, bytes]]:
    """All values of a space that have not expired."""
    rows = yield Call(sql.VALUES_OF, {"space": space, "now": micros(now)})
    return {key: bytes(content) for key, content in rows}


# -- list --------------------------------------------------------------------------------------

# The same few lists are asked for again and again, and building one takes longer than running it.
_PREPARED = 128


@dataclass(frozen=True, slots=True)
class _Plan:
    """What SQL decides (`where`) and what is left to decoding."""

    where: tuple[ColumnElement[bool], ...]
    fields: tuple[tuple[FieldPath, str], ...]
    requirements: tuple[Requirement, ...]

    @property
    def scans(self) -> bool:
        return bool(self.fields or self.requirements)

    def matches(self, resource: AnyResource) -> bool:
        return all(r.matches(resource.metadata.labels) for r in self.requirements) and all(
            wanted in field.texts(resource) for field, wanted in self.fields
        )


def page(query: Query) -> Steps[Page]:
    """Raises SkerryError for an unknown kind or field, a bad selector or a bad `after`."""
    limit = min(max(query.limit, 0), MAX_LIMIT)
    start = _position(query.after)
    prepared = _prepare(
        query.kind,
        query.project,
        query.labels,
        tuple(query.fields.items()),
        query.search,
        start,
        limit,
    )
    plan = prepared.plan
    revision = yield from sequence("revision")
    if plan.scans:
        items, more, total = yield from _scan(query.kind, plan, start, limit)
    else:
        total = (yield prepared.count)[0][0]
        rows = (yield prepared.fetch) if limit else ()
        items = [decode(query.kind, body) for _project, _name, body in rows[:limit]]
        more = len(rows) > limit
    after = f"{items[-1].project}/{items[-1].name}" if more and items else ""
    return Page(items=tuple(items), after=after, revision=revision, total=total)


def tally(query: Query, path: str) -> Steps[dict[str, int]]:
    """How many objects of a query have which value of an indexed field; `limit` and `after` do not
    matter. Raises SkerryError for what terms cannot answer."""
    fields = tuple(query.fields.items())
    rows = yield _prepare_tally(query.kind, query.project, query.labels, fields, query.search, path)
    return {str(value): int(count) for value, count in rows}


@lru_cache(maxsize=_PREPARED)
def _prepare_tally(
    kind: str,
    project: str | None,
    labels: str,
    fields: tuple[tuple[str, str], ...],
    search: str,
    path: str,
) -> Call:
    plan = _plan(kind, project, labels, fields, search)
    if plan.scans or not is_indexed(kind, path):
        raise SkerryError(f"{kind} cannot be counted by {path!r} here")
    where = _terms_of(kind, project, path)
    if labels or fields or search:
        chosen = select(_o.project, _o.name).where(*plan.where)
        where.append(tuple_(_t.project, _t.name).in_(chosen))
    return Call(Statement(select(_t.value, func.count()).where(*where).group_by(_t.value)))


def _terms_of(kind: str, project: str | None, path: str) -> list[ColumnElement[bool]]:
    where: list[ColumnElement[bool]] = [_t.kind == kind, _t.path == path]
    if project is not None:
        where.append(_t.project == project)
    return where


def _scan(
    kind: str, plan: _Plan, start: tuple[str, str] | None, limit: int
) -> Steps[tuple[list[AnyResource], bool, int]]:
    """(items of the page, whether more follow, how many match in all)."""
    items: list[AnyResource] = []
    total, more = 0, False
    cursor: tuple[str, str] | None = None
    while True:
        rows: Rows = yield _fetch(plan, cursor, _SCAN_ROWS)
        for project, name, body in rows:
            cursor = (project, name)
            resource = decode(kind, body)
            if not plan.matches(resource):
                continue
            total += 1
            if start is None or cursor > start:
                more = len(items) >= limit
                if not more:
                    items.append(resource)
        if len(rows) < _SCAN_ROWS:
            return items, more, total


def _fetch(plan: _Plan, after: tuple[str, str] | None, limit: int) -> Call:
    statement = select(_o.project, _o.name, _o.body).where(*plan.where)
    if after is not None:
        statement = statement.where(tuple_(_o.project, _o.name) > tuple_(*map(_text, after)))
    return Call(Statement(statement.order_by(_o.project, _o.name).limit(limit)))


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A plan with its two questions; their text is made once, with the first answer."""

    plan: _Plan
    count: Call
    fetch: Call


@lru_cache(maxsize=_PREPARED)
def _prepare(
    kind: str,
    project: str | None,
    labels: str,
    fields: tuple[tuple[str, str], ...],
    search: str,
    start: tuple[str, str] | None,
    limit: int,
) -> _Prepared:
    plan = _plan(kind, project, labels, fields, search)
    count = select(func.count()).select_from(OBJECTS).where(*plan.where)
    if len(fields) == 1 and is_indexed(kind, fields[0][0]) and not labels and not search:
        # One indexed field alone is counted in the index of terms, without its objects.
        path, value = fields[0]
        alone = [*_terms_of(kind, project, path), _t.value == term_value(value)]
        count = select(func.count()).select_from(TERMS).where(*alone)
    return _Prepared(plan, Call(Statement(count)), _fetch(plan, start, limit + 1))


def _plan(
    kind: str,
    project: str | None,
    labels: str,
    wanted_fields: tuple[tuple[str, str], ...],
    search: str,
) -> _Plan:
    kind_of(kind)
    where: list[ColumnElement[bool]] = [_o.kind == kind]
    fields = []
    requirements = []
    if project is not None:
        where.append(_o.project == project)
    for requirement in parse_selector(labels).requirements:
        if requirement.operator in (Operator.GREATER, Operator.LESS):
            where.append(_has_term(kind, LABEL + requirement.key))
            requirements.append(requirement)
        else:
            where.append(_label_condition(kind, requirement))
    for path, wanted in wanted_fields:
        if path in _COLUMNS:
            where.append(_COLUMNS[path] == wanted)
            continue
        if is_indexed(kind, path):
            where.append(_has_term(kind, path, (wanted,)))
        else:
            fields.append((find_field(kind, path), wanted))
    if search:
        where.append(_found_by(search))
    return _Plan(tuple(where), tuple(fields), tuple(requirements))


def _label_condition(kind: str, requirement: Requirement) -> ColumnElement[bool]:
    path = LABEL + requirement.key
    if requirement.operator in (Operator.NOT_IN, Operator.NOT_EXISTS):
        # Asked per object: SQLite reads the whole subquery for every row of a NOT IN over two
        # columns, which takes minutes in a large fleet.
        condition = _t.path == path
        if requirement.values:
            wanted = [term_value(text) for text in requirement.values]
            condition = and_(condition, _t.value.in_(wanted))
        return ~_term_exists(condition)
    return _has_term(kind, path, requirement.values)


def _has_term(kind: str, path: str, among: Sequence[str] = ()) -> ColumnElement[bool]:
    if not among:
        return _term_exists(_t.path == path)
    # A subquery on its own, so that a rare value is found from the index and not row by row.
    wanted = _t.value.in_([term_value(text) for text in among])
    found = select(_t.project, _t.name).where(_t.kind == kind, _t.path == path, wanted)
    return tuple_(_o.project, _o.name).in_(found)


def _found_by(search: str) -> ColumnElement[bool]:
    """The text is part of the name or of a label's value, in any case of ASCII letters."""
    lowered = search.lower() if search.isascii() else search
    in_name = func.lower(_o.name).contains(lowered, autoescape=True)
    in_label = func.lower(_t.value).contains(lowered, autoescape=True)
    is_label = and_(_t.path >= LABEL, _t.path < LABEL[:-1] + chr(ord(LABEL[-1]) + 1))
    return or_(in_name, _term_exists(and_(is_label, in_label)))


def _term_exists(condition: ColumnElement[bool]) -> ColumnElement[bool]:
    return exists().where(
        _t.kind == _o.kind, _t.project == _o.project, _t.name == _o.name, condition
    )


def _text(content: str) -> ColumnElement[str]:
    return literal_(content, String())


def _position(after: str) -> tuple[str, str] | None:
    if not after:
        return None
    project, slash, name = after.partition("/")
    if not slash:
        raise SkerryError(
            f"cannot continue a list after {after[:200]!r}",
            hint="pass the 'after' of the page before, unchanged",
        )
    return project, name


# -- watch, events, audits ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Batch:
    """Changes of the wanted kinds, complete up to revision `upto`."""

    changes: tuple[Change, ...]
    upto: int


def changes(kinds: Sequence[str], since: int, limit: int = 500) -> Steps[Batch]:
    """Raises HistoryGone when `since` is before what is kept or after what exists."""
    revision = yield from sequence("revision")
    pruned = yield from sequence("pruned")
    if since < pruned or since > revision:
        raise HistoryGone(
            f"changes after revision {since} are not kept; kept are those after {pruned} "
            f"to {revision}",
            hint="list again and watch from the revision of the list",
        )
    statement = select(_c.revision, _c.kind, _c.deleted, _c.body).where(_c.revision > since)
    if kinds:
        statement = statement.where(_c.kind.in_([kind_of(kind).name for kind in kinds]))
    rows = yield Call(Statement(statement.order_by(_c.revision).limit(limit)))
    found = tuple(
        Change(revision=number, deleted=bool(deleted), resource=decode(kind, body))
        for number, kind, deleted, body in rows
    )
    return Batch(found, upto=found[-1].revision if len(found) == limit else revision)


def at_revision(kind: str, project: str, name: str, revision: int) -> Steps[AnyResource | None]:
    """The object as it was written at this revision; None when that is not kept, or not its own."""
    values = {"revision": revision, "kind": kind, "project": project, "name": name}
    rows = yield Call(sql.CHANGE, values)
    return decode(kind, rows[0][0]) if rows else None


def events(
    kind: str, project: str, name: str, limit: int, after: int
) -> Steps[Sequence[StoredEvent]]:
    """Newest first, below sequence `after` when it is not 0."""
    statement = select(EVENTS).order_by(_e.sequence.desc()).limit(min(max(limit, 0), MAX_LIMIT))
    wanted = ((_e.object_kind, kind), (_e.object_project, project), (_e.object_name, name))
    for column, text in wanted:
        if text:
            statement = statement.where(column == text)
    if after:
        statement = statement.where(_e.sequence < after)
    rows = yield Call(Statement(statement))
    names = [column.name for column in EVENTS.columns]
    return [StoredEvent(sequence=row[0], event=Event(**_record(names, row))) for row in rows]


def audit_head() -> Steps[tuple[int, str]]:
    """Sequence and hash of the last record; (0, "") when there is none."""
    last = yield from sequence("audit")
    rows = yield Call(sql.AUDIT_HASH, {"sequence": last})
    return (last, str(rows[0][0])) if rows else (0, "")


def audits(after: int, limit: int) -> Steps[Sequence[StoredAudit]]:
    """Oldest first."""
    rows = yield Call(sql.AUDITS_AFTER, {"after": after, "limit": limit})
    # sequence, the record's own columns, previous_hash, hash
    names = list(AUDIT_COLUMNS[:-2])
    return [
        StoredAudit(
            sequence=row[0],
            audit=Audit(**_record(names, row[:-2])),
            previous_hash=row[-2],
            hash=row[-1],
        )
        for row in rows
    ]


AUDIT_COLUMNS = (
    "sequence",
    "at",
    "actor",
    "verb",
    "object_kind",
    "object_project",
    "object_name",
    "source",
    "change",
    "previous_hash",
    "hash",
)


def _record(names: Sequence[str], row: Sequence[Any]) -> dict[str, Any]:
    columns = dict(zip(names, row, strict=True))
    del columns["sequence"]
    columns["at"] = from_micros(columns["at"])
    return columns
