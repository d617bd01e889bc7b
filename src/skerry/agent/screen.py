"""`skerry-agent screen`: tty1, redrawn when something changed.

A process of its own: what it needs to draw is no part of the agent's memory, and it goes on
showing the last words of an agent that died.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from skerry.agent import facts
from skerry.agent.firstboot import load_site_state
from skerry.agent.networks import nics_of
from skerry.agent.screentext import RESET, ScreenFacts, render
from skerry.agent.sync import LocalStatus, load_status
from skerry.lib.clock import Clock
from skerry.lib.errors import SkerryError
from skerry.lib.files import Root, text_of
from skerry.lib.proc import Runner

_EVERY_S = 3.0
_SLOW_S = 15.0
# The kernel may have written over it meanwhile.
_HEAL_S = 60.0
_UTF8 = "\x1b%G"
_HIDE, _SHOW = "\x1b[?25l", "\x1b[?25h"
_HOME, _CLEAR = "\x1b[H", "\x1b[2J"


class Display(Protocol):
    """A terminal to draw on."""

    def size(self) -> tuple[int, int]:
        """Columns and rows."""
        ...

    def put(self, text: str) -> None: ...


class TtyDisplay:
    """A terminal by its device, or standard output."""

    def __init__(self, device: str = "") -> None:
        self._fd = os.open(device, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC) if device else 1

    def size(self) -> tuple[int, int]:
        try:
            columns, rows = os.get_terminal_size(self._fd)
        except OSError:
            columns, rows = 0, 0
        return columns or 80, rows or 25

    def put(self, text: str) -> None:
        data = memoryview(text.encode())
        while data:
            data = data[os.write(self._fd, data) :]


@dataclass
class Screen:
    """The loop and what it remembers between two looks."""

    root: Root
    runner: Runner
    clock: Clock
    display: Display
    _addresses: tuple[str, ...] = ()
    _service: str = ""
    _slow_at: float = field(default=float("-inf"))
    _shown: tuple[str, ...] = ()
    _drawn_at: float = field(default=float("-inf"))

    async def run(self, *, goes_on: Callable[[], bool] = lambda: True) -> None:
        """Draw until cancelled, or until `goes_on` says no; the terminal is left as it was."""
        self.display.put(f"{_UTF8}{RESET}{_HIDE}{_CLEAR}")
        try:
            while goes_on():
                await self.turn()
                await self.clock.sleep(_EVERY_S)
        finally:
            with contextlib.suppress(OSError):
                self.display.put(f"{RESET}{_CLEAR}{_HOME}{_SHOW}")

    async def turn(self) -> None:
        """Look once, and draw if it is not what is shown."""
        columns, rows = self.display.size()
        lines = render(await self.look(), columns=columns, rows=rows)
        now = self.clock.monotonic()
        if lines == self._shown and now - self._drawn_at < _HEAL_S:
            return
        self.display.put(draw(lines))
        self._shown, self._drawn_at = lines, now

    async def look(self) -> ScreenFacts:
        """The facts now. Never raises for what is broken: that is when the screen is needed."""
        await self._look_slowly()
        return ScreenFacts(
            host_name=text_of(self.root, "/proc/sys/kernel/hostname"),
            system=system_name(text_of(self.root, "/etc/os-release")),
            addresses=self._addresses,
            status=self._status(),
            site=load_site_state(self.root),
            service=self._service,
        )

    async def _look_slowly(self) -> None:
        """What needs other programs, less often."""
        now = self.clock.monotonic()
        if now - self._slow_at < _SLOW_S:
            return
        self._slow_at = now
        nics = await nics_of(self.root, self.runner)
        self._addresses = facts.addresses_of_nics(nics)
        self._service = ""
        with contextlib.suppress(SkerryError):
            argv = ["systemctl", "is-active", "skerry-agent.service"]
            result = await self.runner.run(argv, timeout_s=10, check=False)
            self._service = result.stdout.strip()

    def _status(self) -> LocalStatus | None:
        try:
            return load_status(self.root)
        except (SkerryError, OSError, msgspec.DecodeError):
            return None


def draw(lines: tuple[str, ...]) -> str:
    """One write that replaces the whole screen without clearing it, so that nothing flickers.

    Nothing is cleared at a line's end either: behind a full line that takes its last sign."""
    return f"{_HIDE}{RESET}{_HOME}" + "\r\n".join(lines) + RESET


def system_name(os_release: str) -> str:
    """The image's name and version (os-release(5)), or the distribution's."""
    fields = dict(_pair(line) for line in os_release.splitlines() if "=" in line)
    name, version = fields.get("IMAGE_ID", ""), fields.get("IMAGE_VERSION", "")
    return f"{name} {version}".strip() or fields.get("PRETTY_NAME", "")


def _pair(line: str) -> tuple[str, str]:
    key, _, value = line.partition("=")
    return key.strip(), value.strip().strip("\"'")
