"""Files that the kubeadm engine writes, as pure functions of the desired cluster.

Nothing here depends on where the host runs: what a surrounding needs differently comes through
the kubernetes layer's values alone.
"""

from __future__ import annotations

import base64
import ipaddress
import json
from collections.abc import Mapping
from typing import Any

import yaml

from skerry.agent.kube import places
from skerry.agent.paths import COMMAND
from skerry.plan.desired import DesiredCluster
from skerry.plan.kubernetes import DNS_DOMAIN, KubernetesValues, no_proxy_list

SYSCTLS = {
    "net.ipv4.ip_forward": "1",
    "net.ipv6.conf.all.forwarding": "1",
    "net.bridge.bridge-nf-call-iptables": "1",
    "net.bridge.bridge-nf-call-ip6tables": "1",
}


def kubeadm_config(cluster: DesiredCluster, values: KubernetesValues, *, version: str) -> str:
    """kubeadm's configuration file, v1beta4, all documents."""
    documents = (
        _init_configuration(cluster, values),
        _cluster_configuration(cluster, values, version=version),
        _kubelet_configuration(values),
        _kube_proxy_configuration(values),
    )
    return yaml.safe_dump_all(documents, sort_keys=True)


def _init_configuration(cluster: DesiredCluster, values: KubernetesValues) -> dict[str, Any]:
    registration: dict[str, Any] = {
        "name": cluster.node_name,
        "criSocket": f"unix://{places.CONTAINERD_SOCKET}",
        "taints": [],  # the only node runs workloads too
        "imagePullPolicy": "Never",
        "kubeletExtraArgs": [{"name": "node-ip", "value": values.address}],
    }
    if values.ignore_preflight:
        registration["ignorePreflightErrors"] = list(values.ignore_preflight)
    return {
        "apiVersion": "kubeadm.k8s.io/v1beta4",
        "kind": "InitConfiguration",
        "localAPIEndpoint": {
            "advertiseAddress": values.address,
            "bindPort": places.API_PORT,
        },
        "nodeRegistration": registration,
    }


def _cluster_configuration(
    cluster: DesiredCluster, values: KubernetesValues, *, version: str
) -> dict[str, Any]:
    own: dict[str, Any] = {
        "apiVersion": "kubeadm.k8s.io/v1beta4",
        "kind": "ClusterConfiguration",
        "clusterName": cluster.name,
        "kubernetesVersion": f"v{version}",
        "networking": {
            "podSubnet": values.pod_cidr,
            "serviceSubnet": values.service_cidr,
            "dnsDomain": DNS_DOMAIN,
        },
        "etcd": {"local": {"dataDir": places.ETCD}},
    }
    return _merged(values.cluster, own)


def _kubelet_configuration(values: KubernetesValues) -> dict[str, Any]:
    return {
        **values.kubelet,
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": f"unix://{places.CONTAINERD_SOCKET}",
        "clusterDNS": [values.dns_address],
        "clusterDomain": DNS_DOMAIN,
    }


def _kube_proxy_configuration(values: KubernetesValues) -> dict[str, Any]:
    return {
        # The node's own address is private to the host: without this, nftables mode would offer
        # node ports there only ("primary", kube-proxy's default in that mode).
        "nodePortAddresses": ["0.0.0.0/0"],
        **values.kube_proxy,
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clusterCIDR": values.pod_cidr,
    }


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        have = merged.get(key)
        both = isinstance(have, Mapping) and isinstance(value, Mapping)
        merged[key] = _merged(have, value) if both and isinstance(have, Mapping) else value
    return merged


# -- containerd --------------------------------------------------------------------------------


def containerd_config(values: KubernetesValues, *, sandbox_image: str) -> str:
    """containerd 2.x configuration, version 3."""
    oom = "true" if values.restrict_oom_score_adj else "false"
    return f"""version = 3
root = "{places.CONTAINERD_ROOT}"
state = "{places.CONTAINERD_STATE}"
disabled_plugins = ["io.containerd.internal.v1.opt"]

[grpc]
  address = "{places.CONTAINERD_SOCKET}"

[ttrpc]
  address = "{places.CONTAINERD_SOCKET}.ttrpc"

[plugins."io.containerd.nri.v1.nri"]
  disable = true

[plugins."io.containerd.cri.v1.images"]
  max_concurrent_downloads = {values.max_concurrent_downloads}

[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{sandbox_image}"

[plugins."io.containerd.cri.v1.images".registry]
  config_path = "{places.CERTS_D}"

[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = {oom}

[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["{places.LINKS}/cni"]
  conf_dir = "{places.CNI_CONFIG_DIR}"

[plugins."io.containerd.cri.v1.runtime".containerd]
  default_runtime_name = "runc"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
  BinaryName = "{places.LINKS}/runc"
  SystemdCgroup = true
"""


