"""Files of systemd that site data's network and time become (systemd.network(5), netdev(5)).

They are written to /run at each start, before networkd: nothing of them can linger. Names sort
before the image's own, which asks for DHCP on every wired card.
"""

from __future__ import annotations

from collections.abc import Iterable

from skerry.plan.sitedata import NetworkData, NicData, SiteData

NETWORKD = "/run/systemd/network"
PREFIX = "10-skerry-"
TIMESYNCD = "/run/systemd/timesyncd.conf.d/50-skerry.conf"


def files(data: SiteData) -> dict[str, str]:
    """Texts by path; empty where the site says nothing."""
    found: dict[str, str] = {}
    if data.network is not None:
        found |= _network_files(data.network)
    if data.ntp:
        found[TIMESYNCD] = f"[Time]\nNTP={' '.join(data.ntp)}\n"
    return found


def _network_files(network: NetworkData) -> dict[str, str]:
    nics = network.nics
    if not nics and (network.dns or network.search):
        nics = (NicData(),)
    cards: dict[tuple[str, str], list[NicData]] = {}
    for nic in nics:
        cards.setdefault((nic.name, nic.mac), []).append(nic)
    found: dict[str, str] = {}
    # The narrowest match first: networkd takes the first file that matches.
    ordered = sorted(cards, key=lambda card: (not card[1], not card[0], "*" in card[0], card))
    for number, card in enumerate(ordered):
        base = f"{NETWORKD}/{PREFIX}{number:02}"
        found[f"{base}.network"] = _card(cards[card], network)
        for nic in cards[card]:
            if nic.vlan:
                name = f"vlan{nic.vlan}"
                found[f"{base}-{name}.netdev"] = (
                    f"[NetDev]\nName={name}\nKind=vlan\n\n[VLAN]\nId={nic.vlan}\n"
                )
                found[f"{base}-{name}.network"] = _text(
                    ("[Match]", f"Name={name}"), *_settings(nic, network)
                )
    return found


def _card(nics: list[NicData], network: NetworkData) -> str:
    first = nics[0]
    match = ["[Match]"]
    if first.name:
        match.append(f"Name={first.name}")
    if first.mac:
        match.append(f"PermanentMACAddress={first.mac}")
    if not (first.name or first.mac):
        match += ["Type=ether", "Kind=!*"]
    vlans = sorted({nic.vlan for nic in nics if nic.vlan})
    plain = [nic for nic in nics if not nic.vlan]
    if plain:
        sections = _settings(plain[0], network)
    else:
        # Nothing but VLANs: the card itself takes no address.
        mtu = max(nic.mtu for nic in nics)
        sections = [["[Network]", "LinkLocalAddressing=no"]]
        sections += [["[Link]", f"MTUBytes={mtu}"]] if mtu else []
    sections[0] += [f"VLAN=vlan{vlan}" for vlan in vlans]
    return _text(match, *sections)


def _settings(nic: NicData, network: NetworkData) -> list[list[str]]:
    lines = ["[Network]", f"DHCP={'yes' if nic.dhcp else 'no'}", "LLDP=no"]
    lines += [f"Address={address}" for address in nic.addresses]
    lines += [f"Gateway={nic.gateway}"] if nic.gateway else []
    lines += [f"DNS={server}" for server in nic.dns or network.dns]
    lines += [f"Domains={' '.join(network.search)}"] if network.search else []
    sections = [lines]
    if nic.mtu:
        sections.append(["[Link]", f"MTUBytes={nic.mtu}"])
    if nic.dhcp:
        # As the image's own file: the address stays the same whatever system asks.
        sections.append(["[DHCPv4]", "ClientIdentifier=mac", "RouteMetric=1024"])
    return sections


def _text(*sections: Iterable[str]) -> str:
    return "\n\n".join("\n".join(section) for section in sections) + "\n"
