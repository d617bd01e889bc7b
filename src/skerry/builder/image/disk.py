"""The raw disk: the partitions of `plan.disklayout`, filled for a first start from slot a.

The file is sparse. Identifiers are made from the content, so that equal inputs make equal disks;
a machine's own identity is made on its state partition at the first start.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from skerry.builder.image.errors import ImageBuildFailed
from skerry.builder.image.keys import ImageKeys
from skerry.builder.image.toolbox import Toolbox
from skerry.lib.digest import sha256
from skerry.model.image import Enroll
from skerry.plan import bootentries, disklayout
from skerry.plan.disklayout import MIB, Sizes
from skerry.plan.image import uuid_from

_ENROLL = {Enroll.VIRTUAL: "if-safe", Enroll.ALWAYS: "force", Enroll.NEVER: "off"}
_NAMES = {"amd64": "BOOTX64.EFI", "arm64": "BOOTAA64.EFI"}
_LOADERS = {"amd64": "systemd-bootx64.efi", "arm64": "systemd-bootaa64.efi"}
RECOVERY = "EFI/skerry/recovery.efi"
_CHUNK = 4 * MIB


@dataclass(frozen=True, slots=True)
class DiskParts:
    """Where the parts lie, and what the first boot entry says."""

    architecture: str
    sizes: Sizes
    state_bytes: int
    enroll: Enroll
    loader: Path
    recovery: Path
    uki: Path
    root: Path
    verity: Path
    entry: bootentries.BootEntry


class _Place(msgspec.Struct, frozen=True):
    start: int
    size: int
    name: str = ""


class _Table(msgspec.Struct, frozen=True):
    partitions: tuple[_Place, ...]
    sectorsize: int = 512


class _Answer(msgspec.Struct, frozen=True):
    partitiontable: _Table


async def build_disk(
    parts: DiskParts, out: Path, *, work: Path, keys: ImageKeys, tools: Toolbox
) -> None:
    """Write the disk to `out`. Raises ImageBuildFailed when something does not fit its place."""
    sizes = parts.sizes
    for what, path, room in (
        ("root", parts.root, sizes.root),
        ("tree of hashes", parts.verity, sizes.verity),
    ):
        if path.stat().st_size > room:
            raise ImageBuildFailed(
                f"{what} is {path.stat().st_size // MIB} MiB, a slot has {room // MIB} MiB",
                hint="raise spec.sizes.rootMib, or leave packages out",
            )
    total = disklayout.smallest_disk(sizes, state_bytes=parts.state_bytes)
    with out.open("wb") as disk:
        disk.truncate(total)
    seed = parts.entry.root_hash
    await tools.run(
        ["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", out],
        timeout_s=60,
        stdin=with_identifiers(disklayout.sfdisk_script(sizes), seed).encode(),
    )
    places = await table_of(out, tools=tools)
    esp = await fat_image(
        esp_files(parts, keys), work / "esp", size=sizes.esp, label="SKERRY-ESP", tools=tools
    )
    boot = await fat_image(
        boot_files(parts, work), work / "boot", size=sizes.boot, label="SKERRY-BOOT", tools=tools
    )
    filesystem = await state_image(
        work / "state.img", size=places[disklayout.STATE][1], seed=seed, tools=tools
    )
    for label, source in (
        (disklayout.ESP, esp),
        (disklayout.BOOT, boot),
        (disklayout.data_label("a"), parts.root),
        (disklayout.verity_label("a"), parts.verity),
        (disklayout.STATE, filesystem),
    ):
        copy_into(source, out, at=places[label][0])


async def table_of(disk: Path, *, tools: Toolbox) -> dict[str, tuple[int, int]]:
    """First byte and size in bytes of each partition, by its label.

    Raises CommandFailed when there is no table.
    """
    answer = await tools.run(["sfdisk", "--json", disk], timeout_s=60)
    table = msgspec.json.decode(answer.stdout, type=_Answer).partitiontable
    sector = table.sectorsize
    return {item.name: (item.start * sector, item.size * sector) for item in table.partitions}


def with_identifiers(script: str, seed: str) -> str:
    """The script of sfdisk with identifiers made from `seed`, where it would draw lots."""
    lines = script.splitlines()
    head = [lines[0], f"label-id: {_identifier(seed, 0)}"]
    body = [f"{line}, uuid={_identifier(seed, number)}" for number, line in enumerate(lines[1:], 1)]
    return "\n".join([*head, *body]) + "\n"


def loader_settings(enroll: Enroll) -> str:
    """loader.conf: no menu, no editor, nothing but skerry's own entries (loader.conf(5))."""
    return (
        "timeout 0\neditor no\nauto-entries no\nauto-firmware no\n"
        f"secure-boot-enroll {_ENROLL[enroll]}\n"
    )


