"""The floor: what a careful person does by hand with kubeadm, as one script on a fresh host.

The same release files as skerry's, the same pod network, and the documented way: unpack, start
containerd, import images, `kubeadm init`, wait until the node and the system's pods are Ready.
Nothing is downloaded, nothing is verified, and nothing looks after the cluster afterwards.
"""

from __future__ import annotations

import gzip
import json
import shutil
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from skerry.lab import ContainerHost
from skerry.lib.clock import Clock
from skerry.lib.oci import Layout
from skerry.model.release import MODE_KEY, PATH_KEY

_RELEASE = "/opt/kubernetes"
_CONFIG = "/etc/kubeadm.yaml"
# Of the folders that a lab host has on a plain disk, this is the only one with room: containerd's
# overlays cannot lie on the host's own overlay.
_CONTAINERD_ROOT = "/var/lib/skerry/containerd-by-hand"
_SOCKET = "/run/containerd/containerd.sock"
_PODS, _SERVICES, _DNS = "10.244.0.0/16", "10.96.0.0/12", "10.96.0.10"
_KUBECTL = [f"{_RELEASE}/bin/kubectl", "--kubeconfig=/etc/kubernetes/admin.conf"]
_LIMIT_S = 300.0

_CONTAINERD = f"""\
version = 3
root = "{_CONTAINERD_ROOT}"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "%(pause)s"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = %(oom)s
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["{_RELEASE}/cni"]
  conf_dir = "/etc/cni/net.d"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
  BinaryName = "{_RELEASE}/bin/runc"
  SystemdCgroup = true
"""
_CONTAINERD_UNIT = f"""\
[Unit]
Description=containerd
After=network.target
[Service]
Type=notify
Environment=PATH={_RELEASE}/bin:/usr/sbin:/usr/bin
ExecStart={_RELEASE}/bin/containerd --config /etc/containerd/config.toml
Delegate=yes
KillMode=process
LimitNOFILE=1048576
TasksMax=infinity
[Install]
WantedBy=multi-user.target
"""
_KUBELET_UNIT = f"""\
[Unit]
Description=kubelet
After=containerd.service
StartLimitIntervalSec=0
[Service]
Environment=PATH={_RELEASE}/bin:/usr/sbin:/usr/bin
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
ExecStart={_RELEASE}/bin/kubelet --kubeconfig=/etc/kubernetes/kubelet.conf \\
  --bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf \\
  --config=/var/lib/kubelet/config.yaml $KUBELET_KUBEADM_ARGS
Restart=always
RestartSec=10
[Install]
WantedBy=multi-user.target
"""


@dataclass(frozen=True, slots=True)
class Took:
    """Seconds: files laid out on the host, runtime with its images, init itself, until Ready."""

    files_s: float
    runtime_s: float
    init_s: float
    ready_s: float

    @property
    def all_s(self) -> float:
        return self.files_s + self.runtime_s + self.init_s + self.ready_s


