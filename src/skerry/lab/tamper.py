"""Flip one bit of an appliance's disk, where a thief or a dying disk would."""

from __future__ import annotations

import tempfile
from enum import StrEnum
from pathlib import Path

from skerry.lab.errors import LabError
from skerry.lab.gpt import read_table
from skerry.lib.proc import Runner
from skerry.plan.bootentries import FOLDER, IMAGES
from skerry.plan.disklayout import BOOT, STATE, data_label, verity_label

_LIMIT_S = 60.0
# Of ext4's superblock: its magic number (Linux, fs/ext4/ext4.h, s_magic).
_EXT4_MAGIC_AT = 1024 + 56


class Spot(StrEnum):
    """What is hit."""

    ROOT = "root"
    VERITY = "verity"
    UKI = "boot image"
    ENTRY = "boot entry"
    STATE = "state header"


async def flip(disk: Path, spot: Spot, *, runner: Runner, slot: str = "a", at: int = 0) -> str:
    """Flip the lowest bit of byte `at` (0: a telling one); what was hit. Raises LabError.

    `at` counts from the start of the partition or file. The boot image and the entry are the
    first of the slot that the boot partition has.
    """
    parts = read_table(disk).parts
    if spot in (Spot.UKI, Spot.ENTRY):
        return await _flip_file(disk, parts[BOOT].start, spot, runner=runner, slot=slot, at=at)
    label, usual = {
        # Past superblock and inodes; below the tree's first block of hashes.
        Spot.ROOT: (data_label(slot), 512 * 1024 + 17),
        Spot.VERITY: (verity_label(slot), 4096 + 5),
        Spot.STATE: (STATE, _EXT4_MAGIC_AT),
    }[spot]
    where = parts[label].start + (at or usual)
    with disk.open("r+b") as file:
        file.seek(where)
        byte = file.read(1)
        file.seek(where)
        file.write(bytes([byte[0] ^ 1]))
    return f"{label} at byte {at or usual}"


async def _flip_file(
    disk: Path, start: int, spot: Spot, *, runner: Runner, slot: str, at: int
) -> str:
    image = f"{disk}@@{start}"
    with tempfile.TemporaryDirectory() as scratch:
        for path in await _files(image, IMAGES if spot is Spot.UKI else FOLDER, runner):
            copy = Path(scratch) / "copy"
            await runner.run(
                ["mcopy", "-n", "-o", "-i", image, f"::/{path}", str(copy)], timeout_s=_LIMIT_S
            )
            data = bytearray(copy.read_bytes())
            name = path.rpartition("/")[2]
            ours = f"/{IMAGES}/{slot}-".encode() in data
            if (spot is Spot.UKI and not name.startswith(f"{slot}-")) or (
                spot is Spot.ENTRY and not ours
            ):
                continue
            # An entry's telling byte is in the name of its boot image.
            where = at or (len(data) // 2 if spot is Spot.UKI else data.index(b"efi /") + 20)
            data[where] ^= 1
            copy.write_bytes(data)
            await runner.run(
                ["mcopy", "-o", "-i", image, str(copy), f"::/{path}"], timeout_s=_LIMIT_S
            )
            return f"{path} at byte {where}"
    raise LabError(f"there is no {spot.value} of slot {slot} on {disk}")


async def _files(image: str, folder: str, runner: Runner) -> list[str]:
    listed = await runner.run(
        ["mdir", "-b", "-i", image, f"::/{folder}"], timeout_s=_LIMIT_S, check=False
    )
    return [line.strip().removeprefix("::/") for line in listed.stdout.splitlines() if "." in line]
