"""The door to whole devices: partitions and disks that are written without a file system.

Nothing here is atomic. A write has reached the device when `flush` returned; `read` and `chunks`
look at the device, not at what the kernel remembers of the last write.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Protocol

from skerry.lib.errors import SkerryError

CHUNK = 1 << 20


class DeviceFailed(SkerryError):
    """A device could not be read or written."""

    def __init__(self, device: str, doing: str, exc: OSError) -> None:
        super().__init__(
            f"cannot {doing} {device}: {exc.strerror or exc}",
            hint="look at the kernel's messages (dmesg); the disk may be broken",
            retryable=True,
        )


class Blocks(Protocol):
    """Devices by path. Every call raises DeviceFailed."""

    def size(self, device: str) -> int:
        """Bytes."""
        ...

    def read(self, device: str, offset: int, size: int) -> bytes:
        """At most `size` bytes; fewer at the end."""
        ...

    def chunks(self, device: str, size: int) -> Iterator[bytes]:
        """The first `size` bytes in pieces; they end early where the device does."""
        ...

    def write(self, device: str, offset: int, chunks: Iterable[bytes]) -> int:
        """Write from `offset`; the bytes written. Not durable before `flush`."""
        ...

    def flush(self, device: str) -> None:
        """What was written is on the device, through its own cache."""
        ...


class SystemBlocks:
    """The devices of this machine."""

    def size(self, device: str) -> int:
        with _opened(device, os.O_RDONLY, "read") as fd:
            return os.lseek(fd.number, 0, os.SEEK_END)

    def read(self, device: str, offset: int, size: int) -> bytes:
        with _opened(device, os.O_RDONLY, "read") as fd:
            os.posix_fadvise(fd.number, offset, size, os.POSIX_FADV_DONTNEED)
            return os.pread(fd.number, size, offset)

    def chunks(self, device: str, size: int) -> Iterator[bytes]:
        with _opened(device, os.O_RDONLY, "read") as fd:
            os.posix_fadvise(fd.number, 0, 0, os.POSIX_FADV_DONTNEED)
            while size > 0 and (data := os.read(fd.number, min(CHUNK, size))):
                size -= len(data)
                yield data

    def write(self, device: str, offset: int, chunks: Iterable[bytes]) -> int:
        written = 0
        with _opened(device, os.O_WRONLY, "write") as fd:
            for chunk in chunks:
                view = memoryview(chunk)
                while view:
                    count = os.pwrite(fd.number, view, offset + written)
                    written += count
                    view = view[count:]
        return written

    def flush(self, device: str) -> None:
        with _opened(device, os.O_RDWR, "flush") as fd:
            os.fsync(fd.number)


class _opened:  # noqa: N801 - reads as a statement
    """An open device whose errors name it and what was being done."""

    def __init__(self, device: str, flags: int, doing: str) -> None:
        self._device, self._flags, self._doing = device, flags, doing
        self.number = -1

    def __enter__(self) -> _opened:
        try:
            self.number = os.open(self._device, self._flags | os.O_CLOEXEC)
        except OSError as exc:
            raise DeviceFailed(self._device, self._doing, exc) from exc
        return self

    def __exit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        os.close(self.number)
        if isinstance(exc, OSError):
            raise DeviceFailed(self._device, self._doing, exc) from exc
