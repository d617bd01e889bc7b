"""Hosts that wait for a person: the queue, and the page for a phone at the site.

A person compares fingerprint and code with what the host itself shows; only then the button.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from starlette.responses import Response

from skerry.console.door import Visit, back
from skerry.console.inside import AnyResource, Conflict, Query
from skerry.console.pages.hosts import set_place, show_host
from skerry.console.pages.listing import listing, names
from skerry.manager.services import hosts, objects
from skerry.model.kinds import KINDS
from skerry.model.meta import NAME_PATTERN
from skerry.model.problems import DocumentInvalid

_KIND = KINDS["Host"]


@dataclass(frozen=True, slots=True)
class Asking:
    """A host that waits, and the key it waits with; `known` for a machine with a new key.
    `scanned`: "same" or "other" when a scanned fingerprint was compared with the key's."""

    host: AnyResource
    fingerprint: str
    code: str
    known: bool = False
    scanned: str = ""


async def queue(visit: Visit) -> Response:
    """Everybody who waits."""
    found = await listing(visit, "Host", fields={"spec.approval": "pending"}, rows=25)
    asking = [_first_time(host) for host in found.items]
    if not visit.params.get("after") and not found.filtered and not found.error:
        asking = [*await _known(visit), *asking]
    return await visit.show(
        "approvals.html",
        listing=found,
        asking=asking,
        sites=await names(visit, "Site", visit.project_for("Host")),
        live=f"/live?kinds=Host&since={found.revision}" if found.revision else "",
    )


async def register(visit: Visit) -> Response:
    """On a phone beside the machine: type the code that it shows, or scan its screen, which brings
    host and fingerprint too."""
    typed, done = visit.params.get("code", ""), visit.params.get("done", "")
    code = _plain_code(typed)
    found: list[Asking] = []
    if code:
        page = await objects.list_objects(
            visit.centre,
            visit.caller,
            Query(
                "Host",
                visit.project_for("Host"),
                fields={"status.registrationCode": code, "spec.approval": "pending"},
                limit=5,
            ),
        )
        found = [_first_time(host) for host in page.items]
        found += [item for item in await _known(visit) if item.code == code]
    scanned = _scanned(visit.params.get("fingerprint", ""))
    host = visit.params.get("host", "")
    return await visit.show(
        "register.html",
        typed=typed,
        code=code,
        found=[replace(item, scanned=_compared(item, scanned)) for item in found],
        shown_host=host if re.fullmatch(NAME_PATTERN, host) else "",
        sites=await names(visit, "Site", visit.project_for("Host")),
        done=done if re.fullmatch(NAME_PATTERN, done) else "",
    )


async def approve(visit: Visit) -> Response:
    """Let a host in, with the site and labels of the form."""
    project, name = visit.place
    host = await objects.get(visit.centre, visit.caller, _KIND, project, name)
    await _same_key(visit, host)
    site = visit.form.get("site", "").strip()
    try:
        if "labels" in visit.form and host.spec.approval.value == "pending":
            await set_place(visit, host, site=site, labels=visit.form["labels"])
        await hosts.approve(
            visit.centre,
            visit.caller,
            project,
            name,
            site=site,
            fingerprint=visit.form.get("fingerprint", ""),
        )
    except DocumentInvalid as exc:
        return await show_host(visit, host, error=exc, status=422)
    return back(visit.form.get("next", "") or f"/hosts/{project}/{name}")


async def deny(visit: Visit) -> Response:
    """Refuse a host, or a known machine's new key."""
    project, name = visit.place
    host = await objects.get(visit.centre, visit.caller, _KIND, project, name)
    await _same_key(visit, host)
    await hosts.deny(visit.centre, visit.caller, project, name)
    return back(visit.form.get("next", "") or "/approvals")


async def _same_key(visit: Visit, host: AnyResource) -> None:
    """The person decided about the key that the page showed, not about one that came since."""
    shown = visit.form.get("fingerprint", "")
    rekey = await hosts.find_rekey(visit.centre, host.uid)
    waits = rekey.fingerprint if rekey and not rekey.denied else host.status.fingerprint
    if shown != waits:
        raise Conflict(
            f"host {host.name} waits with another key than the page showed",
            hint="go back, reload, and compare the code again",
            reason="Conflict",
        )


async def _known(visit: Visit) -> list[Asking]:
    """Machines that are known and came back with a new key."""
    project = visit.project_for("Host")
    found = await hosts.waiting_rekeys(visit.centre, visit.caller, project)
    return [
        Asking(host, rekey.fingerprint, hosts.pki_code(rekey.fingerprint), known=True)
        for host, rekey in found
    ]


def _first_time(host: AnyResource) -> Asking:
    return Asking(host, host.status.fingerprint, host.status.registration_code)


def _scanned(text: str) -> str:
    """The start of a fingerprint as a screen shows it, or ""."""
    plain = text.lower()
    return plain if re.fullmatch(r"[0-9a-f]{16,64}", plain) else ""


def _compared(item: Asking, scanned: str) -> str:
    if not scanned:
        return ""
    return "same" if item.fingerprint.startswith(scanned) else "other"


def _plain_code(text: str) -> str:
    """A code however it was typed, or ""."""
    plain = re.sub(r"[^0-9A-Za-z]", "", text).upper()
    return f"{plain[:4]}-{plain[4:]}" if len(plain) == 8 else ""
