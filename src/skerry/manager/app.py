"""One manager process put together: keys, store, loops, and the ASGI application over them.

`open_centre` and `build_app` are what tests and the console use; `serve` adds the TLS listener.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass

import anyio
import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.routing import BaseRoute

from skerry.lib.clock import Clock, SystemClock
from skerry.lib.digest import sha256
from skerry.lib.errors import SkerryError
from skerry.lib.files import DiskRoot, Root
from skerry.lib.pki import fingerprint
from skerry.manager.api.actions import Actions
from skerry.manager.api.answers import unexpected
from skerry.manager.api.health import health_routes
from skerry.manager.api.routes import routes_of_kinds
from skerry.manager.auth.accounts import FIRST_PASSWORD, bootstrap
from skerry.manager.channel.routes import Routes
from skerry.manager.keys import (
    CA_CERTIFICATE,
    SERVER_CERTIFICATE,
    ensure_server_certificate,
    open_keys,
)
from skerry.manager.reconcile.loops import Reconciler
from skerry.manager.services import install, restored
from skerry.manager.services.blobs import Blobs
from skerry.manager.services.centre import Centre
from skerry.manager.settings import Settings
from skerry.manager.store import open_store

log = structlog.get_logger("skerry.manager")

MAX_ARCHIVE_BYTES = 512 * 1024 * 1024
CERTIFICATE_EVERY_S = 3600.0
_STOP_S = 10


class CannotListen(SkerryError):
    """The address is taken or not this machine's."""

    exit_code = 4


@dataclass(frozen=True, slots=True)
class ServingInfo:
    """What a manager that serves tells its starter. `first_password` is the file's place while
    nobody has signed in yet, else ""."""

    url: str
    data: str
    ca_fingerprint: str
    ca_file: str
    first_password: str
    development_keys: bool


@contextlib.asynccontextmanager
async def open_centre(
    settings: Settings, *, clock: Clock | None = None, port: int | None = None
) -> AsyncIterator[Centre]:
    """Keys, store and blobs of a data folder; made when missing, closed at the end."""
    clock = clock or SystemClock()
    root = DiskRoot(settings.data.rstrip("/") or "/")
    root.mkdir("/", mode=0o700)
    root.mkdir("/blobs/sha256")
    trusted = tuple(_read_text(path) for path in settings.release_keys)
    keys = open_keys(root, clock, release_keys=trusted)
    keep_archives(root, settings.agent_archives)
    store = await open_store(settings.database, clock=clock)
    try:
        await bootstrap(store, root, now=clock.now())
        centre = Centre(
            store=store,
            clock=clock,
            root=root,
            keys=keys,
            settings=settings,
            url=settings.public_url(port),
            blobs=Blobs(root, settings.max_blob_bytes),
        )
        await restored.load(centre)
        yield centre
    finally:
        with anyio.CancelScope(shield=True):
            await store.close()


def build_app(centre: Centre, *, more: Sequence[BaseRoute] = ()) -> Starlette:
    """The ASGI application. `more` are routes of others (the console), tried last."""
    routes: list[BaseRoute] = [
        *health_routes(centre),
        *Routes(centre).routes(),
        *Actions(centre).routes(),
        *routes_of_kinds(centre),
        *more,
    ]
    app = Starlette(routes=routes, exception_handlers={Exception: unexpected})
    app.state.centre = centre
    return app


async def serve(
    settings: Settings,
    *,
    ready: Callable[[ServingInfo], None] | None = None,
    more: Callable[[Centre], Sequence[BaseRoute]] | None = None,
    clock: Clock | None = None,
) -> None:
    """Serve until cancelled. Raises CannotListen.

    `ready` is called once requests are answered; `more` makes the console's routes.
    """
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(contextlib.closing(_listen(settings.host, settings.port)))]
        port = int(listeners[0].getsockname()[1])
        listeners += [
            stack.enter_context(contextlib.closing(_listen(host, port)))
            for host in settings.more_hosts
        ]
        async with open_centre(settings, clock=clock, port=port) as centre:
            await _serve(centre, listeners, ready, more(centre) if more else ())


