"""The console's routes: one table of pages, all behind the same door.

`console_routes(centre)` is given to `manager.app.serve(..., more=console_routes)`; its last route
answers every other address outside `/v1`, so these routes are tried after all others.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Scope

from skerry.console import live, render, signing
from skerry.console.door import Door, Handler, Visit
from skerry.console.inside import NotFound
from skerry.console.pages import (
    account,
    activity,
    approvals,
    clusters,
    forming,
    hosts,
    overview,
    profiles,
    restore,
    sites,
    tokens,
)
from skerry.manager.services.centre import Centre

# Address, page, and what a form sent to it does. The outsider test goes through this table.
PAGES: tuple[tuple[str, Handler | None, Handler | None], ...] = (
    ("/", overview.page, None),
    ("/hosts", hosts.index, None),
    ("/hosts/{project}/{name}", hosts.page, None),
    ("/hosts/{project}/{name}/approve", None, approvals.approve),
    ("/hosts/{project}/{name}/deny", None, approvals.deny),
    ("/hosts/{project}/{name}/edit", None, hosts.edit),
    ("/hosts/{project}/{name}/revoke", None, hosts.revoke),
    ("/hosts/{project}/{name}/delete", None, hosts.delete),
    ("/approvals", approvals.queue, None),
    ("/register", approvals.register, None),
    ("/tokens", tokens.index, tokens.create),
    ("/tokens/{project}/{name}/revoke", None, tokens.revoke),
    ("/tokens/{project}/{name}/delete", None, tokens.delete),
    ("/sites", sites.index, sites.create),
    ("/sites/{project}/{name}/delete", None, sites.delete),
    ("/profiles", profiles.index, None),
    ("/profiles/new", profiles.new, profiles.save),
    ("/profiles/{project}/{name}", profiles.page, None),
    ("/profiles/{project}/{name}/edit", profiles.edit, profiles.save),
    ("/profiles/{project}/{name}/diff", profiles.diff, None),
    ("/clusters", clusters.index, None),
    ("/clusters/new", forming.new, forming.create),
    ("/clusters/{project}/{name}", clusters.page, None),
    ("/clusters/{project}/{name}/change", forming.change, forming.update),
    ("/clusters/{project}/{name}/delete", clusters.leave, clusters.delete),
    ("/events", activity.events, None),
    ("/audit", activity.audit, None),
    ("/reasons", activity.reasons, None),
    ("/restore", restore.page, restore.confirm),
    ("/account", account.page, None),
    ("/account/password", None, account.password),
    ("/sign-out", None, account.sign_out),
    ("/live", live.stream, None),
)


def console_routes(centre: Centre) -> list[BaseRoute]:
    """Everything that a browser asks for."""
    door = Door(centre)
    found: list[BaseRoute] = [
        Route("/static/{mark}/{name}", _static, methods=["GET"]),
        *signing.Signing(door).routes(),
    ]
    for address, get, post in PAGES:
        if get is not None:
            found.append(Route(address, door.open(get), methods=["GET"]))
        if post is not None:
            found.append(Route(address, door.open(post), methods=["POST"]))
    found.append(_Elsewhere("/{rest:path}", door.open(_nothing), methods=["GET"]))
    return found


class _Elsewhere(Route):
    """Every page that does not exist. What other programs ask for is not ours to answer."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        foreign = ("/v1/", "/agent/", "/static/")
        if scope["type"] == "http" and scope["path"].startswith(foreign):
            return Match.NONE, {}
        return super().matches(scope)


async def _nothing(visit: Visit) -> Response:
    raise NotFound(
        f"there is no page {visit.request.url.path[:200]}",
        hint="use the menu, or the search of hosts",
    )


async def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in render.STATIC_FILES:
        return Response("no such file", status_code=404, media_type="text/plain")
    data, mark = render.static(name)
    fresh = request.path_params["mark"] == mark
    return Response(
        data,
        media_type=render.STATIC_FILES[name],
        headers={
            "cache-control": "public, max-age=31536000, immutable" if fresh else "no-cache",
            "x-content-type-options": "nosniff",
        },
    )
