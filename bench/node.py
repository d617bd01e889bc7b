"""A real single-node cluster beside the floor: kubeadm by hand, in the same run.

Two fresh lab hosts, one after the other, get the same release files and the same two layers
(Kubernetes and a pod network, nothing else). Time, memory, CPU and disk are then of one machine in
one quarter of an hour, and the difference is what skerry adds.
"""

from __future__ import annotations

import os
import re
from datetime import datetime
from typing import Any

from bench import byhand, rest
from bench.figures import Benchmark, Figure, Surroundings, Values
from bench.manager import Managed, managed
from skerry.builder.agent import build_agent
from skerry.builder.cache import default_cache
from skerry.builder.gomodules import machine_architecture
from skerry.builder.layout import BuiltArtifact
from skerry.builder.release import build_release
from skerry.lab import ContainerHost, Lab, content, deviations
from skerry.lab.errors import LabError
from skerry.lab.onboarding import (
    ensure,
    find,
    install_agent,
    new_token,
    push_artifact,
    release_key,
    wait_for_host,
)
from skerry.lib.clock import Clock, SystemClock
from skerry.lib.proc import SystemRunner

VERSION = "1.35.4"
HOST, FLOOR = "bench-1", "floor-1"
SETTLE_S, WINDOW_S = 30.0, 120.0
_LIMIT_S = 400.0
_STEP = re.compile(r"timestamp=(\S+) .*event=step\.(started|done) .*?step=(?:\"([^\"]*)\"|(\S+))")


async def _run(around: Surroundings) -> Values:
    runner, clock, cache = SystemRunner(), SystemClock(), default_cache(os.environ)
    lock = around.checkout / "requirements" / "dev.txt"
    archive = await build_agent(cache=cache, runner=runner, lock=lock)
    release = await build_release(VERSION, cache=cache, runner=runner, env=os.environ)
    async with Lab(f"bench{os.getpid()}", around.folder / "lab") as lab:
        floor = await _floor(lab, release, around, clock)
        settings = {
            "host": str(lab.gateway),
            "port": 9443,
            "names": [str(lab.gateway)],
            "agent_archives": [[machine_architecture(), str(archive.path)]],
        }
        async with managed(around.checkout, around.folder, core=None, settings=settings) as manager:
            await push_artifact(manager.api, release, key=release_key(manager.data))
            host = await lab.add_host(HOST)
            await host.start()
            ours = await _ours(manager, lab, host, around, clock)
    return {**floor, **ours}


async def _floor(
    lab: Lab, release: BuiltArtifact, around: Surroundings, clock: Clock
) -> dict[str, float]:
    host = await lab.add_host(FLOOR)
    await host.start()
    took = await byhand.make_cluster(
        host, release.path, version=VERSION, values=deviations(lab.facts), clock=clock
    )
    around.tell(f"by hand: init {took.init_s:.1f} s, all {took.all_s:.1f} s")
    await clock.sleep(SETTLE_S)
    seen = await rest.watch(host, window_s=WINDOW_S, clock=clock, agent=False)
    await host.kill()
    return {
        "floor_init": took.init_s,
        "floor_all": took.all_s,
        "floor_memory": seen.memory.pss_mb,
        "floor_cpu": seen.cpu_s_per_hour,
        "floor_written": seen.written_mb_per_hour,
    }


async def _ours(
    manager: Managed, lab: Lab, host: ContainerHost, around: Surroundings, clock: Clock
) -> dict[str, float]:
    token = await new_token(manager.api, "bench", {"autoApprove": True})
    await install_agent(host, str(token["install"]))
    await wait_for_host(manager.api, HOST, limit_s=120)
    await clock.sleep(SETTLE_S)
    alone = await rest.watch(host, window_s=WINDOW_S, clock=clock, agent=True)
    around.tell(f"agent alone: {alone.agent_cpu_s_per_hour:.0f} CPU-s per hour")

    started = clock.monotonic()
    for document in _documents(deviations(lab.facts)):
        await ensure(manager.api, document)
    await _running(manager, clock)
    took_s = clock.monotonic() - started
    spans = step_seconds(await _log(host))
    around.tell(f"skerry: Running after {took_s:.1f} s; {_told(spans)}")
    await clock.sleep(SETTLE_S)
    seen = await rest.watch(host, window_s=WINDOW_S, clock=clock, agent=True)
    assert alone.agent_memory is not None
    assert seen.agent_memory is not None
    bring = ("fetch Kubernetes", "unpack Kubernetes")
    runtime = ("configure the host", "switch the container runtime", "import the images")
    init = (
        *("start the control plane", "wait for the control plane", "wait for the node"),
        "confirm Kubernetes",
    )
    return {
        "ours_all": took_s,
        "ours_bring": _total(spans, bring),
        "ours_runtime": _total(spans, runtime),
        "ours_init": _total(spans, init),
        "ours_memory": seen.memory.pss_mb,
        "ours_cpu": seen.cpu_s_per_hour,
        "ours_written": seen.written_mb_per_hour,
        "alone_rss": alone.agent_memory.rss_mb,
        "alone_cpu": alone.agent_cpu_s_per_hour,
        "alone_written": alone.agent_written_mb_per_hour,
        "agent_rss": seen.agent_memory.rss_mb,
        "agent_pss": seen.agent_memory.pss_mb,
        "agent_cpu": seen.agent_cpu_s_per_hour,
        "agent_written": seen.agent_written_mb_per_hour,
        "network": seen.network_bytes_per_day / 1e6,
    }


