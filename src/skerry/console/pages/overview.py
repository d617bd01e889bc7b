"""Fleet overview: how the fleet is, and what needs a person, each with one next action."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.responses import Response

from skerry.console.door import Visit
from skerry.console.inside import AnyResource, Page, Query
from skerry.console.pages.listing import ATTENTION, count
from skerry.console.states import cluster_cause, host_cause
from skerry.manager.services import objects
from skerry.model.reasons import Cause, Severity

_MOST = 8
_SITES = 12


@dataclass(frozen=True, slots=True)
class Share:
    """One part of the fleet: how many hosts, and the address that lists them."""

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
    shares = await _shares(visit, project, attention=unhappy.total)
    total = sum(share.count for share in shares)
    return await visit.show(
        "overview.html",
        shares=shares,
        total=total,
        needs=needs,
        more=more,
        sites=await _sites(visit, project),
        first=await _first_steps(visit, project) if total == 0 else None,
        clusters=await count(visit, "Cluster", project),
        running=await count(visit, "Cluster", project, status__phase="Running"),
        live=f"/live?kinds=Host,Cluster&since={unhappy.revision}",
    )


async def _shares(visit: Visit, project: str | None, *, attention: int) -> list[Share]:
    async def hosts(**fields: str) -> int:
        return await count(visit, "Host", project, **fields)

    offline = await hosts(status__conditions__reason="HostSilent")
    used = await hosts(status__phase="InUse")
    free = await hosts(status__phase="Ready")
    # A host counts once: trouble and silence are taken from the state that it would have.
    well = max(0, used + free - attention - offline)
    return [
        Share("In order", "good", well, ""),
        Share("Need attention", "bad", attention, "attention"),
        Share("Offline", "quiet", offline, "offline"),
        Share("Wait for approval", "wait", await hosts(status__phase="Pending"), "pending"),
        Share("Denied", "off", await hosts(status__phase="Denied"), "denied"),
        Share("Revoked", "off", await hosts(status__phase="Revoked"), "revoked"),
    ]


async def _needs(visit: Visit, project: str | None) -> tuple[list[Need], int, Page]:
    """(the first of them, how many more, hosts with a condition that is False)."""
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
        Query(
            "Host",
            project,
            fields=ATTENTION,
            limit=_MOST * 2,
        ),
    )
    for host in hosts.items:
        cause = host_cause(host)
        if cause.severity == Severity.ERROR and host.name not in named:
            found.append(Need("host", host, cause))
    left = max(0, len(found) - _MOST) + clusters.total - len(clusters.items)
    left += max(0, hosts.total - len(hosts.items))
    return found[:_MOST], left, hosts


async def _sites(visit: Visit, project: str | None) -> list[tuple[AnyResource, int]]:
    if not visit.may("list", "Site", project or ""):
        return []
    page = await objects.list_objects(
        visit.centre, visit.caller, Query("Site", project, limit=_SITES)
    )
    return [
        (site, await count(visit, "Host", site.project, spec__site=site.name))
        for site in page.items
    ]


async def _first_steps(visit: Visit, project: str | None) -> dict[str, int]:
    """How far a new fleet is."""
    return {
        "tokens": await count(visit, "RegistrationToken", project),
        "profiles": await count(visit, "ClusterProfile", project),
    }