def registry_files(values: KubernetesValues) -> dict[str, str]:
    """Files below `certs.d`: `HOST/hosts.toml` and `HOST/ca.crt` of every registry named."""
    files: dict[str, str] = {}
    for host, settings in values.registry_hosts.items():
        if settings.ca:
            files[f"{_folder(host)}/ca.crt"] = settings.ca
    names = dict.fromkeys((*values.mirrors, *values.registry_hosts))
    for name in names:
        lines: list[str] = []
        if name != "*":
            lines.append(f'server = "{_server(name)}"')
        for url in (*values.mirrors.get(name, ()), *([] if name == "*" else [_server(name)])):
            lines += _registry_host(url, values)
        files[f"{_folder(name)}/hosts.toml"] = "\n".join(lines) + "\n"
    return files


def _registry_host(url: str, values: KubernetesValues) -> list[str]:
    host = url.split("://", 1)[1].split("/", 1)[0]
    settings = values.registry_hosts.get(host)
    lines = ["", f'[host."{url}"]', '  capabilities = ["pull", "resolve"]']
    if url.count("/") > 2:
        lines.append("  override_path = true")
    if settings is None:
        return lines
    if settings.ca:
        lines.append(f'  ca = "{places.CERTS_D}/{_folder(host)}/ca.crt"')
    if settings.skip_verify:
        lines.append("  skip_verify = true")
    if settings.username or settings.password:
        pair = base64.b64encode(f"{settings.username}:{settings.password}".encode()).decode()
        lines += [f'  [host."{url}".header]', f'    Authorization = "Basic {pair}"']
    return lines


def _server(name: str) -> str:
    return "https://registry-1.docker.io" if name == "docker.io" else f"https://{name}"


def _folder(name: str) -> str:
    """containerd's folder of a registry; a port's colon stays, `*` is `_default`."""
    return "_default" if name == "*" else name


def proxy_environment(values: KubernetesValues) -> str:
    """An environment file for containerd and kubelet; empty without a proxy."""
    if not values.http_proxy and not values.https_proxy:
        return ""
    names = {
        "HTTP_PROXY": values.http_proxy,
        "HTTPS_PROXY": values.https_proxy,
        "NO_PROXY": ",".join(no_proxy_list(values)),
    }
    lines = [f"{name}={value}" for name, value in names.items() if value]
    return "\n".join([*lines, *(line_lower(line) for line in lines)]) + "\n"


def line_lower(line: str) -> str:
    """The same variable under its lower-case name, which some programs read instead."""
    name, value = line.split("=", 1)
    return f"{name.lower()}={value}"


# -- network -----------------------------------------------------------------------------------


def network_config(values: KubernetesValues) -> str:
    """The built-in pod network of a single node: bridge, host-local, portmap.

    Addresses in use are kept in /run: after a reboot every pod gets a new one anyway, and
    nothing is left behind by pods that a power cut took.
    """
    network = values.node_pod_cidr
    every = "0.0.0.0/0" if ipaddress.ip_network(network).version == 4 else "::/0"
    bridge = {
        "type": "bridge",
        "bridge": places.POD_BRIDGE,
        "isGateway": True,
        "ipMasq": True,
        "ipMasqBackend": "nftables",
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": places.CNI_STATE,
            "ranges": [[{"subnet": network}]],
            "routes": [{"dst": every}],
        },
    }
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}, "backend": "nftables"}
    document = {"cniVersion": "1.0.0", "name": "skerry", "plugins": [bridge, portmap]}
    return json.dumps(document, indent=2) + "\n"


