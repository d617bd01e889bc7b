"""What disks this machine has, what is on them, and the medium that the installer works from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from skerry.agent.mounting import Mounts
from skerry.lib.blocks import Blocks
from skerry.lib.errors import SkerryError
from skerry.lib.files import Root
from skerry.lib.proc import CommandFailed, Runner
from skerry.plan import bootentries, disklayout
from skerry.plan.diskchoice import LSBLK_COLUMNS, MEDIUM_PREFIX, TargetDisk, read_lsblk
from skerry.plan.installmedium import (
    MARK,
    MARK_OFFSET,
    MEDIUM_ESP,
    MEDIUM_LABELS,
    MEDIUM_ROOT,
    MEDIUM_VERITY,
)

_BY_ID = "/dev/disk/by-id"
_MAX_CONTENTS = 8


class NoMedium(SkerryError):
    """The installation medium is not there, or is not complete."""

    exit_code = 4


@dataclass(frozen=True, slots=True)
class Medium:
    """Partitions of the installation medium."""

    esp: str
    root: str
    verity: str


async def find_disks(
    root: Root,
    runner: Runner,
    blocks: Blocks,
    mounts: Mounts,
    *,
    kinds: Sequence[str] = ("disk",),
) -> tuple[TargetDisk, ...]:
    """Every disk with what is on it, by a look at the disks themselves: udev may know old things.

    Raises CommandFailed, SkerryError.
    """
    listed = await runner.run(
        ["lsblk", "--json", "--bytes", "--output", LSBLK_COLUMNS], timeout_s=30
    )
    try:
        disks = read_lsblk(listed.stdout, kinds=kinds)
    except ValueError as exc:
        raise SkerryError(str(exc), hint="update util-linux on the medium") from exc
    names = _names(root)
    return tuple(
        [
            await _look_closer(runner, blocks, mounts, disk, names.get(disk.path, ()))
            for disk in disks
        ]
    )


async def partitions(runner: Runner, disk: str) -> dict[str, str]:
    """Device of each partition by its label; empty for a disk without a table (sfdisk(8))."""
    result = await runner.run(["sfdisk", "--json", disk], timeout_s=30, check=False)
    if not result.ok:
        return {}
    try:
        table = msgspec.json.decode(result.stdout, type=_Sfdisk).partitiontable
    except (msgspec.DecodeError, RecursionError):
        return {}
    return {part.name: part.node for part in table.partitions if part.name}


async def find_medium(runner: Runner, disks: Sequence[TargetDisk], source: str = "") -> Medium:
    """The medium's partitions, on `source` or on the first disk that is one. Raises NoMedium."""
    for path in [source] if source else [disk.path for disk in disks if disk.medium]:
        labels = await partitions(runner, path)
        if all(label in labels for label in MEDIUM_LABELS):
            return Medium(labels[MEDIUM_ESP], labels[MEDIUM_ROOT], labels[MEDIUM_VERITY])
    where = f"{source} is no installation medium" if source else "no installation medium is there"
    raise NoMedium(
        f"{where}: wanted are partitions {', '.join(MEDIUM_LABELS)}",
        hint="write the installer image that 'skerry image build' makes to a stick, whole",
    )


async def _look_closer(
    runner: Runner, blocks: Blocks, mounts: Mounts, disk: TargetDisk, names: tuple[str, ...]
) -> TargetDisk:
    labels = await partitions(runner, disk.path)
    medium = disk.medium or any(label.startswith(MEDIUM_PREFIX) for label in labels)
    contents = [f"the partition {label}" for label in labels if not label.startswith("skerry-")]
    if disklayout.STATE in labels:
        contents.insert(0, "a skerry system")
    elif not contents:
        for device in (disk.path, *labels.values()):
            for kind in await _signatures(runner, device):
                name = device.removeprefix("/dev/")
                contents.append(kind if device == disk.path else f"{kind} on {name}")
    contents = list(dict.fromkeys(contents)) or list(disk.contents)
    unfinished = await _unfinished(blocks, mounts, disk.path, labels)
    return msgspec.structs.replace(
        disk,
        medium=medium,
        names=names,
        contents=tuple(contents[:_MAX_CONTENTS]),
        unfinished=unfinished and not medium,
    )


async def _signatures(runner: Runner, device: str) -> list[str]:
    """Kinds of tables and file systems, whole or remains, that wipefs(8) finds."""
    result = await runner.run(["wipefs", "--no-act", "--json", device], timeout_s=60, check=False)
    if not result.ok:
        # What cannot be read is not known to be empty.
        return ["something that cannot be read"]
    if not result.stdout.strip():
        return []
    try:
        found = msgspec.json.decode(result.stdout, type=_Wipefs).signatures
    except (msgspec.DecodeError, RecursionError):
        return ["something that cannot be read"]
    return list(dict.fromkeys(item.type for item in found if item.type != "PMBR"))


async def _unfinished(blocks: Blocks, mounts: Mounts, disk: str, labels: dict[str, str]) -> bool:
    """Marked by an installer, and no boot entry was written since."""
    if not _marked(blocks, disk):
        return False
    boot = labels.get(disklayout.BOOT, "")
    if not boot:
        return True
    try:
        async with mounts.opened(boot, "vfat") as inside:
            names = inside.list(f"/{bootentries.FOLDER}")
    except CommandFailed:
        return True
    return not any(bootentries.parse_name(name) for name in names)


def _marked(blocks: Blocks, disk: str) -> bool:
    try:
        return blocks.read(disk, MARK_OFFSET, len(MARK)) == MARK
    except SkerryError:
        return False


def _names(root: Root) -> dict[str, tuple[str, ...]]:
    """Other paths of disks, as udev links them."""
    found: dict[str, tuple[str, ...]] = {}
    for name in root.list(_BY_ID):
        target = root.read_link(f"{_BY_ID}/{name}") or ""
        path = f"/dev/{target.rsplit('/', 1)[-1]}"
        found[path] = (*found.get(path, ()), f"{_BY_ID}/{name}")
    return found


class _Partition(msgspec.Struct, frozen=True):
    node: str
    name: str = ""


class _Table(msgspec.Struct, frozen=True):
    partitions: list[_Partition] = []


class _Sfdisk(msgspec.Struct, frozen=True):
    partitiontable: _Table


class _Signature(msgspec.Struct, frozen=True):
    type: str


class _Wipefs(msgspec.Struct, frozen=True):
    signatures: list[_Signature] = []
