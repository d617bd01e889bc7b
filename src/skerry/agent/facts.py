"""What this machine is, read from sysfs, procfs and a few files through the Root.

Absent files mean an absent thing, never an error: containers and small machines lack many.
Junk values that vendors leave in firmware ("To be filled by O.E.M.") count as empty, because
they must never identify a host.
"""

from __future__ import annotations

import platform
import re
from typing import Any

import msgspec

from skerry.lib.errors import SkerryError
from skerry.lib.files import FileMissing, Root
from skerry.lib.proc import Runner
from skerry.model.kinds import Disk, Gpu, Inventory, Nic
from skerry.wire.messages import HostFacts

_JUNK = re.compile(
    r"^(|0+|f+|none|n/?a|default string|to be filled by o\.?e\.?m\.?|system serial number|"
    r"not specified|unknown|x+|123456789|0123456789|serial|"
    r"03000200-0400-0500-0006-000700080009|f{8}-.*|0{8}-.*)$",
    re.IGNORECASE,
)
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_VENDORS = {"0x10de": "NVIDIA", "0x1002": "AMD", "0x8086": "Intel"}
_DISK_NAME = re.compile(r"^(sd[a-z]+|vd[a-z]+|nvme\d+n\d+|mmcblk\d+|xvd[a-z]+|hd[a-z]+)$")
_SECTOR = 512


def architecture() -> str:
    """This machine's architecture in the words of OCI."""
    machine = platform.machine()
    return _ARCHITECTURES.get(machine, machine)


async def host_facts(root: Root, runner: Runner) -> HostFacts:
    """What identifies this machine. The hardware id is the firmware's product UUID on a real or
    virtual machine and the machine id in a container, where the firmware is the outer machine's.
    """
    nics = await _nics(runner)
    container = bool(await _virtualization(runner, container_only=True))
    product = "" if container else _dmi(root, "product_uuid").lower()
    return HostFacts(
        hardware_id=product or f"machine-{_text(root, '/etc/machine-id')}",
        host_name=_text(root, "/etc/hostname") or _text(root, "/proc/sys/kernel/hostname"),
        serial="" if container else _dmi(root, "product_serial"),
        macs=tuple(nic.mac for nic in nics if nic.mac),
        addresses=_addresses(nics),
        architecture=architecture(),
    )


async def inventory(root: Root, runner: Runner) -> Inventory:
    """Everything the centre shows of a machine. Sizes in bytes."""
    release = _os_release(root)
    cores, model = _cpu(root)
    return Inventory(
        architecture=architecture(),
        cpu_model=model,
        cpu_cores=cores,
        memory_bytes=_memory(root),
        disks=_disks(root),
        nics=await _nics(runner),
        gpus=_gpus(root),
        os_name=release.get("ID", ""),
        os_version=release.get("VERSION_ID", ""),
        kernel=_text(root, "/proc/sys/kernel/osrelease"),
        virtualization=await _virtualization(runner),
        vendor=_dmi(root, "sys_vendor"),
        product=_dmi(root, "product_name"),
        serial=_dmi(root, "product_serial"),
        tpm=root.exists("/sys/class/tpm/tpm0"),
        secure_boot=_secure_boot(root),
    )


def addresses_of(found: Inventory) -> tuple[str, ...]:
    """Addresses worth showing: no loopback, no link-local, the default route's first."""
    return _addresses(found.nics)


def _addresses(nics: tuple[Nic, ...]) -> tuple[str, ...]:
    ordered = sorted(nics, key=lambda nic: not nic.is_default)
    return tuple(
        address
        for nic in ordered
        for address in nic.addresses
        if not address.startswith(("127.", "169.254.", "fe80:", "::1")) and not _owned(nic)
    )


def _owned(nic: Nic) -> bool:
    return nic.name in ("lo", "skerry0", "cni0") or nic.name.startswith("veth")


def _text(root: Root, path: str) -> str:
    try:
        return root.read(path).decode(errors="replace").strip()
    except (FileMissing, OSError):
        return ""


def _dmi(root: Root, name: str) -> str:
    value = _text(root, f"/sys/class/dmi/id/{name}")
    return "" if _JUNK.match(value) else value[:128]


def _os_release(root: Root) -> dict[str, str]:
    pairs = (line.partition("=") for line in _text(root, "/etc/os-release").splitlines())
    return {key: value.strip('"') for key, _, value in pairs}


def _cpu(root: Root) -> tuple[int, str]:
    cores, model = 0, ""
    for line in _text(root, "/proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "processor":
            cores += 1
        elif key.strip() in ("model name", "Model") and not model:
            model = value.strip()
    return cores, model


def _memory(root: Root) -> int:
    for line in _text(root, "/proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return 0


def _disks(root: Root) -> tuple[Disk, ...]:
    found = []
    for name in root.list("/sys/block"):
        if not _DISK_NAME.match(name):
            continue
        base = f"/sys/block/{name}"
        sectors = _text(root, f"{base}/size")
        found.append(
            Disk(
                name=name,
                size_bytes=int(sectors) * _SECTOR if sectors.isdigit() else 0,
                model=_text(root, f"{base}/device/model"),
                vendor=_text(root, f"{base}/device/vendor"),
                rotational=_text(root, f"{base}/queue/rotational") == "1",
            )
        )
    return tuple(found)


def _gpus(root: Root) -> tuple[Gpu, ...]:
    found = []
    for address in root.list("/sys/bus/pci/devices"):
        base = f"/sys/bus/pci/devices/{address}"
        # PCI class 03xxxx is a display controller (PCI Code and ID Assignment, class 03h).
        if _text(root, f"{base}/class").startswith("0x03"):
            vendor = _text(root, f"{base}/vendor")
            found.append(
                Gpu(
                    vendor=_VENDORS.get(vendor, vendor),
                    model=_text(root, f"{base}/device"),
                    address=address,
                )
            )
    return tuple(found)


def _secure_boot(root: Root) -> bool:
    for name in root.list("/sys/firmware/efi/efivars"):
        if name.startswith("SecureBoot-"):
            # Four attribute bytes, then the value (UEFI specification 2.10, section 8.2).
            return root.read(f"/sys/firmware/efi/efivars/{name}")[4:5] == b"\x01"
    return False


async def _virtualization(runner: Runner, *, container_only: bool = False) -> str:
    argv = ["systemd-detect-virt", *(["--container"] if container_only else [])]
    try:
        result = await runner.run(argv, timeout_s=10, check=False)
    except SkerryError:
        return ""
    found = result.stdout.strip()
    return "" if found == "none" else found


async def _nics(runner: Runner) -> tuple[Nic, ...]:
    try:
        links = await runner.run(["ip", "-j", "address", "show"], timeout_s=10)
        routes = await runner.run(["ip", "-j", "route", "show", "default"], timeout_s=10)
    except SkerryError:
        return ()
    defaults = {route.get("dev") for route in _json_list(routes.stdout)}
    return tuple(
        Nic(
            name=link.get("ifname", ""),
            mac=link.get("address", ""),
            addresses=tuple(item.get("local", "") for item in link.get("addr_info", [])),
            is_default=link.get("ifname") in defaults,
            state=link.get("operstate", ""),
        )
        for link in _json_list(links.stdout)
        if link.get("link_type") == "ether" and not link.get("ifname", "").startswith("veth")
    )


def _json_list(text: str) -> list[Any]:
    try:
        value = msgspec.json.decode(text) if text.strip() else []
    except msgspec.DecodeError:
        return []
    return value if isinstance(value, list) else []
