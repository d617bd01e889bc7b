"""What a change of a cluster's desired state does to a host, as a table.

Shown before anything is applied and used by the planner to know what disrupts. The longest
matching row of `TABLE` decides; a path that no row names restarts services, the careful answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any

from skerry.model.meta import Record
from skerry.plan.desired import DesiredCluster


class ReactionKind(StrEnum):
    """What happens, from least to most."""

    NOTHING = "nothing"
    RELOAD = "reload"
    RESTART = "service restart"
    REBOOT = "reboot"
    RELEASE = "new release"
    RECREATE = "new cluster"


class Reaction(Record, frozen=True, kw_only=True):
    """One changed place and its reaction."""

    path: str
    kind: ReactionKind
    message: str = ""


_N, _L, _S = ReactionKind.NOTHING, ReactionKind.RELOAD, ReactionKind.RESTART

# Path prefix -> reaction, in words for people. A `*` stands for one name.
TABLE: dict[str, tuple[ReactionKind, str]] = {
    "version": (ReactionKind.RELEASE, "upgrade with health gate and return"),
    "release": (ReactionKind.RELEASE, "the same version from another build"),
    "cluster.config": (_S, "the control plane restarts, pods keep running"),
    "cluster.config.certificateValidityPeriod": (_N, "used at the next renewal"),
    "cluster.config.caCertificateValidityPeriod": (_N, "used at the next renewal"),
    "cluster.config.encryptionAlgorithm": (_N, "used for keys made from now on"),
    "kubelet": (_S, "the kubelet restarts, pods keep running"),
    "kubeProxy": (_S, "kube-proxy restarts, connections stay"),
    "kubeadm": (_N, "used at the next start of a control plane"),
    "containerd": (_S, "containerd restarts, pods keep running"),
    "registries": (_L, "read by containerd at the next pull"),
    "proxy": (_S, "containerd and kubelet restart, pods keep running"),
    "network": (ReactionKind.RECREATE, "fixed when the cluster is made"),
    "upgrade": (_N, "used by the next upgrade"),
    "etcd": (_N, "used by the next snapshot"),
    "layers": (_L, "objects are applied"),
    "node": (ReactionKind.RECREATE, "a node keeps its name for ever"),
    "role": (ReactionKind.RECREATE, "a node keeps its role"),
}


def reactions(old: DesiredCluster | None, new: DesiredCluster) -> list[Reaction]:
    """Every difference with its reaction, sorted by path. Without `old` the cluster is made."""
    if old is None or old.uid != new.uid:
        return [
            Reaction(
                path="cluster",
                kind=ReactionKind.RELEASE,
                message=f"cluster {new.name} is made with Kubernetes {new.version}",
            )
        ]
    paths = set(_differences("", old.values, new.values))
    if old.version != new.version:
        paths.add("version")
    elif old.release.digest != new.release.digest:
        paths.add("release")
    if old.node_name != new.node_name:
        paths.add("node")
    if old.role != new.role:
        paths.add("role")
    before = {layer.name: layer.digest for layer in old.layers}
    after = {layer.name: layer.digest for layer in new.layers}
    for name in before.keys() | after.keys():
        if before.get(name) != after.get(name):
            paths.add(f"layers.{name}")
    return [_reaction(path, before, after) for path in sorted(paths)]


def strongest(found: list[Reaction]) -> ReactionKind:
    """The one that decides how careful an operation must be."""
    order = list(ReactionKind)
    return max((item.kind for item in found), key=order.index, default=ReactionKind.NOTHING)


def _reaction(path: str, before: Mapping[str, str], after: Mapping[str, str]) -> Reaction:
    rows = [row for row in TABLE if path == row or path.startswith(f"{row}.")]
    kind, message = TABLE[max(rows, key=len)] if rows else (_S, "services restart")
    if path.startswith("layers."):
        name = path.removeprefix("layers.")
        if name not in after:
            message = "its objects are removed"
        elif name not in before:
            message = "its objects are created"
    return Reaction(path=path, kind=kind, message=message)


def _differences(path: str, old: Any, new: Any) -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in old.keys() | new.keys():
            yield from _differences(
                f"{path}.{key}" if path else str(key), old.get(key), new.get(key)
            )
    elif old is None and isinstance(new, Mapping) and new:
        yield from _differences(path, {}, new)
    elif new is None and isinstance(old, Mapping) and old:
        yield from _differences(path, old, {})
    elif old != new:
        yield path
