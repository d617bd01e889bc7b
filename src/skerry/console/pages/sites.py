"""Sites: places with hosts."""

from __future__ import annotations

from starlette.responses import Response

from skerry.console.door import Visit, back
from skerry.console.pages.listing import listing
from skerry.console.pages.overview import by_site
from skerry.manager.services import objects
from skerry.manager.services.centre import require
from skerry.model.kinds import KINDS
from skerry.model.meta import DEFAULT_PROJECT
from skerry.model.problems import DocumentInvalid
from skerry.model.standing import Standing

_KIND = KINDS["Site"]


async def index(visit: Visit) -> Response:
    """All sites."""
    return await _show(visit)


async def create(visit: Visit) -> Response:
    """A new site."""
    form = visit.form
    project = form.get("project", "") or visit.project_for(_KIND.name) or DEFAULT_PROJECT
    require(visit.caller, "create", _KIND.name, project)
    document = {
        "kind": _KIND.name,
        "metadata": {"name": form.get("name", "").strip(), "project": project},
        "spec": {
            "address": form.get("address", "").strip(),
            "timeZone": form.get("zone", "").strip() or "UTC",
        },
    }
    try:
        await objects.apply(visit.centre, visit.caller, document, kind=_KIND, revision=0)
    except DocumentInvalid as exc:
        return await _show(visit, error=exc, status=422)
    return back("/sites")


async def delete(visit: Visit) -> Response:
    """Remove a site that no host is at."""
    await objects.delete(visit.centre, visit.caller, _KIND, visit.place)
    return back("/sites")


async def _show(
    visit: Visit, *, error: DocumentInvalid | None = None, status: int = 200
) -> Response:
    found = await listing(visit, _KIND.name)
    hosts = await by_site(visit, found.items)
    silent = await by_site(visit, found.items, standing=Standing.OFFLINE)
    places = [(site, (site.project, site.name)) for site in found.items]
    rows = [(site, hosts.get(place, 0), silent.get(place, 0)) for site, place in places]
    return await visit.show(
        "sites.html", status=status, listing=found, rows=rows, error=error, form=visit.form
    )
