"""What site data becomes in systemd's own files."""

from __future__ import annotations

from skerry.plan.sitedata import NetworkData, NicData, SiteData
from skerry.plan.sitenetwork import NETWORKD, TIMESYNCD, files


def network(*nics: NicData, **every: tuple[str, ...]) -> dict[str, str]:
    found = files(SiteData(network=NetworkData(nics=nics, **every)))
    return {path.removeprefix(f"{NETWORKD}/10-skerry-"): text for path, text in found.items()}


def test_nothing_told_is_nothing_written() -> None:
    assert files(SiteData()) == {}
    assert network() == {}


def test_a_fixed_address() -> None:
    nic = NicData(
        mac="52:54:00:aa:bb:cc", dhcp=False, addresses=("192.0.2.5/24",), gateway="192.0.2.1"
    )

    assert network(nic, dns=("192.0.2.53",), search=("shop.example",)) == {
        "00.network": (
            "[Match]\nPermanentMACAddress=52:54:00:aa:bb:cc\n\n"
            "[Network]\nDHCP=no\nLLDP=no\nAddress=192.0.2.5/24\nGateway=192.0.2.1\n"
            "DNS=192.0.2.53\nDomains=shop.example\n"
        )
    }


def test_a_vlan_lies_on_a_card_that_has_no_address_itself() -> None:
    nic = NicData(name="eno1", vlan=12, mtu=9000)

    assert network(nic) == {
        "00.network": (
            "[Match]\nName=eno1\n\n[Network]\nLinkLocalAddressing=no\nVLAN=vlan12\n\n"
            "[Link]\nMTUBytes=9000\n"
        ),
        "00-vlan12.netdev": "[NetDev]\nName=vlan12\nKind=vlan\n\n[VLAN]\nId=12\n",
        "00-vlan12.network": (
            "[Match]\nName=vlan12\n\n[Network]\nDHCP=yes\nLLDP=no\n\n[Link]\nMTUBytes=9000\n\n"
            "[DHCPv4]\nClientIdentifier=mac\nRouteMetric=1024\n"
        ),
    }


def test_a_card_can_have_an_address_and_vlans() -> None:
    found = network(
        NicData(name="eno1"), NicData(name="eno1", vlan=3), NicData(name="eno1", vlan=2)
    )

    assert "DHCP=yes\nLLDP=no\nVLAN=vlan2\nVLAN=vlan3\n" in found["00.network"]
    assert set(found) == {
        *("00.network", "00-vlan2.netdev", "00-vlan2.network"),
        *("00-vlan3.netdev", "00-vlan3.network"),
    }


def test_the_narrowest_match_comes_first() -> None:
    found = network(NicData(), NicData(name="en*"), NicData(name="eno1"), NicData(mac="5" * 17))

    matches = [text.split("\n")[1] for _, text in sorted(found.items())]
    assert matches == [f"PermanentMACAddress={'5' * 17}", "Name=eno1", "Name=en*", "Type=ether"]


def test_name_servers_alone_go_to_every_card_with_dhcp() -> None:
    found = network(dns=("192.0.2.53",))

    assert (
        "Type=ether\nKind=!*\n\n[Network]\nDHCP=yes\nLLDP=no\nDNS=192.0.2.53" in found["00.network"]
    )


def test_time_servers() -> None:
    assert files(SiteData(ntp=("a.example", "192.0.2.123"))) == {
        TIMESYNCD: "[Time]\nNTP=a.example 192.0.2.123\n"
    }
