"""A manager in a process of its own, console included, as `skerry serve` runs it.

`managed` is the benchmark's side; run as a module this file is the manager's process. Settings
that a benchmark changes are its to state.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from bench.processes import Child, child
from skerry.cli.logs import log_to_stderr
from skerry.client.api import Api
from skerry.client.contexts import Context
from skerry.console.app import console_routes
from skerry.lab.inprocess import running_manager
from skerry.manager.settings import Settings

_START_S = 60.0


@dataclass(frozen=True, slots=True)
class Managed:
    """A manager that answers, seen from outside."""

    child: Child
    context: Context
    api: Api
    data: Path

    @property
    def pid(self) -> int:
        return self.child.pid


@contextlib.asynccontextmanager
async def managed(
    checkout: Path, folder: Path, *, core: int | None, settings: Mapping[str, Any]
) -> AsyncIterator[Managed]:
    """Serve while the block runs, with everything in `folder`."""
    data = folder / "manager"
    task = {**settings, "data": str(data)}
    log = folder / "manager.log"
    async with child("bench.manager", task, checkout=checkout, log=log, core=core) as process:
        told = await process.hear(limit_s=_START_S)
        context = Context(name="bench", **told)
        async with Api(context) as api:
            yield Managed(child=process, context=context, api=api, data=data)


async def _serve(task: Mapping[str, Any]) -> None:
    lists = {key: _tuples(value) for key, value in task.items() if isinstance(value, list)}
    settings = Settings(**{**task, **lists})
    key_file = Path(settings.data).parent / "api-key"
    async with running_manager(settings, key_file, console=console_routes) as running:
        context = running.context
        told = {"server": context.server, "ca": context.ca, "token": context.token}
        print(json.dumps(told), flush=True)
        await anyio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)


def _tuples(value: Any) -> Any:
    """JSON has no tuples, settings have nothing else."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


if __name__ == "__main__":
    log_to_stderr()
    anyio.run(_serve, json.loads(sys.stdin.readline()))
