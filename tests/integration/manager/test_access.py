"""Who may do what: sign-in, roles by route and scope, secrets that never come out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

from skerry.manager.app import first_password
from skerry.manager.auth.decide import BUILT_IN
from skerry.manager.store.protocol import Query
from skerry.model.kinds import KINDS

from .conftest import Manager, path_of

pytestmark = pytest.mark.anyio


async def key_for(manager: Manager, role: str, project: str = "") -> str:
    """An API key with one role at one scope; "" is nobody's binding."""
    name = f"robot-{role or 'none'}-{project or 'all'}"
    await manager.apply("ServiceAccount", "serviceaccounts", name, {})
    if role:
        await manager.apply(
            "RoleBinding",
            "rolebindings",
            name,
            {"role": role, "subjects": [f"serviceaccount:{name}"], "project": project},
        )
    answer = await manager.admin.post(f"/v1/serviceaccounts/{name}/keys")
    return str(answer.json()["key"])


SITE = {"kind": "Site", "metadata": {"name": "x"}, "spec": {}}
USER = {"kind": "User", "metadata": {"name": "x"}, "spec": {}}
BINDING = {
    "kind": "RoleBinding",
    "metadata": {"name": "x"},
    "spec": {"role": "admin", "subjects": ["user:x"]},
}
ROUTES: dict[str, tuple[str, str, Any]] = {
    "read": ("GET", "/v1/projects/default/sites", None),
    "read all": ("GET", "/v1/sites", None),
    "read other": ("GET", "/v1/projects/other/sites", None),
    "write": ("PUT", "/v1/projects/default/sites/x", SITE),
    "write other": ("PUT", "/v1/projects/other/sites/x", SITE),
    "approve": ("POST", "/v1/projects/default/hosts/absent/approve", None),
    "secrets": ("GET", "/v1/projects/default/secrets", None),
    "artifacts": ("GET", "/v1/artifacts", None),
    "blob": ("PUT", "/v1/blobs/sha256:" + "0" * 64, None),
    "users": ("GET", "/v1/users", None),
    "make user": ("PUT", "/v1/users/x", USER),
    "give power": ("PUT", "/v1/rolebindings/x", BINDING),
    "audit": ("GET", "/v1/audit", None),
    "events": ("GET", "/v1/projects/default/events", None),
    "all events": ("GET", "/v1/events", None),
}
READ = {"read", "read all", "read other", "secrets", "artifacts", "events", "all events"}
EVERYTHING = set(ROUTES)
IN_PROJECT = {"read", "read all", "secrets", "events"}
TABLE: dict[tuple[str, str], set[str]] = {
    ("", ""): set(),
    ("viewer", ""): READ,
    ("operator", ""): READ | {"write", "write other", "approve", "blob"},
    ("auditor", ""): READ | {"users", "audit"},
    ("admin", ""): EVERYTHING,
    ("viewer", "default"): IN_PROJECT,
    ("operator", "default"): IN_PROJECT | {"write", "approve"},
    ("auditor", "default"): IN_PROJECT,
    ("admin", "default"): IN_PROJECT | {"write", "approve"},
}


@pytest.mark.parametrize(("role", "project"), TABLE)
async def test_role_by_route_by_scope(manager: Manager, role: str, project: str) -> None:
    await manager.apply("Project", "projects", "other", {})
    client = manager.client(key=await key_for(manager, role, project))
    allowed: set[str] = set()

    for name, (method, path, body) in ROUTES.items():
        answer = await client.request(method, path, json=body)
        assert answer.status_code != 401
        if answer.status_code != 403:
            allowed.add(name)

    assert allowed == TABLE[(role, project)]


async def test_every_route_needs_somebody_unless_it_is_named_here(manager: Manager) -> None:
    open_routes = {
        "/healthz",
        "/readyz",
        "/metrics",
        "/v1/login",
        "/v1/info",
        "/v1/openapi.json",
        "/install.sh",
        "/agent/{architecture}/skerry-agent.tar.gz",
    }
    client = manager.client()
    found: set[str] = set()
    for route in manager.app.routes:
        path = getattr(route, "path", "")
        if path.startswith("/v1/channel/"):
            continue
        url = path.replace("{action:str}", "approve")
        for part in ("project", "name", "digest", "architecture"):
            url = url.replace("{" + part + "}", "x")
        for method in getattr(route, "methods", None) or ():
            answer = await client.request(method, url)
            if answer.status_code != 401:
                found.add(path)

    assert found - open_routes == set()


async def test_project_reader_sees_their_project_only(manager: Manager) -> None:
    await manager.apply("Project", "projects", "other", {})
    await manager.apply("Site", "sites", "mine", {})
    await manager.admin.put(path_of("sites", "x", "other"), json=SITE)
    client = manager.client(key=await key_for(manager, "viewer", "default"))

    found = (await client.get("/v1/sites")).json()

    assert [item["metadata"]["name"] for item in found["items"]] == ["mine"]


async def test_first_password_lies_in_a_private_file_until_it_was_used(
    manager: Manager, settings: Any, tmp_path: Path
) -> None:
    from skerry.manager.app import open_centre
    from skerry.manager.settings import Settings

    assert first_password(settings.data) is None, "the fixture signed in with it"

    data = str(tmp_path / "second")
    async with open_centre(Settings(data=data), clock=manager.clock):
        assert os.stat(f"{data}/first-password").st_mode & 0o777 == 0o600
        assert len(first_password(data) or "") > 20