def _documents(values: dict[str, Any]) -> list[dict[str, Any]]:
    """Kubernetes and the built-in network, with the lab's deviations."""
    profile = {
        "apiVersion": "skerry.dev/v1",
        "kind": "ClusterProfile",
        "metadata": {"name": "bare"},
        "spec": {
            "version": "1.0.0",
            "type": "full",
            "layers": [
                {
                    "name": "kubernetes",
                    "type": "kubernetes",
                    "provider": "kubeadm",
                    "version": VERSION,
                },
                {"name": "network", "type": "network", "provider": "routed"},
            ],
        },
    }
    cluster = {
        "apiVersion": "skerry.dev/v1",
        "kind": "Cluster",
        "metadata": {"name": "bench"},
        "spec": {
            "profiles": [{"name": "bare", "version": "1.0.0"}],
            "pools": [{"name": "main", "role": "control-plane", "hosts": [HOST]}],
        },
    }
    return [content.with_values(profile, values), cluster]


async def _running(manager: Managed, clock: Clock) -> None:
    """Wait for the phase; looks more often than people's commands do."""
    deadline = clock.monotonic() + _LIMIT_S
    while True:
        cluster = await find(manager.api, "Cluster", "bench")
        if cluster is not None and cluster["status"].get("phase") == "Running":
            return
        if clock.monotonic() > deadline:
            raise LabError(f"cluster bench is not Running after {_LIMIT_S:g} s: {cluster}")
        await clock.sleep(0.2)


async def _log(host: ContainerHost) -> str:
    said = await host.run(
        ["journalctl", "--no-pager", "--output=cat", "--unit=skerry-agent"], timeout_s=30
    )
    return said.stdout


def step_seconds(log: str) -> dict[str, float]:
    """How long each step of the agent took, by its title, from the agent's own log lines."""
    begun: dict[str, datetime] = {}
    spans: dict[str, float] = {}
    for line in log.splitlines():
        found = _STEP.search(line)
        if found is None:
            continue
        at = datetime.fromisoformat(found[1])
        title = found[3] or found[4]
        if found[2] == "started":
            begun[title] = at
        elif title in begun:
            spans[title] = spans.get(title, 0.0) + (at - begun.pop(title)).total_seconds()
    return spans


def _total(spans: dict[str, float], beginnings: tuple[str, ...]) -> float:
    """Seconds of the steps whose titles begin so. Raises LookupError when one is not there."""
    for beginning in beginnings:
        if not any(title.startswith(beginning) for title in spans):
            raise LookupError(f"the agent logged no step {beginning!r}, only {sorted(spans)}")
    return sum(seconds for title, seconds in spans.items() if title.startswith(beginnings))


def _told(spans: dict[str, float]) -> str:
    return ", ".join(f"{title} {seconds:.1f}" for title, seconds in spans.items())


_BY_HAND, _OURS = "kubeadm by hand", "skerry"
BENCHMARK = Benchmark(
    name="node",
    about="a real single-node cluster, its agent, and kubeadm by hand beside it",
    needs_root=True,
    figures=(
        Figure("floor_init", f"{_BY_HAND}: 'kubeadm init' alone", "s"),
        Figure("ours_init", f"{_OURS}: init's phases, gates, confirmation", "s"),
        Figure("ours_bring", f"{_OURS}: fetch and unpack the release", "s"),
        Figure("ours_runtime", f"{_OURS}: host, containerd, images", "s"),
        Figure("floor_all", f"{_BY_HAND}: files to Ready", "s"),
        Figure("ours_all", f"{_OURS}: cluster applied to Running", "s"),
        Figure("floor_memory", f"{_BY_HAND}: memory of the host at rest (PSS)", "MB"),
        Figure("ours_memory", f"{_OURS}: memory of the host at rest (PSS)", "MB"),
        Figure("floor_cpu", f"{_BY_HAND}: CPU of the host at rest", "CPU-s/h"),
        Figure("ours_cpu", f"{_OURS}: CPU of the host at rest", "CPU-s/h"),
        Figure("floor_written", f"{_BY_HAND}: written at rest", "MB/h"),
        Figure("ours_written", f"{_OURS}: written at rest", "MB/h"),
        Figure("alone_rss", "agent without a cluster: resident", "MB", target=60),
        Figure("alone_cpu", "agent without a cluster: CPU", "CPU-s/h"),
        Figure("alone_written", "agent without a cluster: written", "MB/h"),
        Figure("agent_rss", "agent with a cluster: resident", "MB", target=60),
        Figure("agent_pss", "agent with a cluster: proportional (PSS)", "MB"),
        Figure("agent_cpu", "agent with a cluster: CPU, its commands included", "CPU-s/h"),
        Figure("agent_written", "agent with a cluster: written", "MB/h"),
        Figure("network", "idle host: on the wire, both ways", "MB/day", target=1.0),
    ),
    run=_run,
)