def fence(address: str) -> str:
    """nft rules that let only this host itself reach the API server."""
    family = "ip" if ipaddress.ip_address(address).version == 4 else "ip6"
    return f"""add table inet skerry_fence
delete table inet skerry_fence
table inet skerry_fence {{
  chain input {{
    type filter hook input priority -150; policy accept;
    tcp dport {places.API_PORT} ip saddr 127.0.0.0/8 accept
    tcp dport {places.API_PORT} ip6 saddr ::1 accept
    tcp dport {places.API_PORT} {family} saddr {address} accept
    tcp dport {places.API_PORT} reject with tcp reset
  }}
}}
"""


def sysctl_config() -> str:
    """Kernel settings that pods need."""
    return "".join(f"{name} = {value}\n" for name, value in SYSCTLS.items())


def pod_scopes() -> str:
    """How containers end when the host shuts down: after the kubelet, which would start them
    again, and within Kubernetes' own default grace.

    runc makes its scopes without default dependencies, so a shutdown would not stop them at all:
    one that ignores SIGTERM would hold the host for 90 s in the very last phase, and its mounts.
    """
    return f"""[Unit]
Conflicts=shutdown.target
Before=shutdown.target {places.KUBELET_UNIT}
After={places.CONTAINERD_UNIT}

[Scope]
TimeoutStopSec=30s
"""


# -- units -------------------------------------------------------------------------------------


# What both long-running units get.
_ENVIRONMENT = f"""Environment=PATH={places.LINKS}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin
EnvironmentFile=-{places.PROXY_ENV}"""


def units(address: str) -> dict[str, str]:
    """systemd units by name."""
    return {
        places.HOST_UNIT: _host_unit(address),
        places.FENCE_UNIT: _fence_unit(),
        places.CONTAINERD_UNIT: _containerd_unit(),
        places.KUBELET_UNIT: _kubelet_unit(),
    }


def _host_unit(address: str) -> str:
    bits = 32 if ipaddress.ip_address(address).version == 4 else 128
    return f"""[Unit]
Description=skerry: address and kernel settings for Kubernetes
Before={places.CONTAINERD_UNIT} {places.KUBELET_UNIT}
After=systemd-modules-load.service systemd-sysctl.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=-{COMMAND} clock
ExecStart=-modprobe -a overlay br_netfilter
ExecStart=-ip link add {places.BRIDGE} type bridge
ExecStart=ip address replace {address}/{bits} dev {places.BRIDGE}
ExecStart=ip link set {places.BRIDGE} up
ExecStart=-/usr/lib/systemd/systemd-sysctl {places.SYSCTL}

[Install]
WantedBy=multi-user.target
"""


def _fence_unit() -> str:
    return f"""[Unit]
Description=skerry: keep others away from an unconfirmed API server
ConditionPathExists={places.FENCE}
Before={places.KUBELET_UNIT}

[Service]
Type=oneshot
ExecStart=nft -f {places.FENCE}

[Install]
WantedBy=multi-user.target
"""


def _containerd_unit() -> str:
    return f"""[Unit]
Description=skerry: container runtime
After=network.target {places.HOST_UNIT}
Wants={places.HOST_UNIT}
StartLimitIntervalSec=0

[Service]
Type=notify
{_ENVIRONMENT}
ExecStart={places.LINKS}/containerd --config {places.CONTAINERD_CONFIG}
Restart=always
RestartSec=2
KillMode=process
Delegate=yes
OOMScoreAdjust=-999
LimitNOFILE=1048576
LimitNPROC=infinity
LimitCORE=infinity
TasksMax=infinity

[Install]
WantedBy=multi-user.target
"""


def _kubelet_unit() -> str:
    return f"""[Unit]
Description=skerry: kubelet
After={places.CONTAINERD_UNIT} {places.FENCE_UNIT}
Wants={places.CONTAINERD_UNIT}
ConditionPathExists={places.KUBELET_CONFIG}
StartLimitIntervalSec=0

[Service]
{_ENVIRONMENT}
EnvironmentFile=-{places.KUBELET_FLAGS}
ExecStart={places.LINKS}/kubelet --kubeconfig={places.KUBELET_CONF} \\
  --bootstrap-kubeconfig={places.KUBERNETES}/bootstrap-kubelet.conf \\
  --config={places.KUBELET_CONFIG} $KUBELET_KUBEADM_ARGS
Restart=always
RestartSec=5
KillMode=process

[Install]
WantedBy=multi-user.target
"""
