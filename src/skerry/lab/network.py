"""One bridge per lab run, with an address for the manager's side and for the resolver.

The range is 10.200.N.0/24. N follows from the run name, so a lab started again gets the same
range if it is free; the bridge is the reservation. Hosts have no route beyond the range.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network

from skerry.lab.errors import NoFreeNetwork
from skerry.lib.proc import Runner

_RANGES = [IPv4Network(f"10.200.{number}.0/24") for number in range(256)]
_FIRST_HOST = 10
_TIMEOUT_S = 15.0


def choose_network(run: str, taken: Iterable[IPv4Network]) -> IPv4Network:
    """The first free range from the run's own starting point. Raises NoFreeNetwork."""
    busy = list(taken)
    start = hashlib.sha256(run.encode()).digest()[0]
    for step in range(len(_RANGES)):
        candidate = _RANGES[(start + step) % len(_RANGES)]
        if not any(candidate.overlaps(other) for other in busy):
            return candidate
    raise NoFreeNetwork(
        "no free range in 10.200.0.0/16", hint="remove lab runs that are no longer needed"
    )


def gateway_of(network: IPv4Network) -> IPv4Address:
    """The bridge's own address, where the manager and the resolver are."""
    return network[1]


def choose_address(network: IPv4Network, taken: Iterable[IPv4Address]) -> IPv4Address:
    """The lowest free host address. Raises NoFreeNetwork."""
    busy = set(taken)
    for address in list(network.hosts())[_FIRST_HOST - 1 :]:
        if address not in busy:
            return address
    raise NoFreeNetwork(f"no free address in {network}")


def ranges_in_use(addresses: str, routes: str, *, but_bridge: str) -> list[IPv4Network]:
    """Ranges that this computer knows, from `ip -json -4 address` and `ip -json -4 route`.

    Those of `but_bridge` are left out: a lab that was started again may use its own.
    """
    found: list[IPv4Network] = []
    for link in json.loads(addresses or "[]"):
        if link.get("ifname") != but_bridge:
            for info in link.get("addr_info", []):
                text = f"{info['local']}/{info['prefixlen']}"
                found.append(IPv4Network(text, strict=False))
    found += [
        IPv4Network(route["dst"], strict=False)
        for route in json.loads(routes or "[]")
        if route.get("dev") != but_bridge and route.get("dst") not in (None, "default")
    ]
    return found


async def probe_ranges(runner: Runner, *, but_bridge: str) -> list[IPv4Network]:
    """Ask this computer which ranges are in use."""
    addresses = await runner.run(["ip", "-json", "-4", "address"], timeout_s=_TIMEOUT_S)
    routes = await runner.run(["ip", "-json", "-4", "route"], timeout_s=_TIMEOUT_S)
    return ranges_in_use(addresses.stdout, routes.stdout, but_bridge=but_bridge)


async def make_bridge(runner: Runner, bridge: str, network: IPv4Network) -> None:
    """Make the bridge, or give an existing one the address. Undo: `remove_bridge`."""
    if not await bridge_exists(runner, bridge):
        # Without a fixed address the bridge takes the lowest of its ports', which come and go.
        mac = "02:73:6b" + "".join(f":{b:02x}" for b in gateway_of(network).packed[1:])
        await runner.run(
            ["ip", "link", "add", bridge, "address", mac, "type", "bridge", "stp_state", "0"],
            timeout_s=_TIMEOUT_S,
        )
    address = f"{gateway_of(network)}/{network.prefixlen}"
    await runner.run(["ip", "address", "replace", address, "dev", bridge], timeout_s=_TIMEOUT_S)
    await runner.run(["ip", "link", "set", bridge, "up"], timeout_s=_TIMEOUT_S)


async def remove_bridge(runner: Runner, bridge: str) -> None:
    """Remove the bridge; nothing happens when it is not there."""
    if await bridge_exists(runner, bridge):
        await runner.run(["ip", "link", "delete", bridge], timeout_s=_TIMEOUT_S)


async def bridge_exists(runner: Runner, bridge: str) -> bool:
    """Whether an interface of this name exists."""
    found = await runner.run(
        ["ip", "link", "show", "dev", bridge], timeout_s=_TIMEOUT_S, check=False
    )
    return found.ok
