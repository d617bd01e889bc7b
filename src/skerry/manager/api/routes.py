"""Routes of the kinds, generated from the one table; every kind answers to the same verbs.

`/v1/PLURAL` for kinds of system scope (and to list over all projects),
`/v1/projects/PROJECT/PLURAL` for the others.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from skerry.lib.errors import SkerryError
from skerry.manager.api.answers import RequestInvalid, applied, problem, reply
from skerry.manager.api.watching import WatchAnswer
from skerry.manager.auth.accounts import find_principal
from skerry.manager.services import objects
from skerry.manager.services.centre import Caller, Centre, NotSignedIn, require
from skerry.manager.store.protocol import Query
from skerry.model.kinds import KINDS, Kind, Scope

MAX_BODY_BYTES = 4 * 1024 * 1024
MAX_PAGE = 1000
SESSION_COOKIE = "skerry_session"

Endpoint = Callable[[Request], Awaitable[Response]]
Handler = Callable[[Request, Caller], Awaitable[Response]]


def guarded(centre: Centre, handler: Handler) -> Endpoint:
    """An endpoint for signed-in callers whose expected failures become problem documents."""

    async def endpoint(request: Request) -> Response:
        try:
            return await handler(request, await caller_of(centre, request))
        except SkerryError as exc:
            return problem(exc, instance=request.url.path)

    return endpoint


async def caller_of(centre: Centre, request: Request) -> Caller:
    """Who sent this request, by bearer key. Cookies count for the console's pages only, so that
    no foreign page can make a browser call the API. Raises NotSignedIn."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    principal = None
    if scheme.lower() == "bearer" and key:
        principal = await find_principal(centre.store, key.strip(), now=centre.clock.now())
    if principal is None:
        raise NotSignedIn(
            "not signed in, or no longer", hint="sign in with 'skerry login'", reason="NotSignedIn"
        )
    return Caller(principal, address_of(request))


def address_of(request: Request) -> str:
    """The peer's address."""
    return request.client.host if request.client else ""


