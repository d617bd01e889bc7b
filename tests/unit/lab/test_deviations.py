"""Deviations are chosen by facts, from data."""

from __future__ import annotations

import pytest

from skerry.lab.deviations import Rule, deviations, load_rules, select
from skerry.lab.errors import LabError
from skerry.lab.facts import MachineFacts, has_capability

LAPTOP = MachineFacts(
    cgroup_version=2, can_raise_limits=True, runs_systemd=True, has_swap=False, is_root=True
)
SMALL_VM = MachineFacts(
    cgroup_version=1, can_raise_limits=False, runs_systemd=False, has_swap=False, is_root=True
)
SWAPPING = MachineFacts(
    cgroup_version=2, can_raise_limits=True, runs_systemd=True, has_swap=True, is_root=True
)


def test_laptop_gets_only_what_every_container_needs() -> None:
    assert deviations(LAPTOP) == {
        "kubeadm": {"ignorePreflightErrors": ["SystemVerification"]},
        "kubeProxy": {"mode": "nftables", "conntrack": {"maxPerCore": 0}},
    }


def test_cgroup_v1_and_missing_capability_add_their_values() -> None:
    values = deviations(SMALL_VM)

    assert values["kubelet"] == {"failCgroupV1": False, "cgroupDriver": "systemd"}
    assert values["containerd"] == {"restrictOomScoreAdj": True}


def test_lists_are_joined_and_not_replaced() -> None:
    values = deviations(SWAPPING)

    assert values["kubeadm"]["ignorePreflightErrors"] == ["SystemVerification", "Swap"]
    assert values["kubelet"] == {"failSwapOn": False}


def test_choosing_twice_gives_independent_values() -> None:
    deviations(SMALL_VM)["kubelet"].clear()

    assert deviations(SMALL_VM)["kubelet"] != {}


def test_rule_with_an_unknown_fact_is_an_error_and_not_silently_off() -> None:
    rule = Rule(name="typo", why="", when={"cgroup_verison": 1}, values={})

    with pytest.raises(LabError, match="cgroup_verison"):
        select([rule], LAPTOP)


def test_every_rule_sets_only_public_keys_and_says_why() -> None:
    for rule in load_rules():
        assert set(rule.values) <= {"kubelet", "kubeProxy", "kubeadm", "containerd"}
        assert rule.why


@pytest.mark.parametrize(("mask", "held"), [("000001fffeffffff", False), ("1000000", True)])
def test_capability_is_read_from_the_effective_set(mask: str, *, held: bool) -> None:
    status = f"Name:\tx\nCapPrm:\t000001ffffffffff\nCapEff:\t{mask}\n"

    assert has_capability(status, 24) is held
