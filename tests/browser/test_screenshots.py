"""Takes the pictures that the documents use; only when SKERRY_SCREENSHOTS names a folder."""

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


@pytest.mark.skipif(not FOLDER, reason="SKERRY_SCREENSHOTS is not set")
@pytest.mark.timeout(600)
def test_take_screenshots(visit: Callable[..., Page]) -> None:
    folder = Path(FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    only = set(filter(None, os.environ.get("SKERRY_SHOTS", "").split(",")))
    looks = set(filter(None, os.environ.get("SKERRY_LOOKS", "").split(","))) or set(LOOKS)
    full = os.environ.get("SKERRY_FULL") == "1"
    for look in LOOKS:
        if look not in looks:
            continue
        page = visit("admin", **LOOKS[look])
        stranger = visit("", **LOOKS[look])
        for name, address in SHOTS.items():
            if only and name not in only:
                continue
            at = stranger if name == "sign-in" else page
            at.goto(address, wait_until="load")
            at.screenshot(path=folder / f"{name}-{look}.png", full_page=full)