def esp_files(parts: DiskParts, keys: ImageKeys) -> dict[str, Path | str]:
    """What lies on the partition that no update writes: path to file, or to text."""
    files: dict[str, Path | str] = {
        f"EFI/BOOT/{_NAMES[parts.architecture]}": parts.loader,
        f"EFI/systemd/{_LOADERS[parts.architecture]}": parts.loader,
        RECOVERY: parts.recovery,
        "loader/loader.conf": loader_settings(parts.enroll),
    }
    if parts.enroll is not Enroll.NEVER:
        files |= {f"loader/keys/auto/{path.name}": path for path in keys.enrolment}
    return files


def boot_files(parts: DiskParts, work: Path) -> dict[str, Path | str]:
    """What lies on the boot partition of a new disk: one confirmed entry and its boot image."""
    name = bootentries.EntryName(generation=parts.entry.generation).file
    return {
        f"{bootentries.FOLDER}/{name}": bootentries.render(parts.entry),
        parts.entry.uki: parts.uki,
    }


async def fat_image(
    files: Mapping[str, Path | str], work: Path, *, size: int, label: str, tools: Toolbox
) -> Path:
    """A FAT file system with the files, in a file beside `work`."""
    image = work.with_suffix(".img")
    with image.open("wb") as writing:
        writing.truncate(size)
    volume = sha256(label.encode()).removeprefix("sha256:")[:8]
    await tools.run(
        ["mkfs.vfat", "-F", "32", "-n", label, "-i", volume, "--invariant", image], timeout_s=60
    )
    work.mkdir()
    for name, source in sorted(files.items()):
        place = work / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(source, Path):
            shutil.copyfile(source, place)
        else:
            place.write_text(source)
    for place in [work, *work.rglob("*")]:
        os.utime(place, (tools.epoch, tools.epoch))
    tops = sorted(place for place in work.iterdir())
    await tools.run(["mcopy", "-s", "-m", "-i", image, *tops, "::"], timeout_s=120)
    shutil.rmtree(work)
    return image


async def state_image(image: Path, *, size: int, seed: str, tools: Toolbox) -> Path:
    """An empty ext4 for what persists, in a sparse file."""
    with image.open("wb") as writing:
        writing.truncate(size)
    await tools.run(
        [
            *("mkfs.ext4", "-q", "-F", "-L", disklayout.STATE, "-U", _identifier(seed, 100)),
            *("-E", f"hash_seed={_identifier(seed, 101)},lazy_itable_init=1", image),
        ],
        timeout_s=120,
        env={"E2FSPROGS_FAKE_TIME": str(tools.epoch)},
    )
    return image


def copy_into(source: Path, disk: Path, *, at: int) -> None:
    """Copy a file to byte `at` of the disk; what is zero stays a hole."""
    empty = bytes(_CHUNK)
    with source.open("rb") as reading, disk.open("r+b") as writing:
        position = 0
        while True:
            position = _next_data(reading.fileno(), position)
            if position < 0:
                return
            reading.seek(position)
            chunk = reading.read(_CHUNK - position % _CHUNK)
            if not chunk:
                return
            if chunk != empty[: len(chunk)]:
                writing.seek(at + position)
                writing.write(chunk)
            position += len(chunk)


def copy_out(disk: Path, into: Path, *, at: int, size: int) -> None:
    """Copy `size` bytes from byte `at` of a disk into a sparse file."""
    empty = bytes(_CHUNK)
    with disk.open("rb") as reading, into.open("wb") as writing:
        writing.truncate(size)
        position = _next_data(reading.fileno(), at)
        while at <= position < at + size:
            reading.seek(position)
            chunk = reading.read(min(_CHUNK, at + size - position))
            if not chunk:
                return
            if chunk != empty[: len(chunk)]:
                writing.seek(position - at)
                writing.write(chunk)
            position = _next_data(reading.fileno(), position + len(chunk))


def _next_data(handle: int, position: int) -> int:
    try:
        return os.lseek(handle, position, os.SEEK_DATA)
    except OSError:
        return -1


def _identifier(seed: str, number: int) -> str:
    return uuid_from(sha256(f"{seed} {number}".encode()))
