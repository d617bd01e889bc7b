"""The installation medium: a disk for a stick that starts a live system and installs its image.

What lies where is `plan.installmedium`'s; the same file is written to a stick byte for byte. The
live system is the image itself, started by a boot image of its own that finds the root by the
medium's partitions, never by content: the disk to install to may hold the same image.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec

from skerry.builder.image.disk import (
    DiskParts,
    copy_into,
    fat_image,
    loader_settings,
    table_of,
    with_identifiers,
)
from skerry.builder.image.keys import ImageKeys
from skerry.builder.image.toolbox import Toolbox
from skerry.model.image import Enroll
from skerry.model.osimage import OsImageInfo
from skerry.plan import installmedium
from skerry.plan.disklayout import ESP_TYPE, LINUX_TYPE, MIB, Sizes

_BOOT_NAMES = {"amd64": "BOOTX64.EFI", "arm64": "BOOTAA64.EFI"}
LIVE_IMAGE = "EFI/Linux/skerry-installer.efi"
# Before the first partition, and after the last for the second copy of the table.
_MARGIN = 4 * MIB
_SPARE = 16 * MIB


@dataclass(frozen=True, slots=True)
class MediumParts:
    """What the medium is made of: the parts of a disk, its image's facts, the live boot image."""

    disk: DiskParts
    info: OsImageInfo
    live: Path


async def build_medium(
    parts: MediumParts, out: Path, *, work: Path, keys: ImageKeys, tools: Toolbox
) -> None:
    """Write the medium to `out`; `work` is an empty folder."""
    files = medium_files(parts, keys)
    needed = sum(
        source.stat().st_size if isinstance(source, Path) else len(source)
        for source in files.values()
    )
    sizes = (
        _whole(needed + _SPARE),
        _whole(parts.disk.root.stat().st_size),
        _whole(parts.disk.verity.stat().st_size),
    )
    with out.open("wb") as writing:
        writing.truncate(sum(sizes) + 2 * _MARGIN)
    await tools.run(
        ["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", out],
        timeout_s=60,
        stdin=with_identifiers(medium_script(sizes), f"medium {parts.info.root_hash}").encode(),
    )
    places = await table_of(out, tools=tools)
    esp = await fat_image(files, work / "medium", size=sizes[0], label="SKERRY-INST", tools=tools)
    for label, source in (
        (installmedium.MEDIUM_ESP, esp),
        (installmedium.MEDIUM_ROOT, parts.disk.root),
        (installmedium.MEDIUM_VERITY, parts.disk.verity),
    ):
        copy_into(source, out, at=places[label][0])
    shutil.rmtree(work)


def medium_script(sizes: tuple[int, int, int]) -> str:
    """What `sfdisk` reads for partitions of these sizes in bytes, whole MiB each."""
    types = (ESP_TYPE, LINUX_TYPE, LINUX_TYPE)
    lines = [
        f'size={size // MIB}MiB, type={kind}, name="{label}"'
        for size, kind, label in zip(sizes, types, installmedium.MEDIUM_LABELS, strict=True)
    ]
    return "\n".join(["label: gpt", *lines]) + "\n"


def medium_files(parts: MediumParts, keys: ImageKeys) -> dict[str, Path | str]:
    """What lies on the medium's vfat partition: for starting it, and for installing from it."""
    disk, folder = parts.disk, installmedium.FOLDER
    files: dict[str, Path | str] = {
        f"EFI/BOOT/{_BOOT_NAMES[disk.architecture]}": disk.loader,
        LIVE_IMAGE: parts.live,
        "loader/loader.conf": live_settings(disk.enroll),
        f"{folder}/{installmedium.INFO}": parts.info.encode().decode(),
        f"{folder}/{installmedium.SLOT_IMAGE}": disk.uki,
        f"{folder}/{installmedium.RECOVERY_IMAGE}": disk.recovery,
        f"{folder}/{installmedium.LOADER_SETTINGS}": loader_settings(disk.enroll),
        f"{folder}/{installmedium.loader_file(disk.architecture)}": disk.loader,
        f"{folder}/{installmedium.SIZES}": sizes_text(disk.sizes),
    }
    if disk.enroll is not Enroll.NEVER:
        for path in keys.enrolment:
            files[f"loader/keys/auto/{path.name}"] = path
            files[f"{folder}/{installmedium.KEYS}/auto/{path.name}"] = path
    return files


def live_settings(enroll: Enroll) -> str:
    """loader.conf of the medium: as on a disk, but the one boot image is found by its folder."""
    return loader_settings(enroll).replace("auto-entries no\n", "")


def sizes_text(sizes: Sizes) -> str:
    """The partitions that the definition wants, as JSON."""
    return msgspec.json.encode(sizes).decode()


def _whole(size: int) -> int:
    return -(-size // MIB) * MIB
