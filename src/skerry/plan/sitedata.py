"""Site data: what a machine is told before its first contact, and how its sources are merged.

Sources, each counting more than the one before: the image, what the installer kept, a stick, a
credential of the machine's own (systemd), the kernel's command line, a person at the screen.
A field that a later source tells replaces it as a whole, lists too; only `labels` and `install`
are merged key by key. What no source tells stays None.

Token and pairing key are volatile: they are used from where they were read and never written to a
disk, unless the merged data says `keepSecrets`. Then they are kept until the host is registered.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

import msgspec

from skerry.lib import yamltext
from skerry.model.meta import Record

MAX_SITE_BYTES = 64 * 1024


class Source(StrEnum):
    """Where site data comes from, least first."""

    IMAGE = "image"
    INSTALLED = "installation"
    STICK = "stick"
    CREDENTIAL = "credential"
    COMMAND_LINE = "command line"
    TYPED = "typed"


class After(StrEnum):
    """What the installer does when the disk is complete."""

    POWEROFF = "poweroff"
    REBOOT = "reboot"


class Prefer(StrEnum):
    """Which of several disks that fit."""

    SMALLEST = "smallest"
    LARGEST = "largest"


class DiskRule(Record, frozen=True, kw_only=True):
    """Which disk to install on; all parts that are given must hold. `min_bytes` 0: any size."""

    path: str = ""
    serial: str = ""
    model: str = ""
    min_bytes: int = 0
    prefer: Prefer | None = None

    @property
    def names(self) -> bool:
        """Whether it names a disk, rather than describing one."""
        return bool(self.path or self.serial or self.model)


class NicData(Record, frozen=True, kw_only=True):
    """One network card, by `name` (with * and ?) or `mac`; without both, every wired card.

    Without `addresses` it asks by DHCP. `vlan` puts all of it on top of that VLAN (0: none).
    """

    name: str = ""
    mac: str = ""
    dhcp: bool = True
    addresses: tuple[str, ...] = ()
    gateway: str = ""
    dns: tuple[str, ...] = ()
    vlan: int = 0
    mtu: int = 0


class NetworkData(Record, frozen=True, kw_only=True):
    """Cards, and name servers and search domains for all of them."""

    nics: tuple[NicData, ...] = ()
    dns: tuple[str, ...] = ()
    search: tuple[str, ...] = ()


class SiteData(Record, frozen=True, kw_only=True):
    """What one source tells, or all of them merged. `trust` is PEM text, or `sha256:` and the
    fingerprint of the manager's authority as `skerry serve` prints it."""

    manager: tuple[str, ...] | None = None
    trust: str | None = None
    token: str | None = None
    pairing_key: str | None = None
    keep_secrets: bool | None = None
    site: str | None = None
    labels: dict[str, str] | None = None
    host_name: str | None = None
    ntp: tuple[str, ...] | None = None
    proxy: str | None = None
    network: NetworkData | None = None
    disk: DiskRule | None = None
    wipe: bool | tuple[str, ...] | None = None
    after: After | None = None
    unattended: bool | None = None

    def __repr__(self) -> str:
        told = [name for name in self.__struct_fields__ if getattr(self, name) is not None]
        return f"SiteData({', '.join(told)})"

    @property
    def empty(self) -> bool:
        return self == SiteData()

    @property
    def can_register(self) -> bool:
        """Whether it says enough to call a manager: its address, and how to know it. Without a
        secret the host waits there for a person."""
        return bool(self.manager and self.trust)

    def missing(self) -> tuple[str, ...]:
        """Fields that registration still needs."""
        return tuple(name for name in ("manager", "trust") if not getattr(self, name))


def merge(layers: Iterable[SiteData]) -> SiteData:
    """Later layers win, see above."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for name in SiteData.__struct_fields__:
            value = getattr(layer, name)
            if value is None:
                continue
            if name == "labels":
                value = {**(merged.get("labels") or {}), **value}
            merged[name] = value
    return SiteData(**merged)


def without_secrets(data: SiteData) -> SiteData:
    """The same, with nothing that registers a host."""
    return msgspec.structs.replace(data, token=None, pairing_key=None, keep_secrets=None)


def to_keep(data: SiteData) -> SiteData:
    """What may be written to the disk of the installed system: no permission to wipe a disk
    outlives the installation, and secrets only if the data says so."""
    kept = data if data.keep_secrets else without_secrets(data)
    return msgspec.structs.replace(kept, disk=None, wipe=None, after=None, unattended=None)


def document(data: SiteData) -> dict[str, Any]:
    """As people write it."""
    plain: dict[str, Any] = {}
    for field, key in (
        ("manager", "manager"),
        ("trust", "trust"),
        ("token", "token"),
        ("pairing_key", "pairingKey"),
        ("keep_secrets", "keepSecrets"),
        ("site", "site"),
        ("labels", "labels"),
        ("host_name", "hostName"),
        ("ntp", "ntp"),
        ("proxy", "proxy"),
    ):
        value = getattr(data, field)
        if value is not None:
            plain[key] = list(value) if isinstance(value, tuple) else value
    if data.network is not None:
        plain["network"] = _network(data.network)
    install: dict[str, Any] = {}
    if data.disk is not None:
        install["disk"] = _told(data.disk, {"minBytes": "minSize"})
    if data.wipe is not None:
        install["wipe"] = data.wipe if isinstance(data.wipe, bool) else list(data.wipe)
    if data.after is not None:
        install["after"] = data.after.value
    if data.unattended is not None:
        install["unattended"] = data.unattended
    if install:
        plain["install"] = install
    return plain


def render(data: SiteData) -> str:
    """YAML that reads back as the same data."""
    return yamltext.dump(document(data)) if not data.empty else "{}\n"


def _network(network: NetworkData) -> dict[str, Any]:
    plain = _told(network)
    if network.nics:
        plain["nics"] = [_told(nic) for nic in network.nics]
    return plain


def _told(record: Record, names: Mapping[str, str] | None = None) -> dict[str, Any]:
    built: dict[str, Any] = msgspec.to_builtins(record)
    return {
        (names or {}).get(key, key): list(value) if isinstance(value, tuple) else value
        for key, value in built.items()
    }
