"""The verbs of the manager's API.

    async with Api(context) as api:
        hosts = await api.list(KINDS["Host"], project="default", labels="site=north")

Every method raises the errors of `skerry.client.errors` and nothing else that a person could cause.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx2
import msgspec

from skerry.client.answers import (
    ApiKey,
    AuditLine,
    Audits,
    Document,
    DryRun,
    EventLine,
    Events,
    Info,
    Listing,
    RestoreView,
    Session,
    WatchEvent,
)
from skerry.client.connection import Parameters, open_client, send, streaming
from skerry.client.contexts import Context
from skerry.client.errors import ApiFailed, HistoryGone, Unreachable
from skerry.lib.clock import Clock, SystemClock
from skerry.model.kinds import Kind, Scope

MAX_PAGE = 1000
_RECONNECT_S = (0.5, 1.0, 2.0, 5.0, 10.0)
_T = TypeVar("_T")


def address(kind: Kind, project: str | None, name: str = "") -> str:
    """Path of a kind's objects, or of one. Without a project: over all projects."""
    base = f"/v1/{kind.plural}"
    if kind.scope is Scope.PROJECT and project is not None:
        base = f"/v1/projects/{_part(project)}/{kind.plural}"
    return f"{base}/{_part(name)}" if name else base


class Api:
    """One manager as one person; an async context."""

    def __init__(
        self,
        context: Context,
        *,
        transport: httpx2.AsyncBaseTransport | None = None,
        clock: Clock | None = None,
        trust: bool = True,
    ) -> None:
        self.context = context
        self.clock: Clock = clock or SystemClock()
        self.http = open_client(context, transport=transport, trust=trust)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.http.aclose()

    # -- objects -------------------------------------------------------------------------------

    async def get(self, kind: Kind, project: str, name: str) -> Document:
        """Raises NotFound."""
        return await self._json("GET", address(kind, project, name), kind=dict[str, Any])

    async def list(
        self,
        kind: Kind,
        *,
        project: str | None,
        labels: str = "",
        fields: str = "",
        search: str = "",
        limit: int = 0,
    ) -> Listing:
        """All matching objects over all pages, or the first `limit` of them."""
        items: list[Document] = []
        after = ""
        while True:
            parameters: Parameters = {
                "labelSelector": labels,
                "fieldSelector": fields,
                "search": search,
                "limit": min(limit - len(items), MAX_PAGE) if limit else MAX_PAGE,
                "after": after,
            }
            page = await self._json(
                "GET", address(kind, project), kind=Listing, parameters=parameters
            )
            items += page.items
            after = page.after
            if not after or (limit and len(items) >= limit):
                return msgspec.structs.replace(page, items=tuple(items), after=after)

    async def apply(
        self,
        kind: Kind,
        project: str,
        document: Mapping[str, Any],
        *,
        revision: int | None = None,
    ) -> Document:
        """Create or replace. `revision` is what the caller saw, 0: it must be new."""
        path = address(kind, project, _name(document))
        parameters = {"revision": str(revision)} if revision is not None else None
        return await self._json(
            "PUT", path, kind=dict[str, Any], parameters=parameters, body=document
        )

    async def dry_run(self, kind: Kind, project: str, document: Mapping[str, Any]) -> DryRun:
        """What `apply` would do, computed by the manager."""
        path = address(kind, project, _name(document))
        return await self._json(
            "PUT", path, kind=DryRun, parameters={"dryRun": True}, body=document
        )

    async def patch(
        self, kind: Kind, project: str, name: str, change: Mapping[str, Any]
    ) -> Document:
        """JSON merge patch of labels, annotations and spec."""
        path = address(kind, project, name)
        return await self._json("PATCH", path, kind=dict[str, Any], body=change)

    async def delete(
        self, kind: Kind, project: str, name: str, *, force: bool = False
    ) -> Document | None:
        """None when it is gone, else the object that waits for its finalizers."""
        path = address(kind, project, name)
        answer = await send(self.http, "DELETE", path, parameters={"force": force})
        return _decode(answer, dict[str, Any]) if answer.status_code == 202 else None

    async def watch(
        self, kind: Kind, *, project: str | None, since: int
    ) -> AsyncIterator[WatchEvent]:
        """Changes after `since`, for ever; a line that is cut is taken up again.

        Raises HistoryGone when the manager no longer has the changes, and whatever it refuses.
        """
        tries = 0
        while True:
            try:
                async for event in self._watch_once(kind, project, since):
                    since = max(since, event.revision)
                    tries = 0
                    yield event
            except Unreachable:
                if tries >= len(_RECONNECT_S):
                    raise
            except ApiFailed as exc:
                if not exc.retryable or tries >= len(_RECONNECT_S):
                    raise
            await self.clock.sleep(_RECONNECT_S[min(tries, len(_RECONNECT_S) - 1)])
            tries += 1

    async def action(
        self,
        kind: Kind,
        project: str,
        name: str,
        verb: str,
        *,
        body: Mapping[str, Any] | None = None,
    ) -> Document:
        """A verb of one object, such as `approve` on a host."""
        path = f"{address(kind, project, name)}/{verb}"
        return await self._json("POST", path, kind=dict[str, Any], body=body)

    # -- people ----------------------------------------------------------------------------------

    async def login(self, user: str, password: str) -> Session:
        """Raises NotAllowed."""
        body = {"user": user, "password": password}
        return await self._json("POST", "/v1/login", kind=Session, body=body)

    async def logout(self) -> None:
        """End this session at the manager."""
        await send(self.http, "POST", "/v1/logout")

    async def whoami(self) -> Document:
        """The signed-in subject and what it may do."""
        return await self._json("GET", "/v1/whoami", kind=dict[str, Any])

    async def set_password(self, user: str, password: str) -> None:
        """Also ends the user's sessions."""
        path = f"/v1/users/{_part(user)}/password"
        await self._json("PUT", path, kind=dict[str, Any], body={"password": password})

    async def new_key(self, account: str) -> ApiKey:
        """An API key of a service account."""
        path = f"/v1/serviceaccounts/{_part(account)}/keys"
        return await self._json("POST", path, kind=ApiKey)

    # -- what happened -----------------------------------------------------------------------------

    async def info(self) -> Info:
        """Needs no sign-in."""
        return await self._json("GET", "/v1/info", kind=Info)

    async def events(
        self,
        *,
        project: str | None,
        kind: str = "",
        name: str = "",
        limit: int = 100,
        after: int = 0,
    ) -> tuple[EventLine, ...]:
        """Newest first; `after` goes on below a sequence."""
        path = f"/v1/projects/{_part(project)}/events" if project is not None else "/v1/events"
        parameters: Parameters = {
            "kind": kind,
            "name": name,
            "limit": limit,
            "after": after or None,
        }
        return (await self._json("GET", path, kind=Events, parameters=parameters)).items

    async def audits(self, *, after: int = 0, limit: int = MAX_PAGE) -> tuple[AuditLine, ...]:
        """Oldest first, above `after`."""
        parameters: Parameters = {"after": after or None, "limit": limit}
        return (await self._json("GET", "/v1/audit", kind=Audits, parameters=parameters)).items

    async def audit_heads(self) -> bytes:
        """Signed heads of the audit chain, one envelope per line."""
        return (await send(self.http, "GET", "/v1/audit/heads")).content

    async def restore_view(self) -> RestoreView:
        """Whether the manager only observes after a restore, and what it learned."""
        return await self._json("GET", "/v1/restore", kind=RestoreView)

    async def confirm_restore(self) -> Document:
        """Let a restored manager publish again."""
        return await self._json("POST", "/v1/restore/confirm", kind=dict[str, Any])

    async def why_host(self, project: str, name: str) -> Document:
        """The one cause of a host's state and the next action."""
        path = f"/v1/why/host/{_part(name)}"
        parameters: Parameters = {"project": project}
        return await self._json("GET", path, kind=dict[str, Any], parameters=parameters)

    # -- inside ------------------------------------------------------------------------------------

    async def _json(
        self,
        method: str,
        path: str,
        *,
        kind: type[_T],
        parameters: Parameters | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> _T:
        content = msgspec.json.encode(body) if body is not None else None
        headers = {"content-type": "application/json"} if body is not None else {}
        answer = await send(
            self.http, method, path, parameters=parameters, content=content, headers=headers
        )
        return _decode(answer, kind)

    async def _watch_once(
        self, kind: Kind, project: str | None, since: int
    ) -> AsyncIterator[WatchEvent]:
        # `since=0` is a place in history, so it is sent although it is nothing.
        parameters: Parameters = {"watch": True, "since": str(since)}
        async with streaming(self.http, address(kind, project), parameters=parameters) as answer:
            async for line in answer.aiter_lines():
                if not line.strip():
                    continue
                event = msgspec.json.decode(line, type=WatchEvent)
                if event.type == "ERROR":
                    found = HistoryGone if event.reason == "HistoryGone" else ApiFailed
                    raise found(event.message, reason=event.reason)
                yield event


def _decode(answer: httpx2.Response, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(answer.content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise ApiFailed(
            f"the answer of {answer.request.url.path} cannot be read: {exc}",
            status=answer.status_code,
            hint="is this address a skerry manager, and not much newer than this program?",
        ) from exc


def _name(document: Mapping[str, Any]) -> str:
    metadata = document.get("metadata")
    return str(metadata.get("name") or "") if isinstance(metadata, Mapping) else ""


def _part(text: str) -> str:
    """One part of a path; nothing in it can lead elsewhere."""
    return quote(text, safe="") if text not in (".", "..") else "%2E" * len(text)
