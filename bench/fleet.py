"""One manager with 1,000 simulated single-node clusters: its cost by the hour, its memory, and what
the simulator itself costs.

Manager and simulator have a core each; only the manager's own CPU counts as its cost. Every host
has a desired state and proves that it runs it, so it syncs as a managed host does, once a minute.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import anyio

from bench import accounting, machine
from bench.figures import Benchmark, Figure, Surroundings, Values
from bench.manager import Managed, managed
from bench.population import SITES
from bench.processes import Child, child
from skerry.agent.facts import architecture
from skerry.builder.cache import Cache, default_cache
from skerry.lab import content
from skerry.lab.onboarding import ensure, new_token, push_artifact, release_key
from skerry.lib.clock import SystemClock
from skerry.sim import harbours

FIRST, ALL = 100, 1000
INTERVAL_S = 60
_SETTLE_S = 30.0
_LIMIT_S = 600.0
# All hosts come from one address here, which the throttle for strangers would slow down.
_SETTINGS = {
    "port": 0,
    "sync_interval_s": INTERVAL_S,
    "enrol_per_s": 1000.0,
    "enrol_burst": 1000,
}


async def _run(around: Surroundings) -> Values:
    pair = machine.cores()
    ours, other = pair or (None, None)
    async with managed(around.checkout, around.folder, core=ours, settings=_SETTINGS) as manager:
        await _stack(manager, around)
        token = await new_token(manager.api, "bench", {"autoApprove": True})
        task = {
            "server": manager.context.server,
            "ca": manager.context.ca,
            "token": token["secret"],
        }
        log = around.folder / "population.log"
        async with child(
            "bench.population", task, checkout=around.checkout, log=log, core=other
        ) as hosts:
            return await _measure(manager, hosts, around)


async def _measure(manager: Managed, hosts: Child, around: Surroundings) -> Values:
    await hosts.say({"do": "add", "hosts": FIRST})
    first = await hosts.hear(limit_s=_LIMIT_S)
    few = accounting.memory([manager.pid])
    around.tell(f"{FIRST} hosts after {first['took_s']:.1f} s")
    await hosts.say({"do": "add", "hosts": ALL - FIRST})
    rest = await hosts.hear(limit_s=_LIMIT_S)
    around.tell(f"{ALL} hosts after {first['took_s'] + rest['took_s']:.1f} s more")

    clock = SystemClock()
    began = clock.monotonic()
    await _clusters(manager, rest["names"])
    await hosts.say({"do": "clusters"})
    await hosts.hear(limit_s=_LIMIT_S)
    formed_s = clock.monotonic() - began
    around.tell(f"{ALL} clusters after {formed_s:.1f} s more")
    await anyio.sleep(_SETTLE_S)

    before = accounting.used([manager.pid]), accounting.used([hosts.pid])
    await anyio.sleep(INTERVAL_S)
    after = accounting.used([manager.pid]), accounting.used([hosts.pid])
    many = accounting.memory([manager.pid])
    host_hours = ALL * INTERVAL_S / 3600
    return {
        "cpu": (after[0].cpu_s - before[0].cpu_s) / host_hours * 1000,
        "written": (after[0].written_bytes - before[0].written_bytes) / host_hours / 1000,
        "memory_few": few.rss_mb,
        "memory_many": many.rss_mb,
        "registered": first["took_s"] + rest["took_s"],
        "formed": formed_s,
        "simulator_cpu": (after[1].cpu_s - before[1].cpu_s) / INTERVAL_S * 100,
        "simulator_host": (rest["rss_kb"] - first["rss_kb"]) * 1.024 / (ALL - FIRST),
    }


async def _stack(manager: Managed, around: Surroundings) -> None:
    """Sites, the empty release and the profile of simulated clusters."""
    cache: Cache = default_cache({"SKERRY_CACHE": str(around.folder / "cache")})
    for document in content.site_documents(harbours(SITES)):
        await ensure(manager.api, document)
    version = content.SIMULATED_VERSIONS[-1]
    built = content.simulated_release(version, cache=cache, architecture=architecture())
    await push_artifact(manager.api, built, key=release_key(Path(manager.data)))
    await ensure(manager.api, content.simulated_profile(version))


async def _clusters(manager: Managed, hosts: list[str]) -> None:
    version = content.SIMULATED_VERSIONS[-1]
    place = harbours(SITES)[0]
    for host in hosts:
        document: dict[str, Any] = copy.deepcopy(
            content.simulated_cluster(place, host, kubernetes=version)
        )
        document["metadata"]["name"] = host
        await ensure(manager.api, document)


BENCHMARK = Benchmark(
    name="fleet",
    about="one manager with 1,000 simulated single-node clusters",
    figures=(
        Figure("cpu", "manager: CPU per 1,000 host-hours, 60 s interval", "CPU-s"),
        Figure("written", "manager: written to disk per host-hour", "kB"),
        Figure("memory_few", f"manager: resident with {FIRST} hosts", "MB", target=300),
        Figure("memory_many", f"manager: resident with {ALL} clusters", "MB"),
        Figure("registered", f"{ALL} hosts registered and in sync", "s"),
        Figure("formed", f"{ALL} clusters created and formed (simulated)", "s"),
        Figure("simulator_cpu", f"simulator: CPU with {ALL} hosts", "% core", target=100),
        Figure("simulator_host", "simulator: memory of a further host", "KB", target=100),
    ),
    run=_run,
)
