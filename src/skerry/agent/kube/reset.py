"""Remove everything that a cluster made on this host, so that the next one finds it clean.

Order matters: what starts things first (units), then what runs (pods, shims), then what they
hold (mounts, network), then files. Every part goes on when there is nothing to do, and the whole
is done again until nothing is left.
"""

from __future__ import annotations

import json

import msgspec

from skerry.agent.kube import charts, places
from skerry.agent.kube.engine import EngineFailed, Reason
from skerry.agent.kube.hostsetup import (
    FOLDERS,
    SHARED_FOLDERS,
    Before,
    nft_tables,
    sysctls,
)
from skerry.agent.kube.record import Doors
from skerry.agent.mounts import mount_points, remove_folder
from skerry.lib.errors import SkerryError
from skerry.lib.files import FileMissing

_FOLDERS = (
    places.MANIFESTS,
    places.KUBERNETES,
    places.KUBELET,
    places.ETCD,
    f"{places.STATE}/etcd.restored",
    places.SNAPSHOTS,
    places.LAYERS,
    places.CONTAINERD_ROOT,
    places.CONTAINERD_STATE,
    places.CNI_STATE,
    places.RUNTIME_APPLIED,
    places.KUBECTL_CACHE,
    places.HELM,
    places.KUBELET_APPLIED,
    places.LINKS,
    places.RELEASES,
    "/var/lib/kube-proxy",
    "/var/log/pods",
    "/var/log/containers",
)
_OWN_TABLES = ("kube-proxy", "skerry_fence", "cni_plugins_masquerade", "cni_hostport")
_CHAIN_PREFIXES = ("KUBE-", "CNI-")


async def reset(doors: Doors) -> None:
    """Raises EngineFailed (ResetIncomplete) when something could not be removed."""
    before = _before(doors)
    await _stop(doors)
    await _unmount(doors)
    await _control_groups(doors)
    await _network(doors, before)
    await _sysctls(doors, before)
    _files(doors, before)
    await doors.systemctl("daemon-reload")
    await doors.systemctl("reset-failed", check=False)
    left = [path for path in (places.KUBELET, places.CONTAINERD_ROOT) if doors.root.list(path)]
    if left:
        raise EngineFailed(Reason.RESET_INCOMPLETE, f"could not be removed: {', '.join(left)}")
    for digest in doors.record().charts:
        charts.remove_artifact(doors, digest)
    doors.root.remove(places.KUBE)


def leftovers(doors: Doors) -> bool:
    """Whether a cluster of ours left anything."""
    places_of_ours = (places.KUBE, places.RELEASES, places.LINKS, places.CONTAINERD_ROOT)
    return any(doors.root.list(path) for path in places_of_ours)


def _before(doors: Doors) -> Before | None:
    try:
        return msgspec.json.decode(doors.root.read(places.BEFORE), type=Before)
    except FileMissing:
        return None


async def _stop(doors: Doors) -> None:
    for unit in places.ALL_UNITS:
        if doors.root.exists(f"{places.UNITS}/{unit}"):
            await doors.systemctl("disable", unit, check=False)
    await doors.systemctl("stop", places.KUBELET_UNIT, check=False)
    # Stopping the slice takes every container's scope with it; the shims then go with
    # containerd's own group.
    for cgroup in ("kubepods.slice", "kubelet.slice"):
        await doors.systemctl("stop", cgroup, check=False)
    await _kill_tasks(doors)
    await doors.systemctl(*("kill", "--signal=SIGKILL", places.CONTAINERD_UNIT), check=False)
    for unit in (places.CONTAINERD_UNIT, places.FENCE_UNIT, places.HOST_UNIT):
        await doors.systemctl("stop", unit, check=False)


async def _kill_tasks(doors: Doors) -> None:
    try:
        answer = await doors.ctr("tasks", "ls", "-q", timeout_s=15, check=False)
        for task in answer.stdout.split():
            await doors.ctr("tasks", "kill", "-s", "SIGKILL", "-a", task, check=False)
    except SkerryError:
        return  # containerd is not there or does not answer; its group is killed next.


