"""Both copies of a disk's partition table, read from its bytes (UEFI specification, GPT)."""

from __future__ import annotations

import binascii
import struct
import uuid
from dataclasses import dataclass
from pathlib import Path

SECTOR = 512

_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
_ENTRY = struct.Struct("<16s16sQQQ72s")
_MAX_ENTRIES = 256


@dataclass(frozen=True, slots=True)
class Place:
    """A partition: bytes from the disk's start."""

    label: str
    type: str
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class Table:
    """Partitions by label, from the first copy that is whole; what is wrong with each copy."""

    parts: dict[str, Place]
    first_trouble: str = ""
    second_trouble: str = ""


def read_table(disk: Path) -> Table:
    """Never raises for what the disk holds; no partitions when both copies are broken."""
    size = disk.stat().st_size
    first, first_trouble = _copy(disk, SECTOR, size)
    second, second_trouble = _copy(disk, size - SECTOR, size)
    if not first_trouble and not second_trouble and first != second:
        second_trouble = "differs from the first"
    found = second if first_trouble else first
    return Table({item.label: item for item in found}, first_trouble, second_trouble)


def _copy(disk: Path, at: int, disk_bytes: int) -> tuple[tuple[Place, ...], str]:
    with disk.open("rb") as file:
        if at < SECTOR:
            return (), "the disk is too small"
        file.seek(at)
        raw = file.read(SECTOR)
        if len(raw) < SECTOR:
            return (), "the disk ends before it"
        magic, _, head_bytes, crc, _, mine, _, _, _, _, where, count, each, table_crc = (
            _HEADER.unpack_from(raw)
        )
        if magic != b"EFI PART":
            return (), "there is none"
        if not _HEADER.size <= head_bytes <= SECTOR or mine != at // SECTOR:
            return (), "its header is odd"
        if binascii.crc32(raw[:16] + bytes(4) + raw[20:head_bytes]) != crc:
            return (), "its header is damaged"
        if each != _ENTRY.size or not 0 < count <= _MAX_ENTRIES:
            return (), f"it has {count} entries of {each} bytes"
        if where * SECTOR + count * each > disk_bytes:
            return (), "its entries lie past the end of the disk"
        file.seek(where * SECTOR)
        entries = file.read(count * each)
    if binascii.crc32(entries) != table_crc:
        return (), "its entries are damaged"
    return tuple(_places(entries)), ""


def _places(entries: bytes) -> list[Place]:
    found = []
    for kind, _, first, last, _, name in _ENTRY.iter_unpack(entries):
        if any(kind):
            label = name.decode("utf-16-le", errors="replace").partition("\0")[0]
            size = (last - first + 1) * SECTOR
            found.append(Place(label, str(uuid.UUID(bytes_le=kind)), first * SECTOR, size))
    return found
