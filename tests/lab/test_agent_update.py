"""A real host replaces its agent, takes back what does not work, and lets skerry go without trace.

One story on one host without Kubernetes; each chapter goes on where the one before ended.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest

from skerry import __version__
from skerry.builder.agent import AgentArchive, build_agent, write_agent_artifact
from skerry.builder.cache import default_cache
from skerry.builder.gomodules import machine_architecture
from skerry.builder.layout import BuiltArtifact, describe
from skerry.lab import ContainerHost, Lab, onboarding
from skerry.lab.inprocess import Running, running_manager
from skerry.lib.errors import SkerryError
from skerry.lib.proc import SystemRunner
from skerry.manager.settings import Settings
from skerry.model.kinds import KINDS

from .trace import Trace, differences, record

pytestmark = [pytest.mark.lab, pytest.mark.anyio, pytest.mark.timeout(900)]

CHECKOUT = Path(__file__).resolve().parents[2]
HOST = "till-1"
NEWER, CRASHING, HANGING = "0.2.0", "0.3.0", "0.4.0"
CURRENT = "/opt/skerry/agent/current"

CRASHES = '#!/bin/sh\n[ "$1" != --version ] || exec echo {version}\nexit 1\n'
# It does not listen to a polite stop either.
HANGS = """\
#!/bin/sh
[ "$1" != --version ] || exec echo {version}
trap '' TERM
while :; do sleep 1; done
"""


@dataclass
class Bench:
    """The host, its recording from before skerry came, and what a manager needs to start."""

    host: ContainerHost
    before: Trace
    settings: dict[str, Any]
    folder: Path

    @contextlib.asynccontextmanager
    async def manager(self, *, trial_s: int = 120) -> AsyncIterator[Running]:
        """A manager on the same data; `trial_s` is what it gives a new agent."""
        settings = Settings(**self.settings, agent_trial_s=trial_s)
        async with running_manager(settings, self.folder / "key") as running:
            yield running

    async def push(self, running: Running, built: BuiltArtifact) -> None:
        key = onboarding.release_key(Path(running.info.data))
        await onboarding.push_artifact(running.api, built, key=key)

    def broken(self, version: str, script: str) -> BuiltArtifact:
        """An agent that says its version and then does what the script does."""
        program = self.folder / version / "skerry-agent"
        program.mkdir(parents=True)
        (program / "skerry-agent").write_text(script.format(version=version))
        (program / "skerry-agent").chmod(0o755)
        out = self.folder / f"artifact-{version}"
        write_agent_artifact(program, out, version=version)
        return describe(out)

    async def slot(self) -> str:
        return (await self.host.run(["readlink", CURRENT], timeout_s=10)).stdout.strip()


async def agent_archive(version: str) -> AgentArchive:
    return await build_agent(
        cache=default_cache(os.environ),
        runner=SystemRunner(),
        lock=CHECKOUT / "requirements" / "dev.txt",
        version=version,
    )


@pytest.fixture(scope="module")
async def newer() -> AgentArchive:
    return await agent_archive(NEWER)


@pytest.fixture(scope="module")
async def bench(lab: Lab, lab_base: Path) -> AsyncIterator[Bench]:
    archive = await agent_archive(__version__)
    host = await lab.add_host(HOST)
    await host.start()
    with tempfile.TemporaryDirectory(dir=lab_base) as folder:
        settings = {
            "data": f"{folder}/data",
            "host": str(lab.gateway),
            "port": 9443,
            "names": (str(lab.gateway),),
            "agent_archives": ((machine_architecture(), str(archive.path)),),
            "sync_interval_s": 2,
            "busy_interval_s": 1,
            "hold_s": 1,
        }
        before = await record(host)
        made = Bench(host, before, settings, Path(folder))
        async with made.manager() as running:
            token = await onboarding.new_token(running.api, "site", {"autoApprove": True})
            await onboarding.install_agent(host, token["install"])
            await onboarding.wait_for_host(running.api, HOST)
        yield made


async def until(
    running: Running, what: str, check: Callable[[dict[str, Any]], Any], *, limit_s: float
) -> dict[str, Any]:
    """The host once `check` is true of it."""
    seen: object = None
    with anyio.move_on_after(limit_s):
        while True:
            with contextlib.suppress(SkerryError):
                host = await running.api.get(KINDS["Host"], "default", HOST)
                if check(host):
                    return dict(host)
                status = host["status"]
                seen = {key: status.get(key) for key in ("agentVersion", "agent", "conditions")}
            await anyio.sleep(0.3)
    pytest.fail(f"{what} did not come about within {limit_s:g} s; last seen: {seen}")


def reason_of(host: dict[str, Any]) -> str:
    return next(
        (c["reason"] for c in host["status"]["conditions"] if c["type"] == "AgentUpdated"), ""
    )


def runs(version: str) -> Callable[[dict[str, Any]], bool]:
    """Whether the host runs a version and has nothing left to prove."""

    def check(host: dict[str, Any]) -> bool:
        status = host["status"]
        settled = not status["agent"].get("onTrial") and not reason_of(host)
        return status["agentVersion"] == version and settled

    return check


def returned(digest: str) -> Callable[[dict[str, Any]], bool]:
    """Whether the host says that it took an agent back, and will not try it again."""

    def check(host: dict[str, Any]) -> bool:
        failed = host["status"]["agent"].get("failed", ())
        return reason_of(host) == "AgentReturned" and digest in failed

    return check


async def test_a_newer_agent_is_pushed_and_the_host_runs_it(
    bench: Bench, newer: AgentArchive
) -> None:
    async with bench.manager() as running:
        first = await until(running, "the first agent", runs(__version__), limit_s=60)
        assert first["status"]["agent"]["slot"] == "a"

        await bench.push(running, newer.artifact)

        host = await until(running, f"agent {NEWER}", runs(NEWER), limit_s=120)
        events = await running.api.events(project="default", kind="Host", name=HOST)
    assert host["status"]["agent"]["slot"] == await bench.slot() == "b"
    assert host["status"]["desiredAgent"] == NEWER
    assert "AgentUpdated" in {event.reason for event in events}
    said = await bench.host.run(["skerry-agent", "--version"], timeout_s=30)
    assert said.stdout.strip() == NEWER
    units = await bench.host.run(["systemctl", "list-unit-files", "skerry*"], timeout_s=10)
    assert "watchdog" not in units.stdout, "a trial that is over leaves no unit behind"


async def test_one_that_ends_at_once_is_taken_back(bench: Bench) -> None:
    built = bench.broken(CRASHING, CRASHES)
    async with bench.manager() as running:
        await bench.push(running, built)

        host = await until(running, "the return", returned(built.digest), limit_s=90)
        why = await running.api.why_host("default", HOST)
        await anyio.sleep(5)
        later = await until(running, "the same", returned(built.digest), limit_s=10)
    assert host["status"]["agentVersion"] == later["status"]["agentVersion"] == NEWER
    assert (await bench.slot(), why["reason"]) == ("b", "AgentReturned")
    assert why["nextAction"] == f"skerry retry host {HOST}"


async def test_one_that_hangs_is_taken_back_also_through_a_power_cut(bench: Bench) -> None:
    built = bench.broken(HANGING, HANGS)
    async with bench.manager(trial_s=8) as running:
        await bench.push(running, built)
        with anyio.fail_after(60):
            while await bench.slot() != "a":  # noqa: ASYNC110  # nothing to wait on
                await anyio.sleep(0.1)
        await bench.host.kill()
        await bench.host.start()

        host = await until(running, "the return", returned(built.digest), limit_s=90)
        shown = await bench.host.run(["skerry-agent", "status"], timeout_s=30)

    assert host["status"]["agentVersion"] == NEWER
    assert await bench.slot() == "b"
    assert len(host["status"]["agent"]["failed"]) == 2
    assert "did not prove itself within 8 s" in shown.stdout


async def test_removal_leaves_no_trace(bench: Bench) -> None:
    await bench.host.run(["skerry-agent", "remove", "--yes"], timeout_s=120)

    assert differences(bench.before, await record(bench.host)) == []
