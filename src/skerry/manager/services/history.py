"""What happened (events) and who did what (audit), for those who may see it."""

from __future__ import annotations

from typing import Any

from skerry.manager.services.centre import Caller, Centre, require


async def events(
    centre: Centre,
    caller: Caller,
    *,
    project: str = "",
    kind: str = "",
    name: str = "",
    limit: int = 100,
    after: int = 0,
) -> list[dict[str, Any]]:
    """Newest first; `after` is a sequence to continue below. Raises NotPermitted."""
    require(caller, "list", "Event", project)
    found = await centre.store.events(
        kind=kind, project=project, name=name, limit=limit, after=after
    )
    return [
        {
            "sequence": item.sequence,
            "at": item.event.at,
            "kind": item.event.object_kind,
            "project": item.event.object_project,
            "name": item.event.object_name,
            "reason": item.event.reason,
            "message": item.event.message,
            "severity": item.event.severity,
        }
        for item in found
    ]


async def audits(
    centre: Centre, caller: Caller, *, after: int = 0, limit: int = 1000
) -> list[dict[str, Any]]:
    """Oldest first, above `after`, with the hashes that chain them. Raises NotPermitted."""
    require(caller, "list", "AuditRecord", "")
    found = await centre.store.audits(after=after, limit=limit)
    return [
        {
            "sequence": item.sequence,
            "at": item.audit.at,
            "actor": item.audit.actor,
            "verb": item.audit.verb,
            "kind": item.audit.object_kind,
            "project": item.audit.object_project,
            "name": item.audit.object_name,
            "source": item.audit.source,
            "change": item.audit.change,
            "previousHash": item.previous_hash,
            "hash": item.hash,
        }
        for item in found
    ]
