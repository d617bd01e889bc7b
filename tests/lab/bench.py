"""What lab tests with a manager and a cluster share: one host, documents, waiting, chapters.

A chapter is a timed part of a story; its seconds are printed at the end of the run.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx2

from skerry.builder.cache import default_cache
from skerry.builder.example import build_example
from skerry.builder.release import build_release
from skerry.client.api import Api
from skerry.lab import ContainerHost, Lab, content, onboarding
from skerry.lab.inprocess import Running, running_manager
from skerry.lib.errors import SkerryError
from skerry.lib.proc import SystemRunner
from skerry.manager.settings import Settings
from skerry.model.kinds import KINDS

CHECKOUT = Path(__file__).resolve().parents[2]
HOST = "harbour-1"
CLUSTER = "harbour"
KUBECTL = [
    "/var/lib/skerry/links/kubectl",
    "--kubeconfig=/etc/kubernetes/admin.conf",
    "--cache-dir=/dev/shm/kubectl",  # the test's own files are no trace of skerry's
]

WRITER = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: writer, namespace: default}
spec:
  replicas: 1
  strategy: {type: Recreate}
  selector: {matchLabels: {app: writer}}
  template:
    metadata: {labels: {app: writer}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: writer
          image: skerry.dev/example/web:1.0
          imagePullPolicy: Never
          command: [/bin/busybox, sh, -c]
          args:
            - |
              i=$(tail -n1 /data/log 2>/dev/null || echo 0); i=${i:-0}
              while :; do i=$((i+1)); echo $i >> /data/log; sync /data/log; sleep 0.2; done
          volumeMounts: [{name: data, mountPath: /data}]
      volumes:
        - name: data
          hostPath: {path: /var/lib/writer, type: DirectoryOrCreate}
"""


@dataclass
class Bench:
    """The lab host, and a manager that can be taken away and brought back."""

    lab: Lab
    host: ContainerHost
    settings: Settings
    folder: Path
    values: Mapping[str, Any]
    chapters: list[tuple[str, float]] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def manager(self) -> AsyncIterator[Running]:
        async with running_manager(self.settings, self.folder / "key") as running:
            yield running

    @contextlib.asynccontextmanager
    async def chapter(self, name: str) -> AsyncIterator[None]:
        """Time a part of the story, also one that fails."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.chapters.append((name, time.monotonic() - began))

    def note(self, text: str, seconds: float) -> None:
        """A measured figure, printed with the chapters."""
        self.chapters.append((f"  {text}", seconds))

    async def sh(self, script: str, *, timeout_s: float = 60, check: bool = True) -> str:
        """Standard output of a shell script on the host."""
        done = await self.host.run(["sh", "-c", script], timeout_s=timeout_s, check=check)
        return done.stdout

    async def kubectl(self, *arguments: str) -> str:
        return (await self.host.run([*KUBECTL, *arguments], timeout_s=60)).stdout

    async def status(self) -> str:
        """What the host itself says to a person in front of it."""
        return (await self.host.run(["skerry-agent", "status"], timeout_s=20)).stdout

    async def page(self) -> str:
        async with httpx2.AsyncClient(trust_env=False, timeout=5) as http:
            return (await http.get(f"http://{self.host.address}:30080/")).text

    async def says(self, words: str) -> bool:
        """Whether the example's page shows the words."""
        return words in await self.page()

    def profile(
        self,
        version: str,
        kubernetes: str,
        values: Mapping[str, Any],
        *,
        layers: Sequence[Mapping[str, Any]] = (),
    ) -> dict[str, Any]:
        """The example profile at another version, with the writer and `layers` on top."""
        document = content.example_documents(CHECKOUT, {**self.values, **values})[0]
        document["spec"]["version"] = version
        for layer in document["spec"]["layers"]:
            if layer["type"] == "kubernetes":
                layer["version"] = kubernetes
        writer = {
            "name": "writer",
            "type": "addon",
            "artifacts": ["example-web-1-0"],
            "manifests": WRITER,
        }
        document["spec"]["layers"] += [writer, *layers]
        return document

    def cluster(self, version: str, greeting: str) -> dict[str, Any]:
        document = content.example_documents(CHECKOUT, {})[1]
        document["spec"]["profiles"][0]["version"] = version
        document["spec"]["variables"]["greeting"] = greeting
        return document

    async def written(self) -> list[int]:
        """The numbers that the volume's writer has on disk."""
        text = (await self.host.run(["cat", "/var/lib/writer/log"], timeout_s=10)).stdout
        return [int(line) for line in text.split()]

    async def nothing_written_was_lost(self) -> int:
        """Check the writer's sequence; its last number."""
        numbers = await self.written()
        assert numbers == list(range(1, len(numbers) + 1))
        return len(numbers)


async def apply(api: Api, *documents: dict[str, Any]) -> None:
    for document in documents:
        await api.apply(KINDS[document["kind"]], "default", document)


async def push(running: Running, *versions: str) -> None:
    """Build (or take from the cache) and push releases of Kubernetes and the example."""
    cache, runner = default_cache(os.environ), SystemRunner()
    key = onboarding.release_key(Path(running.info.data))
    built = [
        await build_release(version, cache=cache, runner=runner, env=os.environ)
        for version in versions
    ]
    built.append(await build_example("1.0", cache=cache, runner=runner))
    await onboarding.push_artifacts(running.api, built, key=key)


async def register(bench: Bench, api: Api) -> dict[str, Any]:
    """Bring the host into the fleet by the install line; the token as it was shown."""
    token = await onboarding.new_token(api, "lab", {"autoApprove": True})
    await onboarding.install_agent(bench.host, str(token["install"]))
    await onboarding.wait_for_host(api, HOST, limit_s=60)
    return dict(token)


async def until(what: str, check: Callable[[], Awaitable[Any]], *, limit_s: float) -> None:
    """Wait for an async condition; its last error or value is the failure's text."""
    seen: object = None
    with anyio.move_on_after(limit_s):
        while True:
            try:
                seen = await check()
                if seen:
                    return
            except (SkerryError, httpx2.HTTPError, AssertionError) as exc:
                seen = exc
            await anyio.sleep(1)
    # No pytest.fail: it is no Exception, and would end the event loop before the fixtures do.
    raise AssertionError(f"{what} did not come about within {limit_s:g} s; last seen: {seen}")


async def host_of(api: Api) -> dict[str, Any]:
    return dict(await api.get(KINDS["Host"], "default", HOST))


def condition(document: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """A condition of a host or cluster by its type; empty without one."""
    found = [item for item in document["status"]["conditions"] if item["type"] == kind]
    return found[0] if found else {}


async def in_sync(api: Api, kubernetes: str) -> bool:
    """Whether the host proved that it runs what the manager wants, at this version."""
    host = await host_of(api)
    desired, acknowledged = host["status"]["desired"], host["status"]["acknowledged"]
    assert desired == acknowledged, (desired, acknowledged, host["status"]["conditions"])
    return bool(host["status"]["kubernetes"]["release"] == kubernetes)
