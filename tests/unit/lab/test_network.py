"""Names and addresses of a lab run."""

from __future__ import annotations

import json
from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.lab.errors import BadLabName, NoFreeNetwork
from skerry.lab.names import bridge_name, check_label, machine_id
from skerry.lab.network import choose_address, choose_network, gateway_of, ranges_in_use

RUNS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?", fullmatch=True)


@given(RUNS)
def test_prop_bridge_name_fits_the_kernel(run: str) -> None:
    assert len(bridge_name(check_label(run, what="run name"))) <= 15


def test_long_run_names_with_a_common_start_get_different_bridges() -> None:
    assert bridge_name("integration-one") != bridge_name("integration-two")


@pytest.mark.parametrize("name", ["", "Upper", "a.b", "-a", "a-", "a/b", "a" * 31, "a\n"])
def test_name_that_is_no_label_is_refused(name: str) -> None:
    with pytest.raises(BadLabName):
        check_label(name, what="run name")


def test_machine_id_is_stable_and_differs_between_hosts_and_runs() -> None:
    ids = {machine_id("a", "b"), machine_id("a", "c"), machine_id("c", "b")}

    assert len(ids) == 3
    assert machine_id("a", "b") in ids
    assert all(len(found) == 32 for found in ids)


def test_same_run_gets_the_same_range_and_a_taken_one_is_passed_over() -> None:
    first = choose_network("run", [])

    assert choose_network("run", []) == first
    assert not choose_network("run", [first]).overlaps(first)


def test_wide_foreign_route_blocks_every_range() -> None:
    with pytest.raises(NoFreeNetwork):
        choose_network("run", [IPv4Network("10.0.0.0/8")])


@given(st.integers(min_value=0, max_value=60))
def test_prop_addresses_are_distinct_and_never_the_gateway(count: int) -> None:
    network = IPv4Network("10.200.9.0/24")
    taken = [gateway_of(network)]
    for _ in range(count):
        taken.append(choose_address(network, taken))

    assert len(set(taken)) == count + 1
    assert all(address in network for address in taken)


def test_ranges_in_use_are_read_from_addresses_and_routes_except_own_bridge() -> None:
    addresses = json.dumps(
        [
            {"ifname": "eth0", "addr_info": [{"local": "192.168.1.5", "prefixlen": 24}]},
            {"ifname": "sk-me", "addr_info": [{"local": "10.200.1.1", "prefixlen": 24}]},
        ]
    )
    routes = json.dumps(
        [
            {"dst": "default", "dev": "eth0"},
            {"dst": "10.200.4.0/24", "dev": "tun0"},
            {"dst": "10.200.1.0/24", "dev": "sk-me"},
        ]
    )

    assert ranges_in_use(addresses, routes, but_bridge="sk-me") == [
        IPv4Network("192.168.1.0/24"),
        IPv4Network("10.200.4.0/24"),
    ]
