"""Values of the kubernetes layer: everything wrong is said at once, and by name."""

from __future__ import annotations

import pytest

from skerry.plan.kubernetes import check_values, no_proxy_list, read_values


def paths(values: dict[str, object], *, version: str = "") -> list[str]:
    return [item.path for item in check_values(values, version=version)]


def test_no_values_are_good_values() -> None:
    assert check_values({}) == []
    assert read_values({}).address == "10.254.254.1"


def test_all_problems_come_at_once_and_in_order() -> None:
    found = paths(
        {
            "kubelet": {"maxPodz": 1, "maxPods": 2, "clusterDNS": ["1.1.1.1"]},
            "kubeProxy": {"mood": "x"},
            "cluster": {"config": {"etcd": {"local": {"dataDir": "/x"}}, "scheduler": {"x": 1}}},
            "upgrade": {"gateLimit": "soon"},
            "etcd": {"keep": 0},
            "strange": {},
        }
    )

    assert found == [
        "kubelet.maxPodz",
        "kubelet.clusterDNS",
        "kubeProxy.mood",
        "cluster.config.etcd.local.dataDir",
        "cluster.config.scheduler.x",
        "upgrade.gateLimit",
        "etcd.keep",
        "strange",
    ]


def test_a_key_in_the_wrong_case_names_the_right_one() -> None:
    (problem,) = check_values({"kubelet": {"maxpods": 1}})

    assert "'maxPods'" in problem.message


def test_what_skerry_sets_itself_says_so() -> None:
    (problem,) = check_values({"cluster": {"config": {"kubernetesVersion": "v1.36.3"}}})

    assert "set by skerry" in problem.message


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ({"network": {"podCIDR": "10.96.0.0/16"}}, "network.podCIDR"),
        ({"network": {"address": "10.244.1.1"}}, "network.address"),
        ({"network": {"serviceCIDR": "10.96.0.0/30"}}, "network.serviceCIDR"),
        ({"network": {"podCIDR": "ten"}}, "network.podCIDR"),
    ],
)
def test_ranges_that_collide_are_refused(values: dict[str, object], path: str) -> None:
    assert path in paths(values)


def test_fields_of_a_later_kubelet_are_refused_for_an_older_one() -> None:
    values = {"kubelet": {"memoryReservationPolicy": "None"}}

    assert paths(values, version="1.35.4") == ["kubelet.memoryReservationPolicy"]
    assert paths(values, version="1.36.3") == []


def test_flags_may_be_a_mapping_or_kubeadms_own_list() -> None:
    as_map = {"cluster": {"config": {"apiServer": {"extraArgs": {"v": 3, "profiling": False}}}}}
    as_list = {
        "cluster": {
            "config": {
                "apiServer": {
                    "extraArgs": [
                        {"name": "profiling", "value": "false"},
                        {"name": "v", "value": "3"},
                    ]
                }
            }
        }
    }

    assert paths(as_map) == paths(as_list) == []
    assert read_values(as_map).cluster == read_values(as_list).cluster


def test_cluster_ranges_never_go_through_a_proxy() -> None:
    values = read_values(
        {
            "proxy": {"http": "http://p:1", "noProxy": ["intern.example"]},
            "network": {"podCIDR": "10.1.0.0/16", "serviceCIDR": "10.2.0.0/16"},
        }
    )

    found = no_proxy_list(values)

    assert found[0] == "intern.example"
    assert {"10.1.0.0/16", "10.2.0.0/16", "10.254.254.1", ".svc"} <= set(found)


def test_durations_are_read_in_seconds() -> None:
    values = read_values({"upgrade": {"gateLimit": "1m30s"}, "etcd": {"snapshotEvery": "6h"}})

    assert values.gate_limit_s == 90
    assert values.snapshot_every_s == 21600


@pytest.mark.parametrize(
    ("pods", "node"),
    [
        ("10.244.0.0/16", "10.244.0.0/24"),
        ("10.5.0.0/26", "10.5.0.0/26"),
        ("fd00::/48", "fd00::/64"),
    ],
)
def test_the_only_node_has_the_first_part_of_the_pod_range(pods: str, node: str) -> None:
    assert read_values({"network": {"podCIDR": pods}}).node_pod_cidr == node
