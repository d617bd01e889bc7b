"""A simulated population in a process of its own: the product's fleet, started in two parts.

The benchmark tells how many hosts to add; the answer says how long it took until all of them were
registered and had synced, and what this process uses. Later it may ask for clusters to be waited
for. Hosts are those of `skerry simulate`: only machine, Kubernetes, disk and line are made up.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread

from bench import accounting
from skerry.cli.logs import log_to_stderr
from skerry.lib.clock import SystemClock
from skerry.sim import Fleet, FleetCount

SITES = 20
_LOOK_S = 0.2


async def _main(task: dict[str, Any]) -> None:
    fleets: list[Fleet] = []
    async with anyio.create_task_group() as tg:
        while line := await anyio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
            wish = json.loads(line)
            if wish["do"] == "add":
                answer = await _add(fleets, tg, task, wish["hosts"])
            else:
                answer = await _until(fleets, lambda now: now.clusters >= now.hosts)
            print(json.dumps(answer), flush=True)
        tg.cancel_scope.cancel()


async def _add(
    fleets: list[Fleet], tg: anyio.abc.TaskGroup, task: dict[str, Any], hosts: int
) -> dict[str, Any]:
    fleet = Fleet(
        manager=task["server"],
        authority_pem=task["ca"],
        hosts=hosts,
        sites=SITES,
        first=sum(item.hosts for item in fleets),
        token=task["token"],
    )
    fleets.append(fleet)
    tg.start_soon(partial(fleet.run))
    total = sum(item.hosts for item in fleets)
    return await _until(fleets, lambda now: now.online >= total)


async def _until(fleets: list[Fleet], done: Callable[[FleetCount], bool]) -> dict[str, Any]:
    clock = SystemClock()
    started = clock.monotonic()
    while not done(_sum(fleets)):
        await clock.sleep(_LOOK_S)
    took_s = clock.monotonic() - started
    gc.collect()
    names = [fleet.place_of(number)[0] for fleet in fleets for number in fleet_numbers(fleet)]
    memory = accounting.memory([os.getpid()])
    return {"took_s": took_s, "rss_kb": memory.rss_kb, "names": names}


def fleet_numbers(fleet: Fleet) -> range:
    """The numbers of a fleet's hosts."""
    return range(fleet.first, fleet.first + fleet.hosts)


def _sum(fleets: list[Fleet]) -> FleetCount:
    counts = [fleet.count() for fleet in fleets]
    return FleetCount(
        hosts=sum(item.hosts for item in counts),
        online=sum(item.online for item in counts),
        clusters=sum(item.clusters for item in counts),
    )


if __name__ == "__main__":
    log_to_stderr("error")
    anyio.run(_main, json.loads(sys.stdin.readline()))
