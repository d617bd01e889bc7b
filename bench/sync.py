"""How many idle heartbeats one manager process serves, over TLS with signatures both ways.

Manager and load have a core each. The load's requests are signed beforehand, so the manager is the
narrow place; how busy the load's core was is in the table to show it.
"""

from __future__ import annotations

from bench import accounting, machine
from bench.figures import Benchmark, Figure, Good, Surroundings, Values
from bench.manager import managed
from bench.processes import child
from skerry.lab.content import site_documents
from skerry.lab.onboarding import ensure, new_token
from skerry.sim import harbours

HOSTS = 200
_EACH = 40
_CONNECTIONS = 25
_SETTLE_S = 3.0
_SETTINGS = {"port": 0, "sync_interval_s": 1, "busy_interval_s": 1, "enrol_burst": HOSTS}


async def _run(around: Surroundings) -> Values:
    pair = machine.cores()
    ours, other = pair or (None, None)
    async with managed(around.checkout, around.folder, core=ours, settings=_SETTINGS) as manager:
        for document in site_documents(harbours(20)):
            await ensure(manager.api, document)
        token = await new_token(manager.api, "bench", {"autoApprove": True})
        task = {
            "server": manager.context.server,
            "ca": manager.context.ca,
            "token": token["secret"],
            "hosts": HOSTS,
            "each": _EACH,
            "connections": _CONNECTIONS,
            "settle_s": _SETTLE_S,
        }
        log = around.folder / "load.log"
        async with child(
            "bench.sync_load", task, checkout=around.checkout, log=log, core=other
        ) as load:
            ready = await load.hear(limit_s=300)
            around.tell(f"{ready['ready']} heartbeats of {HOSTS} hosts are signed")
            await load.say({})
            await load.hear(limit_s=60)
            before = accounting.used([manager.pid])
            await load.say({})
            done = await load.hear(limit_s=300)
            after = accounting.used([manager.pid])
    cpu_s = after.cpu_s - before.cpu_s
    return {
        "rate": done["count"] / done["took_s"],
        "cpu": cpu_s / done["count"] * 1000,
        "manager_busy": cpu_s / done["took_s"] * 100,
        "load_busy": done["cpu_s"] / done["took_s"] * 100,
        "request": done["sent"],
        "answer": done["received"],
    }


BENCHMARK = Benchmark(
    name="sync",
    about="heartbeats that one manager process serves over TLS",
    figures=(
        Figure("rate", "heartbeats served by one process", "1/s", target=417, good=Good.MORE),
        Figure("cpu", "manager: CPU per heartbeat", "ms"),
        Figure("manager_busy", "manager's core busy meanwhile", "%"),
        Figure("load_busy", "load's core busy meanwhile", "%"),
        Figure("request", "idle heartbeat: request, HTTP without TLS", "bytes"),
        Figure("answer", "idle heartbeat: answer, HTTP without TLS", "bytes"),
    ),
    run=_run,
)
