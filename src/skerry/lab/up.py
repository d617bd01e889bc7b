"""`./dev up` and `./dev down`: a manager with something to show on this computer.

Everything lies in one state folder, so that a second `up` finds what the first one made and `down`
can remove it all, also after a crash. The manager comes first; what takes longer follows beside it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import structlog

from skerry.builder.cache import default_cache
from skerry.client import contexts
from skerry.console.app import console_routes
from skerry.lab.cleanup import list_leftovers, remove_everything
from skerry.lab.errors import LabError
from skerry.lab.firsthost import HOST, first_host, page_url
from skerry.lab.inprocess import Running, running_manager
from skerry.lab.lab import DOMAIN, MANAGER_NAME, Lab
from skerry.lab.showcase import Showcase
from skerry.lib.clock import Clock, SystemClock
from skerry.lib.errors import SkerryError
from skerry.manager.app import first_password
from skerry.manager.settings import Settings
from skerry.sim import FleetCount

Report = Callable[[str], None]

CONTEXT = "local"
FIRST_PORT = 8443
_PORTS = 20
_STOP_LIMIT_S = 90.0
# A few dozen hosts in front of one person: news may come quickly.
_SYNC_S = 10


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What to start. `terminal` says whether a person reads along: only then is the first
    password shown."""

    checkout: Path
    state: Path
    env: Mapping[str, str]
    simulated: bool = False
    hosts: int = 60
    sites: int = 20
    terminal: bool = False
    clock: Clock = field(default_factory=SystemClock)

    @property
    def real(self) -> bool:
        """Whether a real host can be and is wanted."""
        return not self.simulated and sys.platform == "linux" and os.geteuid() == 0

    @property
    def run(self) -> str:
        """Name of the lab run: one for each state folder."""
        return f"up-{hashlib.sha256(str(self.state.absolute()).encode()).hexdigest()[:6]}"


def options_from(
    env: Mapping[str, str], *, simulated: bool = False, terminal: bool = False
) -> UpOptions:
    """Options from SKERRY_CHECKOUT and SKERRY_STATE. Raises LabError without a checkout."""
    checkout = Path(env.get("SKERRY_CHECKOUT") or Path.cwd())
    if not (checkout / "examples").is_dir():
        raise LabError(f"{checkout} is no checkout of skerry", hint="use './dev up' in a checkout")
    state = Path(env.get("SKERRY_STATE") or checkout / ".state" / "up")
    return UpOptions(
        checkout=checkout, state=state, env=env, simulated=simulated, terminal=terminal
    )


async def up(options: UpOptions, report: Report) -> None:
    """Run until a signal. Raises SkerryError when the manager cannot start."""
    started = options.clock.monotonic()
    options.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _alone(options.state):
        _log_to(options.state / "up.log")
        async with anyio.create_task_group() as tg:
            tg.start_soon(_stop_on_signal, tg.cancel_scope, report)
            async with contextlib.AsyncExitStack() as stack:
                lab = None
                if options.real:
                    lab = await stack.enter_async_context(
                        Lab(options.run, options.state / "lab", keep=True)
                    )
                running = await stack.enter_async_context(_manager(options, lab))
                stack.enter_context(_context(options, running))
                _introduce(options, running, report)
                took = options.clock.monotonic() - started
                report(f"          ready after {took:.0f} s; the log is {options.state / 'up.log'}")
                await _show(options, running, lab, report)
            tg.cancel_scope.cancel()
    report("stopped; './dev up' goes on from here, './dev down' removes everything")


async def down(options: UpOptions, report: Report) -> None:
    """Stop a running `up` and remove all that any `up` made with this state folder."""
    await _stop_other(options, report)
    if sys.platform == "linux" and os.geteuid() == 0:
        await remove_everything(options.run, options.state / "lab")
        left = await list_leftovers(options.run, options.state / "lab")
        if left:
            raise LabError(
                f"still there: {', '.join(left)}", hint="run './dev down' again, or restart"
            )
    elif (options.state / "lab").exists():
        raise LabError("a real host was started by root", hint="run './dev down' as root")
    _forget_context(options)
    await anyio.to_thread.run_sync(shutil.rmtree, options.state, True)
    report("removed everything that './dev up' made")


# -- parts of up -------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _manager(options: UpOptions, lab: Lab | None) -> AsyncIterator[Running]:
    port = _port(options.state)
    names = ["127.0.0.1", "localhost", MANAGER_NAME, f"{MANAGER_NAME}.{DOMAIN}"]
    gateway = str(lab.gateway) if lab is not None else ""
    settings = Settings(
        data=str(options.state / "manager"),
        port=port,
        sync_interval_s=_SYNC_S,
        more_hosts=(gateway,) if gateway else (),
        names=(*names, gateway) if gateway else tuple(names),
        # Hosts of the lab cannot reach the loopback address; this computer reaches both.
        url=f"https://{gateway}:{port}" if gateway else "",
    )
    key_file = options.state / "api-key"
    async with running_manager(settings, key_file, console=console_routes) as running:
        yield running


def _introduce(options: UpOptions, running: Running, report: Report) -> None:
    report(f"console   {running.context.server}")
    password = first_password(running.info.data)
    if password is None:
        report("login     admin, password as set")
    elif options.terminal:
        report(f"login     admin, password {password}")
        report("          shown until it was used once; the browser warns of the manager's own CA")
    else:
        report(f"login     admin, password in {running.info.first_password}")


