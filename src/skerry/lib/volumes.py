"""The only door to block devices: partitions by their label in the partition table.

Nothing is durable before `flush` returned, and until then a power cut may keep any part of what
was written. A partition that the kernel itself uses (mounted, mapped) cannot be opened for
writing here: it is opened exclusively (open(2), O_EXCL on block devices).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from skerry.lib.errors import SkerryError


class VolumeFailed(SkerryError):
    """A partition is missing, or did not do what it was asked to."""

    def __init__(self, label: str, what: str) -> None:
        super().__init__(
            f"partition {label} {what}",
            hint="look at the kernel's messages about this disk; a new disk is installed from a"
            " stick",
            retryable=True,
        )


class Volumes(Protocol):
    """Partitions by label. Every call raises VolumeFailed when it cannot do what it says."""

    def exists(self, label: str) -> bool: ...

    def size(self, label: str) -> int:
        """Bytes of the partition."""
        ...

    def disk(self, label: str) -> str:
        """Name of the disk that the partition lies on, as the kernel calls it."""
        ...

    def read(self, label: str, offset: int, size: int) -> bytes:
        """Exactly `size` bytes, what was written last included."""
        ...

    def read_back(self, label: str, size: int, *, chunk: int = 1 << 20) -> Iterator[bytes]:
        """The first `size` bytes in pieces, from the device and not from memory."""
        ...

    def write(self, label: str, offset: int, data: bytes) -> None:
        """Write; durable after the next `flush`. Never past the end."""
        ...

    def flush(self, label: str) -> None:
        """Everything written to the partition is durable when this returns."""
        ...


@dataclass(slots=True)
class DiskVolumes:
    """This machine's partitions. `folder` holds links to devices, named by label (udev makes it).

    A partition stays open from its first write to the next `flush`.
    """

    folder: str = "/dev/disk/by-partlabel"
    blocks: str = "/sys/class/block"
    _writing: dict[str, int] = field(default_factory=dict)

    def exists(self, label: str) -> bool:
        return os.path.exists(self._device(label))

    def size(self, label: str) -> int:
        with self._reading(label) as fd:
            return os.lseek(fd, 0, os.SEEK_END)

    def disk(self, label: str) -> str:
        if not self.exists(label):
            raise VolumeFailed(label, "is not on this machine")
        name = os.path.basename(os.path.realpath(self._device(label)))
        place = os.path.realpath(f"{self.blocks}/{name}")
        return os.path.basename(os.path.dirname(place))

    def read(self, label: str, offset: int, size: int) -> bytes:
        with self._reading(label) as fd:
            return _read(fd, label, offset, size)

    def read_back(self, label: str, size: int, *, chunk: int = 1 << 20) -> Iterator[bytes]:
        with self._reading(label) as fd:
            # Clean pages only are dropped: what was not flushed cannot be verified.
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            for offset in range(0, size, chunk):
                yield _read(fd, label, offset, min(chunk, size - offset))

    def write(self, label: str, offset: int, data: bytes) -> None:
        with _failing(label):
            fd = self._writing.get(label)
            if fd is None:
                flags = os.O_RDWR | os.O_EXCL | os.O_CLOEXEC
                fd = self._writing[label] = os.open(self._device(label), flags)
            if offset < 0 or offset + len(data) > os.lseek(fd, 0, os.SEEK_END):
                raise VolumeFailed(label, f"does not reach to byte {offset + len(data)}")
            view = memoryview(data)
            while view:
                done = os.pwrite(fd, view, offset)
                view, offset = view[done:], offset + done

    def flush(self, label: str) -> None:
        fd = self._writing.pop(label, None)
        if fd is None:
            return
        with _failing(label):
            try:
                os.fsync(fd)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)

    def _device(self, label: str) -> str:
        if not label or "/" in label or label.startswith("."):
            raise VolumeFailed(label, "has no possible name")
        return f"{self.folder}/{label}"

    @contextlib.contextmanager
    def _reading(self, label: str) -> Iterator[int]:
        with _failing(label):
            fd = os.open(self._device(label), os.O_RDONLY | os.O_CLOEXEC)
            try:
                yield fd
            finally:
                os.close(fd)


def _read(fd: int, label: str, offset: int, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = os.pread(fd, size - len(data), offset + len(data))
        if not piece:
            raise VolumeFailed(label, f"ends before byte {offset + size}")
        data += piece
    return bytes(data)


@contextlib.contextmanager
def _failing(label: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as exc:
        raise VolumeFailed(label, "is not on this machine") from exc
    except OSError as exc:
        raise VolumeFailed(label, f"does not answer as it should: {exc.strerror}") from exc
