"""Fixtures for real hosts. Each test module gets a lab run of its own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.lab.bench import CHECKOUT, HOST, Bench

from skerry.builder.agent import build_agent
from skerry.builder.cache import default_cache
from skerry.builder.gomodules import machine_architecture
from skerry.lab import Lab, deviations
from skerry.lab.tree import DEFAULT_SUITE
from skerry.lib.proc import SystemRunner
from skerry.manager.settings import Settings

_STORIES = pytest.StashKey[list[tuple[str, list[tuple[str, float]]]]]()


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Lab fixtures outlive a test, and so does their event loop."""
    return "asyncio"


@pytest.fixture(scope="session")
def lab_base() -> Path:
    """Where disks lie. Not /tmp, which may be a memory file system that overlayfs refuses."""
    return Path("/var/tmp/skerry-lab-tests")


@pytest.fixture(scope="module")
async def lab(
    lab_base: Path, anyio_backend: str, request: pytest.FixtureRequest
) -> AsyncIterator[Lab]:
    if os.geteuid() != 0:
        pytest.skip("real hosts need root")
    run = f"t{os.getpid()}-{abs(hash(request.node.name)) % 1000}"
    async with Lab(run, lab_base) as entered:
        yield entered


@pytest.fixture(scope="module")
async def bench(lab: Lab, lab_base: Path, request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """A running host without skerry, and the settings of a manager that it can reach.

    A module that names a Debian release in SUITE gets a host of that release.
    """
    archive = await build_agent(
        cache=default_cache(os.environ),
        runner=SystemRunner(),
        lock=CHECKOUT / "requirements" / "dev.txt",
    )
    host = await lab.add_host(HOST, suite=getattr(request.module, "SUITE", DEFAULT_SUITE))
    await host.start()
    with tempfile.TemporaryDirectory(dir=lab_base) as folder:
        settings = Settings(
            data=f"{folder}/data",
            host=str(lab.gateway),
            port=9443,
            names=(str(lab.gateway),),
            agent_archives=((machine_architecture(), str(archive.path)),),
            sync_interval_s=5,
        )
        values = deviations(lab.facts)
        # Mounted ConfigMaps otherwise reach their pods with the kubelet's next look, a minute on.
        values["kubelet"] = {**values.get("kubelet", {}), "syncFrequency": "10s"}
        made = Bench(lab, host, settings, Path(folder), values)
        # Before the story: one that fails is told too, as far as it came.
        stories = request.config.stash.setdefault(_STORIES, [])
        stories.append((Path(request.node.name).stem, made.chapters))
        yield made


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print how long each chapter took; nobody watches a story of minutes."""
    stories = config.stash.get(_STORIES, [])
    if not any(chapters for _, chapters in stories):
        return
    terminalreporter.section("seconds per chapter")
    for module, chapters in stories:
        for name, seconds in chapters:
            terminalreporter.write_line(f"{module:<20} {seconds:>7.1f}  {name}")
