"""Clusters: the list, one cluster, and the way to delete one."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from skerry.console.door import Visit, back
from skerry.console.inside import AnyResource, NotFound
from skerry.console.pages.listing import listing
from skerry.console.states import cluster_cause, cluster_state, hosts_of
from skerry.manager.services import history, objects
from skerry.manager.services.centre import require
from skerry.manager.services.objects import DeleteWaits
from skerry.model.kinds import KINDS, ClusterPhase
from skerry.model.problems import DocumentInvalid

_KIND = KINDS["Cluster"]


async def index(visit: Visit) -> Response:
    """All clusters."""
    phase = visit.params.get("phase", "")
    found = await listing(
        visit, _KIND.name, fields={"status.phase": phase}, keep=("q", "labels", "phase")
    )
    rows = [(item, cluster_state(item), cluster_cause(item)) for item in found.items]
    return await visit.show(
        "clusters.html",
        listing=found,
        rows=rows,
        phases=[item.value for item in ClusterPhase],
        live=f"/live?kinds=Cluster&since={found.revision}" if found.revision else "",
    )


async def page(visit: Visit) -> Response:
    """One cluster: nodes, layers, conditions, events."""
    cluster = await _get(visit)
    members = await _members(visit, cluster)
    events: list[dict[str, Any]] = []
    if visit.may("list", "Event", cluster.project):
        events = await history.events(
            visit.centre,
            visit.caller,
            project=cluster.project,
            kind=_KIND.name,
            name=cluster.name,
            limit=30,
        )
    return await visit.show(
        "cluster.html",
        cluster=cluster,
        state=cluster_state(cluster),
        cause=cluster_cause(cluster),
        members=members,
        newer=await _newer(visit, cluster),
        events=events,
        live=(
            f"/live?kinds=Cluster,Host&project={cluster.project}&name={cluster.name}"
            f"&hosts={','.join(hosts_of(cluster.spec))}&since={cluster.metadata.revision}"
        ),
    )


async def leave(visit: Visit) -> Response:
    """Ask before deleting, and say what it means."""
    cluster = await _get(visit)
    require(visit.caller, "delete", _KIND.name, cluster.project)
    return await _ask(visit, cluster)


async def delete(visit: Visit) -> Response:
    """Delete a cluster whose name was typed; its hosts clean themselves first."""
    cluster = await _get(visit)
    require(visit.caller, "delete", _KIND.name, cluster.project)
    if visit.form.get("name", "").strip() != cluster.name:
        return await _ask(visit, cluster, wrong=True, status=422)
    force = visit.form.get("force") == "yes"
    try:
        left = await objects.delete(visit.centre, visit.caller, _KIND, visit.place, force=force)
    except (DeleteWaits, DocumentInvalid) as exc:
        return await _ask(visit, cluster, error=exc, status=409)
    if left is None:
        return back("/clusters")
    return back(f"/clusters/{cluster.project}/{cluster.name}")


async def _ask(
    visit: Visit, cluster: AnyResource, *, wrong: bool = False, error: Any = None, status: int = 200
) -> Response:
    return await visit.show(
        "delete-cluster.html",
        status=status,
        cluster=cluster,
        members=hosts_of(cluster.spec),
        wrong=wrong,
        error=error,
        wait_s=visit.centre.settings.force_wait_s,
    )


async def _get(visit: Visit) -> AnyResource:
    project, name = visit.place
    return await objects.get(visit.centre, visit.caller, _KIND, project, name)


async def _members(visit: Visit, cluster: AnyResource) -> list[AnyResource]:
    found: list[AnyResource] = []
    for name in hosts_of(cluster.spec):
        try:
            found.append(
                await objects.get(visit.centre, visit.caller, KINDS["Host"], cluster.project, name)
            )
        except NotFound:
            continue
    return found


async def _newer(visit: Visit, cluster: AnyResource) -> dict[str, str]:
    """The latest version of each profile that the cluster does not have yet."""
    found: dict[str, str] = {}
    for use in cluster.spec.profiles:
        try:
            profile = await objects.get(
                visit.centre, visit.caller, KINDS["ClusterProfile"], cluster.project, use.name
            )
        except NotFound:
            continue
        latest = profile.status.revisions[-1].version if profile.status.revisions else ""
        if latest and latest != use.version:
            found[use.name] = latest
    return found
