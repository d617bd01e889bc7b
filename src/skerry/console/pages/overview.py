"""Fleet overview: how the fleet is, and what needs a person, each with one next action."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.responses import Response

from skerry.console.door import Visit
from skerry.console.inside import AnyResource, Page, Query
from skerry.console.pages.listing import count, tally
from skerry.console.states import cluster_cause, host_cause
from skerry.manager.services import objects
from skerry.model.kinds import ClusterPhase
from skerry.model.reasons import Cause
from skerry.model.standing import Standing

_MOST = 8
_SITES = 12


# Word and tone of each standing; those of the first row are shown also when nobody has them.
_SHARES = {
    Standing.WELL: ("In order", "good"),
    Standing.WORKING: ("Working", "busy"),
    Standing.ATTENTION: ("Need attention", "bad"),
    Standing.OFFLINE: ("Offline", "quiet"),
    Standing.PENDING: ("Wait for approval", "wait"),
    Standing.WAITING: ("Wait for a person", "wait"),
    Standing.LEAVING: ("Leaving", "busy"),
    Standing.DENIED: ("Denied", "off"),
    Standing.REVOKED: ("Revoked", "off"),
}
_ALWAYS = (Standing.WELL, Standing.WORKING, Standing.ATTENTION, Standing.OFFLINE)


@dataclass(frozen=True, slots=True)
class Share:
    """One part of the fleet: how many hosts, and the `state` of the address that lists them."""

    word: str
    tone: str
    count: int
    state: str


@dataclass(frozen=True, slots=True)
class Need:
    """Something that a person has to look at."""

    kind: str
    thing: AnyResource
    cause: Cause


async def page(visit: Visit) -> Response:
    """The first page."""
    project = visit.project_for("Host")
    needs, more, unhappy = await _needs(visit, project)
    counts = await tally(visit, "Host", project, "standing")
    phases = await tally(visit, "Cluster", project, "status.phase")
    total = sum(counts.values())
    return await visit.show(
        "overview.html",
        shares=[
            Share(word, tone, counts.get(name, 0), name.value)
            for name, (word, tone) in _SHARES.items()
            if counts.get(name) or name in _ALWAYS
        ],
        total=total,
        needs=needs,
        more=more,
        sites=await _sites(visit, project),
        first=await _first_steps(visit, project) if total == 0 else None,
        clusters=sum(phases.values()),
        running=phases.get(ClusterPhase.RUNNING, 0),
        live=f"/live?kinds=Host,Cluster&since={unhappy.revision}",
    )


async def _needs(visit: Visit, project: str | None) -> tuple[list[Need], int, Page]:
    """(the first of them, how many more, hosts that need attention)."""
    clusters = await objects.list_objects(
        visit.centre,
        visit.caller,
        Query("Cluster", project, fields={"status.phase": "Degraded"}, limit=_MOST),
    )
    named = {name for item in clusters.items for pool in item.spec.pools for name in pool.hosts}
    found = [Need("cluster", item, cluster_cause(item)) for item in clusters.items]
    hosts = await objects.list_objects(
        visit.centre,
        visit.caller,
        Query("Host", project, fields={"standing": Standing.ATTENTION}, limit=_MOST * 2),
    )
    found += [
        Need("host", host, host_cause(host)) for host in hosts.items if host.name not in named
    ]
    left = max(0, len(found) - _MOST) + clusters.total - len(clusters.items)
    left += max(0, hosts.total - len(hosts.items))
    return found[:_MOST], left, hosts


async def _sites(visit: Visit, project: str | None) -> list[tuple[AnyResource, int]]:
    if not visit.may("list", "Site", project or ""):
        return []
    page = await objects.list_objects(
        visit.centre, visit.caller, Query("Site", project, limit=_SITES)
    )
    counts = await by_site(visit, page.items)
    return [(site, counts.get((site.project, site.name), 0)) for site in page.items]


async def by_site(
    visit: Visit, sites: Sequence[AnyResource], **fields: str
) -> dict[tuple[str, str], int]:
    """How many hosts stand at which (project, site)."""
    found: dict[tuple[str, str], int] = {}
    for project in {site.project for site in sites}:
        counts = await tally(visit, "Host", project, "spec.site", **fields)
        found.update({(project, name): count for name, count in counts.items()})
    return found


async def _first_steps(visit: Visit, project: str | None) -> dict[str, int]:
    """How far a new fleet is."""
    return {
        "tokens": await count(visit, "RegistrationToken", project),
        "profiles": await count(visit, "ClusterProfile", project),
    }
