"""Screen and serial line at once: what is said goes to all, and whoever answers first is heard."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Protocol

import anyio

from skerry.lib.errors import SkerryError
from skerry.lib.files import Root, text_of

_MAX_LINE = 4096


class NobodyThere(SkerryError):
    """No terminal is left on which anybody could answer."""

    def __init__(self) -> None:
        super().__init__(
            "there is nobody to ask: no terminal answers",
            hint="give site data with install.unattended: true, or connect a screen",
        )


class Terminals(Protocol):
    """Whoever sits before this machine."""

    def say(self, text: str = "") -> None:
        """Lines of text, to everybody."""
        ...

    async def ask(self, prompt: str) -> str:
        """The line that was typed, without white space around it. Raises NobodyThere."""
        ...


class TtyTerminals:
    """Terminals by their devices; without any, standard input and output."""

    def __init__(self, devices: Sequence[str] = ()) -> None:
        self._ends: dict[int, int] = {}
        for device in devices:
            with contextlib.suppress(OSError):
                fd = os.open(device, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
                self._ends[fd] = fd
        if not devices:
            self._ends[sys.stdin.fileno()] = sys.stdout.fileno()
        self._typed = dict.fromkeys(self._ends, b"")

    def say(self, text: str = "") -> None:
        self._put(text + "\n")

    async def ask(self, prompt: str) -> str:
        self._put(prompt)
        answer: list[str] = []
        while not answer:
            for fd in list(self._ends):
                if not answer and b"\n" in self._typed[fd]:
                    line, self._typed[fd] = self._typed[fd].split(b"\n", 1)
                    answer.append(line.decode(errors="replace").strip())
            if answer:
                break
            if not self._ends:
                raise NobodyThere
            async with anyio.create_task_group() as tg:
                for fd in list(self._ends):
                    tg.start_soon(self._listen, fd, tg.cancel_scope)
        return answer[0]

    async def _listen(self, fd: int, scope: anyio.CancelScope) -> None:
        await anyio.wait_readable(fd)
        try:
            data = os.read(fd, _MAX_LINE)
        except OSError:
            data = b""
        if data:
            # A line that never ends is forgotten, not kept.
            self._typed[fd] = (self._typed[fd] + data)[-_MAX_LINE:]
        else:
            self._ends.pop(fd, None)
        scope.cancel()

    def _put(self, text: str) -> None:
        for fd in set(self._ends.values()):
            with contextlib.suppress(OSError):
                os.write(fd, text.encode())


def console_devices(root: Root) -> list[str]:
    """The kernel's consoles (sysfs-tty, console/active); the first screen for "tty0"."""
    names = text_of(root, "/sys/class/tty/console/active").split()
    return [f"/dev/{'tty1' if name == 'tty0' else name}" for name in names[:4]]