async def read_json(request: Request, *, limit: int = MAX_BODY_BYTES) -> Any:
    """The body, limited while it is read. Raises RequestInvalid."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise RequestInvalid(f"the body is larger than {limit} bytes", status=413)
    try:
        return msgspec.json.decode(bytes(body))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise RequestInvalid(f"the body is not JSON: {exc}") from exc


def routes_of_kinds(centre: Centre) -> list[BaseRoute]:
    """All generic routes."""
    found: list[BaseRoute] = []
    for kind in KINDS.values():
        if kind.writable:
            found += _routes(centre, kind)
    return found


def _routes(centre: Centre, kind: Kind) -> list[BaseRoute]:
    one = _Kind(centre, kind)
    scoped = kind.scope is Scope.PROJECT
    base = f"/v1/projects/{{project}}/{kind.plural}" if scoped else f"/v1/{kind.plural}"
    found: list[BaseRoute] = []
    if scoped:
        found.append(Route(f"/v1/{kind.plural}", guarded(centre, one.list), methods=["GET"]))
    found += [
        Route(base, guarded(centre, one.list), methods=["GET"]),
        Route(base, guarded(centre, one.create), methods=["POST"]),
        Route(f"{base}/{{name}}", guarded(centre, one.get), methods=["GET"]),
        Route(f"{base}/{{name}}", guarded(centre, one.put), methods=["PUT"]),
        Route(f"{base}/{{name}}", guarded(centre, one.patch), methods=["PATCH"]),
        Route(f"{base}/{{name}}", guarded(centre, one.delete), methods=["DELETE"]),
    ]
    return found


class _Kind:
    """The endpoints of one kind."""

    def __init__(self, centre: Centre, kind: Kind) -> None:
        self._centre = centre
        self._kind = kind

    async def list(self, request: Request, caller: Caller) -> Response:
        project = request.path_params.get("project")
        if self._kind.scope is Scope.SYSTEM:
            project = ""
        if flag(request, "watch"):
            return await self._watch(request, caller, project)
        page = await objects.list_objects(
            self._centre,
            caller,
            Query(
                kind=self._kind.name,
                project=project,
                labels=request.query_params.get("labelSelector", ""),
                fields=_fields(request.query_params.get("fieldSelector", "")),
                search=request.query_params.get("search", "")[:200],
                limit=number(request, "limit", 500, most=MAX_PAGE),
                after=request.query_params.get("after", ""),
            ),
        )
        return reply(
            {
                "kind": f"{self._kind.name}List",
                "apiVersion": "skerry.dev/v1",
                "items": page.items,
                "after": page.after,
                "revision": page.revision,
                "total": page.total,
            }
        )

    async def get(self, request: Request, caller: Caller) -> Response:
        found = await objects.get(self._centre, caller, self._kind, *place_of(request))
        return reply(found)

    async def create(self, request: Request, caller: Caller) -> Response:
        body = await read_json(request)
        metadata = body.get("metadata") if isinstance(body, dict) else None
        name = metadata.get("name") if isinstance(metadata, dict) else None
        place = (request.path_params.get("project", ""), str(name)) if name else None
        return await self._apply(request, caller, body, place, revision=0)

    async def put(self, request: Request, caller: Caller) -> Response:
        text = request.query_params.get("revision")
        revision = number(request, "revision", 0) if text is not None else None
        body = await read_json(request)
        return await self._apply(request, caller, body, place_of(request), revision=revision)

    async def patch(self, request: Request, caller: Caller) -> Response:
        dry_run = flag(request, "dryRun")
        done = await objects.patch(
            self._centre,
            caller,
            self._kind,
            place_of(request),
            await read_json(request),
            dry_run=dry_run,
        )
        return applied(done, dry_run=dry_run)

    async def delete(self, request: Request, caller: Caller) -> Response:
        left = await objects.delete(
            self._centre, caller, self._kind, place_of(request), force=flag(request, "force")
        )
        if left is None:
            return reply({"deleted": True})
        return reply(left, status=202)

    async def _apply(
        self,
        request: Request,
        caller: Caller,
        body: Any,
        place: tuple[str, str] | None,
        *,
        revision: int | None,
    ) -> Response:
        dry_run = flag(request, "dryRun")
        done = await objects.apply(
            self._centre,
            caller,
            body,
            kind=self._kind,
            place=place,
            revision=revision,
            dry_run=dry_run,
        )
        return applied(done, dry_run=dry_run)

    async def _watch(self, request: Request, caller: Caller, project: str | None) -> Response:
        since = number(request, "since", 0, most=2**53)
        # Before the answer starts, so that a refusal is a problem document.
        require(caller, "watch", self._kind.name, project or "")
        changes = objects.watch(self._centre, caller, self._kind, project, since=since)

        async def recheck() -> None:
            now = await caller_of(self._centre, request)
            require(now, "watch", self._kind.name, project or "")

        return WatchAnswer(changes, self._centre.clock, recheck=recheck)


def place_of(request: Request) -> tuple[str, str]:
    """(project, name) of the address."""
    return request.path_params.get("project", ""), request.path_params["name"]


def flag(request: Request, name: str) -> bool:
    """A query parameter that is true or false. Raises RequestInvalid."""
    text = request.query_params.get(name, "false").lower()
    if text not in ("true", "false", "1", "0", ""):
        raise RequestInvalid(f"parameter {name} is {text[:20]!r}, wanted true or false")
    return text in ("true", "1", "") and name in request.query_params


def number(request: Request, name: str, default: int, *, most: int = 2**53) -> int:
    """A query parameter that is a whole number. Raises RequestInvalid."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 16:
        raise RequestInvalid(f"parameter {name} is {text[:20]!r}, wanted a number")
    return min(int(text), most)


def _fields(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        path, equals, value = part.partition("=")
        if not equals:
            raise RequestInvalid(
                f"field selector {part[:60]!r} is not PATH=VALUE", hint="like status.phase=Ready"
            )
        found[path.strip()] = value.strip().removeprefix("=")
    return found
