"""The API client: addresses, pages, watches, and failures as errors people can act on."""

from __future__ import annotations

import socket
import ssl

import httpx2
import pytest

from skerry.client.api import Api, address
from skerry.client.connection import is_local
from skerry.client.contexts import Context
from skerry.client.errors import (
    ApiFailed,
    Conflict,
    HistoryGone,
    NotAllowed,
    NotFound,
    NotTrusted,
    Refused,
    Unreachable,
)
from skerry.client.fake import Answer, FakeManager, breaks, lines, says
from skerry.model.kinds import KINDS

SITE = KINDS["Site"]
pytestmark = pytest.mark.anyio


def site(name: str, revision: int = 1) -> dict[str, object]:
    return {"kind": "Site", "metadata": {"name": name, "revision": revision}, "spec": {}}


@pytest.mark.parametrize(
    ("kind", "project", "name", "wanted"),
    [
        ("Site", "shops", "a", "/v1/projects/shops/sites/a"),
        ("Site", None, "", "/v1/sites"),
        ("Artifact", "", "a", "/v1/artifacts/a"),
        ("Site", "..", "../../users/admin", "/v1/projects/%2E%2E/sites/..%2F..%2Fusers%2Fadmin"),
    ],
)
async def test_a_name_cannot_lead_to_another_address(
    kind: str, project: str | None, name: str, wanted: str
) -> None:
    assert address(KINDS[kind], project, name) == wanted


async def test_a_list_goes_through_all_pages_and_keeps_the_last_revision() -> None:
    manager = FakeManager(
        [
            says({"items": [site("a")], "after": "k", "revision": 7, "total": 2}),
            says({"items": [site("b")], "after": "", "revision": 9, "total": 2}),
        ]
    )

    async with manager.api() as api:
        found = await api.list(SITE, project="p", labels="a=b,!c")

    assert [item["metadata"]["name"] for item in found.items] == ["a", "b"]
    assert found.revision == 9
    assert [dict(r.url.params).get("after") for r in manager.requests] == [None, "k"]
    assert all(dict(r.url.params)["labelSelector"] == "a=b,!c" for r in manager.requests)


async def test_a_limited_list_asks_for_no_more_than_that() -> None:
    manager = FakeManager([says({"items": [site("a")], "after": "k", "revision": 1, "total": 9})])

    async with manager.api() as api:
        found = await api.list(SITE, project="p", limit=1)

    assert len(found.items) == 1
    assert dict(manager.requests[0].url.params)["limit"] == "1"
    assert len(manager.requests) == 1


async def test_revision_zero_is_sent_because_it_means_must_be_new() -> None:
    manager = FakeManager([says(site("a"), status=201)])

    async with manager.api() as api:
        await api.apply(SITE, "p", site("a"), revision=0)
        await api.apply(SITE, "p", site("a"))

    assert [dict(r.url.params) for r in manager.requests] == [{"revision": "0"}, {}]


async def test_a_deletion_that_waits_answers_with_the_object() -> None:
    manager = FakeManager([says(site("a"), status=202), says({"deleted": True})])

    async with manager.api() as api:
        waiting = await api.delete(SITE, "p", "a", force=True)
        gone = await api.delete(SITE, "p", "a")

    assert waiting is not None
    assert gone is None
    assert dict(manager.requests[0].url.params) == {"force": "true"}


async def test_a_watch_that_is_cut_goes_on_after_the_last_change_it_saw() -> None:
    manager = FakeManager(
        [
            lines({"type": "CHANGED", "revision": 5, "object": site("a", 5)}),
            breaks,
            says({"detail": "starting"}, status=503),
            lines({"type": "DELETED", "revision": 8, "object": site("a", 8)}),
        ]
    )
    seen = []

    async with manager.api() as api:
        async for event in api.watch(SITE, project="p", since=0):
            seen.append((event.type, event.revision))
            if event.type == "DELETED":
                break

    assert seen == [("CHANGED", 5), ("DELETED", 8)]
    since = [dict(r.url.params)["since"] for r in manager.requests]
    assert since == ["0", "5", "5", "5"]
    assert manager.clock.slept == [0.5, 1.0, 2.0]


async def test_a_watch_that_lost_history_says_so_instead_of_skipping_changes() -> None:
    manager = FakeManager([lines({"type": "ERROR", "reason": "HistoryGone", "message": "too old"})])

    async with manager.api() as api:
        with pytest.raises(HistoryGone, match="too old"):
            async for _ in api.watch(SITE, project="p", since=1):
                pass


