"""Routes that are more than a kind's shared verbs: sign-in, approvals, content, events, why."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from skerry import __version__
from skerry.lib.digest import is_digest
from skerry.lib.errors import SkerryError
from skerry.manager.api.answers import RequestInvalid, problem, reply
from skerry.manager.api.openapi import openapi
from skerry.manager.api.routes import address_of, guarded, number, place_of, read_json
from skerry.manager.auth import accounts
from skerry.manager.channel.routes import Throttle
from skerry.manager.services import (
    artifacts,
    bundles,
    heads,
    history,
    hosts,
    install,
    restored,
    tokens,
)
from skerry.manager.services.blobs import BlobMissing
from skerry.manager.services.centre import Caller, Centre, require
from skerry.manager.services.why import why_host

_RANGE = re.compile(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15})")


class Actions:
    """The routes over one centre."""

    def __init__(self, centre: Centre) -> None:
        self._centre = centre
        self._sign_ins = Throttle(centre.clock, centre.settings.login_per_minute / 60, 10)

    def routes(self) -> list[BaseRoute]:
        centre = self._centre
        host = "/v1/projects/{project}/hosts/{name}"
        token = "/v1/projects/{project}/registrationtokens/{name}"  # noqa: S105 - a path
        return [
            Route("/v1/login", self._login, methods=["POST"]),
            Route("/v1/logout", guarded(centre, self._logout), methods=["POST"]),
            Route("/v1/whoami", guarded(centre, self._whoami), methods=["GET"]),
            Route("/v1/info", self._info, methods=["GET"]),
            Route("/v1/openapi.json", self._openapi, methods=["GET"]),
            Route("/v1/events", guarded(centre, self._events), methods=["GET"]),
            Route("/v1/projects/{project}/events", guarded(centre, self._events), methods=["GET"]),
            Route("/v1/audit", guarded(centre, self._audit), methods=["GET"]),
            Route("/v1/audit/heads", guarded(centre, self._heads), methods=["GET"]),
            Route("/v1/restore", guarded(centre, self._restore), methods=["GET"]),
            Route("/v1/restore/confirm", guarded(centre, self._confirm), methods=["POST"]),
            Route("/v1/why/host/{name}", guarded(centre, self._why), methods=["GET"]),
            Route(f"{host}/bundle", guarded(centre, self._bundle), methods=["GET"]),
            Route(f"{host}/{{action:str}}", guarded(centre, self._host), methods=["POST"]),
            Route(f"{token}/revoke", guarded(centre, self._revoke_token), methods=["POST"]),
            Route("/v1/users/{name}/password", guarded(centre, self._password), methods=["PUT"]),
            Route(
                "/v1/serviceaccounts/{name}/keys", guarded(centre, self._api_key), methods=["POST"]
            ),
            Route("/v1/blobs/{digest}", guarded(centre, self._put_blob), methods=["PUT"]),
            Route("/v1/blobs/{digest}", guarded(centre, self._get_blob), methods=["GET", "HEAD"]),
            Route(install.SCRIPT_PATH, self._script, methods=["GET"]),
            Route(install.ARCHIVE_PATH, self._archive, methods=["GET"]),
        ]

    async def _login(self, request: Request) -> Response:
        try:
            if not self._sign_ins.allows(address_of(request)):
                raise RequestInvalid("too many sign-ins; wait a minute", status=429)
            body = await read_json(request, limit=16 * 1024)
            user = body.get("user") if isinstance(body, dict) else None
            password = body.get("password") if isinstance(body, dict) else None
            if not isinstance(user, str) or not isinstance(password, str):
                raise RequestInvalid("user and password are wanted")
            key, session = await accounts.sign_in(
                self._centre.store,
                self._centre.root,
                user,
                password,
                now=self._centre.clock.now(),
                hours=self._centre.settings.session_hours,
                source=address_of(request),
            )
        except SkerryError as exc:
            return problem(exc, instance=request.url.path)
        return reply({"token": key, "subject": session.subject, "expiresAt": session.expires_at})

    async def _logout(self, request: Request, caller: Caller) -> Response:
        key = request.headers["authorization"].partition(" ")[2].strip()
        await accounts.sign_out(self._centre.store, key, now=self._centre.clock.now())
        return reply({"signedOut": True})

    async def _whoami(self, request: Request, caller: Caller) -> Response:
        return reply(
            {
                "subject": caller.name,
                "grants": [
                    {"project": grant.project, "rules": grant.rules}
                    for grant in caller.principal.grants
                ],
            }
        )

    async def _info(self, request: Request) -> Response:
        return reply(
            {
                "version": __version__,
                "url": self._centre.url,
                "developmentKeys": self._centre.keys.release is not None,
                "observing": self._centre.live.restored is not None,
            }
        )

    async def _openapi(self, request: Request) -> Response:
        return reply(openapi())

    async def _events(self, request: Request, caller: Caller) -> Response:
        found = await history.events(
            self._centre,
            caller,
            project=request.path_params.get("project") or request.query_params.get("project", ""),
            kind=request.query_params.get("kind", ""),
            name=request.query_params.get("name", ""),
            limit=number(request, "limit", 100, most=1000),
            after=number(request, "after", 0),
        )
        return reply({"items": found})

    async def _audit(self, request: Request, caller: Caller) -> Response:
        found = await history.audits(
            self._centre,
            caller,
            after=number(request, "after", 0),
            limit=number(request, "limit", 1000, most=1000),
        )
        return reply({"items": found})

    async def _heads(self, request: Request, caller: Caller) -> Response:
        return Response(
            heads.exported(self._centre, caller),
            media_type="application/jsonl",
            headers={"cache-control": "no-store"},
        )

    async def _restore(self, request: Request, caller: Caller) -> Response:
        return reply(await restored.view(self._centre, caller))

    async def _confirm(self, request: Request, caller: Caller) -> Response:
        return reply({"confirmed": await restored.confirm(self._centre, caller)})

    async def _why(self, request: Request, caller: Caller) -> Response:
        project = request.query_params.get("project", "default")
        found = await why_host(self._centre, caller, project, request.path_params["name"])
        return reply(found)

    async def _host(self, request: Request, caller: Caller) -> Response:
        project, name = place_of(request)
        match request.path_params["action"]:
            case "approve":
                raw = await read_json(request) if await _has_body(request) else {}
                said = raw if isinstance(raw, dict) else {}
                more = {key: str(said.get(key) or "") for key in ("site", "fingerprint", "code")}
                found = await hosts.approve(self._centre, caller, project, name, **more)
            case "deny":
                found = await hosts.deny(self._centre, caller, project, name)
            case "revoke":
                found = await hosts.revoke(self._centre, caller, project, name)
            case other:
                raise RequestInvalid(f"a host has no action {other[:40]!r}", status=404)
        return reply(found)

    async def _bundle(self, request: Request, caller: Caller) -> Response:
        project, name = place_of(request)
        found = await bundles.export(self._centre, caller, project, name)
        return StreamingResponse(
            found.chunks,
            media_type="application/x-tar",
            headers={"content-length": str(found.size_bytes)},
        )

    async def _revoke_token(self, request: Request, caller: Caller) -> Response:
        return reply(await tokens.revoke(self._centre, caller, *place_of(request)))

    async def _password(self, request: Request, caller: Caller) -> Response:
        name = request.path_params["name"]
        if caller.name != f"user:{name}":
            require(caller, "update", "User", "")
        body = await read_json(request, limit=16 * 1024)
        password = body.get("password") if isinstance(body, dict) else None
        if not isinstance(password, str):
            raise RequestInvalid("password is wanted")
        await accounts.set_password(
            self._centre.store, name, password, actor=caller.name, now=self._centre.clock.now()
        )
        return reply({"changed": True})

    async def _api_key(self, request: Request, caller: Caller) -> Response:
        require(caller, "update", "ServiceAccount", "")
        name = request.path_params["name"]
        await self._centre.store.get("ServiceAccount", "", name)
        key, session = await accounts.new_api_key(
            self._centre.store,
            f"serviceaccount:{name}",
            actor=caller.name,
            now=self._centre.clock.now(),
        )
        return reply(
            {"key": key, "subject": session.subject, "expiresAt": session.expires_at}, status=201
        )

    async def _put_blob(self, request: Request, caller: Caller) -> Response:
        require(caller, "create", "Blob", "")
        digest = _digest(request)
        start, total = _content_range(request)
        complete = await self._centre.blobs.upload(
            digest, _chunks(request), start=start, total=total
        )
        offset = self._centre.blobs.size(digest) if complete else self._centre.blobs.offset(digest)
        if complete:
            await artifacts.recheck(self._centre, caller, digest)
        return reply(
            {"digest": digest, "complete": complete, "offset": offset},
            status=201 if complete else 202,
        )

    async def _get_blob(self, request: Request, caller: Caller) -> Response:
        require(caller, "get", "Artifact", "")
        digest = _digest(request)
        blobs = self._centre.blobs
        if blobs.has(digest):
            return FileResponse(blobs.host_path(digest), media_type="application/octet-stream")
        if request.method == "HEAD" and blobs.offset(digest):
            return Response(status_code=404, headers={"upload-offset": str(blobs.offset(digest))})
        raise BlobMissing(digest)

    async def _script(self, request: Request) -> Response:
        return Response(install.script(self._centre), media_type="text/x-shellscript")

    async def _archive(self, request: Request) -> Response:
        architecture = request.path_params["architecture"]
        place = install.archive_place(architecture)
        if architecture not in install.ARCHITECTURES or not self._centre.root.exists(place):
            return problem(
                RequestInvalid(
                    f"no agent archive for {architecture[:20]!r}",
                    status=404,
                    hint="start the manager with --agent-archive",
                )
            )
        return FileResponse(self._centre.root.host_path(place), media_type="application/gzip")


async def _has_body(request: Request) -> bool:
    return bool(await request.body())


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    async for chunk in request.stream():
        if chunk:
            yield chunk


def _digest(request: Request) -> str:
    digest: str = request.path_params["digest"]
    if not is_digest(digest):
        raise RequestInvalid(f"{digest[:80]!r} is not a digest", hint="sha256: and 64 hex digits")
    return digest


def _content_range(request: Request) -> tuple[int, int | None]:
    text = request.headers.get("content-range")
    if text is None:
        length = request.headers.get("content-length", "")
        return 0, int(length) if length.isascii() and length.isdigit() else None
    found = _RANGE.fullmatch(text)
    if found is None or int(found[2]) + 1 > int(found[3]) or int(found[1]) > int(found[2]):
        raise RequestInvalid(f"content-range {text[:60]!r} is not bytes START-END/TOTAL")
    return int(found[1]), int(found[3])
