"""A seeded manager over HTTPS on loopback, and browsers that are signed in to it.

The manager is the real one; only its reconcile loops rest, so that the seeded fleet stays as it is
and screenshots do not change from run to run.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
import uvicorn
from anyio.from_thread import BlockingPortal, start_blocking_portal
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from skerry.console.app import console_routes
from skerry.manager.app import build_app, open_centre
from skerry.manager.auth import accounts
from skerry.manager.keys import ensure_server_certificate
from skerry.manager.services.centre import Centre
from skerry.manager.settings import Settings

from .fleet import PASSWORD, seed

CHROMIUM = os.environ.get("SKERRY_CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--font-render-hinting=none",
]


@dataclass(frozen=True)
class Manager:
    url: str
    centre: Centre
    portal: BlockingPortal

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a coroutine function in the manager's loop."""
        return self.portal.call(function, *args)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Manager]:
    """The seeded one; tests leave alone what other tests look at."""
    with running(tmp_path_factory.mktemp("console"), seed) as found:
        yield found


@pytest.fixture
def fresh_manager(tmp_path: Path) -> Iterator[Manager]:
    """One that nobody has used yet."""
    with running(tmp_path, None) as found:
        yield found


@contextlib.contextmanager
def running(data: Path, prepare: Callable[[Centre], Any] | None) -> Iterator[Manager]:
    """A manager that serves the console until the block ends."""
    with start_blocking_portal() as portal:
        started = threading.Event()
        found: list[Centre] = []

        async def run(stop: anyio.Event) -> None:
            listener = socket.socket()
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
            settings = Settings(data=str(data), port=port, login_per_minute=6000)
            async with open_centre(settings, port=port) as centre:
                if prepare is not None:
                    await prepare(centre)
                server = _server(centre)
                async with anyio.create_task_group() as tg:
                    tg.start_soon(server._serve, [listener])
                    while not server.started:  # noqa: ASYNC110 - uvicorn offers no event
                        await anyio.sleep(0.02)
                    found.append(centre)
                    started.set()
                    await stop.wait()
                    server.should_exit = True

        stop = portal.call(anyio.Event)
        future = portal.start_task_soon(run, stop)
        while not started.wait(0.1):
            if future.done():
                future.result()
        yield Manager(found[0].url, found[0], portal)
        portal.call(stop.set)
        future.result(timeout=20)


def _server(centre: Centre) -> uvicorn.Server:
    certificate, key = ensure_server_certificate(
        centre.root, centre.keys, centre.clock, centre.settings.names
    )
    return uvicorn.Server(
        uvicorn.Config(
            build_app(centre, more=console_routes(centre)),
            ssl_certfile=certificate,
            ssl_keyfile=key,
            log_config=None,
            lifespan="off",
            timeout_graceful_shutdown=2,
        )
    )


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if not Path(CHROMIUM).exists():
        pytest.skip("chromium is not installed: apt-get install chromium")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield found
        found.close()


@pytest.fixture
def visit(manager: Manager, browser: Browser) -> Iterator[Callable[..., Page]]:
    """`visit("olga")` is a page of a browser in which olga is signed in; "" is a stranger's."""
    opened: list[BrowserContext] = []

    def open_page(user: str = "admin", **options: Any) -> Page:
        context = browser.new_context(
            base_url=manager.url,
            ignore_https_errors=True,
            **{"viewport": {"width": 1280, "height": 860}, **options},
        )
        opened.append(context)
        context.set_default_timeout(10_000)
        if user:
            key = manager.call(new_session, manager.centre, user)
            context.add_cookies(
                [
                    {
                        "name": "__Host-skerry_session",
                        "value": key,
                        "url": manager.url,
                        "secure": True,
                        "httpOnly": True,
                        "sameSite": "Lax",
                    }
                ]
            )
        page = context.new_page()
        # A policy that is broken, or a script that fails, fails the test.
        page.on("pageerror", lambda error: pytest.fail(f"script failed: {error}"))
        return page

    yield open_page
    for context in opened:
        context.close()


async def new_session(centre: Centre, user: str) -> str:
    key, _ = await accounts.sign_in(
        centre.store,
        centre.root,
        user,
        PASSWORD,
        now=centre.clock.now(),
        hours=2,
        source="127.0.0.1",
    )
    return key


def until(check: Callable[[], bool], *, seconds: float = 10) -> None:
    """Wait for something that no locator can wait for."""
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
