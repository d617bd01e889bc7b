"""Every page and every action, seen by those who may not: the table of pages is gone through.

These speak HTTP directly, as an attacker would; nothing of a page's look protects anything.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from skerry.console.app import PAGES
from skerry.console.door import SESSION_COOKIE, Door

from .conftest import Manager, new_session
from .fleet import USERS

PLACES = {
    "/hosts": ("default", "till-kirkwall-7"),
    "/tokens": ("default", "autumn-rollout"),
    "/sites": ("default", "fastnet"),
    "/profiles": ("default", "shop"),
    "/clusters": ("default", "shop-bell-rock"),
}
# What everybody who is signed in may do with their own account.
OWN = ("/account", "/account/password", "/sign-out", "/reasons")
# Pages that only lead to a change, so that a viewer does not get them either.
FOR_CHANGE = ("/new", "/edit", "/change", "/delete")
GETS = [address for address, get, _ in PAGES if get is not None]
POSTS = [address for address, _, post in PAGES if post is not None]


def concrete(address: str) -> str:
    for prefix, (project, name) in PLACES.items():
        if address.startswith(f"{prefix}/{{"):
            return address.replace("{project}", project).replace("{name}", name)
    return f"{address}?kinds=Host" if address == "/live" else address


@pytest.fixture(scope="module")
def client(manager: Manager) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=manager.url, verify=False, timeout=20) as found:
        yield found


@pytest.fixture(scope="module")
def keys(manager: Manager) -> dict[str, str]:
    return {user: manager.call(new_session, manager.centre, user) for user in USERS}


def cookies(key: str) -> dict[str, str]:
    return {"cookie": f"{SESSION_COOKIE}={key}"}


def filled(manager: Manager, key: str) -> dict[str, str]:
    """A form that would do its work if its sender might."""
    return {
        "csrf": Door(manager.centre).token(key),
        "name": "made-by-a-stranger",
        "text": "metadata: {name: x}\nspec: {version: 1.0.0}\n",
        "do": "apply",
        "site": "fastnet",
        "labels": "a=b",
        "profile": "shop@2.0.0",
        "host": "bell-rock-2",
    }


@pytest.fixture
def unchanged(manager: Manager) -> Iterator[None]:
    before = manager.call(manager.centre.store.revision)
    yield
    assert manager.call(manager.centre.store.revision) == before


@pytest.mark.parametrize("address", GETS)
def test_a_stranger_sees_nothing_but_the_sign_in(address: str, client: httpx2.Client) -> None:
    answer = client.get(concrete(address))

    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/sign-in")
    assert answer.content == b""


@pytest.mark.parametrize("address", POSTS)
@pytest.mark.usefixtures("unchanged")
def test_a_stranger_does_nothing(address: str, client: httpx2.Client, manager: Manager) -> None:
    answer = client.post(concrete(address), data=filled(manager, "guessed"))

    assert answer.status_code == 303
    assert answer.headers["location"] == "/sign-in"


@pytest.mark.parametrize("address", GETS)
def test_who_has_no_role_sees_no_object(
    address: str, client: httpx2.Client, keys: dict[str, str]
) -> None:
    answer = client.get(concrete(address), headers=cookies(keys["nemo"]))

    if address in OWN:
        assert answer.status_code == 200
        return
    assert answer.status_code == 403
    assert "role binding" in answer.text or address == "/live"
    for name in ("fastnet", "shop-bell", "autumn", "bell-rock"):
        assert name not in answer.text.replace(concrete(address), "")


@pytest.mark.parametrize("user", ["nemo", "vera"])
@pytest.mark.parametrize("address", [item for item in POSTS if item not in OWN])
@pytest.mark.usefixtures("unchanged")
def test_who_may_only_look_changes_nothing(
    address: str, user: str, client: httpx2.Client, keys: dict[str, str], manager: Manager
) -> None:
    form = filled(manager, keys[user])
    host = manager.call(manager.centre.store.get, "Host", *PLACES["/hosts"])
    form["fingerprint"] = host.status.fingerprint
    if address == "/clusters/{project}/{name}/delete":
        form["name"] = PLACES["/clusters"][1]

    answer = client.post(concrete(address), headers=cookies(keys[user]), data=form)

    assert answer.status_code == 403


@pytest.mark.parametrize("address", GETS)
def test_a_viewer_is_not_offered_what_would_be_refused(
    address: str, client: httpx2.Client, keys: dict[str, str]
) -> None:
    if address == "/live":
        return
    answer = client.get(concrete(address), headers=cookies(keys["vera"]))

    if address.endswith(FOR_CHANGE) or address == "/audit":
        assert answer.status_code == 403
        return
    assert answer.status_code == 200
    forms = set(re.findall(r'<form[^>]*method="post"[^>]*action="([^"]*)"', answer.text))
    assert forms <= {"/theme", "/sign-out", "/account/password"}


@pytest.mark.parametrize("csrf", ["", "0" * 64, "of-vera"])
@pytest.mark.parametrize("address", POSTS)
@pytest.mark.usefixtures("unchanged")
def test_a_form_without_its_own_token_is_refused(
    address: str, csrf: str, client: httpx2.Client, keys: dict[str, str], manager: Manager
) -> None:
    form = filled(manager, keys["admin"])
    form["csrf"] = Door(manager.centre).token(keys["vera"]) if csrf == "of-vera" else csrf

    answer = client.post(concrete(address), headers=cookies(keys["admin"]), data=form)

    assert answer.status_code == 403
    assert "form" in answer.text


@pytest.mark.parametrize(
    "header", [{"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}]
)
@pytest.mark.usefixtures("unchanged")
def test_a_form_from_another_site_is_refused_although_its_token_is_right(
    header: dict[str, str], client: httpx2.Client, keys: dict[str, str], manager: Manager
) -> None:
    form = filled(manager, keys["admin"])

    answer = client.post("/sites", headers={**cookies(keys["admin"]), **header}, data=form)

    assert answer.status_code == 403


@pytest.mark.usefixtures("unchanged")
def test_a_huge_form_is_refused_before_it_is_read(
    client: httpx2.Client, keys: dict[str, str]
) -> None:
    answer = client.post(
        "/sites", headers=cookies(keys["admin"]), data={"name": "x" * 3 * 1024 * 1024}
    )

    assert answer.status_code == 413


@pytest.mark.parametrize("address", ["/sign-in", *GETS])
def test_no_page_carries_script_or_style_of_its_own(
    address: str, client: httpx2.Client, keys: dict[str, str]
) -> None:
    if address == "/live":
        return
    answer = client.get(concrete(address), headers=cookies(keys["admin"]), follow_redirects=True)
    text = answer.text

    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["cache-control"] == "no-store"
    assert re.findall(r"<script(?![^>]*\ssrc=)", text) == []
    assert re.findall(r"<style|\sstyle=|\son[a-z]+=|javascript:", text) == []


def test_a_page_that_does_not_exist_says_where_to_go(
    client: httpx2.Client, keys: dict[str, str]
) -> None:
    for address in ("/atlantis", "/hosts/default/atlantis", "/profiles/default/atlantis/diff"):
        answer = client.get(address, headers=cookies(keys["vera"]))

        assert answer.status_code == 404
        assert 'href="/hosts"' in answer.text


@pytest.mark.parametrize("user", ["vera", "admin"])
def test_every_link_leads_to_a_page(user: str, client: httpx2.Client, keys: dict[str, str]) -> None:
    left, seen, wrong = ["/"], {"/"}, {}
    while left and len(seen) < 400:
        address = left.pop()
        answer = client.get(address, headers=cookies(keys[user]))
        if answer.status_code != 200:
            wrong[address] = answer.status_code
        for link in re.findall(r'href="(/[^"]*)"', answer.text):
            link = html.unescape(link).partition("#")[0]
            # Of hosts that look alike, a few stand for all.
            if link.startswith("/hosts/default/") and not link.endswith(("-1", "-9", "spare")):
                continue
            if link not in seen and not link.startswith("/static/"):
                seen.add(link)
                left.append(link)

    assert wrong == {}
    assert len(seen) > 40


def test_the_api_is_not_answered_by_pages(client: httpx2.Client, keys: dict[str, str]) -> None:
    answer = client.get("/v1/atlantis", headers=cookies(keys["admin"]))

    assert answer.status_code == 404
    assert "html" not in answer.headers["content-type"]


def test_a_cookie_is_no_key_to_the_api(client: httpx2.Client, keys: dict[str, str]) -> None:
    answer = client.get("/v1/hosts", headers=cookies(keys["admin"]))

    assert answer.status_code == 401


def test_names_from_hosts_are_never_markup(manager: Manager, keys: dict[str, str]) -> None:
    import msgspec

    from skerry.manager.store.protocol import Put, WriteSet

    planted = "<img src=x onerror=alert(1)>"

    async def plant() -> None:
        store = manager.centre.store
        host = await store.get("Host", "default", "skerryvore-2")
        status: Any = msgspec.structs.replace(
            host.status,
            host_name=planted,
            agent_version=planted,
            inventory=msgspec.structs.replace(host.status.inventory, serial=planted),
        )
        changed = msgspec.structs.replace(host, status=status)
        await store.commit(WriteSet(puts=(Put(changed, host.metadata.revision),)))

    manager.call(plant)
    with httpx2.Client(base_url=manager.url, verify=False) as client:
        text = client.get("/hosts/default/skerryvore-2", headers=cookies(keys["admin"])).text

    assert "&lt;img src=x" in text
    assert "<img src=x" not in text
