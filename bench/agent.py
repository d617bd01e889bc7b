"""What a host installs: size of the agent's archive, and what the frozen program needs to start.

The agent at work, beside a real manager, is part of the `node` benchmark, because only a real host
has something to look after.
"""

from __future__ import annotations

import os
import time

from bench import accounting
from bench.figures import Benchmark, Figure, Surroundings, Values
from skerry.builder.agent import build_agent
from skerry.builder.cache import default_cache
from skerry.lib.proc import SystemRunner

_STARTS = 10


async def _run(around: Surroundings) -> Values:
    runner = SystemRunner()
    archive = await build_agent(
        cache=default_cache(os.environ),
        runner=runner,
        lock=around.checkout / "requirements" / "dev.txt",
    )
    await runner.run(["tar", "-xzf", str(archive.path), "-C", str(around.folder)], timeout_s=120)
    program = str(around.folder / "skerry-agent" / "skerry-agent")
    # The first start reads the files; hosts start the agent with a boot, so it is left out.
    await runner.run([program, "--version"], timeout_s=60)
    before, started = accounting.used([os.getpid()]), time.perf_counter()
    for _ in range(_STARTS):
        await runner.run([program, "--version"], timeout_s=60)
    took_s = time.perf_counter() - started
    cpu_s = accounting.used([os.getpid()]).cpu_s - before.cpu_s
    return {
        "archive": archive.info.size_bytes / 1e6,
        "unpacked": archive.info.unpacked_bytes / 1e6,
        "start": took_s / _STARTS * 1000,
        "start_cpu": cpu_s / _STARTS * 1000,
    }


BENCHMARK = Benchmark(
    name="agent",
    about="the agent's archive and its start",
    figures=(
        Figure("archive", "agent: archive", "MB"),
        Figure("unpacked", "agent: unpacked", "MB"),
        Figure("start", "agent: start to exit, files in memory", "ms"),
        Figure("start_cpu", "agent: CPU of a start", "ms"),
    ),
    run=_run,
)
