"""What may stand in site data, field by field; everything that is wrong is told at once.

Messages never quote the value of a secret, nor a proxy's address, which may hold a password.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

from skerry.lib import pki
from skerry.model.labels import host_labels, kind_of, quoted
from skerry.model.meta import NAME_PATTERN
from skerry.model.problems import Problem
from skerry.plan.sitedata import (
    MAX_SITE_BYTES,
    After,
    DiskRule,
    NetworkData,
    NicData,
    Prefer,
    SiteData,
)

_Value = TypeVar("_Value")
_Word = TypeVar("_Word", After, Prefer)

_TOP = (
    *("manager", "trust", "token", "pairingKey", "keepSecrets", "site", "labels", "hostName"),
    *("ntp", "proxy", "network", "install"),
)
_INSTALL = ("disk", "wipe", "after", "unattended")
_DISK = ("path", "serial", "model", "minSize", "prefer")
_NETWORK = ("nics", "dns", "search")
_NIC = ("name", "mac", "dhcp", "addresses", "gateway", "dns", "vlan", "mtu")

_HOST = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9-]{1,63})*")
_HOST_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_FINGERPRINT = re.compile(r"sha256:[0-9a-f]{64}")
_SECRET = re.compile(r"[!-~]{1,512}")
_SIZE = re.compile(r"(\d{1,12}) ?([KMGT]i?B)?")
_UNITS: dict[str, int] = {
    f"{c}{i}B": (1024 if i else 1000) ** n for n, c in enumerate("KMGT", 1) for i in ("i", "")
}
_NIC_NAME = re.compile(r"[A-Za-z0-9*?][A-Za-z0-9._*?-]{0,14}")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----")
_MAX = {"manager": 4, "ntp": 8, "dns": 8, "search": 8, "nics": 16, "addresses": 16, "wipe": 8}


def check(raw: Any) -> tuple[SiteData, list[Problem]]:
    """Site data from plain values; all that is wrong with them. Never raises."""
    checked = _Checked()
    if not checked.mapping("", raw, _TOP):
        return SiteData(), checked.problems
    install = raw.get("install")
    if install is None or not checked.mapping("install", install, _INSTALL):
        install = {}
    data = SiteData(
        manager=checked.at("manager", raw, checked.managers),
        trust=checked.at("trust", raw, checked.trust),
        token=checked.at("token", raw, checked.secret),
        pairing_key=checked.at("pairingKey", raw, checked.secret),
        keep_secrets=checked.at("keepSecrets", raw, checked.flag),
        site=checked.at("site", raw, checked.site),
        labels=checked.at("labels", raw, checked.labels),
        host_name=checked.at("hostName", raw, checked.host_name),
        ntp=checked.at("ntp", raw, checked.hosts),
        proxy=checked.at("proxy", raw, checked.proxy),
        network=checked.at("network", raw, checked.network),
        disk=checked.at("disk", install, checked.disk, under="install."),
        wipe=checked.at("wipe", install, checked.wipe, under="install."),
        after=checked.at("after", install, lambda p, v: checked.word(p, v, After), "install."),
        unattended=checked.at("unattended", install, checked.flag, under="install."),
    )
    return (SiteData() if checked.problems else data), checked.problems


def size_of(text: str) -> int:
    """Bytes of "20GiB", "20 GB" or "1000". Raises ValueError."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{quoted(text)} is no size; write it as 20GiB")
    return int(found[1]) * _UNITS.get(found[2] or "", 1)


