"""A host at rest: what it and its agent use over a window, seen from outside of the host.

All processes of the host are those below its first one. Disk writes are what they gave to the
page cache for a disk. Network bytes are those of the host's one interface: Ethernet frames with
TCP/IP headers, TLS and acknowledgements, both ways.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench import accounting
from skerry.lab import ContainerHost
from skerry.lab.errors import HostFailed
from skerry.lib.clock import Clock

AGENT = "skerry-agent"
_INTERFACE = "host0"


@dataclass(frozen=True, slots=True)
class Reading:
    """Per hour as far as it counts what flows; memory at the end of the window."""

    cpu_s_per_hour: float
    written_mb_per_hour: float
    memory: accounting.Memory
    network_bytes_per_day: float
    agent_cpu_s_per_hour: float = 0.0
    agent_written_mb_per_hour: float = 0.0
    agent_memory: accounting.Memory | None = None


async def watch(host: ContainerHost, *, window_s: float, clock: Clock, agent: bool) -> Reading:
    """Look at the host for `window_s` seconds. Raises HostFailed when it is off, LookupError when
    the agent is wanted and does not run."""
    leader = host.pid
    if leader is None:
        raise HostFailed(f"lab host {host.name} is off", hint="start it first")
    own = [accounting.find(accounting.tree(leader), AGENT)] if agent else []
    started = clock.monotonic()
    before = _look(leader, own)
    await clock.sleep(window_s)
    after = _look(leader, own)
    hours = (clock.monotonic() - started) / 3600
    return Reading(
        cpu_s_per_hour=(after.host.cpu_s - before.host.cpu_s) / hours,
        written_mb_per_hour=(after.host.written_bytes - before.host.written_bytes) / hours / 1e6,
        memory=accounting.memory(accounting.tree(leader)),
        network_bytes_per_day=(after.network - before.network) / hours * 24,
        agent_cpu_s_per_hour=(after.agent.cpu_s - before.agent.cpu_s) / hours,
        agent_written_mb_per_hour=(after.agent.written_bytes - before.agent.written_bytes)
        / hours
        / 1e6,
        agent_memory=accounting.memory(own) if agent else None,
    )


@dataclass(frozen=True, slots=True)
class _Look:
    host: accounting.Used
    agent: accounting.Used
    network: int


def _look(leader: int, agent: list[int]) -> _Look:
    return _Look(
        host=accounting.used(accounting.tree(leader)),
        agent=accounting.used(agent),
        network=sum(accounting.traffic(leader, _INTERFACE)),
    )