async def _show(options: UpOptions, running: Running, lab: Lab | None, report: Report) -> None:
    """Fleet and real host side by side, until cancelled."""
    cache = default_cache(options.env)
    showcase = Showcase(options.state, cache, hosts=options.hosts, sites=options.sites)
    fleet = await showcase.prepare(running)
    report(f"fleet     {options.hosts} simulated hosts at {options.sites} sites are starting")

    def count(now: FleetCount) -> None:
        if now.registered == options.hosts and not fleet_told:
            fleet_told.append(True)
            report(f"fleet     {now.registered} hosts registered, one waits for approval")
            if lab is None:
                _suggest(report, "./dev skerry get hosts", "./dev skerry get clusters")

    fleet_told: list[bool] = []
    async with anyio.create_task_group() as tg:
        tg.start_soon(lambda: showcase.run(running, fleet, report=count))
        if lab is not None:
            tg.start_soon(_bring_up, options, running, lab, report)
        elif not options.simulated:
            report("real host left out: it needs root on Linux")


async def _bring_up(options: UpOptions, running: Running, lab: Lab, report: Report) -> None:
    host = first_host(options.checkout, options.state, default_cache(options.env), options.env)
    started = options.clock.monotonic()
    name = ""
    try:
        name = await host.bring_up(running, lab, lambda line: report(f"harbour   {line}"))
    except* SkerryError as group:
        for exc in _leaves(group):
            report(f"harbour   failed: {exc.message}")
            if exc.hint:
                report(f"          next: {exc.hint}")
    if not name:
        return
    report(f"cluster {name} Running")
    report(f"          after {options.clock.monotonic() - started:.0f} s")
    _suggest(
        report,
        "./dev skerry get hosts",
        f"./dev skerry lab kubectl {HOST} -- get pods -A",
        f"curl {page_url(lab.hosts[HOST])}",
    )


def _suggest(report: Report, *lines: str) -> None:
    report("          leave this running; in a second terminal, try:")
    for line in lines:
        report(f"          {line}")


async def _stop_on_signal(scope: anyio.CancelScope, report: Report) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            report("stopping ...")
            scope.cancel()
            return


def _port(state: Path) -> int:
    """The port of this state folder, because hosts remember it; the next free one at first.

    Raises LabError when another program has it now.
    """
    note = state / "port"
    if note.exists():
        port = int(note.read_text())
        if not _is_free(port):
            raise LabError(
                f"port {port}, which the hosts of this folder know, is taken by another program",
                hint="stop that program, or begin anew with './dev down'",
            )
        return port
    for port in range(FIRST_PORT, FIRST_PORT + _PORTS):
        if _is_free(port):
            note.write_text(str(port))
            return port
    raise LabError(f"ports {FIRST_PORT} to {FIRST_PORT + _PORTS - 1} are all taken")


def _is_free(port: int) -> bool:
    with contextlib.closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


# -- one at a time -----------------------------------------------------------------------------


@contextlib.contextmanager
def _alone(state: Path) -> Iterator[None]:
    """Hold the state folder. Raises LabError when another `up` does."""
    with (state / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise LabError(
                "'./dev up' runs already with this folder",
                hint="press Ctrl-C where it runs; './dev down' would remove its data too",
            ) from exc
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield


async def _stop_other(options: UpOptions, report: Report) -> None:
    place = options.state / "lock"
    if not place.exists():
        return
    deadline = options.clock.monotonic() + _STOP_LIMIT_S
    asked = False
    with place.open("r+") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pid = int(place.read_text() or 0)
            else:
                return
            late = options.clock.monotonic() > deadline
            if pid and (late or not asked):
                if not asked:
                    report("stopping the manager that runs ...")
                asked = True
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
            await options.clock.sleep(0.2)


# -- this computer's command line --------------------------------------------------------------


@contextlib.contextmanager
def _context(options: UpOptions, running: Running) -> Iterator[None]:
    """Point the command line at this manager; what it pointed at before is noted."""
    place = contexts.config_path(options.env)
    config = contexts.load(place)
    if config.current != CONTEXT:
        (options.state / "context-before").write_text(config.current)
    contexts.save(place, config.with_context(running.context))
    yield


def _forget_context(options: UpOptions) -> None:
    place, note = contexts.config_path(options.env), options.state / "context-before"
    if not note.exists() or not place.exists():
        return
    config = contexts.load(place)
    with contextlib.suppress(contexts.ContextMissing):
        config = config.without(CONTEXT)
    with contextlib.suppress(contexts.ContextMissing):
        config = config.using(config.current or note.read_text())
    contexts.save(place, config)


def _log_to(place: Path) -> None:
    """Everything that programs say, in one file beside the state."""
    stream = place.open("a", encoding="utf-8", buffering=1)
    logging.basicConfig(stream=stream, level=logging.WARNING, force=True)
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"]),
        ],
        logger_factory=structlog.PrintLoggerFactory(stream),
    )


def _leaves(group: BaseExceptionGroup[SkerryError]) -> Iterator[SkerryError]:
    for exc in group.exceptions:
        if isinstance(exc, BaseExceptionGroup):
            yield from _leaves(exc)
        else:
            yield exc
