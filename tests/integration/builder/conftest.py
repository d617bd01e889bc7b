"""Upstream's servers, replayed on loopback behind a proxy; everything they serve is fake.

The proxy answers CONNECT for any name with the one TLS server here, so the product's own
addresses are used as they are and no byte leaves this computer.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import re
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trustme

from skerry.builder.cache import Cache
from skerry.builder.fetching import Fetcher, open_http
from skerry.lib.clock import SystemClock
from skerry.lib.digest import hex_of, sha256

HOSTS = (
    "dl.k8s.io",
    "cdn.dl.k8s.io",
    "github.com",
    "release-assets.githubusercontent.com",
    "registry.k8s.io",
    "auth.registry.k8s.io",
    "blobs.registry.k8s.io",
    "sbom.k8s.io",
    "get.helm.sh",
)


@dataclass(frozen=True)
class Answer:
    """One answer. `cut` sends only so many bytes of the body and then hangs up."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    ranges: bool = True


@dataclass(frozen=True)
class Asked:
    """A request as it arrived; header names in lower case."""

    url: str
    headers: dict[str, str]


class Upstream:
    """Addresses with the answers they give, one after the other; the last one stays."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Answer]] = {}
        self.asked: list[Asked] = []
        self.tunnels: list[str] = []
        self.proxy_port = 0
        self.secret: dict[str, str] = {}
        self._tls_port = 0
        self._writers: list[asyncio.StreamWriter] = []

    def give(self, url: str, *answers: Answer | bytes) -> None:
        self.answers[url] = [
            item if isinstance(item, Answer) else Answer(body=item) for item in answers
        ]

    def redirect(self, url: str, to: str) -> None:
        self.give(url, Answer(status=307, headers={"location": to}))

    def requests(self, url: str) -> list[Asked]:
        return [item for item in self.asked if item.url == url]

    def blob(self, repository: str, data: bytes) -> dict[str, Any]:
        """Register a blob; it lies on another server, as registry.k8s.io's do."""
        from_there = f"https://blobs.registry.k8s.io/{hex_of(sha256(data))}"
        self.give(from_there, data)
        self.redirect(f"https://registry.k8s.io/v2/{repository}/blobs/{sha256(data)}", from_there)
        return {"digest": sha256(data), "size": len(data)}

    def image(self, name: str) -> str:
        """Register an index with two architectures and its tag; the index's digest."""
        repository, _, tag = name.removeprefix("registry.k8s.io/").rpartition(":")
        base = f"https://registry.k8s.io/v2/{repository}/manifests"
        entries = []
        for architecture in ("amd64", "arm64"):
            layer = gzip.compress(f"fake layer of {name} {architecture}".encode(), mtime=0)
            config = json.dumps({"architecture": architecture, "os": "linux"}).encode()
            manifest = json.dumps(
                {
                    "schemaVersion": 2,
                    "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
                    "config": {
                        "mediaType": "application/vnd.docker.container.image.v1+json",
                        **self.blob(repository, config),
                    },
                    "layers": [
                        {
                            "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
                            **self.blob(repository, layer),
                        }
                    ],
                }
            ).encode()
            self.give(f"{base}/{sha256(manifest)}", manifest)
            entries.append(
                {
                    "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
                    "digest": sha256(manifest),
                    "size": len(manifest),
                    "platform": {"architecture": architecture, "os": "linux"},
                }
            )
        index = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.index.v1+json",
                "manifests": entries,
            }
        ).encode()
        self.give(f"{base}/{tag}", index)
        self.give(f"{base}/{sha256(index)}", index)
        return sha256(index)

    def answer(self, asked: Asked) -> Answer:
        repository = re.match(r"https://registry\.k8s\.io/v2/(.+)/(manifests|blobs)/", asked.url)
        if repository and repository[1] in self.secret:
            wanted = f"Bearer {self.secret[repository[1]]}"
            if asked.headers.get("authorization") != wanted:
                challenge = (
                    'Bearer realm="https://auth.registry.k8s.io/token",'
                    f'service="registry.k8s.io",scope="repository:{repository[1]}:pull"'
                )
                return Answer(status=401, headers={"www-authenticate": challenge})
        queue = self.answers.get(asked.url)
        if not queue:
            return Answer(b"no such file", status=404)
        return queue.pop(0) if len(queue) > 1 else queue[0]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                line, *rest = head.decode().split("\r\n")
                headers = dict(item.split(": ", 1) for item in rest if item)
                headers = {name.lower(): value for name, value in headers.items()}
                asked = Asked(f"https://{headers['host']}{line.split()[1]}", headers)
                self.asked.append(asked)
                if not await self._reply(self.answer(asked), asked, writer):
                    break
        writer.close()

    async def _reply(self, answer: Answer, asked: Asked, writer: asyncio.StreamWriter) -> bool:
        status, body, headers = answer.status, answer.body, dict(answer.headers)
        start = re.fullmatch(r"bytes=(\d+)-", asked.headers.get("range", ""))
        if status == 200 and start and answer.ranges:
            begin = int(start[1])
            if begin >= len(body):
                status, body = 416, b""
            else:
                headers["content-range"] = f"bytes {begin}-{len(body) - 1}/{len(body)}"
                status, body = 206, body[begin:]
        headers["content-length"] = str(len(body))
        lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in headers.items())]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        writer.write(body if answer.cut is None else body[: answer.cut])
        await writer.drain()
        return answer.cut is None

    async def proxy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        target = head.split()[1]
        self.tunnels.append(target)
        if target.rpartition(":")[0] not in HOSTS:
            writer.write(b"HTTP/1.1 403 Forbidden\r\n\r\n")
            await writer.drain()
            writer.close()
            return
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._tls_port)
        self._writers.append(inner_writer)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(_pipe(reader, inner_writer), _pipe(inner_reader, writer))

    async def run(self, tls: ssl.SSLContext, ready: threading.Event, end: threading.Event) -> None:
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0, ssl=tls)
        proxy = await asyncio.start_server(self.proxy, "127.0.0.1", 0)
        self._tls_port = server.sockets[0].getsockname()[1]
        self.proxy_port = proxy.sockets[0].getsockname()[1]
        ready.set()
        await asyncio.to_thread(end.wait)
        for listener in (server, proxy):
            listener.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
        # Sockets are closed by the loop's next turns.
        await asyncio.sleep(0.05)


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@pytest.fixture
def answer() -> type[Answer]:
    return Answer


@pytest.fixture
def upstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Upstream]:
    """Upstream behind a proxy that the environment names, with an authority it names too."""
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*HOSTS).configure_cert(tls)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    own = Upstream()
    ready, end = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(own.run(tls, ready, end)))
    thread.start()
    assert ready.wait(10)
    for name in ("http_proxy", "all_proxy", "no_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{own.proxy_port}")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    yield own
    end.set()
    thread.join(10)
    assert not thread.is_alive()


class QuickClock(SystemClock):
    """Remembers how long it should have slept."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


@pytest.fixture
def clock() -> QuickClock:
    return QuickClock()


@pytest.fixture
async def fetcher(upstream: Any, tmp_path: Path, clock: QuickClock) -> AsyncIterator[Fetcher]:
    async with open_http() as http:
        yield Fetcher(http, Cache(tmp_path / "cache"), clock)
