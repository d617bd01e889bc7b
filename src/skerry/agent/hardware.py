"""Disks with their partitions, and display controllers, read from sysfs through the Root.

What the kernel does not say stays empty: a partition that is not mounted has no free space, a GPU
without its driver no memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from skerry.lib.errors import SkerryError
from skerry.lib.files import Root, text_of
from skerry.lib.proc import Runner
from skerry.model.inventory import Disk, Gpu, Partition

_DISK_NAME = re.compile(r"^(sd[a-z]+|vd[a-z]+|nvme\d+n\d+|mmcblk\d+|xvd[a-z]+|hd[a-z]+)$")
_SECTOR = 512
_FREE_STEPS = 20
_VENDORS = {"10de": "NVIDIA", "1002": "AMD", "8086": "Intel", "1a03": "ASPEED", "102b": "Matrox"}
# Where distributions keep the names of PCI devices (hwdata, pciutils).
_PCI_IDS = ("/usr/share/misc/pci.ids", "/usr/share/hwdata/pci.ids")
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class _Mount:
    """One line of mountinfo. `number` is "major:minor"."""

    number: str
    source: str
    point: str
    kind: str


def disks(root: Root) -> tuple[Disk, ...]:
    """Disks that can hold a system, without loop, RAM and optical devices."""
    mounts = tuple(_mounts(root))
    return tuple(
        Disk(
            name=name,
            size_bytes=_size(root, f"/sys/block/{name}"),
            model=text_of(root, f"/sys/block/{name}/device/model"),
            vendor=text_of(root, f"/sys/block/{name}/device/vendor"),
            rotational=text_of(root, f"/sys/block/{name}/queue/rotational") == "1",
            partitions=_partitions(root, name, mounts),
        )
        for name in root.list("/sys/block")
        if _DISK_NAME.match(name)
    )


def _partitions(root: Root, disk: str, mounts: tuple[_Mount, ...]) -> tuple[Partition, ...]:
    base = f"/sys/block/{disk}"
    names = [name for name in root.list(base) if root.exists(f"{base}/{name}/partition")]
    found = [_partition(root, name, f"{base}/{name}", mounts) for name in sorted(names, key=_order)]
    whole = _partition(root, disk, base, mounts)
    if not found and whole.file_system:
        found = [whole]  # a file system on the disk itself
    return tuple(found)


def _partition(root: Root, name: str, base: str, mounts: tuple[_Mount, ...]) -> Partition:
    mount = _mount_of(root, name, base, mounts)
    number = text_of(root, f"{base}/dev")
    size = _size(root, base)
    return Partition(
        name=name,
        size_bytes=size,
        file_system=mount.kind if mount else _known_kind(root, number),
        mount_point=mount.point if mount else "",
        free_bytes=_free(root, mount.point, size) if mount else None,
    )


def _mount_of(root: Root, name: str, base: str, mounts: tuple[_Mount, ...]) -> _Mount | None:
    """Where the partition is mounted, itself or through a mapped device (LVM, LUKS) on it."""
    devices = [(text_of(root, f"{base}/dev"), f"/dev/{name}")]
    for holder in root.list(f"{base}/holders"):
        devices.append((text_of(root, f"/sys/block/{holder}/dev"), f"/dev/{holder}"))
        devices += [
            (text_of(root, f"/sys/block/{upper}/dev"), f"/dev/{upper}")
            for upper in root.list(f"/sys/block/{holder}/holders")
        ]
    for number, path in devices:
        for mount in mounts:
            # btrfs shows a number of its own, hence the path as well.
            if mount.number == number or mount.source == path:
                return mount
    return None


def _mounts(root: Root) -> Iterator[_Mount]:
    """Whole file systems, no bind mounts of parts of them (proc(5), /proc/pid/mountinfo)."""
    seen: set[str] = set()
    for line in text_of(root, "/proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        fields, more = left.split(), right.split()
        if len(fields) < 6 or len(more) < 2:
            continue
        number, top, point = fields[2], fields[3], fields[4]
        whole = top == "/" or more[0] == "btrfs"
        if whole and number not in seen:
            seen.add(number)
            yield _Mount(number=number, source=more[1], point=_unescaped(point), kind=more[0])


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _known_kind(root: Root, number: str) -> str:
    """The file system that udev found on a device that is not mounted (udev's database)."""
    for line in text_of(root, f"/run/udev/data/b{number}").splitlines():
        if line.startswith("E:ID_FS_TYPE="):
            return line.partition("=")[2][:32]
    return ""


def _free(root: Root, point: str, size: int) -> int | None:
    try:
        free = root.free_bytes(point)
    except OSError:
        return None  # a mount that hangs or went away
    step = max(size // _FREE_STEPS, 1)
    return free // step * step


def _size(root: Root, base: str) -> int:
    sectors = text_of(root, f"{base}/size")
    return int(sectors) * _SECTOR if sectors.isdigit() else 0


def _order(name: str) -> tuple[int, str]:
    digits = re.search(r"\d+$", name)
    return (int(digits[0]) if digits else 0, name)


async def gpus(root: Root, runner: Runner) -> tuple[Gpu, ...]:
    """Display controllers, equal ones counted together."""
    base = "/sys/bus/pci/devices"
    # PCI class 03xxxx is a display controller (PCI Code and ID Assignment, class 03h).
    here = [
        address
        for address in root.list(base)
        if text_of(root, f"{base}/{address}/class").startswith("0x03")
    ]
    if not here:
        return ()
    names = _pci_names(root, {_pci_key(root, f"{base}/{address}") for address in here})
    memory = await _nvidia_memory(root, runner, here)
    groups: dict[tuple[str, str, int], list[str]] = {}
    for address in here:
        place = f"{base}/{address}"
        vendor, device = _pci_key(root, place)
        model = (
            _nvidia_model(root, address)
            or text_of(root, f"{place}/product_name")
            or names.get((vendor, device), "")
            or f"0x{device}"
        )
        # The amdgpu driver shows its memory there (kernel, "AMDGPU driver memory information").
        shown = text_of(root, f"{place}/mem_info_vram_total")
        size = int(shown) if shown.isdigit() else memory.get(address, 0)
        key = (_VENDORS.get(vendor, f"0x{vendor}"), model, size)
        groups.setdefault(key, []).append(address)
    return tuple(
        Gpu(
            vendor=vendor,
            model=model,
            count=len(addresses),
            memory_bytes=size,
            addresses=tuple(addresses),
        )
        for (vendor, model, size), addresses in groups.items()
    )


def _pci_key(root: Root, place: str) -> tuple[str, str]:
    return (
        text_of(root, f"{place}/vendor").lower().removeprefix("0x"),
        text_of(root, f"{place}/device").lower().removeprefix("0x"),
    )


def _pci_names(root: Root, wanted: set[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Names of devices from the PCI ID list: a vendor's line, its devices behind one tab."""
    found: dict[tuple[str, str], str] = {}
    for path in _PCI_IDS:
        vendor = ""
        for line in text_of(root, path).splitlines():
            if not line or line.startswith(("#", "\t\t")):
                continue
            words = line.strip().split("  ", 1)
            if line.startswith("\t"):
                if (vendor, words[0]) in wanted:
                    found.setdefault((vendor, words[0]), words[-1].strip()[:100])
            else:
                vendor = words[0]
    return found


def _nvidia_model(root: Root, address: str) -> str:
    for line in text_of(root, f"/proc/driver/nvidia/gpus/{address}/information").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "Model":
            return value.strip()[:100]
    return ""


async def _nvidia_memory(root: Root, runner: Runner, addresses: list[str]) -> dict[str, int]:
    """Memory by PCI address, asked only where NVIDIA's driver is loaded."""
    if not any(root.exists(f"/proc/driver/nvidia/gpus/{address}") for address in addresses):
        return {}
    query = ["nvidia-smi", "--query-gpu=pci.bus_id,memory.total", "--format=csv,noheader,nounits"]
    try:
        result = await runner.run(query, timeout_s=20, check=False)
    except SkerryError:
        return {}
    found: dict[str, int] = {}
    for line in result.stdout.splitlines():
        bus, _, mib = (part.strip() for part in line.partition(","))
        if mib.isdigit():
            # nvidia-smi writes the domain with eight digits, sysfs with four.
            found[bus.lower()[-12:]] = int(mib) * _MIB
    return found
