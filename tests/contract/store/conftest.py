"""Every back end behind one fixture: a fresh database, and a few ways to make its life hard.

PostgreSQL is a private server on a Unix socket in a temporary folder. It is stopped at the end,
and by the kernel when the test process is killed.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import secrets
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from skerry.lib.clock import ManualClock
from skerry.manager.store import Store, apply, open_store, postgres, sqlite
from skerry.manager.store.protocol import WriteSet

# pytest's importlib mode leaves test folders off the path; `store_objects` lies beside this file.
sys.path.insert(0, str(Path(__file__).parent))
from store_objects import NOW

_BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


@dataclass
class Backend:
    """One fresh database. `open` may be called several times; all are closed at the end."""

    name: str
    url: str
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def open(self, **options: Any) -> Store:
        store = await open_store(self.url, **{"clock": ManualClock(NOW), **options})
        self.stack.push_async_callback(store.close)
        return store

    def raw(self, query: str) -> None:
        """Run a statement behind the store's back."""
        raise NotImplementedError

    @contextmanager
    def slow_commit(self, writes: WriteSet) -> Iterator[Callable[[], None]]:
        """A transaction that has its revision and waits; calling the answer lets it commit."""
        ready, go = threading.Event(), threading.Event()
        thread = threading.Thread(target=self._slow, args=(writes, ready, go))
        thread.start()
        assert ready.wait(10)
        try:
            yield go.set
        finally:
            go.set()
            thread.join(10)

    def _slow(self, writes: WriteSet, ready: threading.Event, go: threading.Event) -> None:
        raise NotImplementedError

    def unavailable(self) -> Any:
        """A context in which the database refuses writes."""
        raise NotImplementedError


class SqliteBackend(Backend):
    @property
    def path(self) -> Path:
        return Path(self.url.removeprefix("sqlite:///"))

    def raw(self, query: str) -> None:
        connection = sqlite3.connect(self.path, isolation_level=None)
        connection.execute(query)
        connection.close()

    def _slow(self, writes: WriteSet, ready: threading.Event, go: threading.Event) -> None:
        connection = sqlite.connect(self.path, 10)
        connection.execute("BEGIN IMMEDIATE")
        sqlite.drive(connection, apply.apply(writes))
        ready.set()
        go.wait(10)
        connection.execute("COMMIT")
        connection.close()

    @contextmanager
    def unavailable(self) -> Iterator[None]:
        connection = sqlite3.connect(self.path, isolation_level=None)
        connection.execute("BEGIN EXCLUSIVE")
        try:
            yield
        finally:
            connection.execute("ROLLBACK")
            connection.close()


@dataclass
class PostgresBackend(Backend):
    server: Server | None = None

    def raw(self, query: str) -> None:
        _execute(self.url, query)

    def _slow(self, writes: WriteSet, ready: threading.Event, go: threading.Event) -> None:
        async def run() -> None:
            connection = await asyncpg.connect(self.url)
            async with connection.transaction():
                await connection.execute("SELECT pg_advisory_xact_lock($1)", postgres.WRITE_LOCK)
                await postgres.drive(connection, apply.apply(writes))
                ready.set()
                await asyncio.to_thread(go.wait, 10)
            await connection.close()

        asyncio.run(run())

    @contextmanager
    def unavailable(self) -> Iterator[None]:
        assert self.server is not None
        name = self.url.split("?")[0].rsplit("/", 1)[1]
        self.server.run(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        self.server.run(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        )
        try:
            yield
        finally:
            self.server.run(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


@dataclass(frozen=True)
class Server:
    """A running PostgreSQL."""

    folder: Path

    def url(self, name: str) -> str:
        return f"postgresql://postgres@/{name}?host={self.folder}"

    def run(self, query: str) -> None:
        _execute(self.url("postgres"), query)

    def create(self, template: str = "template1") -> str:
        name = f"store_{secrets.token_hex(6)}"
        self.run(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    if not _BINARIES:
        pytest.skip("PostgreSQL's server is not installed (apt-get install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="skerry-pg-", dir="/tmp"))
    as_user = ["setpriv", "--pdeathsig", "INT"]
    if os.geteuid() == 0:
        user = pwd.getpwnam("postgres")
        os.chown(folder, user.pw_uid, user.pw_gid)
        as_user += [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    binaries, data = _BINARIES[-1].parent, str(folder / "data")
    process: subprocess.Popen[bytes] | None = None
    try:
        subprocess.run(
            [
                *as_user,
                str(binaries / "initdb"),
                "-D",
                data,
                "-U",
                "postgres",
                "-A",
                "trust",
                "--no-sync",
                "--locale=C",
                "-E",
                "UTF8",
            ],
            check=True,
            capture_output=True,
            cwd="/",
            timeout=60,
        )
        process = subprocess.Popen(
            [
                *as_user,
                str(binaries / "postgres"),
                "-D",
                data,
                "-k",
                str(folder),
                "-c",
                "listen_addresses=",
                "-c",
                "fsync=off",
                "-c",
                "full_page_writes=off",
                "-c",
                "shared_buffers=32MB",
                "-c",
                "max_connections=200",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
        )
        server = Server(folder)
        _wait_until_ready(server, process)
        yield server
    finally:
        if process is not None:
            process.send_signal(signal.SIGQUIT)  # at once: its data is thrown away
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_template(postgres_server: Server) -> str:
    """A database with the schema in place: copying it is quicker than migrating each."""
    name = postgres_server.create()

    async def prepare() -> None:
        await (await open_store(postgres_server.url(name))).close()

    asyncio.run(prepare())
    return name


@pytest.fixture(params=["sqlite", "postgresql"])
def fresh(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    """A database of each back end in turn."""
    if request.param == "sqlite":
        return SqliteBackend("sqlite", f"sqlite:///{tmp_path}/store.db")
    server: Server = request.getfixturevalue("postgres_server")
    template: str = request.getfixturevalue("postgres_template")
    return PostgresBackend("postgresql", server.url(server.create(template)), server=server)


@asynccontextmanager
async def closing(backend: Backend) -> AsyncIterator[Backend]:
    async with backend.stack:
        yield backend


@pytest.fixture
async def backend(fresh: Backend, anyio_backend: str) -> AsyncIterator[Backend]:
    """As `fresh`; what was opened is closed at the end."""
    async with closing(fresh):
        yield fresh


@pytest.fixture
async def store(backend: Backend) -> Store:
    """An open, empty store."""
    return await backend.open(poll_s=0.1)


def _execute(url: str, query: str) -> None:
    async def execute() -> None:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(query)
        finally:
            await connection.close()

    # In a thread of its own: the caller may be on an event loop.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, execute()).result()


def _wait_until_ready(server: Server, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 30
    while True:
        try:
            return server.run("SELECT 1")
        except (OSError, asyncpg.PostgresError):
            if process.poll() is not None or time.monotonic() > until:
                raise
            time.sleep(0.05)
