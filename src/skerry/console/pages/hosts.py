"""Hosts: the list with its filters, and everything about one host."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from skerry.console.door import Visit, back
from skerry.console.inside import AnyResource, NotFound
from skerry.console.labels import parse_labels
from skerry.console.pages.listing import listing, names
from skerry.console.states import cluster_of, host_cause, host_state
from skerry.manager.services import history, hosts, objects
from skerry.manager.services.centre import NotPermitted
from skerry.manager.services.why import why_host
from skerry.model.kinds import KINDS

# What `state=` in the address means, in fields of the store.
STATES: dict[str, tuple[str, dict[str, str]]] = {
    "attention": ("Need attention", {"standing": "attention"}),
    "waiting": ("Wait for a person", {"standing": "waiting"}),
    "offline": ("Offline", {"standing": "offline"}),
    "pending": ("Wait for approval", {"standing": "pending"}),
    "working": ("Working", {"standing": "working"}),
    "well": ("In order", {"standing": "well"}),
    "inuse": ("In a cluster", {"status.phase": "InUse"}),
    "free": ("Free", {"status.phase": "Ready"}),
    "leaving": ("Leaving", {"standing": "leaving"}),
    "denied": ("Denied", {"standing": "denied"}),
    "revoked": ("Revoked", {"standing": "revoked"}),
}
_KIND = KINDS["Host"]


async def index(visit: Visit) -> Response:
    """All hosts, or those that the address selects."""
    state = visit.params.get("state", "")
    site = visit.params.get("site", "")
    reason = visit.params.get("reason", "")
    fields = {**STATES.get(state, ("", {}))[1], "spec.site": site, "reason": reason}
    keep = ("q", "labels", "state", "site", "reason")
    found = await listing(visit, "Host", fields=fields, keep=keep)
    rows = [(host, host_state(host), host_cause(host), cluster_of(host)) for host in found.items]
    return await visit.show(
        "hosts.html",
        listing=found,
        rows=rows,
        states=STATES,
        sites=await names(visit, "Site", visit.project_for("Host")),
        live=f"/live?kinds=Host&since={found.revision}" if found.revision else "",
    )


async def page(visit: Visit) -> Response:
    """One host."""
    project, name = visit.place
    host = await objects.get(visit.centre, visit.caller, _KIND, project, name)
    return await show_host(visit, host)


async def show_host(
    visit: Visit, host: AnyResource, *, error: Any = None, status: int = 200
) -> Response:
    """The page of a host, with what went wrong with a form on it."""
    project, name = host.project, host.name
    cluster = await _cluster_of(visit, host)
    rekey = await hosts.find_rekey(visit.centre, host.uid)
    events: list[dict[str, Any]] = []
    if visit.may("list", "Event", project):
        events = await history.events(
            visit.centre, visit.caller, project=project, kind="Host", name=name, limit=30
        )
    return await visit.show(
        "host.html",
        status=status,
        host=host,
        state=host_state(host),
        cause=await why_host(visit.centre, visit.caller, project, name),
        cluster=cluster,
        cluster_name=cluster_of(host),
        rekey=rekey if rekey is not None and not rekey.denied else None,
        rekey_code=hosts.pki_code(rekey.fingerprint) if rekey else "",
        events=events,
        sites=await names(visit, "Site", project),
        error=error,
        live=(f"/live?kinds=Host&project={project}&name={name}&since={host.metadata.revision}"),
    )


async def edit(visit: Visit) -> Response:
    """Site and labels."""
    project, name = visit.place
    host = await objects.get(visit.centre, visit.caller, _KIND, project, name)
    try:
        await set_place(
            visit, host, site=visit.form.get("site", ""), labels=visit.form.get("labels", "")
        )
    except NotPermitted:
        raise
    except Exception as exc:
        if not hasattr(exc, "problems"):
            raise
        return await show_host(visit, host, error=exc, status=422)
    return back(f"/hosts/{project}/{name}")


async def set_place(visit: Visit, host: AnyResource, *, site: str, labels: str) -> None:
    """Give a host another site and exactly these labels. Raises DocumentInvalid."""
    wanted = parse_labels(labels)
    gone = dict.fromkeys(set(host.metadata.labels) - set(wanted))
    change = {"metadata": {"labels": {**wanted, **gone}}, "spec": {"site": site.strip()}}
    await objects.patch(visit.centre, visit.caller, _KIND, (host.project, host.name), change)


async def revoke(visit: Visit) -> Response:
    """Shut a host out for good."""
    project, name = visit.place
    await hosts.revoke(visit.centre, visit.caller, project, name)
    return back(f"/hosts/{project}/{name}")


async def delete(visit: Visit) -> Response:
    """Forget a host; one in a cluster leaves it first, or is forced after a wait."""
    project, name = visit.place
    force = visit.form.get("force") == "yes"
    left = await objects.delete(visit.centre, visit.caller, _KIND, (project, name), force=force)
    return back("/hosts" if left is None else f"/hosts/{project}/{name}")


async def _cluster_of(visit: Visit, host: AnyResource) -> AnyResource | None:
    name = cluster_of(host)
    if not name or not visit.may("get", "Cluster", host.project):
        return None
    try:
        kind = KINDS["Cluster"]
        return await objects.get(visit.centre, visit.caller, kind, host.project, name)
    except NotFound:
        return None
