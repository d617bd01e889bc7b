"""Building the example appliance: with nothing in the cache, and with one changed file.

The agent is built before the clock starts: it has its own cache and changes with the sources.
"""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

from bench.figures import Benchmark, Figure, Good, Surroundings, Values
from skerry.builder.agent import build_agent
from skerry.builder.cache import Cache, default_cache
from skerry.builder.image.build import Build, open_job
from skerry.builder.image.deliver import Delivery, deliver
from skerry.builder.image.journal import BuildLog
from skerry.builder.image.keys import ImageKeys, create_keys, open_keys
from skerry.lib.clock import SystemClock
from skerry.lib.oci import file_digest
from skerry.lib.proc import SystemRunner

_MB = 1_000_000
_FILE = "  files:\n  - {path: /etc/motd, content: changed}\n"


async def _run(around: Surroundings) -> Values:
    agent = await build_agent(
        cache=default_cache(os.environ),
        runner=SystemRunner(),
        lock=around.checkout / "requirements" / "dev.txt",
    )
    create_keys(around.folder / "keys", organisation="bench", now=SystemClock().now())
    keys = open_keys(around.folder / "keys")
    file = around.folder / "image.yaml"
    shutil.copyfile(around.checkout / "examples" / "appliance.yaml", file)
    try:
        around.tell("image: nothing in the cache")
        made, cold = await _build(around, file, keys, agent.path)
        with file.open("a") as writing:
            writing.write(_FILE)
        around.tell("image: one changed file")
        _, warm = await _build(around, file, keys, agent.path)
        return {
            "cold": cold,
            "warm": warm,
            "root": _size(made.folder / "root.erofs"),
            "uki": _size(made.folder / "uki.efi"),
            "artifact": made.artifact.size_bytes / _MB,
            "disk": made.disk.stat().st_blocks * 512 / _MB,
        }
    finally:
        shutil.rmtree(around.folder / "cache", ignore_errors=True)
        shutil.rmtree(around.folder / "out", ignore_errors=True)


async def _build(
    around: Surroundings, file: Path, keys: ImageKeys, archive: Path
) -> tuple[Delivery, float]:
    job = open_job(file, keys, agent=file_digest(archive)[0], archive=archive)
    log = BuildLog(io.StringIO(), SystemClock())
    cache = Cache(around.folder / "cache")
    build = Build(
        job, cache=cache, runner=SystemRunner(), log=log, tell=lambda _step, _event, _s: None
    )
    await build.run()
    made = await deliver(build, around.folder / "out", clock=SystemClock())
    return made, log.seconds


def _size(path: Path) -> float:
    return path.stat().st_size / _MB


BENCHMARK = Benchmark(
    name="image",
    about="building the example appliance, and how large it is",
    needs_root=True,
    figures=(
        Figure("cold", "image build, nothing in the cache", "s", target=300),
        Figure("warm", "image build, one changed file", "s", target=90),
        Figure("root", "root file system", "MB"),
        Figure("uki", "boot image", "MB", target=45 * 1.048576, good=Good.LESS),
        Figure("artifact", "update, full", "MB"),
        Figure("disk", "raw disk, what it takes", "MB"),
    ),
    run=_run,
)
