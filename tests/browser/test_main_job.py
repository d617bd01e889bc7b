"""The main job, by clicking only: a waiting machine becomes a cluster, is upgraded, and is freed.

The manager runs with all its loops; the machine is the real agent over a simulated Kubernetes.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.from_thread import start_blocking_portal
from playwright.sync_api import Browser, Page, expect

from skerry.console.app import console_routes
from skerry.lib.digest import canonical_json, sha256
from skerry.lib.oci import Descriptor, new_manifest
from skerry.manager.app import ServingInfo, serve
from skerry.manager.services import objects
from skerry.manager.services.centre import INTERNAL, Centre
from skerry.manager.settings import Settings
from skerry.sim import Fleet
from skerry.wire import envelope as env
from skerry.wire import messages

WAIT_MS = 45_000


async def push_release(centre: Centre, version: str) -> None:
    """A tiny but well-formed and signed Kubernetes release."""
    for architecture in ("amd64", "arm64"):
        name = f"kubernetes-{version}-{architecture}".replace(".", "-")
        layer, config = f"layer of {name}".encode(), f'{{"name":"{name}"}}'.encode()
        manifest = new_manifest(
            artifact_type="application/vnd.skerry.test",
            config=Descriptor(
                media_type="application/json", digest=sha256(config), size=len(config)
            ),
            layers=(Descriptor(media_type="application/x", digest=sha256(layer), size=len(layer)),),
        ).encode()
        assert centre.keys.release is not None
        statement = messages.ArtifactStatement(
            name=name,
            type="kubernetes",
            version=version,
            architecture=architecture,
            digest=sha256(manifest),
        )
        signed = env.sign(env.ARTIFACT, canonical_json(statement), [centre.keys.release])
        for blob in (layer, config, manifest, signed.encode()):
            await centre.blobs.put(blob)
        spec = {
            "type": "kubernetes",
            "version": version,
            "architecture": architecture,
            "digest": sha256(manifest),
            "envelopeDigest": sha256(signed.encode()),
        }
        document = {"kind": "Artifact", "metadata": {"name": name}, "spec": spec}
        await objects.apply(centre, INTERNAL, document)


@pytest.fixture
def whole(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """(address, first password) of a manager that one machine is calling."""
    with start_blocking_portal() as portal:
        found: dict[str, Any] = {}
        started = threading.Event()

        async def run(stop: anyio.Event) -> None:
            def more(centre: Centre) -> Any:
                found["centre"] = centre
                return console_routes(centre)

            def ready(info: ServingInfo) -> None:
                found["info"] = info
                started.set()

            settings = Settings(
                data=str(tmp_path / "m"), port=0, sync_interval_s=1, busy_interval_s=1, hold_s=1
            )
            async with anyio.create_task_group() as tg:
                tg.start_soon(lambda: serve(settings, ready=ready, more=more))
                await stop.wait()
                tg.cancel_scope.cancel()

        async def machine(stop: anyio.Event) -> None:
            info: ServingInfo = found["info"]
            fleet = Fleet(
                manager=info.url,
                authority_pem=Path(info.ca_file).read_text(),
                hosts=1,
                sites=1,
                idle_s=1,
                step_s=0.05,
            )
            async with anyio.create_task_group() as tg:
                tg.start_soon(fleet.run)
                await stop.wait()
                tg.cancel_scope.cancel()

        stop = portal.call(anyio.Event)
        manager = portal.start_task_soon(run, stop)
        while not started.wait(0.1):
            if manager.done():
                manager.result()
        for version in ("1.35.4", "1.36.3"):
            portal.call(push_release, found["centre"], version)
        fleet = portal.start_task_soon(machine, stop)
        yield found["info"].url, Path(found["info"].first_password).read_text().strip()
        portal.call(stop.set)
        fleet.result(timeout=20)
        manager.result(timeout=30)


@pytest.mark.timeout(300)
def test_the_main_job_is_done_by_clicking(whole: tuple[str, str], browser: Browser) -> None:
    url, password = whole
    context = browser.new_context(base_url=url, ignore_https_errors=True)
    page = context.new_page()
    page.set_default_timeout(20_000)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))

    sign_in(page, password)
    make_site(page)
    host = approve(page)
    write_profile(page)
    create(page, host)
    upgrade(page)
    delete(page, host)

    assert errors == []
    # Closed first, so that no open stream keeps the manager from stopping.
    context.close()


def sign_in(page: Page, password: str) -> None:
    page.goto("/")
    page.get_by_label("User name").fill("admin")
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("navigation", name="Main")).to_be_visible()


def make_site(page: Page) -> None:
    page.get_by_role("link", name="Sites").first.click()
    page.get_by_label("Name").last.fill("harbour")
    page.get_by_role("button", name="Add site").click()
    expect(page.get_by_role("link", name="harbour")).to_be_visible()


def approve(page: Page) -> str:
    page.get_by_role("link", name=re.compile("^Approvals")).first.click()
    card = page.locator("section.asking").first
    expect(card).to_be_visible(timeout=WAIT_MS)
    name = card.get_by_role("heading").inner_text()
    card.get_by_label("Site").select_option("harbour")
    card.get_by_role("button", name="Approve").click()
    expect(page.get_by_text("Nobody waits")).to_be_visible()
    return name


def write_profile(page: Page) -> None:
    page.goto("/profiles/new")
    page.get_by_role("button", name="Record version").click()
    expect(page).to_have_url(re.compile("/profiles/default/shop$"))
    page.get_by_role("link", name="New version").click()
    text = page.locator("#editor").input_value()
    page.locator("#editor").fill(
        text.replace("version: 1.0.0", "version: 2.0.0").replace("1.35.4", "1.36.3")
    )
    page.get_by_role("button", name="Record version").click()
    expect(page.get_by_role("heading", name="Layers of 2.0.0")).to_be_visible()


def create(page: Page, host: str) -> None:
    page.get_by_role("link", name="Clusters").first.click()
    page.get_by_role("link", name=re.compile("New cluster|Create the first")).first.click()
    page.get_by_label("Name").fill("harbour")
    page.get_by_label("Host").fill(host)
    page.get_by_label("Profile").select_option("shop@1.0.0")
    page.wait_for_url(re.compile("profile=shop"))
    page.get_by_role("button", name="Preview").click()
    expect(page.locator("#preview")).to_contain_text("new release")
    page.get_by_role("button", name="Create cluster harbour").click()
    # Nobody reloads: the page follows.
    state = page.locator("h1 + .badge")
    expect(state).to_have_text("Running", timeout=WAIT_MS)
    expect(page.get_by_role("heading", name="Running, and everything is")).to_be_visible()


def upgrade(page: Page) -> None:
    page.get_by_role("link", name="See what it would do").click()
    expect(page.get_by_label("Version of shop")).to_have_value("2.0.0")
    page.get_by_role("button", name="Preview").click()
    expect(page.locator("#preview")).to_contain_text("upgrade with health gate and return")
    expect(page.locator("#preview")).to_contain_text("2.0.0")
    page.get_by_role("button", name="Apply this change").click()
    facts = page.locator(".facts").first
    expect(facts).to_contain_text("1.36.3", timeout=WAIT_MS)
    expect(page.locator("h1 + .badge")).to_have_text("Running", timeout=WAIT_MS)
    expect(page.locator(".events")).to_contain_text("Updating -> Running")


def delete(page: Page, host: str) -> None:
    page.get_by_role("link", name="Delete").click()
    page.get_by_label("Type the cluster's name").fill("harbour")
    page.get_by_role("button", name="Delete cluster").click()
    page.goto(f"/hosts/default/{host}")
    expect(page.locator("h1 + .badge")).to_have_text("Free", timeout=WAIT_MS)
    page.goto("/clusters")
    expect(page.get_by_text("No cluster yet")).to_be_visible()
