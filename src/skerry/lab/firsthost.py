"""The one real host of `./dev up`: from a container to a cluster with the example on it.

It runs beside everything else, so what fails here is told and leaves the manager up. A second run
finds the host's disk, the pushed artifacts and the cluster, and only waits for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx2

from skerry.builder.agent import build_agent
from skerry.builder.cache import Cache
from skerry.builder.example import build_example, example_versions
from skerry.builder.gomodules import machine_architecture
from skerry.builder.release import build_release
from skerry.client.api import Api
from skerry.lab import content
from skerry.lab.deviations import deviations
from skerry.lab.errors import LabError
from skerry.lab.hosts import ContainerHost
from skerry.lab.inprocess import Running
from skerry.lab.lab import Lab
from skerry.lab.onboarding import (
    ensure,
    find,
    install_agent,
    new_token,
    push_artifact,
    release_key,
    wait_for_cluster,
    wait_for_host,
)
from skerry.lib.proc import Runner, SystemRunner
from skerry.manager.app import keep_archives

HOST = "harbour-1"
SITE = "harbour"
TOKEN = "harbour-host"  # noqa: S105  # a name
PAGE_PORT = 30080
_PAGE_LIMIT_S = 180.0

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class FirstHost:
    """Everything the real host needs. `folder` keeps small notes of what was done."""

    checkout: Path
    folder: Path
    cache: Cache
    env: Mapping[str, str]
    runner: Runner

    async def bring_up(self, running: Running, lab: Lab, tell: Tell) -> str:
        """The cluster's name once it is Running and its page answers. Raises SkerryError."""
        documents = content.example_documents(self.checkout, deviations(lab.facts))
        async with anyio.create_task_group() as tg:
            tg.start_soon(self._host, running, lab, tell)
            await self._artifacts(running, documents, tell)
        for document in documents:
            await ensure(running.api, document)
        cluster = next(item for item in documents if item["kind"] == "Cluster")
        name = str(cluster["metadata"]["name"])
        await wait_for_cluster(running.api, name, tell=tell)
        await wait_for_page(running.api, page_url(lab.hosts[HOST]))
        return name

    async def _artifacts(
        self, running: Running, documents: list[content.Document], tell: Tell
    ) -> None:
        api, key = running.api, release_key(Path(running.info.data))
        architecture = machine_architecture()
        for version in content.kubernetes_versions(documents):
            if await _is_pushed(api, f"kubernetes-{version}-{architecture}"):
                continue
            tell(f"Kubernetes {version}: building, or taking from the cache")
            built = await build_release(
                version, cache=self.cache, runner=self.runner, env=self.env, progress=_steps(tell)
            )
            await push_artifact(api, built, key=key)
            tell(f"Kubernetes {version}: pushed, {built.size_bytes / 1e6:.0f} MB")
        for version in example_versions():
            if await _is_pushed(api, f"example-web-{version}-{architecture}"):
                continue
            built = await build_example(version, cache=self.cache, runner=self.runner)
            await push_artifact(api, built, key=key)
            tell(f"example web application {version}: pushed")

    async def _host(self, running: Running, lab: Lab, tell: Tell) -> None:
        tell(f"host {HOST}: starting")
        host = await lab.add_host(HOST)
        await host.start()
        tell(f"host {HOST}: booted at {host.address}")
        archive = await build_agent(
            cache=self.cache,
            runner=self.runner,
            lock=self.checkout / "requirements" / "dev.txt",
        )
        note = self.folder / "agent-digest"
        if note.exists() and note.read_text() == archive.info.digest:
            return
        keep_archives(running.centre.root, ((archive.info.architecture, str(archive.path)),))
        await ensure(
            running.api,
            {
                "apiVersion": "skerry.dev/v1",
                "kind": "Site",
                "metadata": {"name": SITE},
                "spec": {"address": "This computer"},
            },
        )
        token = await new_token(
            running.api, TOKEN, {"site": SITE, "autoApprove": True, "maximumUses": 1}
        )
        await install_agent(host, token["install"])
        tell(f"host {HOST}: agent {archive.info.version} installed")
        await wait_for_host(running.api, HOST)
        note.write_text(archive.info.digest)
        tell(f"host {HOST}: registered")


def page_url(host: ContainerHost) -> str:
    """Where the example web application answers."""
    return f"http://{host.address}:{PAGE_PORT}/"


async def wait_for_page(api: Api, url: str, *, limit_s: float = _PAGE_LIMIT_S) -> str:
    """The page once it answers. Raises LabError after the limit."""
    deadline = api.clock.monotonic() + limit_s
    async with httpx2.AsyncClient(trust_env=False, timeout=5) as client:
        while True:
            try:
                answer = await client.get(url)
            except httpx2.TransportError as exc:
                said = str(exc) or type(exc).__name__
            else:
                if answer.status_code == 200:
                    return answer.text
                said = f"HTTP {answer.status_code}"
            if api.clock.monotonic() > deadline:
                raise LabError(
                    f"the example does not answer at {url}: {said}",
                    hint=f"skerry lab kubectl {HOST} -- get pods -A",
                )
            await api.clock.sleep(1)


async def _is_pushed(api: Api, name: str) -> bool:
    there = await find(api, "Artifact", name.replace(".", "-"))
    return there is not None and bool(there["status"].get("complete"))


def _steps(tell: Tell) -> Callable[..., None]:
    """The builder's own progress in words; what only repeats is left out."""

    def step(event: str, /, **fields: Any) -> None:
        if event == "release.component":
            tell(f"Kubernetes release: {fields['name']} {fields['version']}")

    return step


def first_host(checkout: Path, folder: Path, cache: Cache, env: Mapping[str, str]) -> FirstHost:
    """With this computer's own programs."""
    return FirstHost(checkout=checkout, folder=folder, cache=cache, env=env, runner=SystemRunner())