async def make_cluster(
    host: ContainerHost, release: Path, *, version: str, values: dict[str, Any], clock: Clock
) -> Took:
    """From release files on this computer to a Ready node. Raises CommandFailed."""
    marks = [clock.monotonic()]
    await _files(host, release, version=version, values=values)
    marks.append(clock.monotonic())
    await _runtime(host)
    marks.append(clock.monotonic())
    await host.run(
        [f"{_RELEASE}/bin/kubeadm", "init", "--config", _CONFIG],
        timeout_s=_LIMIT_S,
        env={"PATH": f"{_RELEASE}/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
    )
    marks.append(clock.monotonic())
    await _ready(host)
    marks.append(clock.monotonic())
    spans = [after - before for before, after in pairwise(marks)]
    return Took(*spans)


async def _files(
    host: ContainerHost, release: Path, *, version: str, values: dict[str, Any]
) -> None:
    staged = host.machine_dir / "release"
    _, manifest = Layout.open(release).only_manifest()
    for layer in manifest.layers:
        target = staged / layer.annotations[PATH_KEY]
        target.parent.mkdir(parents=True, exist_ok=True)
        blob = release / "blobs" / "sha256" / layer.digest.partition(":")[2]
        with gzip.open(blob) as source, target.open("wb") as out:
            shutil.copyfileobj(source, out, 1 << 20)
        target.chmod(int(layer.annotations.get(MODE_KEY, "0644"), 8))
    await host.copy_in(staged, _RELEASE)
    shutil.rmtree(staged)
    pause = next(
        layer.annotations["dev.skerry.image"]
        for layer in manifest.layers
        if layer.annotations[PATH_KEY] == "images/pause.tar"
    )
    restrict = bool(values.get("containerd", {}).get("restrictOomScoreAdj"))
    texts = {
        "/etc/containerd/config.toml": _CONTAINERD % {"pause": pause, "oom": _word(restrict)},
        "/etc/systemd/system/containerd.service": _CONTAINERD_UNIT,
        "/etc/systemd/system/kubelet.service": _KUBELET_UNIT,
        "/etc/cni/net.d/10-bridge.conflist": json.dumps(_network()),
        _CONFIG: _kubeadm(str(host.address), host.name, version, values),
    }
    for path, text in texts.items():
        script = 'mkdir -p "$(dirname "$1")" && cat >"$1"'
        await host.run(["sh", "-c", script, "sh", path], stdin=text.encode(), timeout_s=20)


async def _runtime(host: ContainerHost) -> None:
    script = (
        "set -e; systemctl daemon-reload; sysctl -q -w net.ipv4.ip_forward=1;"
        " systemctl enable -q --now containerd; systemctl enable -q kubelet;"
        f" for image in {_RELEASE}/images/*.tar; do"
        f" {_RELEASE}/bin/ctr -n k8s.io images import --local --all-platforms $image; done"
    )
    await host.run(["sh", "-c", script], timeout_s=_LIMIT_S)


async def _ready(host: ContainerHost) -> None:
    """The node, and the add-ons that skerry waits for too."""
    limit = f"--timeout={_LIMIT_S:.0f}s"
    system = "--namespace=kube-system"
    for words in (
        ["wait", "--for=condition=Ready", "node", "--all"],
        ["rollout", "status", system, "daemonset/kube-proxy"],
        ["rollout", "status", system, "deployment/coredns"],
    ):
        await host.run([*_KUBECTL, *words, limit], timeout_s=_LIMIT_S + 10)


def _kubeadm(address: str, name: str, version: str, values: dict[str, Any]) -> str:
    """kubeadm's documents; `values` are the lab's deviations, the same that skerry gets."""
    documents: list[dict[str, Any]] = [
        {
            "apiVersion": "kubeadm.k8s.io/v1beta4",
            "kind": "InitConfiguration",
            "localAPIEndpoint": {"advertiseAddress": address, "bindPort": 6443},
            "nodeRegistration": {
                "name": name,
                "criSocket": f"unix://{_SOCKET}",
                "taints": [],
                "imagePullPolicy": "Never",
                "ignorePreflightErrors": values.get("kubeadm", {}).get("ignorePreflightErrors", []),
            },
        },
        {
            "apiVersion": "kubeadm.k8s.io/v1beta4",
            "kind": "ClusterConfiguration",
            "kubernetesVersion": f"v{version}",
            "networking": {"podSubnet": _PODS, "serviceSubnet": _SERVICES},
        },
        {
            **values.get("kubelet", {}),
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": f"unix://{_SOCKET}",
            "clusterDNS": [_DNS],
        },
        {
            **values.get("kubeProxy", {}),
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clusterCIDR": _PODS,
        },
    ]
    return yaml.safe_dump_all(documents)


def _network() -> dict[str, Any]:
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "ipMasq": True,
        "ipMasqBackend": "nftables",
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": "10.244.0.0/24"}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    return {"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge]}


def _word(flag: bool) -> str:
    """TOML's spelling."""
    return "true" if flag else "false"
