"""Network cards: addresses, subnet, gateway and name servers, as iproute2 and systemd tell them."""

from __future__ import annotations

import ipaddress
from typing import Any

import msgspec

from skerry.lib.errors import SkerryError
from skerry.lib.files import Root, text_of
from skerry.lib.proc import Runner
from skerry.model.inventory import Nic

# systemd-resolved keeps the servers it really asks there; resolv.conf may only name its stub.
_RESOLV = ("/run/systemd/resolve/resolv.conf", "/etc/resolv.conf")
_NO_MAC = "00:00:00:00:00:00"
_MAX_DNS = 8


async def nics_of(root: Root, runner: Runner) -> tuple[Nic, ...]:
    """Ethernet-like cards, without the ends of containers' links."""
    try:
        links = await runner.run(["ip", "-j", "address", "show"], timeout_s=10)
        routes = await runner.run(["ip", "-j", "route", "show", "default"], timeout_s=10)
        more = await runner.run(["ip", "-j", "-6", "route", "show", "default"], timeout_s=10)
    except SkerryError:
        return ()
    gateways: dict[str, str] = {}
    defaults: set[str] = set()
    for route in (*_json_list(routes.stdout), *_json_list(more.stdout)):
        device = str(route.get("dev", ""))
        defaults.add(device)
        if route.get("gateway"):
            gateways.setdefault(device, str(route["gateway"]))
    everyones = _name_servers(root)
    return tuple(
        _nic(root, link, gateways=gateways, defaults=defaults, everyones=everyones)
        for link in _json_list(links.stdout)
        if link.get("link_type") == "ether" and not str(link.get("ifname", "")).startswith("veth")
    )


def _nic(
    root: Root,
    link: dict[str, Any],
    *,
    gateways: dict[str, str],
    defaults: set[str],
    everyones: tuple[str, ...],
) -> Nic:
    name = str(link.get("ifname", ""))
    mac = str(link.get("address", ""))
    addresses = [item for item in link.get("addr_info", []) if isinstance(item, dict)]
    own = _link_servers(root, link.get("ifindex"))
    return Nic(
        name=name,
        mac="" if mac == _NO_MAC else mac,
        addresses=tuple(str(item.get("local", "")) for item in addresses),
        is_default=name in defaults,
        state=str(link.get("operstate", "")),
        subnet=_subnet(addresses),
        gateway=gateways.get(name, ""),
        dns=own or (everyones if name in defaults else ()),
    )


def _subnet(addresses: list[dict[str, Any]]) -> str:
    for item in addresses:
        if item.get("scope", "global") != "global":
            continue
        try:
            network = ipaddress.ip_network(f"{item['local']}/{item['prefixlen']}", strict=False)
        except (KeyError, ValueError):
            continue
        return str(network)
    return ""


def _link_servers(root: Root, index: object) -> tuple[str, ...]:
    """A link's own servers, as systemd-networkd keeps them (sd-network, /run/systemd/netif)."""
    for line in text_of(root, f"/run/systemd/netif/links/{index}").splitlines():
        if line.startswith("DNS="):
            return tuple(line.partition("=")[2].split()[:_MAX_DNS])
    return ()


def _name_servers(root: Root) -> tuple[str, ...]:
    for path in _RESOLV:
        words = (line.split() for line in text_of(root, path).splitlines())
        servers = [item[1] for item in words if len(item) > 1 and item[0] == "nameserver"]
        if servers:
            return tuple(servers[:_MAX_DNS])
    return ()


def _json_list(text: str) -> list[dict[str, Any]]:
    try:
        value = msgspec.json.decode(text) if text.strip() else []
    except msgspec.DecodeError:
        return []
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
