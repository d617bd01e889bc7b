"""Children of a benchmark: a manager and a load generator, each in a process of its own.

A child reads one JSON line with its task and answers with JSON lines. It ends when its standard
input ends, so nothing outlives a benchmark that was stopped.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
from anyio.streams.text import TextReceiveStream

from bench import machine

_END_S = 30.0


@dataclass
class Child:
    """A running child. `pid` is for accounting."""

    process: anyio.abc.Process
    log: Path
    _rest: str = ""

    @property
    def pid(self) -> int:
        return self.process.pid

    async def say(self, message: Mapping[str, Any]) -> None:
        """Send one line."""
        assert self.process.stdin is not None
        await self.process.stdin.send(json.dumps(message).encode() + b"\n")

    async def hear(self, *, limit_s: float) -> dict[str, Any]:
        """The child's next line. Raises RuntimeError when it ended, TimeoutError."""
        assert self.process.stdout is not None
        with anyio.fail_after(limit_s):
            while "\n" not in self._rest:
                try:
                    self._rest += await TextReceiveStream(self.process.stdout).receive()
                except anyio.EndOfStream:
                    tail = self.log.read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"a measuring process ended early:\n{tail}") from None
        line, _, self._rest = self._rest.partition("\n")
        return dict(json.loads(line))


@contextlib.asynccontextmanager
async def child(
    module: str, task: Mapping[str, Any], *, checkout: Path, log: Path, core: int | None
) -> AsyncIterator[Child]:
    """Run `python -m MODULE` while the block runs, on one core if one is named."""
    pin = ["taskset", "--cpu-list", str(core)] if core is not None else []
    with log.open("ab") as stream:
        process = await anyio.open_process(
            [*pin, machine.python(), "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stream,
            env=machine.child_environment(checkout, os.environ),
            cwd=checkout,
            start_new_session=True,
        )
    running = Child(process, log)
    try:
        await running.say(task)
        yield running
    finally:
        with anyio.CancelScope(shield=True):
            await _end(process)


async def _end(process: anyio.abc.Process) -> None:
    assert process.stdin is not None
    with contextlib.suppress(OSError, anyio.BrokenResourceError):
        await process.stdin.aclose()
    with anyio.move_on_after(_END_S):
        await process.wait()
    if process.returncode is None:
        process.kill()
    await process.aclose()
