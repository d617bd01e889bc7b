"""What one more simulated host costs, measured in a process of its own."""

from __future__ import annotations

import json
import sys

import anyio
import pytest
from tests.integration.sim.conftest import Manager

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

LIMIT_KB = 100

_SCRIPT = """
import gc, json, logging, sys
import anyio, structlog
from skerry.sim import Fleet

structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
url, authority, token, some, more = json.load(sys.stdin)

def resident_kb():
    gc.collect()
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))

async def started(tg, first, hosts):
    fleet = Fleet(url, authority, hosts, 20, first=first, token=token)
    tg.start_soon(fleet.run)
    while fleet.count().online < hosts:
        await anyio.sleep(0.2)
    await anyio.sleep(3)
    return resident_kb()

async def main():
    async with anyio.create_task_group() as tg:
        before = await started(tg, 0, some)
        after = await started(tg, some, more)
        print(json.dumps((after - before) / more))
        tg.cancel_scope.cancel()

anyio.run(main)
"""


async def test_a_further_host_costs_little_memory(manager: Manager) -> None:
    token = await manager.token(autoApprove=True)
    told = [manager.url, manager.authority_pem, token, 40, 150]

    with anyio.fail_after(90):
        done = await anyio.run_process(
            [sys.executable, "-c", _SCRIPT], input=json.dumps(told).encode(), stderr=None
        )

    each_kb = json.loads(done.stdout)
    print(f"{each_kb:.1f} KB for each further host")
    assert 0 < each_kb < LIMIT_KB
