"""What this machine is, read from sysfs, procfs and a few files through the Root.

Absent files mean an absent thing, never an error: containers and small machines lack many.
Junk values that vendors leave in firmware ("To be filled by O.E.M.") count as empty, because
they must never identify a host.
"""

from __future__ import annotations

import platform
import re

from skerry.agent.hardware import disks, gpus
from skerry.agent.networks import nics_of
from skerry.lib.errors import SkerryError
from skerry.lib.files import Root, text_of
from skerry.lib.proc import Runner
from skerry.model.inventory import HostType, Inventory, Nic
from skerry.wire.messages import HostFacts

_JUNK = re.compile(
    r"^(|0+|f+|none|n/?a|default string|to be filled by o\.?e\.?m\.?|system serial number|"
    r"not specified|unknown|x+|123456789|0123456789|serial|"
    r"03000200-0400-0500-0006-000700080009|f{8}-.*|0{8}-.*)$",
    re.IGNORECASE,
)
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def architecture() -> str:
    """This machine's architecture in the words of OCI."""
    machine = platform.machine()
    return _ARCHITECTURES.get(machine, machine)


async def host_facts(root: Root, runner: Runner) -> HostFacts:
    """What identifies this machine. The hardware id is the firmware's product UUID on a real or
    virtual machine and the machine id in a container, where the firmware is the outer machine's.
    """
    nics = await nics_of(root, runner)
    container = await in_container(runner)
    product = "" if container else _dmi(root, "product_uuid").lower()
    return HostFacts(
        hardware_id=product or f"machine-{text_of(root, '/etc/machine-id')}",
        host_name=text_of(root, "/etc/hostname") or text_of(root, "/proc/sys/kernel/hostname"),
        serial="" if container else _dmi(root, "product_serial"),
        macs=tuple(nic.mac for nic in nics if nic.mac),
        addresses=addresses_of_nics(nics),
        architecture=architecture(),
    )


async def in_container(runner: Runner) -> bool:
    """Whether firmware and clock are an outer machine's."""
    return bool(await _virtualization(runner, container_only=True))


async def inventory(root: Root, runner: Runner) -> Inventory:
    """Everything the centre shows of a machine. Sizes in bytes."""
    release = _os_release(root)
    cores, model = _cpu(root)
    return Inventory(
        architecture=architecture(),
        host_type=_host_type(root),
        cpu_model=model,
        cpu_cores=cores,
        memory_bytes=_memory(root),
        disks=disks(root),
        nics=await nics_of(root, runner),
        gpus=await gpus(root, runner),
        os_family=(release.get("ID_LIKE") or release.get("ID", "")).split(" ")[0],
        os_name=release.get("ID", ""),
        os_version=release.get("VERSION_ID", ""),
        kernel=text_of(root, "/proc/sys/kernel/osrelease"),
        virtualization=await _virtualization(runner),
        vendor=_dmi(root, "sys_vendor"),
        product=_dmi(root, "product_name"),
        serial=_dmi(root, "product_serial"),
        tpm=root.exists("/sys/class/tpm/tpm0"),
        tpm_version=text_of(root, "/sys/class/tpm/tpm0/tpm_version_major"),
        secure_boot=_secure_boot(root),
    )


def addresses_of(found: Inventory) -> tuple[str, ...]:
    """Addresses worth showing: no loopback, no link-local, the default route's first."""
    return addresses_of_nics(found.nics)


def addresses_of_nics(nics: tuple[Nic, ...]) -> tuple[str, ...]:
    """The same of some cards."""
    ordered = sorted(nics, key=lambda nic: not nic.is_default)
    return tuple(
        address
        for nic in ordered
        for address in nic.addresses
        if not address.startswith(("127.", "169.254.", "fe80:", "::1")) and not _owned(nic)
    )


def _owned(nic: Nic) -> bool:
    return nic.name in ("lo", "skerry0", "cni0") or nic.name.startswith("veth")


def _dmi(root: Root, name: str) -> str:
    value = text_of(root, f"/sys/class/dmi/id/{name}")
    return "" if _JUNK.match(value) else value[:128]


def _os_release(root: Root) -> dict[str, str]:
    pairs = (line.partition("=") for line in text_of(root, "/etc/os-release").splitlines())
    return {key: value.strip('"') for key, _, value in pairs}


def _host_type(root: Root) -> str:
    """An image built by Kairos says so in /etc/kairos-release (kairos-io/kairos-init)."""
    appliance = root.exists("/etc/kairos-release")
    return (HostType.APPLIANCE if appliance else HostType.AGENT_MODE).value


def _cpu(root: Root) -> tuple[int, str]:
    cores, model = 0, ""
    for line in text_of(root, "/proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "processor":
            cores += 1
        elif key.strip() in ("model name", "Model") and not model:
            model = value.strip()
    return cores, model


def _memory(root: Root) -> int:
    for line in text_of(root, "/proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return 0


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