def first_password(data: str) -> str | None:
    """The first administrator's password, until it was used."""
    root = DiskRoot(data.rstrip("/") or "/")
    return root.read(FIRST_PASSWORD).decode().strip() if root.exists(FIRST_PASSWORD) else None


async def _serve(
    centre: Centre,
    listeners: list[socket.socket],
    ready: Callable[[ServingInfo], None] | None,
    more: Sequence[BaseRoute],
) -> None:
    certificate, key = ensure_server_certificate(
        centre.root, centre.keys, centre.clock, centre.settings.names
    )
    server = _Server(
        uvicorn.Config(
            build_app(centre, more=more),
            ssl_certfile=certificate,
            ssl_keyfile=key,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=_STOP_S,
            h11_max_incomplete_event_size=64 * 1024,
        )
    )
    reconciler = Reconciler(centre)
    async with anyio.create_task_group() as tg:
        tg.start_soon(reconciler.run)

        async def stop() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                server.should_exit = True

        async def announce() -> None:
            while not server.started:  # noqa: ASYNC110 - uvicorn offers no event
                await anyio.sleep(0.02)
            log.info("manager.ready", url=centre.url)
            if ready is not None:
                ready(_info(centre))

        async def keep_certificate() -> None:
            # New connections get the new one; a manager that runs for years needs no restart.
            while True:
                await centre.clock.sleep(CERTIFICATE_EVERY_S)
                before = centre.root.read(SERVER_CERTIFICATE)
                ensure_server_certificate(
                    centre.root, centre.keys, centre.clock, centre.settings.names
                )
                if centre.root.read(SERVER_CERTIFICATE) != before and server.config.ssl:
                    server.config.ssl.load_cert_chain(certificate, key)
                    log.info("manager.certificate.renewed")

        tg.start_soon(keep_certificate)
        tg.start_soon(announce)
        tg.start_soon(stop)
        # Shielded: a cancelled manager ends its connections first, then its loops.
        with anyio.CancelScope(shield=True):
            await server.serve(sockets=listeners)
        tg.cancel_scope.cancel()
    with anyio.CancelScope(shield=True):
        await reconciler.flush()


def _info(centre: Centre) -> ServingInfo:
    there = centre.root.exists(FIRST_PASSWORD)
    return ServingInfo(
        url=centre.url,
        data=centre.settings.data,
        ca_fingerprint=fingerprint(centre.keys.authority.key.public_key()),
        ca_file=centre.root.host_path(CA_CERTIFICATE),
        first_password=centre.root.host_path(FIRST_PASSWORD) if there else "",
        development_keys=centre.keys.release is not None,
    )


class _Server(uvicorn.Server):
    """Signals belong to whoever started the manager, not to its web server."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as exc:
        listener.close()
        raise CannotListen(
            f"cannot listen on {host} port {port}: {exc.strerror}",
            hint="choose another address or port",
            retryable=True,
        ) from exc
    listener.set_inheritable(True)
    return listener


def keep_archives(root: Root, archives: tuple[tuple[str, str], ...]) -> None:
    """Take over (architecture, file) agent archives; install lines made from now on name them."""
    for architecture, path in archives:
        if architecture not in install.ARCHITECTURES:
            raise SkerryError(f"unknown architecture {architecture!r} of an agent archive")
        try:
            with open(path, "rb") as stream:
                data = stream.read(MAX_ARCHIVE_BYTES + 1)
        except OSError as exc:
            raise SkerryError(f"cannot read agent archive {path}: {exc.strerror}") from exc
        if len(data) > MAX_ARCHIVE_BYTES:
            raise SkerryError(f"agent archive {path} is larger than {MAX_ARCHIVE_BYTES} bytes")
        root.write(install.archive_place(architecture), data)
        root.write(install.digest_place(architecture), sha256(data).encode())


def _read_text(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read(64 * 1024)
    except OSError as exc:
        raise SkerryError(f"cannot read release key {path}: {exc.strerror}") from exc