async def test_a_watch_of_a_manager_that_is_gone_ends_with_an_error() -> None:
    manager = FakeManager([breaks])

    async with manager.api() as api:
        with pytest.raises(Unreachable):
            async for _ in api.watch(SITE, project="p", since=1):
                pass


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (400, Refused, 2),
        (401, NotAllowed, 4),
        (403, NotAllowed, 4),
        (404, NotFound, 3),
        (409, Conflict, 5),
        (410, HistoryGone, 1),
        (413, Refused, 2),
        (422, Refused, 2),
        (500, ApiFailed, 1),
    ],
)
async def test_each_status_is_one_error_with_its_exit_code(
    status: int, kind: type[ApiFailed], code: int
) -> None:
    manager = FakeManager([says({"detail": "d", "hint": "h", "reason": "R"}, status=status)])

    async with manager.api() as api:
        with pytest.raises(kind) as caught:
            await api.get(SITE, "p", "a")

    assert caught.value.exit_code == code
    assert (caught.value.message, caught.value.hint, caught.value.reason) == ("d", "h", "R")


async def test_all_problems_of_a_document_reach_the_caller() -> None:
    problems = [
        {"path": "spec.a", "message": "unknown field", "hint": "did you mean b?"},
        {"path": "spec.c", "message": "is too large"},
    ]
    manager = FakeManager([says({"detail": "not valid", "problems": problems}, status=422)])

    async with manager.api() as api:
        with pytest.raises(Refused) as caught:
            await api.apply(SITE, "p", site("a"))

    assert [(p.path, p.hint) for p in caught.value.problems] == [
        ("spec.a", "did you mean b?"),
        ("spec.c", ""),
    ]


@pytest.mark.parametrize("body", [b"<html>proxy error</html>", b"{", b"\xff\xfe"])
async def test_an_answer_that_no_manager_gives_is_explained_without_a_traceback(
    body: bytes,
) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, content=body)

    manager = FakeManager([answer])

    async with manager.api() as api:
        with pytest.raises(ApiFailed, match="cannot be read"):
            await api.get(SITE, "p", "a")


async def test_a_route_that_an_older_manager_does_not_have_is_no_missing_object() -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(404, text="Not Found")

    async with FakeManager([answer]).api() as api:
        with pytest.raises(Refused, match="does not know this request"):
            await api.get(SITE, "p", "a")


def failing(exc: Exception) -> Answer:
    def answer(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("all attempts failed") from exc

    return answer


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        (ConnectionRefusedError(111, "refused"), "nothing listens there"),
        (socket.gaierror(-2, "unknown"), "its name is not known"),
        (TimeoutError(), "no connection in time"),
        (ssl.SSLError(1, "wrong version number"), "it does not speak TLS there"),
        (OSError(113, "No route to host"), "No route to host"),
    ],
)
async def test_an_unreachable_manager_is_one_line_and_a_next_step(
    cause: Exception, words: str
) -> None:
    async with FakeManager([failing(cause)]).api() as api:
        with pytest.raises(Unreachable, match=words) as caught:
            await api.info()

    assert "\n" not in caught.value.message
    assert caught.value.hint
    assert caught.value.exit_code == 6


async def test_a_foreign_certificate_says_to_sign_in_again() -> None:
    cause = ssl.SSLCertVerificationError(1, "verify failed")
    cause.verify_message = "self-signed certificate."

    async with FakeManager([failing(cause)]).api() as api:
        with pytest.raises(NotTrusted, match="self-signed certificate") as caught:
            await api.info()

    assert "skerry login" in caught.value.hint


@pytest.mark.parametrize("server", ["manager:8443", "ftp://x", "https://", ""])
async def test_an_address_that_is_none_is_refused_before_anything_is_sent(server: str) -> None:
    with pytest.raises(Refused):
        Api(Context(name="x", server=server))


async def test_a_key_is_never_sent_in_clear_to_another_computer() -> None:
    with pytest.raises(Refused, match="not encrypted"):
        Api(Context(name="x", server="http://manager:8080", token="secret"))


async def test_a_key_is_not_sent_to_whom_nobody_trusts_yet() -> None:
    manager = FakeManager([says({})])
    transport = httpx2.MockTransport(manager._handle)
    context = Context(name="x", server="http://localhost", token="secret")

    async with Api(context, transport=transport, trust=False) as api:
        await api.info()

    assert "authorization" not in manager.requests[0].headers


@pytest.mark.parametrize(
    ("host", "wanted"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("10.0.0.1", False), ("m", False)],
)
async def test_only_this_computer_is_local(host: str, wanted: bool) -> None:
    assert is_local(host) is wanted
