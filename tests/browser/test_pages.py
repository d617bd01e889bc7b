"""The console as people use it: signing in, approving, filtering, by keyboard, in the dark."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from playwright.sync_api import Browser, Page, expect

from skerry.manager.auth import accounts
from skerry.manager.store.protocol import Put, WriteSet
from skerry.model import kinds as k

from .conftest import Manager, until
from .fleet import PASSWORD, put_host
from .test_screenshots import FOLDER

Visit = Callable[..., Page]


def test_signing_in_leads_to_the_page_that_was_asked_for(visit: Visit) -> None:
    page = visit("")
    page.goto("/hosts?state=offline")

    page.get_by_label("User name").fill("olga")
    page.get_by_label("Password").fill("not the password")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("wrong user name or password")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()

    expect(page).to_have_url(re.compile(r"/hosts\?state=offline$"))
    cookie = next(c for c in page.context.cookies() if c["name"] == "__Host-skerry_session")
    assert (cookie["httpOnly"], cookie["secure"], cookie["sameSite"]) == (True, True, "Lax")


def test_a_new_manager_leads_to_its_first_cluster(fresh_manager: Manager, browser: Browser) -> None:
    centre = fresh_manager.centre
    password = centre.root.read(accounts.FIRST_PASSWORD).decode().strip()
    context = browser.new_context(base_url=fresh_manager.url, ignore_https_errors=True)
    page = context.new_page()

    page.goto("/")
    expect(page.get_by_text("The password is in the file")).to_be_visible()
    page.get_by_label("User name").fill("admin")
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("A quiet harbour, so far")
    assert not centre.root.exists(accounts.FIRST_PASSWORD)
    for name in ("Hosts", "Approvals", "Clusters", "Profiles", "Tokens", "Sites", "Events"):
        page.get_by_role("link", name=name, exact=True).first.click()
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        expect(page.locator(".empty, .calm").first).to_be_visible()
    page.goto("/account")
    page.get_by_label("Present password").fill(password)
    page.get_by_label("New password").fill("a new long password")
    page.get_by_label("Once more").fill("a new long password")
    page.get_by_role("button", name="Change password").click()
    expect(page.get_by_role("status")).to_contain_text("The password is changed")
    if FOLDER:
        page.goto("/")
        page.screenshot(path=f"{FOLDER}/empty.png")
    context.close()


def test_signing_out_ends_the_session_at_the_manager(visit: Visit) -> None:
    page = visit("olga")
    page.goto("/")
    before = page.context.cookies()

    page.locator("#who summary").click()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()
    page.context.add_cookies(before)  # type: ignore[arg-type]
    page.goto("/hosts")

    expect(page.get_by_role("button", name="Sign in")).to_be_visible()


def test_a_host_is_approved_by_clicking_with_site_and_labels(
    visit: Visit, manager: Manager
) -> None:
    page = visit("olga")
    page.goto("/approvals")
    card = page.locator("section", has=page.get_by_role("link", name="till-fastnet-new"))

    expect(card.locator(".keycode")).to_have_text(re.compile(r"^[0-9A-F]{4}-[0-9A-F]{4}$"))
    card.get_by_label("Site").select_option("fastnet")
    card.get_by_label("Labels").fill("tier=till, rack=4")
    card.get_by_role("button", name="Approve").click()

    expect(page).to_have_url(re.compile(r"/approvals$"))
    expect(page.get_by_text("till-fastnet-new")).to_have_count(0)
    host = manager.call(manager.centre.store.get, "Host", "default", "till-fastnet-new")
    assert host.spec.approval is k.Approval.APPROVED
    assert (host.spec.site, host.metadata.labels) == ("fastnet", {"tier": "till", "rack": "4"})


def test_an_approval_counts_for_the_key_that_was_shown_and_no_other(
    visit: Visit, manager: Manager
) -> None:
    manager.call(pending, manager, "till-swapped", 71)
    page = visit("olga")
    page.goto("/approvals")
    card = page.locator("section", has=page.get_by_role("link", name="till-swapped"))

    async def swap() -> None:
        store = manager.centre.store
        host = await store.get("Host", "default", "till-swapped")
        status = msgspec.structs.replace(host.status, fingerprint="f" * 64)
        changed = msgspec.structs.replace(host, status=status)
        await store.commit(WriteSet(puts=(Put(changed, host.metadata.revision),)))

    page.route("**/live**", lambda route: route.abort())
    manager.call(swap)
    page.evaluate("() => document.querySelectorAll('[data-live]').length")
    card.get_by_role("button", name="Approve").click()

    expect(page.get_by_role("heading", level=1)).to_contain_text(
        re.compile("changed meanwhile|Approvals")
    )
    host = manager.call(manager.centre.store.get, "Host", "default", "till-swapped")
    if "meanwhile" in page.content():
        assert host.spec.approval is k.Approval.PENDING


def test_a_technician_registers_a_host_by_its_code_on_a_phone(
    visit: Visit, manager: Manager
) -> None:
    host = manager.call(manager.centre.store.get, "Host", "default", "van-spare")
    page = visit("olga", viewport={"width": 375, "height": 700}, is_mobile=True)
    page.goto("/register")

    page.get_by_label("Code on the screen").fill(host.status.registration_code.lower())
    page.get_by_role("button", name="Find it").click()
    expect(page.get_by_role("heading", name="van-spare")).to_be_visible()
    shown = page.locator(".print").inner_text().replace(" ", "").lower()
    assert host.status.fingerprint in shown
    page.get_by_label("Site").select_option("north-pier")
    page.get_by_role("button", name="Approve").click()

    expect(page.get_by_role("status")).to_contain_text("van-spare is in")


def test_a_scanned_screen_brings_its_fingerprint_and_it_is_compared(
    visit: Visit, manager: Manager
) -> None:
    manager.call(pending, manager, "till-scanned", 72)
    host = manager.call(manager.centre.store.get, "Host", "default", "till-scanned")
    code, print_ = host.status.registration_code, host.status.fingerprint
    page = visit("")

    page.goto(f"/register?code={code}&fingerprint={print_[:16]}&host={host.name}")
    page.get_by_label("User name").fill("olga")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()

    expect(page.get_by_role("heading", name=host.name)).to_be_visible()
    expect(page.get_by_text("The screen that you scanned shows this fingerprint")).to_be_visible()
    page.goto(f"/register?code={code}&fingerprint={'0' * 16}")
    expect(page.get_by_role("alert")).to_contain_text("another fingerprint")
    page.goto(f"/register?code={code}&fingerprint=<b>&host=<b>")
    expect(page.get_by_text("Compare the fingerprint too")).to_be_visible()


def test_filters_are_in_the_address_and_work_together(visit: Visit) -> None:
    page = visit("vera")
    page.goto("/hosts")

    page.get_by_label("Labels").fill("tier=kiosk")
    page.get_by_label("Site").select_option("north-pier")
    expect(page).to_have_url(re.compile("site=north-pier"))
    expect(page).to_have_url(re.compile("labels=tier%3Dkiosk"))
    expect(page.locator(".pager")).to_contain_text("4 hosts")
    names = page.locator("tbody .name > a").all_inner_texts()
    assert names == [f"north-pier-{number}" for number in range(1, 5)]

    page.goto("/hosts?q=sule&state=offline")
    assert page.locator("tbody .name > a").all_inner_texts() == ["sule-skerry-9"]
    expect(page.locator(".pager")).to_contain_text("1 host")


def test_a_filter_with_a_slip_says_so_and_keeps_the_rest(visit: Visit) -> None:
    page = visit("vera")

    answer = page.goto("/hosts?labels=tier%3D%3D%3D(&q=x")

    assert answer is not None
    assert answer.status == 200
    expect(page.get_by_role("alert")).to_contain_text("label selector")
    expect(page.get_by_label("Name")).to_have_value("x")


def test_a_page_follows_the_fleet_by_itself(visit: Visit, manager: Manager) -> None:
    page = visit("vera")
    page.goto("/approvals")
    expect(page.locator(".livedot[data-on]")).to_be_visible()

    manager.call(pending, manager, "till-arrives-now", 72)

    expect(page.get_by_role("link", name="till-arrives-now")).to_be_visible(timeout=5000)


def test_what_a_person_is_typing_survives_a_live_change(visit: Visit, manager: Manager) -> None:
    manager.call(pending, manager, "till-typed-at", 73)
    page = visit("olga")
    page.goto("/approvals")
    expect(page.locator(".livedot[data-on]")).to_be_visible()
    card = page.locator("section", has=page.get_by_role("link", name="till-typed-at"))
    card.get_by_label("Labels").fill("half=typed")

    manager.call(pending, manager, "till-arrives-later", 74)
    page.wait_for_timeout(1500)

    expect(card.get_by_label("Labels")).to_have_value("half=typed")


def test_a_token_shows_its_line_once(visit: Visit) -> None:
    page = visit("olga")
    page.goto("/tokens")

    page.get_by_label("Name").fill("by-the-test")
    page.get_by_label("Uses at most").fill("2")
    page.get_by_role("button", name="Make token").click()

    line = page.locator("#install").inner_text()
    assert line.startswith("SKERRY_TOKEN=")
    assert "sha256sum -c" in line
    secret = page.locator("#secret").inner_text()
    page.goto("/tokens")
    expect(page.get_by_text("by-the-test")).to_be_visible()
    assert secret not in page.content()


def test_a_tokens_mistakes_are_shown_beside_their_fields(visit: Visit) -> None:
    page = visit("olga")
    page.goto("/tokens")

    page.get_by_label("Name").fill("Not A Name")
    page.get_by_text("Labels and networks").click()
    page.get_by_label("Allowed networks").fill("somewhere")
    page.get_by_role("button", name="Make token").click()

    expect(page.get_by_label("Name")).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_role("alert")).to_contain_text("metadata.name")


def test_the_editor_shows_all_problems_with_their_lines(visit: Visit) -> None:
    page = visit("olga")
    page.goto("/profiles/new")
    text = page.locator("#editor").input_value()
    broken = text.replace("provider: kubeadm", "provider: magic").replace(
        "provider: routed", "providr: routed"
    )

    page.locator("#editor").fill(broken)
    page.get_by_role("button", name="Check").click()

    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("providr")
    line = next(n for n, row in enumerate(broken.split("\n"), 1) if "providr" in row)
    alert.get_by_role("link", name=f"Line {line}").click()
    selected = page.evaluate(
        "() => { const e = document.getElementById('editor');"
        " return e.value.slice(e.selectionStart, e.selectionEnd); }"
    )
    assert "providr" in selected


def test_a_profile_is_written_and_its_versions_compared(visit: Visit) -> None:
    page = visit("olga")
    page.goto("/profiles/new")
    text = page.locator("#editor").input_value().replace("name: shop", "name: kiosk")
    page.locator("#editor").fill(text)
    page.get_by_role("button", name="Check").click()
    expect(page.get_by_role("status")).to_contain_text("valid")
    page.get_by_role("button", name="Record version").click()
    expect(page).to_have_url(re.compile("/profiles/default/kiosk$"))

    page.get_by_role("link", name="New version").click()
    text = page.locator("#editor").input_value()
    changed = text.replace("version: 1.0.0", "version: 1.1.0").replace("1.35.4", "1.36.3")
    page.locator("#editor").fill(changed)
    page.get_by_role("button", name="Record version").click()
    page.get_by_role("link", name="Compare versions").click()

    expect(page.locator(".diff .add", has_text="version: 1.36.3")).to_be_visible()
    expect(page.locator(".diff .del", has_text="version: 1.35.4")).to_be_visible()


def test_a_cluster_is_created_changed_and_deleted_after_a_preview(
    visit: Visit, manager: Manager
) -> None:
    page = visit("olga")
    page.goto("/clusters/new")
    page.get_by_label("Name").fill("by-clicking")
    page.get_by_label("Host").fill("bell-rock-3")
    page.get_by_label("Profile").select_option("shop@1.1.0")
    expect(page.get_by_label("greeting")).to_be_visible()
    expect(page.get_by_label("Name")).to_have_value("by-clicking")
    page.get_by_label("greeting").fill("Hello")
    page.get_by_role("button", name="Preview").click()
    expect(page.locator("#preview")).to_contain_text("is made with Kubernetes 1.35.4")
    page.get_by_role("button", name="Create cluster by-clicking").click()
    expect(page).to_have_url(re.compile("/clusters/default/by-clicking$"))

    page.goto("/clusters/default/by-clicking/change")
    page.get_by_label("Version of shop").select_option("2.0.0")
    page.wait_for_url(re.compile("version-shop=2.0.0"))
    expect(page.get_by_label("greeting")).to_have_value("Hello")
    page.get_by_role("button", name="Preview").click()
    expect(page.locator("#preview")).to_contain_text("bell-rock-3")
    expect(page.locator("#preview")).to_contain_text("new release")
    page.get_by_role("button", name="Apply this change").click()
    expect(page).to_have_url(re.compile("/clusters/default/by-clicking$"))
    cluster = manager.call(manager.centre.store.get, "Cluster", "default", "by-clicking")
    assert cluster.spec.profiles[0].version == "2.0.0"
    assert cluster.spec.variables == {"greeting": "Hello"}

    page.get_by_role("link", name="Delete").click()
    page.get_by_label("Type the cluster's name").fill("something-else")
    page.get_by_role("button", name="Delete cluster").click()
    expect(page.get_by_text("That is not its name")).to_be_visible()
    page.get_by_label("Type the cluster's name").fill("by-clicking")
    page.get_by_role("button", name="Delete cluster").click()
    expect(page.locator(".badge", has_text="Deleting").first).to_be_visible()


def test_a_change_over_somebody_elses_change_is_refused_and_shown(
    visit: Visit, manager: Manager
) -> None:
    page = visit("olga")
    page.goto("/clusters/default/shop-bell-rock/change")
    page.get_by_label("greeting").fill("mine")

    async def theirs() -> None:
        store = manager.centre.store
        cluster = await store.get("Cluster", "default", "shop-bell-rock")
        spec: Any = msgspec.structs.replace(cluster.spec, variables={"greeting": "theirs"})
        changed = msgspec.structs.replace(cluster, spec=spec)
        await store.commit(WriteSet(puts=(Put(changed, cluster.metadata.revision),)))

    manager.call(theirs)
    page.get_by_role("button", name="Preview").click()

    expect(page.get_by_role("alert")).to_contain_text("Somebody else changed this cluster")
    expect(page.get_by_role("alert")).to_contain_text("theirs")


def test_a_problem_of_a_cluster_stands_at_its_field(visit: Visit) -> None:
    page = visit("olga")
    page.goto("/clusters/new?profile=shop@2.0.0&host=fastnet-1&name=Nope")

    page.get_by_role("button", name="Preview").click()
    expect(page.get_by_label("Name")).to_have_attribute("aria-invalid", "true")
    page.get_by_label("Name").fill("fine")
    page.get_by_label("port").fill("many")
    page.get_by_role("button", name="Preview").click()

    expect(page.locator("#h-host")).to_contain_text("belongs to cluster shop-fastnet")
    expect(page.locator("#h-var-port")).to_contain_text("is not of format number")
    expect(page.get_by_label("Name")).to_have_value("fine")


def test_everything_is_reached_by_keyboard_alone(visit: Visit) -> None:
    page = visit("olga")
    page.goto("/")

    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("g")
    page.keyboard.press("h")
    page.wait_for_url(re.compile("/hosts$"))
    page.keyboard.press("/")
    expect(page.get_by_label("Name")).to_be_focused()
    page.keyboard.type("fastnet-1")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("q=fastnet-1"))
    link = page.get_by_role("link", name="fastnet-1", exact=True)
    for _ in range(60):
        page.keyboard.press("Tab")
        if link.evaluate("item => item === document.activeElement"):
            break
    outline = link.evaluate("item => getComputedStyle(item).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("/hosts/default/fastnet-1$"))
    expect(page.get_by_role("heading", name="Change was taken back")).to_be_visible()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    page.keyboard.press("g")
    page.keyboard.press("c")
    page.wait_for_url(re.compile("/clusters$"))


def test_the_editor_does_not_catch_the_keyboard(visit: Visit) -> None:
    page = visit("olga")
    page.goto("/profiles/new")
    editor = page.locator("#editor")
    editor.focus()

    page.keyboard.press("Tab")
    expect(editor).to_be_focused()
    page.keyboard.press("Escape")
    page.keyboard.press("Tab")

    expect(editor).not_to_be_focused()


def test_the_theme_follows_the_system_until_somebody_chooses(visit: Visit) -> None:
    page = visit("vera", color_scheme="dark")
    page.goto("/")
    assert darkness(page) < 60

    page.locator("#who summary").click()
    page.get_by_role("button", name="Light").click()
    page.goto("/hosts")
    assert darkness(page) > 200

    page.locator("#who summary").click()
    page.get_by_role("button", name="Dark").click()
    page.emulate_media(color_scheme="light")
    page.goto("/")
    assert darkness(page) < 60


def test_pages_work_without_scripts(visit: Visit) -> None:
    page = visit("olga", java_script_enabled=False)

    page.goto("/hosts")
    page.get_by_label("Site").select_option("bell-rock")
    page.get_by_role("button", name="Filter").click()
    page.get_by_role("link", name="bell-rock-2", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("bell-rock-2")
    page.get_by_label("Labels").last.fill("tier=till, ring=2")
    page.get_by_role("button", name="Save").click()

    expect(page.locator("a.label", has_text="ring=2").first).to_be_visible()


def test_a_session_that_ended_stops_the_stream(visit: Visit, manager: Manager) -> None:
    page = visit("vera")
    page.goto("/approvals")
    expect(page.locator(".livedot[data-on]")).to_be_visible()
    key = next(c["value"] for c in page.context.cookies() if c["name"] == "__Host-skerry_session")

    async def end() -> None:
        now = manager.centre.clock.now()
        await accounts.sign_out(manager.centre.store, key, now=now)

    manager.call(end)

    until(lambda: page.locator(".livedot[data-on]").count() == 0, seconds=9)


@pytest.mark.parametrize("user", ["vera"])
def test_a_refusal_says_what_to_do(visit: Visit, user: str) -> None:
    page = visit(user)

    page.goto("/clusters/new")

    expect(page.get_by_role("heading", level=1)).to_have_text("Not permitted")
    expect(page.get_by_text("ask an administrator")).to_be_visible()


async def pending(manager: Manager, name: str, number: int) -> None:
    await put_host(manager.centre, name, "", number, approval=k.Approval.PENDING)


def darkness(page: Page) -> float:
    """Mean of the page's background channels, 0 to 255."""
    text: str = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    channels = [float(item) for item in re.findall(r"[\d.]+", text)[:3]]
    return sum(channels) / 3
