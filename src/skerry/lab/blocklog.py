"""A disk's writes as QEMU's `blklogwrites` records them, and what a power cut could leave of them.

The log has the format of Linux's dm-log-writes (Documentation/admin-guide/device-mapper/
log-writes.rst): a superblock, then entries of one sector, each followed by its data; all numbers
little-endian. QEMU counts entries in the superblock only at a flush, so entries beyond the count
are real. It writes an entry when the disk below has answered: the order is that of completion, and
a write that was answered while a flush was under way counts as flushed.
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path
from typing import BinaryIO

from skerry.lib.errors import SkerryError

MAGIC = 0x6A736677736872
VERSION = 1

_SUPER = struct.Struct("<QQQI")
_ENTRY = struct.Struct("<QQQQ")
_MAX_ENTRIES = 4_000_000
_MAX_WRITE_SECTORS = 1 << 22
_SECTORS = (512, 1024, 2048, 4096)
_COPY_BYTES = 4 << 20
# The least that a disk writes whole; a write that was cut may end after any of them.
_ATOM_BYTES = 512


class BadLog(SkerryError):
    """A recording that cannot be read."""


class Flag(IntFlag):
    """What an entry is, beside its data."""

    FLUSH = 1
    FUA = 2
    DISCARD = 4
    MARK = 8


@dataclass(frozen=True, slots=True)
class Entry:
    """One request. `offset` and `size` are bytes on the disk; `at` is where the data lies in the
    log (nothing for a discard, which leaves zeros)."""

    offset: int
    size: int
    flags: Flag
    at: int

    @property
    def flushes(self) -> bool:
        return bool(self.flags & Flag.FLUSH)

    @property
    def durable(self) -> bool:
        """Durable by itself once it was answered."""
        return bool(self.flags & Flag.FUA)


def read_log(path: Path) -> tuple[Entry, ...]:
    """Every entry of a recording; one that is torn at the end is left out. Raises BadLog."""
    size = path.stat().st_size
    with path.open("rb") as file:
        sector, counted = _superblock(file.read(_SUPER.size), path)
        found: list[Entry] = []
        at = sector
        while at + sector <= size:
            file.seek(at)
            number, count, flags, _ = _ENTRY.unpack(file.read(_ENTRY.size))
            odd = _trouble(number, count, flags)
            if odd or (not flags and not count):
                if len(found) < counted:
                    raise BadLog(f"{path}: entry {len(found)} {odd or 'is empty'}")
                break  # what was not counted yet may not be written yet
            kind = Flag(flags)
            length = 0 if kind & Flag.DISCARD else count * sector
            if at + sector + length > size and kind != Flag.FLUSH:
                if len(found) < counted:
                    raise BadLog(f"{path}: entry {len(found)} ends after the end of the file")
                break
            found.append(Entry(number * sector, count * sector, kind, at + sector))
            if len(found) > _MAX_ENTRIES:
                raise BadLog(f"{path}: more than {_MAX_ENTRIES} entries")
            at += sector + length
    if len(found) < counted:
        raise BadLog(f"{path}: {counted} entries were counted, {len(found)} are there")
    return tuple(found)


def _superblock(data: bytes, path: Path) -> tuple[int, int]:
    if len(data) < _SUPER.size:
        raise BadLog(f"{path}: there is no superblock", hint="was the machine ended with `quit`?")
    magic, version, counted, sector = _SUPER.unpack(data)
    if magic != MAGIC or version != VERSION:
        raise BadLog(f"{path}: this is no recording of version {VERSION}")
    if sector not in _SECTORS:
        raise BadLog(f"{path}: sectors of {sector} bytes")
    if counted > _MAX_ENTRIES:
        raise BadLog(f"{path}: more than {_MAX_ENTRIES} entries")
    return sector, counted


def _trouble(number: int, count: int, flags: int) -> str:
    if flags & ~0xF:
        return f"has unknown flags {flags:#x}"
    if count > _MAX_WRITE_SECTORS and not flags & Flag.DISCARD:
        return f"writes {count} sectors"
    if (number + count) >> 50:
        return f"lies at sector {number}"
    return ""


def last_barrier(entries: Sequence[Entry], upto: int) -> int:
    """Index after the last flush among the first `upto` entries; 0 when there was none."""
    for index in range(upto, 0, -1):
        if entries[index - 1].flushes:
            # The flush goes before the entry's own data, where it has any.
            return index - 1 if entries[index - 1].size else index
    return 0


@dataclass(frozen=True, slots=True)
class Cut:
    """A power cut after the first `upto` requests, and what it took: indexes of writes of which
    nothing arrived, and of one of which only the first `torn_bytes` did."""

    upto: int
    seed: int
    lost: frozenset[int] = frozenset()
    torn: int = -1
    torn_bytes: int = 0


def choose_cut(entries: Sequence[Entry], upto: int, seed: int) -> Cut:
    """What a cut at `upto` takes: a random part of the writes that no flush followed.

    Three kinds in turn of the seed, for each finds what others do not: everything unflushed lost,
    everything there, or each write by chance, and one of those torn within.
    """
    chance = random.Random(f"{upto}/{seed}")  # noqa: S311 - must be repeatable
    loose = [
        index
        for index in range(last_barrier(entries, upto), upto)
        if entries[index].size and not entries[index].durable
    ]
    if seed % 4 == 0:
        return Cut(upto, seed, frozenset(loose))
    if seed % 4 == 1 or not loose:
        return Cut(upto, seed)
    share = chance.random()
    lost = frozenset(index for index in loose if chance.random() < share)
    kept = [index for index in loose if index not in lost and entries[index].size > _ATOM_BYTES]
    if seed % 4 == 2 or not kept:
        return Cut(upto, seed, lost)
    torn = chance.choice(kept)
    atoms = entries[torn].size // _ATOM_BYTES
    return Cut(upto, seed, lost, torn, chance.randrange(1, atoms) * _ATOM_BYTES)


@dataclass(slots=True)
class Overlay:
    """Writes over a disk, kept as pieces of the log: (offset, size, place in the log or -1 for
    zeros), later ones win."""

    pieces: list[tuple[int, int, int]]

    def touched(self) -> int:
        """Bytes of all pieces, overlaps counted twice."""
        return sum(size for _, size, _ in self.pieces)


def overlay(entries: Sequence[Entry], cut: Cut) -> Overlay:
    """What lies over the base after the cut."""
    pieces = []
    for index in range(cut.upto):
        entry = entries[index]
        if not entry.size or index in cut.lost or entry.flags & Flag.MARK:
            continue
        size = cut.torn_bytes if index == cut.torn else entry.size
        pieces.append((entry.offset, size, -1 if entry.flags & Flag.DISCARD else entry.at))
    return Overlay(pieces)


def apply(layer: Overlay, log: Path, disk: Path) -> None:
    """Write the pieces onto a copy of the base."""
    with log.open("rb") as source, disk.open("r+b") as target:
        end = target.seek(0, 2)
        for offset, size, at in layer.pieces:
            if at < 0:
                _zero(target, offset, min(offset + size, end))
                continue
            for done in range(0, min(size, end - offset), _COPY_BYTES):
                source.seek(at + done)
                target.seek(offset + done)
                target.write(source.read(min(_COPY_BYTES, size - done, end - offset - done)))


def _zero(target: BinaryIO, start: int, stop: int) -> None:
    """Zeros where the file has data: whole disks are discarded, and holes are zeros already."""
    target.flush()
    for at, end in _data(target, start, stop):
        for piece in range(at, end, _COPY_BYTES):
            target.seek(piece)
            target.write(bytes(min(_COPY_BYTES, end - piece)))
    target.flush()


def _data(file: BinaryIO, at: int, stop: int) -> Iterator[tuple[int, int]]:
    """Stretches that are no holes (lseek(2), SEEK_DATA and SEEK_HOLE)."""
    while at < stop:
        try:
            at = os.lseek(file.fileno(), at, os.SEEK_DATA)
        except OSError:
            return  # only a hole is left
        end = min(os.lseek(file.fileno(), at, os.SEEK_HOLE), stop)
        if at < end:
            yield at, end
        at = end


def copy_range(source: Path, target: Path, *, start: int, size: int) -> None:
    """Make a file of a part of another without its holes. Raises BadLog when that shrinks."""
    with source.open("rb") as old, target.open("wb") as new:
        new.truncate(size)
        for first, stop in list(_data(old, start, start + size)):
            at = first
            while at < stop:
                count = min(stop - at, 1 << 28)
                done = os.copy_file_range(old.fileno(), new.fileno(), count, at, at - start)
                if not done:
                    raise BadLog(f"{source} shrank while it was copied")
                at += done


def replay(log: Path, entries: Sequence[Entry], base: Path, cut: Cut, into: Path) -> None:
    """The disk as the cut leaves it, as a new file."""
    copy_range(base, into, start=0, size=base.stat().st_size)
    apply(overlay(entries, cut), log, into)


def points(entries: Sequence[Entry], count: int, seed: int) -> Iterator[int]:
    """`count` places to cut at, so that each stretch between two flushes has its turn before any
    has its second; random within. Fewer when there are fewer writes."""
    chance = random.Random(seed)  # noqa: S311 - must be repeatable
    stretches: list[list[int]] = [[]]
    for index, entry in enumerate(entries):
        stretches[-1].append(index + 1)
        if entry.flushes:
            stretches.append([])
    waiting = [stretch for stretch in stretches if stretch]
    for stretch in waiting:
        chance.shuffle(stretch)
    given = 0
    while waiting and given < count:
        chance.shuffle(waiting)
        for stretch in waiting[: count - given]:
            yield stretch.pop()
            given += 1
        waiting = [stretch for stretch in waiting if stretch]
