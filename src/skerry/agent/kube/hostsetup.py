"""The host's own part: address, kernel settings, units, containerd's files, pod network.

Everything written here is also removed by `reset`; kernel settings and nft tables as they were
before the first change are kept in `before.json` for that.
"""

from __future__ import annotations

import json

import msgspec

from skerry.agent.kube import places, releases, render
from skerry.agent.kube.record import Doors
from skerry.lib.files import FileMissing
from skerry.model.meta import Record
from skerry.plan.desired import DesiredCluster
from skerry.plan.kubernetes import KubernetesValues, read_values

# Kernel settings that skerry, kubelet, kube-proxy or a CNI plugin write.
WATCHED_SYSCTLS = (
    *render.SYSCTLS,
    "kernel.panic",
    "kernel.panic_on_oops",
    "kernel.keys.root_maxkeys",
    "kernel.keys.root_maxbytes",
    "vm.overcommit_memory",
    "vm.panic_on_oom",
    "net.ipv4.conf.all.route_localnet",
    "net.netfilter.nf_conntrack_max",
    "net.netfilter.nf_conntrack_tcp_be_liberal",
    "net.netfilter.nf_conntrack_tcp_timeout_established",
    "net.netfilter.nf_conntrack_tcp_timeout_close_wait",
)


class Before(Record, frozen=True, kw_only=True):
    """The host before its first cluster: kernel settings, nft tables as "family name", and
    which of the folders that Kubernetes makes were there."""

    sysctls: dict[str, str] = {}
    nft_tables: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()


# Made by Kubernetes, containerd or their tools outside of their own folders; innermost first.
FOLDERS = (
    "/etc/cni/net.d",
    "/etc/cni",
    "/opt/cni",
    "/opt/containerd",
    "/var/lib/cni",
    "/var/lib/etcd",
    "/etc/kubernetes",
    "/usr/libexec/kubernetes",
    "/run/containerd",
    "/run/xtables.lock",
)

# Made when a pod mounts them or gets a network; others may use them too by the time of a reset.
SHARED_FOLDERS = ("/run/netns", "/usr/lib/modules")


async def configure(doors: Doors, cluster: DesiredCluster, *, version: str) -> None:
    """Write the host's files for a release and start the units that carry no workload."""
    values = read_values(cluster.values)
    await _record_before(doors)
    if not doors.record().started:
        doors.remember(
            started=True,
            cluster_uid=cluster.uid,
            cluster_name=cluster.name,
            node_name=cluster.node_name,
            address=values.address,
        )
    sandbox = releases.release_of(doors, version).metadata.image("pause")
    _write(doors, places.SYSCTL, render.sysctl_config())
    _write(doors, places.CONTAINERD_CONFIG, render.containerd_config(values, sandbox_image=sandbox))
    _write_registries(doors, values)
    environment = render.proxy_environment(values)
    if environment:
        _write(doors, places.PROXY_ENV, environment, mode=0o600)
    else:
        doors.root.remove(places.PROXY_ENV)
    changed = False
    for name, text in render.units(values.address).items():
        changed = _write(doors, f"{places.UNITS}/{name}", text) or changed
    _write(doors, f"{places.POD_SCOPES}/50-skerry.conf", render.pod_scopes())
    await doors.systemctl("daemon-reload")
    await doors.systemctl("enable", *places.ALL_UNITS)
    await doors.systemctl("restart" if changed else "start", places.HOST_UNIT)


def configure_network(doors: Doors, cluster: DesiredCluster) -> None:
    """Write the built-in network's file when the profile has the `routed` provider or no
    network layer at all; otherwise the network layer brings its own."""
    own = [layer for layer in cluster.layers if layer.type.value == "network"]
    if not own or any(layer.provider == "routed" for layer in own):
        _write(doors, places.CNI_CONFIG, render.network_config(read_values(cluster.values)))
    else:
        doors.root.remove(places.CNI_CONFIG)


def _write(doors: Doors, path: str, text: str, *, mode: int = 0o644) -> bool:
    if doors.text(path) == text:
        return False
    doors.root.write(path, text.encode(), mode=mode)
    return True


def _write_registries(doors: Doors, values: KubernetesValues) -> None:
    files = render.registry_files(values)
    kept = {name.split("/", 1)[0] for name in files}
    for folder in doors.root.list(places.CERTS_D):
        if folder not in kept:
            doors.root.remove(f"{places.CERTS_D}/{folder}")
    for name, text in files.items():
        _write(doors, f"{places.CERTS_D}/{name}", text, mode=0o600)
    doors.root.mkdir(places.CERTS_D, mode=0o700)


async def _record_before(doors: Doors) -> None:
    if doors.root.exists(places.BEFORE):
        return
    before = Before(
        sysctls=sysctls(doors),
        nft_tables=tuple(await nft_tables(doors)),
        folders=tuple(path for path in (*FOLDERS, *SHARED_FOLDERS) if doors.root.exists(path)),
    )
    doors.root.write(places.BEFORE, msgspec.json.encode(before))


def sysctls(doors: Doors) -> dict[str, str]:
    """Present values of all kernel settings that a cluster may change."""
    found: dict[str, str] = {}
    for name in WATCHED_SYSCTLS:
        try:
            found[name] = doors.root.read(f"/proc/sys/{name.replace('.', '/')}").decode().strip()
        except FileMissing:
            continue
    return found


async def nft_tables(doors: Doors) -> list[str]:
    """Tables as "family name"."""
    answer = await doors.run("nft", "-j", "list", "tables", check=False)
    if not answer.ok or not answer.stdout.strip():
        return []
    items = json.loads(answer.stdout).get("nftables", [])
    return [
        f"{item['table']['family']} {item['table']['name']}" for item in items if "table" in item
    ]
