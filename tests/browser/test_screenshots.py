"""Takes pictures, only when asked.

SKERRY_SCREENSHOTS=docs/images takes those of the documents; SKERRY_LOOKS=all (or light, dark,
phone) takes every page too, SKERRY_FULL=1 in its whole length.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page

FOLDER = os.environ.get("SKERRY_SCREENSHOTS", "")
SHOTS = {
    "sign-in": "/sign-in",
    "overview": "/",
    "hosts": "/hosts",
    "host": "/hosts/default/fastnet-1",
    "host-working": "/hosts/default/skerryvore-1",
    "host-free": "/hosts/default/bell-rock-2",
    "host-os-good": "/hosts/default/sule-skerry-os-good",
    "host-os-trial": "/hosts/default/sule-skerry-os-trial",
    "host-os-back": "/hosts/default/sule-skerry-os-back",
    "host-os-package": "/hosts/default/sule-skerry-os-package",
    "approvals": "/approvals",
    "tokens": "/tokens",
    "sites": "/sites",
    "profiles": "/profiles",
    "profile": "/profiles/default/shop",
    "editor": "/profiles/default/shop/edit",
    "diff": "/profiles/default/shop/diff?from=1.1.0&to=2.0.0",
    "clusters": "/clusters",
    "cluster": "/clusters/default/shop-skerryvore",
    "cluster-change": "/clusters/default/shop-north-pier/change?version-shop=2.0.0",
    "cluster-new": "/clusters/new?profile=shop@2.0.0&host=bell-rock-2&name=harbour",
    "events": "/events",
    "audit": "/audit",
    "account": "/account",
    "missing": "/hosts/default/atlantis",
    "register": "/register?code=8844-4BF6",
    "register-empty": "/register?code=1234-5678",
    "reasons": "/reasons",
}
LOOKS = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "phone": {
        "color_scheme": "light",
        "viewport": {"width": 390, "height": 844},
        "device_scale_factor": 2,
        "is_mobile": True,
    },
}


# What the documents show: name of the picture, address, look.
DOCUMENTS = (
    ("console-overview", "/", "light"),
    ("console-overview-dark", "/", "dark"),
    ("console-host", "/hosts/default/fastnet-1", "light"),
    ("console-approvals", "/approvals", "light"),
    ("console-cluster", "/clusters/default/shop-skerryvore", "light"),
    ("console-register", "/register?code=8844-4BF6", "phone"),
)


@pytest.mark.skipif(not FOLDER, reason="SKERRY_SCREENSHOTS is not set")
def test_take_the_pictures_of_the_documents(visit: Callable[..., Page]) -> None:
    folder = Path(FOLDER)
    folder.mkdir(parents=True, exist_ok=True)

    for name, address, look in DOCUMENTS:
        page = visit("admin", **LOOKS[look])
        page.goto(address, wait_until="load")
        page.screenshot(path=folder / f"{name}.png")
    page = visit("admin", **LOOKS["light"])
    page.goto("/clusters/default/shop-north-pier/change?version-shop=2.0.0")
    page.get_by_role("button", name="Preview").click()
    page.locator("#preview").wait_for()
    page.screenshot(path=folder / "console-preview.png")


@pytest.mark.skipif("SKERRY_LOOKS" not in os.environ, reason="SKERRY_LOOKS is not set")
@pytest.mark.timeout(600)
def test_take_every_page_in_every_look(visit: Callable[..., Page]) -> None:
    folder = Path(FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    only = set(filter(None, os.environ.get("SKERRY_SHOTS", "").split(",")))
    looks = os.environ["SKERRY_LOOKS"]
    full = os.environ.get("SKERRY_FULL") == "1"

    for look, options in LOOKS.items():
        if looks not in ("all", look):
            continue
        page, stranger = visit("admin", **options), visit("", **options)
        for name, address in SHOTS.items():
            if only and name not in only:
                continue
            at = stranger if name == "sign-in" else page
            at.goto(address, wait_until="load")
            at.screenshot(path=folder / f"{name}-{look}.png", full_page=full)