class _Checked:
    """Collects problems while values are looked at; a bad value reads as empty."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def wrong(self, path: str, message: str, hint: str = "") -> None:
        if len(self.problems) < 100:
            self.problems.append(Problem(path=path, message=message, hint=hint))

    def at(
        self,
        name: str,
        raw: Mapping[str, Any],
        read: Callable[[str, Any], _Value],
        under: str = "",
    ) -> _Value | None:
        value = raw.get(name)
        return None if value is None else read(under + name, value)

    def mapping(self, path: str, raw: Any, known: tuple[str, ...]) -> bool:
        if not isinstance(raw, Mapping):
            self.wrong(path, f"must be a mapping, is {kind_of(raw)}")
            return False
        for key in raw:
            if key not in known:
                self.problems.append(unknown(f"{path}.{key}".strip(".")[:100], str(key), known))
        return True

    def text(self, path: str, value: Any, *, limit: int = 256) -> str:
        if not isinstance(value, str):
            self.wrong(path, f"must be text, is {kind_of(value)}")
            return ""
        if len(value) > limit:
            self.wrong(path, f"is longer than {limit} characters")
            return ""
        return value

    def flag(self, path: str, value: Any) -> bool:
        if not isinstance(value, bool):
            self.wrong(path, f"must be true or false, is {kind_of(value)}")
        return value is True

    def number(self, path: str, value: Any, least: int, most: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            self.wrong(path, f"must be a whole number, is {kind_of(value)}")
        elif not least <= value <= most:
            self.wrong(path, f"must be from {least} to {most}")
        else:
            return value
        return 0

    def word(self, path: str, value: Any, kind: type[_Word]) -> _Word | None:
        known = ", ".join(item.value for item in kind)
        try:
            return kind(value)
        except ValueError:
            self.wrong(path, f"must be one of {known}")
            return None

    def texts(self, path: str, value: Any) -> list[tuple[str, str]]:
        """Paths and texts of a list, or of one text."""
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list):
            self.wrong(path, f"must be a list of texts, is {kind_of(value)}")
            return []
        most = _MAX.get(path.rsplit(".", 1)[-1], 16)
        if len(items) > most:
            self.wrong(path, f"has {len(items)} items, at most {most}")
            return []
        pairs = [(f"{path}[{number}]", item) for number, item in enumerate(items)]
        return [(place, found) for place, item in pairs if (found := self.text(place, item))]

    def managers(self, path: str, value: Any) -> tuple[str, ...]:
        return tuple(
            item.rstrip("/")
            for place, item in self.texts(path, value)
            if self._url(place, item, ("https",))
        )

    def proxy(self, path: str, value: Any) -> str:
        text = self.text(path, value, limit=512)
        return text if not text or self._url(path, text, ("http", "https"), user=True) else ""

    def _url(self, path: str, text: str, schemes: tuple[str, ...], *, user: bool = False) -> bool:
        wanted = f"write {schemes[0]}://NAME:PORT"
        try:
            parts = urlsplit(text)
            host, _ = parts.hostname, parts.port
        except ValueError:
            host, parts = None, urlsplit("")
        fine = (
            host
            and text.isascii()
            and not re.search(r"[\s\x00-\x1f\x7f]", text)
            and parts.scheme in schemes
            and parts.path in ("", "/")
            and not (parts.query or parts.fragment)
            and (user or "@" not in parts.netloc)
            and (_HOST.fullmatch(host) or _address(host))
        )
        if not fine:
            # It may hold a password: the value is not quoted.
            self.wrong(path, "is not the address of a server", wanted)
        return bool(fine)

    def trust(self, path: str, value: Any) -> str:
        text = self.text(path, value, limit=MAX_SITE_BYTES)
        if not text:
            return ""
        plain = text.strip().lower().replace(":", "")
        if re.fullmatch(r"(sha256)?[0-9a-f]{64}", plain):
            return f"sha256:{plain.removeprefix('sha256')}"
        blocks = _PEM.findall(text)
        try:
            for block in blocks:
                pki.load_certificate(block)
        except (pki.BadKey, ValueError):
            blocks = []
        if not blocks:
            hint = "PEM text of the manager's authority, or sha256: and what 'skerry serve' prints"
            self.wrong(path, "is neither a certificate nor a fingerprint", hint)
            return ""
        return "\n".join(blocks) + "\n"

    def secret(self, path: str, value: Any) -> str:
        if isinstance(value, str) and not _SECRET.fullmatch(value) and value != "":
            self.wrong(path, "must be 1 to 512 printed characters without a space")
            return ""
        return self.text(path, value, limit=512)

    def site(self, path: str, value: Any) -> str:
        text = self.text(path, value)
        if text and not re.fullmatch(NAME_PATTERN.strip("^$"), text):
            self.wrong(path, f"{quoted(text)} is no name", "lower-case letters, digits and '-'")
        return text

    def labels(self, path: str, value: Any) -> dict[str, str]:
        if not isinstance(value, Mapping):
            self.wrong(path, f"must be a mapping, is {kind_of(value)}")
            return {}
        good, refused = host_labels(path, value)
        self.problems += refused
        return good

    def host_name(self, path: str, value: Any) -> str:
        text = self.text(path, value)
        if text and (len(text) > 63 or not _HOST_NAME.fullmatch(text)):
            hint = "at most 63 lower-case letters, digits, '-' and '.'"
            self.wrong(path, f"{quoted(text)} is no host name", hint)
        return text

    def hosts(self, path: str, value: Any) -> tuple[str, ...]:
        found = self.texts(path, value)
        for place, item in found:
            if not _HOST.fullmatch(item) and not _address(item):
                self.wrong(place, f"{quoted(item)} is neither a name nor an address")
        return tuple(item for _, item in found)

    def addresses(self, path: str, value: Any) -> tuple[str, ...]:
        found = self.texts(path, value)
        for place, item in found:
            if not _address(item):
                self.wrong(place, f"{quoted(item)} is not an IP address")
        return tuple(item for _, item in found)

    def network(self, path: str, value: Any) -> NetworkData:
        if not self.mapping(path, value, _NETWORK):
            return NetworkData()
        nics = value.get("nics") or []
        if not isinstance(nics, list) or len(nics) > _MAX["nics"]:
            self.wrong(f"{path}.nics", f"must be a list of at most {_MAX['nics']} cards")
            nics = []
        return NetworkData(
            nics=tuple(self._nic(f"{path}.nics[{n}]", nic) for n, nic in enumerate(nics)),
            dns=self.at("dns", value, self.addresses, under=f"{path}.") or (),
            search=self.at("search", value, self.hosts, under=f"{path}.") or (),
        )

    def _nic(self, path: str, value: Any) -> NicData:
        if not self.mapping(path, value, _NIC):
            return NicData()
        under = f"{path}."
        name = self.at("name", value, self.text, under) or ""
        mac = (self.at("mac", value, self.text, under) or "").lower().replace("-", ":")
        if name and not _NIC_NAME.fullmatch(name):
            self.wrong(f"{path}.name", f"{quoted(name)} is no name of a card")
        if mac and not _MAC.fullmatch(mac):
            self.wrong(f"{path}.mac", f"{quoted(mac)} is no MAC address", "as 52:54:00:12:34:56")
        addresses = tuple(
            item
            for place, item in self.texts(f"{path}.addresses", value.get("addresses") or [])
            if self._interface(place, item)
        )
        dhcp = self.at("dhcp", value, self.flag, under)
        if dhcp is False and not addresses:
            self.wrong(path, "has neither DHCP nor an address", "set addresses: [192.0.2.5/24]")
        gateway = self.at("gateway", value, self.text, under) or ""
        if gateway and addresses and not self._reaches(addresses, gateway):
            self.wrong(f"{path}.gateway", f"{quoted(gateway)} lies in no subnet of this card")
        elif gateway and not _address(gateway):
            self.wrong(f"{path}.gateway", f"{quoted(gateway)} is not an IP address")
        return NicData(
            name=name,
            mac=mac,
            dhcp=not addresses if dhcp is None else dhcp,
            addresses=addresses,
            gateway=gateway,
            dns=self.at("dns", value, self.addresses, under) or (),
            vlan=self.at("vlan", value, lambda p, v: self.number(p, v, 1, 4094), under) or 0,
            mtu=self.at("mtu", value, lambda p, v: self.number(p, v, 1280, 9216), under) or 0,
        )

    def _interface(self, path: str, item: str) -> bool:
        try:
            ipaddress.ip_interface(item)
        except ValueError:
            fine = False
        else:
            fine = "/" in item and "%" not in item
        if not fine:
            self.wrong(path, f"{quoted(item)} is not an address with its prefix", "as 192.0.2.5/24")
        return fine

    @staticmethod
    def _reaches(addresses: tuple[str, ...], gateway: str) -> bool:
        return bool(_address(gateway)) and any(
            ipaddress.ip_address(gateway) in ipaddress.ip_interface(item).network
            for item in addresses
        )

    def disk(self, path: str, value: Any) -> DiskRule:
        if not self.mapping(path, value, _DISK):
            return DiskRule()
        under = f"{path}."
        place = self.at("path", value, self.text, under) or ""
        if place and not _device(place):
            self.wrong(f"{path}.path", f"{quoted(place)} is no disk", "as /dev/nvme0n1")
        return DiskRule(
            path=place,
            serial=self.at("serial", value, self.text, under) or "",
            model=self.at("model", value, self.text, under) or "",
            min_bytes=self.at("minSize", value, self._size, under) or 0,
            prefer=self.at("prefer", value, lambda p, v: self.word(p, v, Prefer), under),
        )

    def _size(self, path: str, value: Any) -> int:
        if isinstance(value, str):
            try:
                return size_of(value)
            except ValueError as exc:
                self.wrong(path, str(exc))
                return 0
        return self.number(path, value, 0, 1 << 60)

    def wipe(self, path: str, value: Any) -> bool | tuple[str, ...]:
        if isinstance(value, bool):
            return value
        return tuple(item for _, item in self.texts(path, value))


def unknown(path: str, name: str, known: tuple[str, ...]) -> Problem:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
    return Problem(path=path, message="unknown field", hint=hint)


def _address(text: str) -> bool:
    try:
        return "%" not in text and bool(ipaddress.ip_address(text))
    except ValueError:
        return False


def _device(path: str) -> bool:
    return bool(re.fullmatch(r"/dev/[A-Za-z0-9._:/+-]+", path)) and ".." not in path.split("/")
