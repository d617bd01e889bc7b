"""`./dev up` as a person runs it, from the command to the two lines that matter.

It gets a state folder, a home and a port note of its own, and only the cache of built things is
shared: what is measured is the second time on a computer, not the building of Kubernetes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
from anyio.streams.text import TextReceiveStream

from bench.figures import Benchmark, Figure, Surroundings, Values
from bench.node import VERSION
from skerry.builder.agent import build_agent
from skerry.builder.cache import default_cache
from skerry.builder.example import build_example, example_versions
from skerry.builder.release import build_release
from skerry.lib.clock import SystemClock
from skerry.lib.proc import SystemRunner

_LIMIT_S = 600.0
_STOP_S = 120.0
_LOGIN, _FLEET = "login ", "hosts registered"
_RUNNING = "cluster harbour Running"


async def _run(around: Surroundings) -> Values:
    await _warm(around.checkout)
    env = _environment(around.folder)
    try:
        first = await _up(around, env)
        again = await _up(around, env)
    finally:
        with anyio.CancelScope(shield=True):
            await SystemRunner().run(
                ["./dev", "down"], timeout_s=_STOP_S, env=env, cwd=str(around.checkout)
            )
    return {
        "login": first[_LOGIN],
        "fleet": first[_FLEET],
        "running": first[_RUNNING],
        "again_login": again[_LOGIN],
        "again_running": again[_RUNNING],
    }


async def _up(around: Surroundings, env: dict[str, str]) -> dict[str, float]:
    """Seconds to each line."""
    clock, seen = SystemClock(), dict[str, float]()
    started = clock.monotonic()
    lines: list[str] = []
    async with _started(around.checkout, env) as process:
        assert process.stdout is not None
        rest = ""
        with anyio.fail_after(_LIMIT_S):
            async for text in TextReceiveStream(process.stdout):
                *whole, rest = (rest + text).split("\n")
                lines += whole
                for line in whole:
                    for mark in (_LOGIN, _FLEET, _RUNNING):
                        if mark in line:
                            seen.setdefault(mark, clock.monotonic() - started)
                            around.tell(f"{line.strip()} ({seen[mark]:.1f} s)")
                if len(seen) == 3:
                    break
    if len(seen) < 3:
        raise RuntimeError("'./dev up' ended early:\n" + "\n".join(lines[-20:]))
    return seen


@contextlib.asynccontextmanager
async def _started(checkout: Path, env: dict[str, str]) -> AsyncIterator[anyio.abc.Process]:
    """Ctrl-C at the end, as a person does it; what does not stop in time is killed."""
    process = await anyio.open_process(
        ["./dev", "up"],
        cwd=checkout,
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with anyio.CancelScope(shield=True):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)
            with anyio.move_on_after(_STOP_S):
                assert process.stdout is not None
                async for _ in process.stdout:
                    pass  # a full pipe would keep it from ending
                await process.wait()
            if process.returncode is None:
                process.kill()
            await process.aclose()


async def _warm(checkout: Path) -> None:
    """Everything that `up` takes from the cache is there before the clock starts."""
    cache, runner = default_cache(os.environ), SystemRunner()
    await build_agent(cache=cache, runner=runner, lock=checkout / "requirements" / "dev.txt")
    await build_release(VERSION, cache=cache, runner=runner, env=os.environ)
    for version in example_versions():
        await build_example(version, cache=cache, runner=runner)


def _environment(folder: Path) -> dict[str, str]:
    """Nothing of the person's own is read or written: contexts and state lie in `folder`."""
    return {
        "HOME": str(folder / "home"),
        "XDG_CONFIG_HOME": str(folder / "home" / ".config"),
        "SKERRY_CONFIG": str(folder / "home" / "skerry.yaml"),
        "SKERRY_STATE": str(folder / "up"),
        "SKERRY_CACHE": str(default_cache(os.environ).base),
    }


BENCHMARK = Benchmark(
    name="up",
    about="time from './dev up' to login and to a Running cluster, cache warm",
    needs_root=True,
    figures=(
        Figure("login", "./dev up: to the login line", "s", target=60),
        Figure("fleet", "./dev up: to 60 simulated hosts registered", "s"),
        Figure("running", "./dev up: to 'cluster harbour Running'", "s"),
        Figure("again_login", "./dev up again: to the login line", "s"),
        Figure("again_running", "./dev up again: to 'cluster harbour Running'", "s"),
    ),
    run=_run,
)
