"""Slots as partitions: what is in one, and writing one so that it has no name until it is whole.

A slot is named by two sectors, the superblocks of its file system and of its tree of hashes. They
are wiped first and written last, with a flush between. A write that was cut goes on by comparing:
what lies on the disk already is not written again, and is verified by that.
"""

from __future__ import annotations

from skerry.lib.digest import sha256_of_chunks
from skerry.lib.files import Root
from skerry.lib.volumes import VolumeFailed, Volumes
from skerry.model.osimage import OsBlob, OsImageInfo
from skerry.plan.disklayout import data_label, verity_label
from skerry.plan.osslots import (
    DATA_SUPER,
    SECTOR,
    VERITY_SUPER,
    SlotFacts,
    SlotNote,
    erofs_uuid,
    verity_uuid,
)

CHUNK = 1 << 20
# A slow disk must not hold up everything else on the host for a whole image at once.
FLUSH_BYTES = 32 << 20


def measure(volumes: Volumes, slot: str, note: SlotNote | None) -> SlotFacts:
    """What names the slot now. Never raises for a partition that is broken or missing."""
    try:
        data = volumes.read(data_label(slot), DATA_SUPER, SECTOR)
        hashes = volumes.read(verity_label(slot), VERITY_SUPER, SECTOR)
    except VolumeFailed as exc:
        return SlotFacts(slot, trouble=str(exc), note=note)
    return SlotFacts(slot, erofs_uuid(data), verity_uuid(hashes), note=note)


def parts(slot: str, info: OsImageInfo) -> tuple[tuple[str, OsBlob, int], ...]:
    """Label, blob and offset of the superblock of the two partitions of a slot."""
    return (
        (data_label(slot), info.root, DATA_SUPER),
        (verity_label(slot), info.verity, VERITY_SUPER),
    )


def superblock(root: Root, path: str, at: int) -> bytes:
    """The sector of a blob that names it; shorter where the blob ends before."""
    head = bytearray()
    for chunk in root.read_chunks(path, size=CHUNK):
        head += chunk
        if len(head) >= at + SECTOR:
            break
    return bytes(head[at : at + SECTOR])


def wipe(volumes: Volumes, slot: str) -> None:
    """Take the slot's name away, durably. Raises VolumeFailed."""
    for label, at in ((data_label(slot), DATA_SUPER), (verity_label(slot), VERITY_SUPER)):
        if any(volumes.read(label, at, SECTOR)):
            volumes.write(label, at, bytes(SECTOR))
        volumes.flush(label)


def fill(
    volumes: Volumes, root: Root, path: str, label: str, super_at: int, *, chunk: int = CHUNK
) -> int:
    """Write a blob but for the sector that names it; answers the bytes that were not there yet.

    The whole is durable at the end. Raises VolumeFailed.
    """
    offset = written = 0
    for piece in root.read_chunks(path, size=chunk):
        data = _without(piece, super_at - offset)
        if volumes.read(label, offset, len(data)) != data:
            volumes.write(label, offset, data)
            written += len(data)
            if written % FLUSH_BYTES < len(data):
                volumes.flush(label)
        offset += len(piece)
    volumes.flush(label)
    return written


def name(volumes: Volumes, root: Root, path: str, label: str, super_at: int) -> None:
    """Write the sector that names a partition, durably. Raises VolumeFailed."""
    volumes.write(label, super_at, superblock(root, path, super_at))
    volumes.flush(label)


def holds(volumes: Volumes, slot: str, info: OsImageInfo) -> bool:
    """Whether the slot holds the image, bit by bit as the device gives it. Raises VolumeFailed."""
    return all(
        sha256_of_chunks(volumes.read_back(label, blob.size_bytes)) == blob.digest
        for label, blob, _ in parts(slot, info)
    )


def _without(piece: bytes, at: int) -> bytes:
    """A piece with zeros where the naming sector lies, counted from its start."""
    first, last = max(at, 0), min(at + SECTOR, len(piece))
    if first >= last:
        return piece
    return piece[:first] + bytes(last - first) + piece[last:]
