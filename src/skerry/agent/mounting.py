"""The door to file systems on other devices: mounted for a moment, seen as a Root."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import anyio

from skerry.agent import paths
from skerry.lib.files import DiskRoot, Root
from skerry.lib.proc import Runner

_READ_ONLY = "ro,nodev,nosuid,noexec"
_WRITABLE = "rw,nodev,nosuid,noexec"
_MOUNT_S = 60
# A slow stick takes its time to write what the kernel still holds.
_UMOUNT_S = 600


class Mounts(Protocol):
    """Opens file systems. What was written is on the device when the context is left."""

    def opened(
        self, device: str, kind: str, *, writable: bool = False
    ) -> AbstractAsyncContextManager[Root]:
        """The file system of a device. Entering raises CommandFailed."""
        ...


@dataclass(frozen=True, slots=True)
class KernelMounts:
    """By mount(8), below /run/skerry/mounts."""

    root: Root
    runner: Runner

    @asynccontextmanager
    async def opened(
        self, device: str, kind: str, *, writable: bool = False
    ) -> AsyncIterator[Root]:
        place = f"{paths.RUN}/mounts/{device.rsplit('/', 1)[-1]}"
        self.root.mkdir(place, mode=0o700)
        path = self.root.host_path(place)
        options = _WRITABLE if writable else _READ_ONLY
        await self.runner.run(
            ["mount", "-t", kind, "-o", options, device, path], timeout_s=_MOUNT_S
        )
        try:
            yield DiskRoot(path)
        finally:
            with anyio.CancelScope(shield=True):
                await self.runner.run(["umount", path], timeout_s=_UMOUNT_S)
