"""Addresses for machines: dnsmasq, on the lab's bridge only, for those that the lab made.

No router is offered: lab hosts have no route beyond their range. The server ends with the process
that started it.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import anyio
import anyio.abc

from skerry.lab.network import gateway_of

PROGRAM = "dnsmasq"


def server_argv(bridge: str, network: IPv4Network, hosts: Path) -> list[str]:
    """The command line (dnsmasq(8)). `hosts` is a folder that it reads as files appear there."""
    gateway = gateway_of(network)
    return [
        # Not as a service: with other rights it would outlive the process that started it.
        *(PROGRAM, "--no-daemon", "--conf-file=/dev/null", "--port=0"),
        *(f"--interface={bridge}", "--except-interface=lo", "--bind-interfaces"),
        *("--no-resolv", "--no-hosts", "--no-ping", "--leasefile-ro", "--dhcp-authoritative"),
        *("--log-dhcp", "--log-facility=-"),
        f"--dhcp-range={network.network_address},static,{network.netmask},1h",
        "--dhcp-option=option:router",
        f"--dhcp-option=option:dns-server,{gateway}",
        f"--dhcp-hostsdir={hosts}",
    ]


def give(hosts: Path, name: str, mac: str, address: IPv4Address) -> None:
    """Give a machine its address."""
    hosts.mkdir(parents=True, exist_ok=True)
    # Appears at once and whole: the server reads a file when it is closed or moved in.
    fresh = hosts.parent / f".{name}.new"
    fresh.write_text(f"{mac},{address}\n")
    fresh.rename(hosts / name)


async def start_server(bridge: str, network: IPv4Network, folder: Path) -> anyio.abc.Process:
    """Start it. `folder` holds the addresses and the log."""
    (folder / "hosts").mkdir(parents=True, exist_ok=True)
    with (folder / "dhcp.log").open("ab") as out:
        return await anyio.open_process(
            ["setpriv", "--pdeathsig=KILL", "--", *server_argv(bridge, network, folder / "hosts")],
            stdin=None,
            stdout=out.fileno(),
            stderr=out.fileno(),
            start_new_session=True,
        )
