"""Bodies, forms and stacks that were made to hurt: soon refused, never an internal error."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from skerry.console.app import console_routes
from skerry.console.door import SEED_COOKIE, SESSION_COOKIE, Door
from skerry.manager.app import build_app
from skerry.manager.services.admission import MAX_PROBLEMS

from .conftest import BASE, Address, Manager, path_of, profile_spec

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "body",
    [
        {"kind": "Site", "metadata": {"name": "x"}, "spec": {f"k{i}": 1 for i in range(100_000)}},
        {"kind": "Site", "metadata": {"name": "x", "labels": {f"-{i}": 1 for i in range(99_999)}}},
        {f"k{i}": 1 for i in range(100_000)},
        {"metadata": {"name": "x", **{f"k{i}": 1 for i in range(100_000)}}},
        {"metadata": {"name": "x"}, "spec": {"a" * 3_000_000: 1}},
    ],
    ids=["spec", "labels", "top", "metadata", "one long key"],
)
async def test_a_document_that_is_wrong_everywhere_is_answered_soon(
    manager: Manager, body: Any
) -> None:
    started = time.process_time()  # the wall clock counts what others do on this machine

    answer = await manager.admin.put(path_of("sites", "x"), json=body)

    assert answer.status_code == 422
    assert len(answer.json()["problems"]) <= MAX_PROBLEMS + 1
    assert len(answer.content) < 200_000
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    "text",
    [
        "a: 2020-13-45",
        "[" * 5000,
        "a: " + "{b: " * 900 + "}" * 900,
        "a: &x [1]\nb: *x",
        "? [a]\n: b",
    ],
    ids=["date", "open", "deep", "alias", "key"],
)
async def test_yaml_that_cannot_be_read_is_a_problem_of_the_layer(
    manager: Manager, text: str
) -> None:
    await manager.release()
    web = {"name": "web", "type": "addon", "manifests": text}
    values = await manager.admin.put(
        path_of("clusterprofiles", "edge"),
        json={"metadata": {"name": "edge"}, "spec": profile_spec(values=text)},
    )
    manifests = await manager.admin.put(
        path_of("clusterprofiles", "edge"),
        json={"metadata": {"name": "edge"}, "spec": profile_spec(layers=[web])},
    )

    assert (values.status_code, manifests.status_code) == (422, 422)


@pytest.fixture
async def browser(manager: Manager) -> AsyncIterator[httpx2.AsyncClient]:
    app = build_app(manager.centre, more=console_routes(manager.centre))
    async with httpx2.AsyncClient(
        transport=Address(app, "192.0.2.30").transport, base_url=BASE
    ) as client:
        yield client


@pytest.mark.parametrize("cookie", [SESSION_COOKIE, SEED_COOKIE])
@pytest.mark.parametrize("text", ["\u00e9\u00e8", "\u2028", "x" * 5000, ""])
async def test_cookies_and_tokens_of_any_characters_are_refused_as_a_page(
    browser: httpx2.AsyncClient, cookie: str, text: str
) -> None:
    header = f"{cookie}={text}".encode()
    page = await browser.get("/sign-in", headers=[(b"cookie", header)])
    form = await browser.post(
        "/sign-in", headers=[(b"cookie", header)], data={"csrf": text or "\u00e9", "user": "a"}
    )
    theme = await browser.post("/theme", headers=[(b"cookie", header)], data={"csrf": "\u00e9"})

    assert page.status_code == 200
    assert {form.status_code, theme.status_code} <= {400, 403}


@pytest.mark.parametrize("origin", ["https://[", "https://evil.test", "http://[::1", "é"])
async def test_forms_with_a_strange_origin_are_refused(
    manager: Manager, browser: httpx2.AsyncClient, origin: str
) -> None:
    seed = "seed"
    answer = await browser.post(
        "/sign-in",
        headers=[(b"cookie", f"{SEED_COOKIE}={seed}".encode()), (b"origin", origin.encode())],
        data={"csrf": Door(manager.centre).token(seed), "user": "admin", "password": "x"},
    )

    assert answer.status_code == 403


@pytest.mark.parametrize("target", ["//evil.test", "https://[", "/\\evil.test", "http://x", "é\n"])
async def test_sign_in_leads_to_no_other_site(browser: httpx2.AsyncClient, target: str) -> None:
    answer = await browser.get("/sign-in", params={"next": target})

    assert answer.status_code == 200
    assert "evil.test" not in answer.text
