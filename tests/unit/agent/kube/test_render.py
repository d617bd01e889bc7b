"""What the engine writes: right for any host, and free of what only the lab needs."""

from __future__ import annotations

import json
import tomllib

import yaml

from skerry.agent.kube import places, render
from skerry.lab.deviations import load_rules
from skerry.plan.kubernetes import read_values


def documents(host, values: dict[str, object]) -> dict[str, dict[str, object]]:
    text = render.kubeadm_config(host.cluster(values=values), read_values(values), version="1.36.3")
    return {item["kind"]: item for item in yaml.safe_load_all(text)}


def test_the_cluster_lives_on_skerrys_own_address(host) -> None:
    found = documents(host, {})

    init = found["InitConfiguration"]
    assert init["localAPIEndpoint"]["advertiseAddress"] == "10.254.254.1"
    assert {"name": "node-ip", "value": "10.254.254.1"} in init["nodeRegistration"][
        "kubeletExtraArgs"
    ]
    assert init["nodeRegistration"]["taints"] == []
    assert init["nodeRegistration"]["imagePullPolicy"] == "Never"


def test_people_extend_the_configuration_but_never_replace_what_skerry_sets(host) -> None:
    values = {
        "cluster": {
            "config": {
                "apiServer": {"extraArgs": {"v": 3}},
                "etcd": {"local": {"extraArgs": {"quota-backend-bytes": "1"}}},
            }
        },
        "kubelet": {"maxPods": 50},
        "kubeProxy": {"mode": "nftables"},
        "network": {"podCIDR": "10.9.0.0/16"},
    }

    found = documents(host, values)

    cluster = found["ClusterConfiguration"]
    assert cluster["apiServer"]["extraArgs"] == [{"name": "v", "value": "3"}]
    assert cluster["etcd"]["local"]["dataDir"] == "/var/lib/skerry/etcd"
    assert cluster["etcd"]["local"]["extraArgs"]
    assert cluster["kubernetesVersion"] == "v1.36.3"
    assert cluster["networking"]["podSubnet"] == "10.9.0.0/16"
    assert found["KubeletConfiguration"]["maxPods"] == 50
    assert found["KubeletConfiguration"]["clusterDNS"] == ["10.96.0.10"]
    assert found["KubeProxyConfiguration"]["mode"] == "nftables"
    assert found["KubeProxyConfiguration"]["clusterCIDR"] == "10.9.0.0/16"


def test_no_lab_deviation_is_in_the_engines_own_output(host) -> None:
    values = read_values({})
    written = [
        render.kubeadm_config(host.cluster(), values, version="1.36.3"),
        render.containerd_config(values, sandbox_image="pause"),
        render.sysctl_config(),
        *render.units(values.address).values(),
    ]
    text = "\n".join(written)
    own = tomllib.loads(written[1])["plugins"]["io.containerd.cri.v1.runtime"]

    for rule in load_rules():
        for name in rule.values.get("kubelet", {}):
            assert name not in text
        for name in rule.values.get("kubeadm", {}).get("ignorePreflightErrors", []):
            assert name not in text
        for name in rule.values.get("kubeProxy", {}):
            assert f"{name}:" not in text
    assert "ignorePreflightErrors" not in text
    assert own["restrict_oom_score_adj"] is False


def test_containerd_has_its_own_root_state_and_socket_and_uses_links(host) -> None:
    config = tomllib.loads(render.containerd_config(read_values({}), sandbox_image="p:1"))

    assert config["root"] == "/var/lib/skerry/containerd"
    assert config["grpc"]["address"] == "/run/skerry/containerd/containerd.sock"
    runtime = config["plugins"]["io.containerd.cri.v1.runtime"]
    assert runtime["cni"]["bin_dirs"] == ["/var/lib/skerry/links/cni"]
    options = runtime["containerd"]["runtimes"]["runc"]["options"]
    assert options["BinaryName"] == "/var/lib/skerry/links/runc"
    images = config["plugins"]["io.containerd.cri.v1.images"]
    assert images["pinned_images"]["sandbox"] == "p:1"


def test_registries_become_certs_d_with_mirror_before_server(host) -> None:
    values = read_values(
        {
            "registries": {
                "mirrors": {"docker.io": ["https://mirror.example:5000"]},
                "hosts": {"mirror.example:5000": {"ca": "PEM", "username": "u", "password": "p"}},
            }
        }
    )

    files = render.registry_files(values)

    assert files["mirror.example:5000/ca.crt"] == "PEM"
    hosts = tomllib.loads(files["docker.io/hosts.toml"])
    assert list(hosts["host"]) == [
        "https://mirror.example:5000",
        "https://registry-1.docker.io",
    ]
    mirror = hosts["host"]["https://mirror.example:5000"]
    assert mirror["ca"].endswith("certs.d/mirror.example:5000/ca.crt")
    assert mirror["header"]["Authorization"] == "Basic dTpw"
    assert "header" not in hosts["host"]["https://registry-1.docker.io"]


def test_the_proxy_reaches_units_in_both_spellings_and_spares_the_cluster(host) -> None:
    text = render.proxy_environment(read_values({"proxy": {"https": "http://p:3128"}}))
    lines = dict(line.split("=", 1) for line in text.splitlines())

    assert lines["HTTPS_PROXY"] == lines["https_proxy"] == "http://p:3128"
    assert "10.96.0.0/12" in lines["NO_PROXY"].split(",")
    assert render.proxy_environment(read_values({})) == ""


def test_the_pod_network_is_the_nodes_own_range(host) -> None:
    config = json.loads(render.network_config(read_values({})))
    bridge, portmap = config["plugins"]

    assert bridge["ipam"]["ranges"] == [[{"subnet": "10.244.0.0/24"}]]
    assert portmap["type"] == "portmap"


def test_a_restart_of_either_unit_leaves_pods_alone(host) -> None:
    units = render.units("10.254.254.1")

    assert "KillMode=process" in units["skerry-containerd.service"]
    assert "KillMode=process" in units["skerry-kubelet.service"]


def test_the_fence_comes_back_after_a_reboot_before_the_kubelet(host) -> None:
    unit = render.units("10.254.254.1")["skerry-fence.service"]

    assert "Before=skerry-kubelet.service" in unit
    assert "ConditionPathExists=/var/lib/skerry/kube/fence.nft" in unit
    assert "ip saddr 10.254.254.1 accept" in render.fence("10.254.254.1")


def test_a_container_that_ignores_the_stop_holds_a_shutdown_for_its_grace_only() -> None:
    text = render.pod_scopes()

    assert "[Scope]\nTimeoutStopSec=30s" in text
    assert "Conflicts=shutdown.target" in text
    assert f"Before=shutdown.target {places.KUBELET_UNIT}\nAfter={places.CONTAINERD_UNIT}" in text
