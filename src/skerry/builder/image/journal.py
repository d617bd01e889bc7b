"""The log of a build, for a person: every step, every command with its output, with seconds."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import IO

from skerry.lib.clock import Clock
from skerry.lib.proc import CommandFailed, Result, Runner

_MAX_OUTPUT = 20_000


class BuildLog:
    """Lines with the seconds since the build began."""

    def __init__(self, out: IO[str], clock: Clock) -> None:
        self._out = out
        self._clock = clock
        self._began = clock.monotonic()
        out.write(f"begun {clock.now():%Y-%m-%d %H:%M:%S} UTC\n")

    @property
    def seconds(self) -> float:
        """Seconds since the begin."""
        return self._clock.monotonic() - self._began

    def write(self, text: str) -> None:
        """One line, or an indented block below the time."""
        self._out.write(f"{self.seconds:8.1f}  {text}\n")
        self._out.flush()

    def block(self, text: str) -> None:
        """Output of a program."""
        kept = text if len(text) <= _MAX_OUTPUT else f"...\n{text[-_MAX_OUTPUT:]}"
        for line in kept.splitlines():
            self._out.write(f"          | {line}\n")


class LoggedRunner:
    """Runs commands by another runner and writes them down. Input is not: it may be secret."""

    def __init__(self, inner: Runner, log: BuildLog) -> None:
        self._inner = inner
        self._log = log

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
        """As `Runner.run`."""
        self._log.write(f"$ {_short(argv)}")
        try:
            result = await self._inner.run(
                argv, timeout_s=timeout_s, check=check, stdin=stdin, env=env, cwd=cwd
            )
        except CommandFailed as exc:
            self._log.block(exc.result.stdout)
            self._log.block(exc.result.stderr)
            self._log.write(f"exit code {exc.result.code}")
            raise
        self._log.block(result.stdout)
        self._log.block(result.stderr)
        return result


def _short(argv: Sequence[str]) -> str:
    """The command without the words that only enter the tree of tools."""
    words = list(argv)
    if words[:2] == ["nice", "unshare"] and len(words) > 9:
        words = ["(tools)", *words[9:]]
    return shlex.join(words).replace("'(tools)'", "(tools)")