async def _control_groups(doors: Doors) -> None:
    """Remove the pods' groups. On cgroup v1 the service manager forgets those of controllers
    that it does not use itself; a group that still holds a process stays."""
    await doors.run(
        *("find", "/sys/fs/cgroup", "-depth", "-type", "d", "-path", "*/kubepods*"),
        *("-exec", "rmdir", "{}", "+"),
        check=False,
    )


async def _unmount(doors: Doors) -> None:
    ours = (places.KUBELET, places.CONTAINERD_ROOT, places.CONTAINERD_STATE)
    for _ in range(3):
        held = [
            point
            for point in reversed(mount_points(doors.root))
            if any(point.startswith(f"{folder}/") for folder in ours)
        ]
        if not held:
            return
        for point in held:
            await doors.run("umount", "--lazy", point, check=False)


async def _network(doors: Doors, before: Before | None) -> None:
    answer = await doors.run("ip", "-j", "netns", "list", check=False)
    for item in json.loads(answer.stdout) if answer.ok and answer.stdout.strip() else []:
        if str(item.get("name", "")).startswith("cni-"):
            await doors.run("ip", "netns", "delete", item["name"], check=False)
    for link in (places.POD_BRIDGE, places.BRIDGE, "kube-ipvs0"):
        await doors.run("ip", "link", "delete", link, check=False)
    for tool in ("iptables", "ip6tables"):
        await _clean_chains(doors, tool)
    known = set(before.nft_tables) if before else set()
    for table in await nft_tables(doors):
        name = table.split(" ", 1)[1]
        if name in _OWN_TABLES or (table not in known and await _is_empty(doors, table)):
            await doors.run("nft", "delete", "table", *table.split(" ", 1), check=False)


async def _clean_chains(doors: Doors, tool: str) -> None:
    """Take Kubernetes' and the CNI plugins' chains out of iptables, whatever its back end."""
    saved = await doors.run(f"{tool}-save", check=False)
    lines = saved.stdout.splitlines()
    if not saved.ok or not any(prefix in line for line in lines for prefix in _CHAIN_PREFIXES):
        return
    kept = [
        line
        for line in lines
        if not any(word.lstrip(":").startswith(_CHAIN_PREFIXES) for word in line.split())
    ]
    text = "\n".join(kept) + "\n"
    await doors.run(f"{tool}-restore", stdin=text.encode(), check=False)


async def _is_empty(doors: Doors, table: str) -> bool:
    """Whether a table has no rule; empty ones are what iptables leaves behind."""
    answer = await doors.run("nft", "-j", "list", "table", *table.split(" ", 1), check=False)
    if not answer.ok:
        return False
    items = json.loads(answer.stdout).get("nftables", [])
    return not any("rule" in item or "set" in item or "map" in item for item in items)


async def _sysctls(doors: Doors, before: Before | None) -> None:
    """Put kernel settings back through systemd's own tool, which needs no further package."""
    if before is None:
        return
    now = sysctls(doors)
    changed = {name: value for name, value in before.sysctls.items() if now.get(name) != value}
    if not changed:
        return
    text = "".join(f"{name} = {value}\n" for name, value in changed.items())
    path = f"{places.RUN}/sysctl-before.conf"
    doors.root.write(path, text.encode())
    await doors.run("/usr/lib/systemd/systemd-sysctl", doors.root.host_path(path), check=False)
    doors.root.remove(path)


def _files(doors: Doors, before: Before | None) -> None:
    for unit in places.ALL_UNITS:
        doors.root.remove(f"{places.UNITS}/{unit}")
    doors.root.remove(f"{places.POD_SCOPES}/50-skerry.conf")
    if not doors.root.list(places.POD_SCOPES):
        doors.root.remove(places.POD_SCOPES)
    doors.root.remove(places.CNI_CONFIG)
    own_mounts = frozenset(mount_points(doors.root))
    for path in _FOLDERS:
        remove_folder(doors.root, path, own_mounts)
    had = set(before.folders) if before else set(FOLDERS)
    for path in FOLDERS:
        if path not in had and path not in own_mounts:
            doors.root.remove(path)
    if before:
        for path in SHARED_FOLDERS:
            free = path not in had and path not in own_mounts and not doors.root.list(path)
            if free and doors.root.is_dir(path):
                doors.root.remove(path)
    parent = places.RELEASES.rsplit("/", 1)[0]
    if not doors.root.list(parent):
        doors.root.remove(parent)
