"""QEMU's control socket: one command, one answer (qemu.org, QEMU Machine Protocol)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio

from skerry.lab.errors import HostFailed

_MAX_LINE_BYTES = 1 << 20


async def qmp(socket: Path, command: str, *, timeout_s: float = 15.0, **arguments: Any) -> Any:
    """Carry out a command; what it returned. Raises HostFailed."""
    words: dict[str, Any] = {"execute": command}
    if arguments:
        words["arguments"] = arguments
    try:
        with anyio.fail_after(timeout_s):
            async with await anyio.connect_unix(socket) as stream:
                lines = _Lines(stream)
                await lines.answer()  # the greeting
                for asked in ({"execute": "qmp_capabilities"}, words):
                    await stream.send(json.dumps(asked).encode() + b"\n")
                    said = await lines.answer()
    except (OSError, anyio.EndOfStream, anyio.BrokenResourceError, TimeoutError) as exc:
        raise HostFailed(f"QEMU does not answer {command} on {socket}") from exc
    if "error" in said:
        raise HostFailed(f"QEMU refuses {command}: {said['error'].get('desc', '')}")
    return said.get("return")


class _Lines:
    def __init__(self, stream: anyio.abc.SocketStream) -> None:
        self._stream = stream
        self._left = b""

    async def answer(self) -> dict[str, Any]:
        """The next object that is no event."""
        while True:
            while b"\n" not in self._left:
                if len(self._left) > _MAX_LINE_BYTES:
                    raise HostFailed("QEMU says too much on its control socket")
                self._left += await self._stream.receive()
            line, _, self._left = self._left.partition(b"\n")
            found = json.loads(line)
            if isinstance(found, dict) and "event" not in found:
                return found
