"""The only door to other programs.

Commands are lists, always with a time limit, run by a `Runner` that was passed in. A failure
carries the command line ready to paste. Secrets go through `stdin` or `env`, never through argv,
because argv is readable by every process on the machine.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess  # the one place that may
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import anyio
import anyio.abc

from skerry.lib.errors import SkerryError

_TAIL_CHARS = 2000


@dataclass(frozen=True, slots=True)
class Result:
    """What a finished command left. `stdout` and `stderr` are text, undecodable bytes replaced."""

    argv: tuple[str, ...]
    code: int
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        return self.code == 0


class CommandFailed(SkerryError):
    """A command ended with a non-zero code."""

    def __init__(self, result: Result, *, hint: str = "", reason: str = "") -> None:
        self.result = result
        tail = (result.stderr.strip() or result.stdout.strip())[-_TAIL_CHARS:]
        super().__init__(
            f"command failed with exit code {result.code}: {shlex.join(result.argv)}"
            + (f"\n{tail}" if tail else ""),
            hint=hint,
            reason=reason,
            retryable=True,
        )


class CommandTimedOut(SkerryError):
    """A command did not end within its limit and was killed with its children."""

    def __init__(self, argv: Sequence[str], timeout_s: float) -> None:
        self.argv = tuple(argv)
        super().__init__(
            f"command did not end within {timeout_s:g} s: {shlex.join(argv)}", retryable=True
        )


class CommandMissing(SkerryError):
    """The program is not on this machine."""

    def __init__(self, program: str) -> None:
        super().__init__(f"program not found: {program}", hint=f"install {program}")


class Runner(Protocol):
    """Runs one command to its end."""

    async def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        check: bool = True,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> Result:
        """Run `argv`; `env` is added to the inherited environment.

        Raises CommandFailed (when `check`), CommandTimedOut, CommandMissing.
        """
        ...


class SystemRunner:
    """Runs commands on this machine, each in its own process group."""

    async def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        check: bool = True,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> Result:
        full_env = {**_inherited(), **(env or {})}
        try:
            process = await anyio.open_process(
                list(argv),
                stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=full_env,
                cwd=cwd,
                start_new_session=True,
            )
        except FileNotFoundError as exc:
            raise CommandMissing(argv[0]) from exc
        out = bytearray()
        err = bytearray()
        with anyio.move_on_after(timeout_s) as scope:
            try:
                async with anyio.create_task_group() as tg:
                    tg.start_soon(_drain, process.stdout, out)
                    tg.start_soon(_drain, process.stderr, err)
                    if stdin is not None and process.stdin is not None:
                        tg.start_soon(_feed, process.stdin, stdin)
                    await process.wait()
            finally:
                if process.returncode is None:
                    _kill_group(process.pid)
                with anyio.CancelScope(shield=True):
                    await process.wait()
                    await process.aclose()
        if scope.cancelled_caught:
            raise CommandTimedOut(argv, timeout_s)
        result = Result(
            tuple(argv),
            process.returncode if process.returncode is not None else -1,
            out.decode(errors="replace"),
            err.decode(errors="replace"),
        )
        if check and result.code != 0:
            raise CommandFailed(result)
        return result


def _inherited() -> dict[str, str]:
    """Our environment as other programs should see it.

    The bundled agent runs with its own libraries first (PyInstaller, "Runtime information",
    LD_LIBRARY_PATH considerations); system programs must not load those.
    """
    env = dict(os.environ)
    if getattr(sys, "frozen", False):
        original = env.pop("LD_LIBRARY_PATH_ORIG", None)
        env.pop("LD_LIBRARY_PATH", None)
        if original:
            env["LD_LIBRARY_PATH"] = original
    return env


async def _drain(stream: anyio.abc.ByteReceiveStream | None, into: bytearray) -> None:
    if stream is not None:
        async for chunk in stream:
            into.extend(chunk)


async def _feed(stream: anyio.abc.ByteSendStream, data: bytes) -> None:
    try:
        await stream.send(data)
        await stream.aclose()
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        pass  # The command ended without reading its input; its exit code tells the story.


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it may end between the check and the kill
        os.killpg(pid, signal.SIGKILL)


Answer = Callable[[tuple[str, ...]], Result | None]


@dataclass
class FakeRunner:
    """Records every command and answers from a script, for tests and simulation.

    Rules are tried newest first: the first whose `prefix` matches the start of argv answers.
    A command that no rule matches succeeds with no output.
    """

    calls: list[tuple[str, ...]] = field(default_factory=list)
    inputs: list[bytes | None] = field(default_factory=list)
    _rules: list[tuple[tuple[str, ...], Answer]] = field(default_factory=list)

    def answer(self, *prefix: str, stdout: str = "", stderr: str = "", exit_code: int = 0) -> None:
        """Answer commands that start with `prefix`."""
        self._rules.append((prefix, lambda argv: Result(argv, exit_code, stdout, stderr)))

    def answer_with(self, *prefix: str, answer: Answer) -> None:
        """Answer commands that start with `prefix` by a function; None means: the next rule."""
        self._rules.append((prefix, answer))

    def fail(self, *prefix: str, stderr: str = "", exit_code: int = 1) -> None:
        """Let commands that start with `prefix` fail."""
        self.answer(*prefix, stderr=stderr, exit_code=exit_code)

    def called(self, *prefix: str) -> bool:
        """Whether a command that starts with `prefix` was run."""
        return any(call[: len(prefix)] == prefix for call in self.calls)

    async def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        check: bool = True,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> Result:
        call = tuple(argv)
        self.calls.append(call)
        self.inputs.append(stdin)
        result = Result(call, 0, "", "")
        for prefix, answer in reversed(self._rules):
            if call[: len(prefix)] == prefix and (found := answer(call)) is not None:
                result = found
                break
        if check and result.code != 0:
            raise CommandFailed(result)
        return result
