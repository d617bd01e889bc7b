"""Partitions in memory that lose what was not flushed, by sector.

`cut_power_at(n)` lets the n-th changing call raise `PowerCut`, before it did anything or halfway
through; `lose` then keeps what the given chance says of each sector that waits for a flush.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from skerry.lib.memory_files import PowerCut
from skerry.lib.volumes import VolumeFailed

SECTOR = 512


@dataclass(slots=True)
class MemoryVolumes:
    """Partitions by label: what is durable in `kept`, and what waits in memory."""

    kept: dict[str, bytearray] = field(default_factory=dict)
    on_disk: dict[str, str] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    """Labels that may not be written, as a mapped partition may not."""
    written: list[str] = field(default_factory=list)
    changes: int = 0
    _waiting: dict[tuple[str, int], bytes] = field(default_factory=dict)
    _cut_at: int = 0
    _cut_half: bool = False

    def make(self, label: str, size: int) -> None:
        """A partition full of zeros; `size` is a multiple of a sector."""
        self.kept[label] = bytearray(size)

    def cut_power_at(self, change: int, *, halfway: bool = False) -> None:
        self._cut_at = self.changes + change
        self._cut_half = halfway

    def power_on(self) -> None:
        self._cut_at = 0

    def lose(self, chance: random.Random, *, kept: float) -> None:
        """The power is gone: each sector that waits becomes durable with probability `kept`."""
        for (label, sector), data in self._waiting.items():
            if chance.random() < kept:
                self._keep(label, sector, data)
        self._waiting.clear()

    def exists(self, label: str) -> bool:
        return label in self.kept

    def size(self, label: str) -> int:
        return len(self._of(label))

    def disk(self, label: str) -> str:
        self._of(label)
        return self.on_disk.get(label, "vda")

    def read(self, label: str, offset: int, size: int) -> bytes:
        self._check(label, offset, size)
        first, last = offset // SECTOR, (offset + size - 1) // SECTOR
        data = b"".join(self._sector(label, number) for number in range(first, last + 1))
        start = offset - first * SECTOR
        return data[start : start + size]

    def read_back(self, label: str, size: int, *, chunk: int = 1 << 20) -> Iterator[bytes]:
        for offset in range(0, size, chunk):
            piece = min(chunk, size - offset)
            self._check(label, offset, piece)
            yield bytes(self.kept[label][offset : offset + piece])

    def write(self, label: str, offset: int, data: bytes) -> None:
        if label in self.refused:
            raise VolumeFailed(label, "does not answer as it should: Device or resource busy")
        self._check(label, offset, len(data))
        cut = self._begin()
        self.written.append(label)
        if cut:
            data = data[: len(data) // 2]
        first, last = offset // SECTOR, (offset + len(data) - 1) // SECTOR
        start = offset - first * SECTOR
        whole = bytearray(b"".join(self._sector(label, n) for n in range(first, last + 1)))
        whole[start : start + len(data)] = data
        for number in range(first, last + 1):
            at = (number - first) * SECTOR
            self._waiting[label, number] = bytes(whole[at : at + SECTOR])
        if cut:
            raise PowerCut

    def flush(self, label: str) -> None:
        if not any(where == label for where, _ in self._waiting):
            return
        cut = self._begin()
        if cut:
            raise PowerCut  # halfway: `lose` decides about each sector
        for where, number in [key for key in self._waiting if key[0] == label]:
            self._keep(where, number, self._waiting.pop((where, number)))

    def _of(self, label: str) -> bytearray:
        if label not in self.kept:
            raise VolumeFailed(label, "is not on this machine")
        return self.kept[label]

    def _check(self, label: str, offset: int, size: int) -> None:
        if label in self.broken:
            raise VolumeFailed(label, "does not answer as it should: Input/output error")
        if offset < 0 or offset + size > len(self._of(label)):
            raise VolumeFailed(label, f"does not reach to byte {offset + size}")

    def _sector(self, label: str, number: int) -> bytes:
        found = self._waiting.get((label, number))
        return found or bytes(self.kept[label][number * SECTOR : (number + 1) * SECTOR])

    def _keep(self, label: str, number: int, data: bytes) -> None:
        self.kept[label][number * SECTOR : (number + 1) * SECTOR] = data

    def _begin(self) -> bool:
        """Count a change; True when the power goes halfway through it."""
        self.changes += 1
        if self._cut_at and self.changes >= self._cut_at:
            if not self._cut_half:
                raise PowerCut
            return True
        return False
