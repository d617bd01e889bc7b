"""Registration tokens. The line with the secret is shown once, in the answer to the form."""

from __future__ import annotations

from datetime import timedelta

from starlette.responses import Response

from skerry.console.door import Visit, back
from skerry.console.labels import parse_labels
from skerry.console.pages.listing import Listing, listing, names
from skerry.manager.services import objects, tokens
from skerry.manager.services.centre import require
from skerry.manager.services.objects import Applied
from skerry.model.kinds import KINDS
from skerry.model.meta import DEFAULT_PROJECT
from skerry.model.problems import DocumentInvalid, Problem

_KIND = KINDS["RegistrationToken"]
_HOURS = (("1", "1 hour"), ("24", "1 day"), ("168", "7 days"), ("720", "30 days"))


async def index(visit: Visit) -> Response:
    """All tokens, and the form for a new one."""
    return await _show(visit)


async def create(visit: Visit) -> Response:
    """A new token; its line is in the answer and nowhere else afterwards."""
    form = visit.form
    project = form.get("project", "") or visit.project_for(_KIND.name) or DEFAULT_PROJECT
    require(visit.caller, "create", _KIND.name, project)
    hours, uses = form.get("hours", "24"), form.get("uses", "").strip()
    problems = [
        Problem(path=path, message=f"{text[:20]!r} is not a whole number above 0")
        for path, text in (("hours", hours), ("spec.maximumUses", uses))
        if text and (not text.isascii() or not text.isdigit() or not 0 < int(text[:9]) < 10**6)
    ]
    if problems:
        return await _show(visit, error=DocumentInvalid("token", problems), status=422)
    expires = visit.centre.clock.now() + timedelta(hours=int(hours or 24))
    document = {
        "kind": _KIND.name,
        "metadata": {"name": form.get("name", "").strip(), "project": project},
        "spec": {
            "site": form.get("site", "").strip(),
            "labels": parse_labels(form.get("labels", "")),
            "expiresAt": expires.isoformat().replace("+00:00", "Z"),
            "autoApprove": form.get("auto") == "yes",
            "allowedNetworks": form.get("networks", "").replace(",", " ").split(),
            "proxy": form.get("proxy", "").strip(),
            **({"maximumUses": int(uses)} if uses else {}),
        },
    }
    try:
        done = await objects.apply(visit.centre, visit.caller, document, kind=_KIND, revision=0)
    except DocumentInvalid as exc:
        return await _show(visit, error=exc, status=422)
    return await _show(visit, made=done)


async def revoke(visit: Visit) -> Response:
    """Make a token useless at once."""
    project, name = visit.place
    await tokens.revoke(visit.centre, visit.caller, project, name)
    return back("/tokens")


async def delete(visit: Visit) -> Response:
    """Take a token off the list."""
    await objects.delete(visit.centre, visit.caller, _KIND, visit.place)
    return back("/tokens")


async def _show(
    visit: Visit,
    *,
    error: DocumentInvalid | None = None,
    made: Applied | None = None,
    status: int = 200,
) -> Response:
    found: Listing = await listing(visit, _KIND.name)
    return await visit.show(
        "tokens.html",
        status=status,
        listing=found,
        error=error,
        made=made,
        hours=_HOURS,
        form=visit.form,
        sites=await names(visit, "Site", visit.project_for(_KIND.name)),
        suggestion=f"site-visit-{visit.centre.clock.now():%m%d-%H%M%S}",
    )
