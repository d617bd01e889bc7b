"""What happened (events), who did what (audit), and what every reason means."""

from __future__ import annotations

from starlette.responses import Response

from skerry.console.door import Visit
from skerry.manager.auth.decide import readable_projects
from skerry.manager.services import history
from skerry.model.reasons import REASONS, usage

_ROWS = 100


async def events(visit: Visit) -> Response:
    """Newest first."""
    params = visit.params
    project = params.get("project", "")
    readable = readable_projects(visit.caller.principal, "list", "Event")
    if not project and readable:
        project = readable[0]
    found = await history.events(
        visit.centre,
        visit.caller,
        project=project,
        kind=params.get("kind", ""),
        name=params.get("name", ""),
        limit=_ROWS,
        after=_number(params.get("after", "")),
    )
    return await visit.show(
        "events.html",
        items=found,
        last=found[-1]["sequence"] if len(found) == _ROWS else 0,
        kinds=("Host", "Cluster", "ClusterProfile", "RegistrationToken", "Site", "Artifact"),
        live="/live?kinds=Host,Cluster,ClusterProfile,RegistrationToken"
        if not params.get("after")
        else "",
    )


async def audit(visit: Visit) -> Response:
    """The chained records, a page at a time."""
    after = _number(visit.params.get("after", ""))
    found = await history.audits(visit.centre, visit.caller, after=after, limit=_ROWS)
    return await visit.show(
        "audit.html",
        items=found,
        after=after,
        last=found[-1]["sequence"] if len(found) == _ROWS else 0,
        rows=_ROWS,
    )


async def reasons(visit: Visit) -> Response:
    """The table of all reasons, which every cause links to."""
    return await visit.show("reasons.html", reasons=[(row, usage(row)) for row in REASONS.values()])


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else 0
