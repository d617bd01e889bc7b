"""What a machine is, as its host measured it. Sizes in bytes; what is absent stays empty."""

from __future__ import annotations

from enum import StrEnum

from skerry.model.meta import Record


class Partition(Record, frozen=True, kw_only=True):
    """A part of a disk. `free_bytes` is known only while it is mounted, and coarse, so that a disk
    that fills does not make a report each time."""

    name: str
    size_bytes: int = 0
    file_system: str = ""
    mount_point: str = ""
    free_bytes: int | None = None


class Disk(Record, frozen=True, kw_only=True):
    name: str
    size_bytes: int = 0
    model: str = ""
    vendor: str = ""
    rotational: bool = False
    partitions: tuple[Partition, ...] = ()


class Nic(Record, frozen=True, kw_only=True):
    """A network card. `subnet` is the network of the first address, as 192.0.2.0/24."""

    name: str
    mac: str = ""
    addresses: tuple[str, ...] = ()
    is_default: bool = False
    state: str = ""
    subnet: str = ""
    gateway: str = ""
    dns: tuple[str, ...] = ()


class Gpu(Record, frozen=True, kw_only=True):
    """Equal display controllers. `addresses` are their PCI addresses, one each; `memory_bytes` is
    that of one of them, 0 where the driver does not say."""

    vendor: str
    model: str = ""
    count: int = 1
    memory_bytes: int = 0
    addresses: tuple[str, ...] = ()


class HostType(StrEnum):
    """Whose the operating system is: `agent-mode` the owner's, `appliance` an immutable image."""

    AGENT_MODE = "agent-mode"
    APPLIANCE = "appliance"


class Inventory(Record, frozen=True, kw_only=True):
    """What the machine is. Sizes in bytes; what is not known or not there stays empty."""

    architecture: str = ""
    host_type: str = ""
    cpu_model: str = ""
    cpu_cores: int = 0
    memory_bytes: int = 0
    disks: tuple[Disk, ...] = ()
    nics: tuple[Nic, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    os_family: str = ""
    os_name: str = ""
    os_version: str = ""
    kernel: str = ""
    virtualization: str = ""
    vendor: str = ""
    product: str = ""
    serial: str = ""
    tpm: bool = False
    tpm_version: str = ""
    secure_boot: bool = False