async def test_wrong_password_and_unknown_user_look_the_same(manager: Manager) -> None:
    client = manager.client()

    wrong = await client.post("/v1/login", json={"user": "admin", "password": "nope-nope-nope"})
    unknown = await client.post("/v1/login", json={"user": "nobody", "password": "nope-nope-nope"})

    assert (wrong.status_code, unknown.status_code) == (401, 401)
    assert wrong.json() == unknown.json()


async def test_session_ends_by_time_by_sign_out_and_by_disabling(manager: Manager) -> None:
    await manager.apply("User", "users", "eve", {})
    password = {"password": "correct horse battery"}
    await manager.admin.put("/v1/users/eve/password", json=password)

    async def sign_in() -> Any:
        answer = await manager.client().post("/v1/login", json={"user": "eve", **password})
        return manager.client(key=answer.json()["token"])

    one, two, three = await sign_in(), await sign_in(), await sign_in()
    first = (await one.get("/v1/whoami")).status_code
    await one.post("/v1/logout")
    after_logout = (await one.get("/v1/whoami")).status_code
    await manager.apply("User", "users", "eve", {"disabled": True})
    disabled = (await two.get("/v1/whoami")).status_code
    await manager.apply("User", "users", "eve", {})
    manager.clock.advance(13 * 3600)
    expired = (await three.get("/v1/whoami")).status_code

    assert (first, after_logout, disabled, expired) == (200, 401, 401, 401)


async def test_planted_secrets_come_out_nowhere(
    manager: Manager, settings: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    planted = "planted-7Yq2-secret"
    password = f"{planted}-password"
    seen: list[str] = []
    with structlog.testing.capture_logs() as logs:
        spec = {"data": {"a": planted, "b": f"{planted}2"}}
        for body in (
            {"kind": "Secret", "metadata": {"name": "s"}, "spec": spec},
            {"kind": "Secret", "metadata": {"name": "s"}, "spec": {"data": {"a": [planted]}}},
            {"kind": "Secret", "metadata": {"name": "s"}, "spec": {"data": planted}},
            {"kind": "Secret", "metadata": {"name": "s"}, "spec": {"dat": {"a": planted}}},
        ):
            for query in ("?dryRun=true", ""):
                answer = await manager.admin.put(path_of("secrets", "s") + query, json=body)
                seen.append(answer.text)
        changed = {"spec": {"data": {"a": f"{planted}3"}}}
        seen.append((await manager.admin.patch(path_of("secrets", "s"), json=changed)).text)
        await manager.apply("User", "users", "eve", {})
        passwords: tuple[Any, ...] = (password, planted[:5], [planted])
        for value in passwords:
            answer = await manager.admin.put("/v1/users/eve/password", json={"password": value})
            seen.append(answer.text)
        login = {"user": "eve", "password": f"{planted}-wrong"}
        seen.append((await manager.client().post("/v1/login", json=login)).text)
        token = await manager.token(autoApprove=False)
        key = await key_for(manager, "viewer")
        device = manager.device("shop-1")
        seen.append(str(await device.enrol(token=token)))
        seen.append(str(await device.enrol(pairing_key=f"{planted}-pair")))
        paths = [f"/v1/{kind.plural}" for kind in KINDS.values() if kind.writable]
        paths += ["/v1/audit", "/v1/events", "/metrics", "/v1/why/host/shop-1"]
        for path in paths:
            answer = await manager.admin.get(path)
            seen.append(answer.text)

    everything = "\n".join((*seen, str(logs), caplog.text))
    for secret in (planted, token, key):
        assert secret not in everything
    database = b"".join(
        path.read_bytes() for path in Path(settings.data).glob("skerry.db*") if path.is_file()
    )
    for secret in (planted, password, token, key):
        assert secret.encode() not in database, "the database holds a secret in clear"


async def test_secret_shows_its_keys_and_keeps_values_that_are_left_empty(
    manager: Manager,
) -> None:
    from skerry.manager.services import secrets

    await manager.apply("Secret", "secrets", "s", {"data": {"a": "one", "b": "two"}})
    shown = (await manager.admin.get(path_of("secrets", "s"))).json()

    await manager.apply("Secret", "secrets", "s", {"data": {"a": "", "b": "three"}})

    assert shown["spec"]["data"] == {"a": "", "b": ""}
    values = await secrets.read(manager.centre, "default", "s")
    assert values == {"a": "one", "b": "three"}


async def test_api_key_of_a_deleted_account_is_worth_nothing(manager: Manager) -> None:
    client = manager.client(key=await key_for(manager, "viewer"))
    assert (await client.get("/v1/whoami")).status_code == 200

    await manager.admin.delete("/v1/serviceaccounts/robot-viewer-all")

    assert (await client.get("/v1/whoami")).status_code == 401


async def test_nobody_deletes_themselves_or_a_built_in_role(manager: Manager) -> None:
    own = await manager.admin.delete("/v1/users/admin")
    role = await manager.admin.delete("/v1/roles/viewer")
    other = {"kind": "Role", "metadata": {"name": "viewer"}, "spec": {"rules": []}}
    weaker = await manager.admin.put("/v1/roles/viewer", json=other)

    assert (own.status_code, role.status_code, weaker.status_code) == (422, 422, 422)
    page = await manager.centre.store.list(Query("Role", ""))
    assert page.total == len(BUILT_IN)
