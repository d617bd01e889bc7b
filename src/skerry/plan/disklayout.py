"""How a machine's disk is cut: once, at installation, and never again.

The same table serves the builder's raw disk and the installer. Slots carry the generic type, so
that nothing but skerry's own command line mounts them (no discovery by type).
"""

from __future__ import annotations

from skerry.model.meta import Record

MIB = 1024 * 1024
ESP = "skerry-esp"
BOOT = "skerry-boot"
STATE = "skerry-state"
SLOTS = ("a", "b")

# GPT partition types (uapi-group.org, Discoverable Partitions Specification).
ESP_TYPE = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
BOOT_TYPE = "bc13c2ff-59e6-4262-a352-b275fd6f7172"
LINUX_TYPE = "0fc63daf-8483-4772-8e79-3d69d8477de4"


class Partition(Record, frozen=True, kw_only=True):
    """`size_bytes` 0: the rest of the disk. `file_system`: vfat, ext4 or empty (a slot)."""

    label: str
    type: str
    size_bytes: int
    file_system: str = ""


class Sizes(Record, frozen=True, kw_only=True):
    """Sizes in bytes. A slot's data partition holds the largest root that will ever fit this
    disk, for it cannot grow; the tree of hashes needs below 1 % of it."""

    esp: int = 256 * MIB
    boot: int = 512 * MIB
    root: int = 1024 * MIB
    verity: int = 16 * MIB


def data_label(slot: str) -> str:
    """Label of a slot's data partition."""
    return f"skerry-{slot}"


def verity_label(slot: str) -> str:
    """Label of a slot's partition with the tree of hashes."""
    return f"skerry-{slot}-verity"


def partitions(sizes: Sizes = Sizes()) -> tuple[Partition, ...]:  # noqa: B008 - a frozen value
    """The table, in the order of the disk; the state partition is last and takes the rest."""
    slots = [
        Partition(label=label, type=LINUX_TYPE, size_bytes=size)
        for slot in SLOTS
        for label, size in ((data_label(slot), sizes.root), (verity_label(slot), sizes.verity))
    ]
    return (
        Partition(label=ESP, type=ESP_TYPE, size_bytes=sizes.esp, file_system="vfat"),
        Partition(label=BOOT, type=BOOT_TYPE, size_bytes=sizes.boot, file_system="vfat"),
        *slots,
        Partition(label=STATE, type=LINUX_TYPE, size_bytes=0, file_system="ext4"),
    )


def starts(sizes: Sizes = Sizes()) -> dict[str, int]:  # noqa: B008
    """First byte of each partition by its label, where sfdisk puts it: one after the other from
    1 MiB on."""
    found, at = {}, MIB
    for item in partitions(sizes):
        found[item.label] = at
        at += item.size_bytes
    return found


def smallest_disk(sizes: Sizes = Sizes(), *, state_bytes: int = 2048 * MIB) -> int:  # noqa: B008
    """Bytes that a disk must have; two MiB are the tables' and the alignment's."""
    return sum(item.size_bytes for item in partitions(sizes)) + state_bytes + 2 * MIB


def sfdisk_script(sizes: Sizes = Sizes()) -> str:  # noqa: B008
    """What `sfdisk` reads (sfdisk(8), script header and named fields)."""
    lines = ["label: gpt"]
    for item in partitions(sizes):
        size = f"size={item.size_bytes // MIB}MiB, " if item.size_bytes else ""
        lines.append(f'{size}type={item.type}, name="{item.label}"')
    return "\n".join(lines) + "\n"
