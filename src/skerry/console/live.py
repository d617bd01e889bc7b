"""Live pages: a stream that only says "changed"; the script then fetches the page again.

So there is one way to render anything, and a browser without scripts loses nothing but the
movement. The stream ends within seconds when the session does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.responses import Response

from skerry.console import render
from skerry.console.door import Visit
from skerry.lib.errors import SkerryError
from skerry.manager.auth.accounts import find_principal
from skerry.manager.auth.decide import readable_projects
from skerry.manager.services import objects
from skerry.manager.services.centre import NotPermitted
from skerry.model.kinds import KINDS, Kind, Scope

RECHECK_S = 4.0
SETTLE_S = 0.2
PAUSE_S = 1.0
MAX_KINDS = 4


async def stream(visit: Visit) -> Response:
    """`/live?kinds=Host,Cluster&since=REVISION` and for one object `&project=P&name=N`."""
    names = visit.request.query_params.get("kinds", "").split(",")[:MAX_KINDS]
    kinds = [KINDS[name] for name in names if name in KINDS and KINDS[name].writable]
    kinds = [kind for kind in kinds if visit.may("watch", kind.name) or _own(visit, kind)]
    if not kinds:
        raise NotPermitted(f"{visit.caller.name} may not watch this", reason="NotPermitted")
    send, receive = anyio.create_memory_object_stream[ServerSentEvent](4)
    return EventSourceResponse(
        _received(receive),
        data_sender_callable=partial(_send, visit, kinds, send),
        headers={**render.HEADERS, "cache-control": "no-store"},
        ping=20,
    )


async def _received(
    stream: MemoryObjectReceiveStream[ServerSentEvent],
) -> AsyncIterator[ServerSentEvent]:
    async with stream:
        async for item in stream:
            yield item


async def _send(
    visit: Visit, kinds: list[Kind], send: MemoryObjectSendStream[ServerSentEvent]
) -> None:
    """Until the browser goes, the session ends, or a watch has lost its place."""
    news = _News(_since(visit))
    async with send, anyio.create_task_group() as tg:
        for kind in kinds:
            for project in _projects(visit, kind):
                tg.start_soon(_watch, visit, kind, project, news)
        tg.start_soon(_recheck, visit, tg.cancel_scope)
        await send.send(ServerSentEvent(event="open", data="", retry=3000))
        while True:
            await news.wait()
            await visit.centre.clock.sleep(SETTLE_S)
            revision = news.take()
            await send.send(ServerSentEvent(event="changed", id=str(revision), data=""))
            await visit.centre.clock.sleep(PAUSE_S)


class _News:
    """The latest revision that a page has not heard of."""

    def __init__(self, since: int) -> None:
        self.since = since
        self._latest = since
        self._event = anyio.Event()

    def tell(self, revision: int) -> None:
        self._latest = max(self._latest, revision)
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()

    def take(self) -> int:
        self._event = anyio.Event()
        return self._latest


async def _watch(visit: Visit, kind: Kind, project: str | None, news: _News) -> None:
    params = visit.request.query_params
    where = params.get("project", "")
    name = params.get("name", "")
    others = set(filter(None, params.get("hosts", "").split(",")))
    try:
        async for change in objects.watch(
            visit.centre, visit.caller, kind, project, since=news.since
        ):
            found = change.resource
            if name and (found.project != where or found.name not in {name, *others}):
                continue
            news.tell(change.revision)
    except SkerryError:
        # History is gone or the store rests: the page is fetched again and starts anew.
        news.tell(news.since)


async def _recheck(visit: Visit, scope: anyio.CancelScope) -> None:
    """Whose access was taken hears nothing more."""
    while True:
        await visit.centre.clock.sleep(RECHECK_S)
        now = visit.centre.clock.now()
        principal = await find_principal(visit.centre.store, visit.key, now=now)
        if principal is None or principal != visit.caller.principal:
            scope.cancel()


def _projects(visit: Visit, kind: Kind) -> list[str | None]:
    if kind.scope is Scope.SYSTEM:
        return [None]
    projects = readable_projects(visit.caller.principal, "watch", kind.name)
    return [None] if projects is None else list(projects)


def _own(visit: Visit, kind: Kind) -> bool:
    return bool(readable_projects(visit.caller.principal, "watch", kind.name))


def _since(visit: Visit) -> int:
    text = visit.request.headers.get("last-event-id") or visit.request.query_params.get("since", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else 0
