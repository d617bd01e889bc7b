"""The verbs that every kind shares: get, list, watch, apply, patch, delete.

A change is one transaction: object, what hangs on it, event and audit record together, under
compare-and-set. When another writer came between, everything is checked again on the new state.
What a kind adds lies in `KindRules` (module rules).
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import msgspec

from skerry.lib.errors import SkerryError
from skerry.manager.auth.decide import allowed, readable_projects
from skerry.manager.services import present, rules
from skerry.manager.services.admission import check_document
from skerry.manager.services.centre import Caller, Centre, Contended, audit, event, require
from skerry.manager.store.protocol import (
    AnyResource,
    Change,
    Conflict,
    Delete,
    NotFound,
    Page,
    Put,
    Query,
    WriteSet,
)
from skerry.model.changes import Difference, differences, summary
from skerry.model.kinds import KINDS, Kind, Scope
from skerry.model.problems import DocumentInvalid, Problem

_TRIES = 8


class DeleteWaits(SkerryError):
    """An object cannot go yet. `wait_s` is how long until it may be forced."""

    exit_code = 5

    def __init__(self, message: str, *, wait_s: int, hint: str) -> None:
        super().__init__(message, hint=hint, reason="DeleteWaits", retryable=True)
        self.wait_s = wait_s


class ChangedMeanwhile(Conflict):
    """Compare-and-set failed. `changes` is what others did since, from wanted to present."""

    def __init__(self, message: str, changes: list[Difference]) -> None:
        super().__init__(
            message,
            hint="get the object again, make the change there, and apply with its revision",
            reason="Conflict",
        )
        self.changes = changes


@dataclass(frozen=True, slots=True)
class Applied:
    """What an apply did, or would do. `once` holds what is shown this one time only."""

    resource: AnyResource
    created: bool
    changes: tuple[Difference, ...] = ()
    reactions: tuple[rules.HostReaction, ...] = ()
    once: dict[str, str] = field(default_factory=dict)


async def get(centre: Centre, caller: Caller, kind: Kind, project: str, name: str) -> AnyResource:
    """Raises NotPermitted, NotFound."""
    require(caller, "get", kind.name, project)
    return await present.shown(centre, await centre.store.get(kind.name, project, name))


async def list_objects(centre: Centre, caller: Caller, query: Query) -> Page:
    """Objects that the caller may see; without a project, those of all projects they may see."""
    page = await centre.store.list(_permitted(caller, query))
    items = [await present.shown(centre, item) for item in page.items]
    return Page(tuple(items), page.after, page.revision, page.total)


async def tally(centre: Centre, caller: Caller, query: Query, path: str) -> dict[str, int]:
    """How many objects that the caller may see have which value of an indexed field."""
    return await centre.store.tally(_permitted(caller, query), path)


def _permitted(caller: Caller, query: Query) -> Query:
    """The query within what the caller may list. Raises NotPermitted."""
    if query.project is None and KINDS[query.kind].scope is Scope.PROJECT:
        projects = readable_projects(caller.principal, "list", query.kind)
        if projects is not None:
            if len(projects) != 1:
                require(caller, "list", query.kind, "")
            query = replace(query, project=projects[0])
    require(caller, "list", query.kind, query.project or "")
    return query


async def watch(
    centre: Centre, caller: Caller, kind: Kind, project: str | None, *, since: int
) -> AsyncIterator[Change]:
    """Changes after `since`, in order. Raises NotPermitted, HistoryGone."""
    require(caller, "watch", kind.name, project or "")
    async for change in centre.store.watch([kind.name], since=since):
        if project is None or change.resource.project == project:
            shown = await present.shown(centre, change.resource)
            yield Change(change.revision, change.deleted, shown)


async def apply(
    centre: Centre,
    caller: Caller,
    raw: Any,
    *,
    kind: Kind | None = None,
    place: tuple[str, str] | None = None,
    revision: int | None = None,
    dry_run: bool = False,
) -> Applied:
    """Create or replace an object's spec, labels and annotations.

    `place` is (project, name) of the address, `revision` what the caller saw (None: whatever is
    there; then the document's own metadata.revision counts, if it has one). Raises
    DocumentInvalid with all problems, ChangedMeanwhile, NotPermitted.
    """
    wanted = _admitted(raw, kind, place)
    seen = revision if revision is not None else (wanted.metadata.revision or None)
    _require_writing(caller, wanted.kind, wanted.project)
    for _ in range(_TRIES):
        old = await _current(centre, wanted)
        require(caller, "update" if old else "create", wanted.kind, wanted.project)
        await _compare(centre, old, wanted, seen)
        draft = await _draft(centre, caller, old, wanted)
        result = _result(old, draft)
        if dry_run or (old is not None and not result.changes and not draft.writes):
            return await _finished(centre, result)
        for blob in draft.blobs:
            await centre.blobs.put(blob)
        try:
            written = await centre.store.commit(_writes(centre, caller, old, draft, result))
        except Conflict:
            continue
        stored = written.written[0]
        return await _finished(centre, msgspec_replace(result, stored))
    raise Contended(f"{wanted.kind} {wanted.name}")


async def patch(
    centre: Centre,
    caller: Caller,
    kind: Kind,
    place: tuple[str, str],
    change: Any,
    *,
    dry_run: bool = False,
) -> Applied:
    """JSON merge patch (RFC 7396) of labels, annotations and spec."""
    if not isinstance(change, Mapping):
        raise DocumentInvalid("patch", [Problem(path="", message="a patch is a mapping")])
    require(caller, "update", kind.name, place[0])
    for _ in range(_TRIES):
        old = await centre.store.get(kind.name, *place)
        # As people see it: what is write-only stands there as "keep it".
        document = msgspec.to_builtins(await present.shown(centre, old))
        merged = merge_patch(
            {
                "kind": kind.name,
                "metadata": {
                    key: document["metadata"].get(key) for key in ("name", "labels", "annotations")
                },
                "spec": document["spec"],
            },
            change,
        )
        try:
            return await apply(
                centre,
                caller,
                merged,
                kind=kind,
                place=place,
                revision=old.metadata.revision,
                dry_run=dry_run,
            )
        except ChangedMeanwhile:
            continue
    raise Contended(f"{kind.name} {place[1]}")


async def delete(
    centre: Centre, caller: Caller, kind: Kind, place: tuple[str, str], *, force: bool = False
) -> AnyResource | None:
    """Delete an object; None when it is gone, else it as it waits for its finalizers.

    `force` ends the waiting, but not before `force_wait_s` after the deletion was asked for.
    Raises DeleteWaits, NotPermitted, DocumentInvalid (others still use it).
    """
    require(caller, "delete", kind.name, place[0])
    for _ in range(_TRIES):
        old = await centre.store.get(kind.name, *place)
        ending = await rules.ending(centre, caller, old)
        if ending.problems:
            raise DocumentInvalid(f"deletion of {kind.name} {old.name}", ending.problems)
        try:
            if not ending.finalizers or (force and _may_force(centre, caller, old)):
                await centre.store.commit(_removal(centre, caller, old, ending, force=force))
                centre.live.forget(old.uid)
                return None
            if old.metadata.deleted_at is not None and not force:
                return await present.shown(centre, old)
            marked = msgspec.structs.replace(
                old,
                metadata=msgspec.structs.replace(
                    old.metadata,
                    deleted_at=old.metadata.deleted_at or centre.clock.now(),
                    finalizers=ending.finalizers,
                ),
            )
            done = await centre.store.commit(
                WriteSet(
                    puts=(Put(marked, old.metadata.revision),),
                    values=ending.asked,
                    events=(event(centre, old, "Deleting", f"deletion asked by {caller.name}"),),
                    audits=(audit(centre, caller, "delete", old),),
                )
            )
        except Conflict:
            continue
        return await present.shown(centre, done.written[0])
    raise Contended(f"{kind.name} {place[1]}")


def merge_patch(target: Any, change: Any) -> Any:
    """RFC 7396."""
    if not isinstance(change, Mapping):
        return change
    merged = dict(target) if isinstance(target, Mapping) else {}
    for key, value in change.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged


def _require_writing(caller: Caller, kind: str, project: str) -> None:
    """Before anything is looked up: a refusal must not tell whether an object exists."""
    if not any(allowed(caller.principal, verb, kind, project) for verb in ("create", "update")):
        require(caller, "create", kind, project)


def _admitted(raw: Any, kind: Kind | None, place: tuple[str, str] | None) -> AnyResource:
    if place is not None and isinstance(raw, Mapping) and isinstance(raw.get("metadata"), Mapping):
        metadata = dict(raw["metadata"])
        metadata.setdefault("name", place[1])
        if place[0] and not metadata.get("project"):
            metadata["project"] = place[0]
        raw = {**raw, "metadata": metadata}
    found = check_document(raw, kind=kind)
    if isinstance(found, list):
        name = raw.get("kind") if isinstance(raw, Mapping) else ""
        what = str(name or (kind.name if kind else "document"))[:60]
        raise DocumentInvalid(what, found)
    problems = []
    if place is not None and found.project != place[0]:
        problems.append(
            Problem(
                path="metadata.project",
                message=f"is {found.project!r}, the address says {place[0]!r}",
            )
        )
    if place is not None and found.name != place[1]:
        problems.append(
            Problem(
                path="metadata.name", message=f"is {found.name!r}, the address says {place[1]!r}"
            )
        )
    if problems:
        raise DocumentInvalid(found.kind, problems)
    return found


async def _current(centre: Centre, wanted: AnyResource) -> AnyResource | None:
    try:
        return await centre.store.get(wanted.kind, wanted.project, wanted.name)
    except NotFound:
        return None


async def _compare(
    centre: Centre, old: AnyResource | None, wanted: AnyResource, seen: int | None
) -> None:
    """Raises ChangedMeanwhile when people changed the object since revision `seen`.

    What programs write (the status) moves the revision too, and is nobody's conflict: an object
    that is being worked on could otherwise hardly be changed.
    """
    there = old.metadata.revision if old else 0
    if seen is None or seen == there:
        return
    if old is None:
        raise NotFound(f"no {wanted.kind} {wanted.name}", hint="apply without a revision")
    then = await centre.store.at_revision(old.kind, old.project, old.name, seen)
    same = then if then is not None and then.uid == old.uid else None
    if same is not None and present.document(same) == present.document(old):
        return
    raise ChangedMeanwhile(
        f"{wanted.kind} {wanted.name} has revision {there}, you changed revision {seen}",
        differences(present.document(wanted), present.document(old)),
    )


async def _draft(
    centre: Centre, caller: Caller, old: AnyResource | None, wanted: AnyResource
) -> rules.Draft:
    now = centre.clock.now()
    if old is None:
        metadata = msgspec.structs.replace(
            wanted.metadata, uid=str(uuid.uuid4()), generation=1, revision=0, created_at=now
        )
        new = msgspec.structs.replace(wanted, metadata=metadata)
    else:
        if old.metadata.deleted_at is not None:
            raise DocumentInvalid(
                f"{old.kind} {old.name}",
                [
                    Problem(
                        path="metadata", message="is being deleted", hint="wait until it is gone"
                    )
                ],
            )
        metadata = msgspec.structs.replace(
            old.metadata,
            labels=wanted.metadata.labels,
            annotations=wanted.metadata.annotations,
            generation=old.metadata.generation + (old.spec != wanted.spec),
        )
        new = msgspec.structs.replace(wanted, metadata=metadata, status=old.status)
    draft = await rules.prepare(centre, caller, old, new)
    if draft.problems:
        raise DocumentInvalid(f"{new.kind} {new.name}", draft.problems)
    return draft


def _result(old: AnyResource | None, draft: rules.Draft) -> Applied:
    before = present.document(old) if old else {}
    return Applied(
        resource=draft.resource,
        created=old is None,
        changes=tuple(differences(before, present.document(draft.resource))),
        reactions=draft.reactions,
        once=draft.once,
    )


def _writes(
    centre: Centre, caller: Caller, old: AnyResource | None, draft: rules.Draft, result: Applied
) -> WriteSet:
    verb = "update" if old else "create"
    change = summary(result.changes)
    return WriteSet(
        puts=(Put(draft.resource, old.metadata.revision if old else 0), *draft.puts),
        values=draft.values,
        events=draft.events,
        audits=(audit(centre, caller, verb, draft.resource, change),),
    )


def msgspec_replace(result: Applied, stored: AnyResource) -> Applied:
    """The result with the object as it was stored."""
    return Applied(stored, result.created, result.changes, result.reactions, result.once)


async def _finished(centre: Centre, result: Applied) -> Applied:
    return msgspec_replace(result, await present.shown(centre, result.resource))


def _may_force(centre: Centre, caller: Caller, old: AnyResource) -> bool:
    require(caller, "force", old.kind, old.project)
    if old.metadata.deleted_at is None:
        return False
    ready = old.metadata.deleted_at + timedelta(seconds=centre.settings.force_wait_s)
    left = (ready - centre.clock.now()).total_seconds()
    if left > 0:
        raise DeleteWaits(
            f"{old.kind} {old.name} can be forced in {int(left) + 1} s,"
            f" at {ready:%Y-%m-%d %H:%M:%S} UTC",
            wait_s=int(left) + 1,
            hint="wait, or let the hosts finish: forcing leaves behind what is on them",
        )
    return True


def _removal(
    centre: Centre, caller: Caller, old: AnyResource, ending: rules.Ending, *, force: bool
) -> WriteSet:
    verb = "force-delete" if force and ending.finalizers else "delete"
    return WriteSet(
        takes=ending.takes,
        puts=ending.puts,
        deletes=(Delete(old.kind, old.project, old.name, old.metadata.revision),),
        values=ending.values,
        events=(event(centre, old, "Deleted", f"deleted by {caller.name}"),),
        audits=(audit(centre, caller, verb, old),),
    )
