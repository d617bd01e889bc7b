"""A cluster's phase and conditions from what its hosts acknowledged. Pure.

Running means: node ready, every layer ready, and the digest that the host proves to run is the
one that the centre wants. Nothing else makes a cluster Running.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec

from skerry.manager.store.protocol import AnyResource
from skerry.model.kinds import (
    ClusterPhase,
    ClusterStatus,
    HostStatus,
    LayerState,
    NodeState,
)
from skerry.model.meta import Condition
from skerry.model.reasons import REASONS, Severity, is_unhappy, why


@dataclass(frozen=True, slots=True)
class Obstacle:
    """What keeps the centre from telling a host what to do."""

    host: str
    reason: str
    message: str


def derive(
    cluster: AnyResource,
    hosts: Sequence[AnyResource],
    obstacles: Sequence[Obstacle],
    *,
    wanted: int,
    now: datetime,
) -> ClusterStatus:
    """The cluster's status. `wanted` is how many hosts its spec names."""
    before: ClusterStatus = cluster.status
    ready = _ready(cluster, hosts, obstacles, wanted, now)
    status = ClusterStatus(
        phase=_phase(cluster, hosts, ready),
        kubernetes_version=_version(hosts),
        nodes=tuple(_node(cluster, host) for host in hosts),
        layers=_layers(hosts),
        desired_digest=hosts[0].status.desired.digest if hosts else "",
        conditions=_stamped(before.conditions, (ready, *_shared(hosts)), now),
    )
    return before if _same(before, status) else status


def up_to_date(cluster: AnyResource, host: AnyResource) -> bool:
    """Whether the host proved that it runs what the centre wants now."""
    status: HostStatus = host.status
    return bool(
        status.desired.digest
        and status.acknowledged == status.desired
        and status.kubernetes.cluster == cluster.name
        and status.kubernetes.node_ready
        and all(layer.ready for layer in status.kubernetes.layers)
        and _has_its_os(status)
    )


def _has_its_os(status: HostStatus) -> bool:
    """An agent from before there were OS images acknowledges without knowing of one."""
    return not status.desired_os or (
        status.os.version == status.desired_os and not status.os.on_trial
    )


def is_clean(host: AnyResource) -> bool:
    """Whether the host proved that nothing of a cluster is left on it."""
    status: HostStatus = host.status
    return bool(
        status.desired.digest
        and status.acknowledged == status.desired
        and not status.kubernetes.cluster
    )


def _ready(
    cluster: AnyResource,
    hosts: Sequence[AnyResource],
    obstacles: Sequence[Obstacle],
    wanted: int,
    now: datetime,
) -> Condition:
    if cluster.metadata.deleted_at is not None:
        left = ", ".join(host.name for host in hosts)
        return _condition("Deleting", f"waits for {left or 'nothing'}")
    if obstacles:
        first = obstacles[0]
        return _condition(first.reason, first.message)
    if len(hosts) < wanted:
        return _condition("HostMissing", f"{wanted - len(hosts)} of {wanted} hosts are not there")
    for host in hosts:
        status: HostStatus = host.status
        if up_to_date(cluster, host):
            continue
        own = [item for item in status.conditions if is_unhappy(item)]
        cause = why(own, {"host": host.name, "cluster": cluster.name})
        if cause.reason:
            return _condition(cause.reason, f"host {host.name}: {cause.message}")
        if status.progress is not None:
            step = status.progress
            return _condition(
                "InProgress", f"host {host.name}: {step.step} ({step.index} of {step.total})"
            )
        if status.kubernetes.cluster == cluster.name and not status.kubernetes.node_ready:
            return _condition("NodeNotReady", f"host {host.name} is not Ready")
        waiting = [layer for layer in status.kubernetes.layers if not layer.ready]
        if waiting:
            first_layer = waiting[0]
            return _condition(
                first_layer.reason or "LayerNotReady", f"{first_layer.name}: {first_layer.message}"
            )
        return _condition("NotAcknowledged", f"host {host.name} has not taken up the state yet")
    return Condition(type="Ready", status="True", reason="Running", message="", since=now)


def _condition(reason: str, message: str) -> Condition:
    return Condition(type="Ready", status="False", reason=reason, message=message)


def _phase(cluster: AnyResource, hosts: Sequence[AnyResource], ready: Condition) -> ClusterPhase:
    if cluster.metadata.deleted_at is not None:
        return ClusterPhase.DELETING
    if ready.status == "True":
        return ClusterPhase.RUNNING
    formed = any(host.status.kubernetes.cluster == cluster.name for host in hosts)
    settled = bool(hosts) and all(host.status.acknowledged == host.status.desired for host in hosts)
    row = REASONS.get(ready.reason)
    works = row is not None and row.severity is Severity.WORKING
    ran = cluster.status.phase in (
        ClusterPhase.RUNNING,
        ClusterPhase.UPDATING,
        ClusterPhase.DEGRADED,
    )
    if ran or (formed and settled):
        return ClusterPhase.UPDATING if works else ClusterPhase.DEGRADED
    begun = formed or any(host.status.desired.digest for host in hosts)
    return ClusterPhase.PROVISIONING if begun else ClusterPhase.PENDING


def _shared(hosts: Sequence[AnyResource]) -> tuple[Condition, ...]:
    """What the cluster shows of its hosts' lines, kept apart from its health."""
    silent = [
        item.message
        for host in hosts
        for item in host.status.conditions
        if item.type == "Reachable" and item.status != "True"
    ]
    if not silent:
        return (Condition(type="Reachable", status="True", reason="Reachable"),)
    return (Condition(type="Reachable", status="Unknown", reason="HostSilent", message=silent[0]),)


def _node(cluster: AnyResource, host: AnyResource) -> NodeState:
    status: HostStatus = host.status
    mine = status.kubernetes.cluster == cluster.name
    role = next((pool.role.value for pool in cluster.spec.pools if host.name in pool.hosts), "")
    cause = why(status.conditions, {"host": host.name, "cluster": cluster.name})
    return NodeState(
        host=host.name,
        role=role,
        ready=mine and status.kubernetes.node_ready,
        version=status.kubernetes.kubelet_version if mine else "",
        message=cause.message,
    )


def _version(hosts: Sequence[AnyResource]) -> str:
    return next(
        (
            host.status.kubernetes.control_plane_version
            for host in hosts
            if host.status.kubernetes.control_plane_version
        ),
        "",
    )


def _layers(hosts: Sequence[AnyResource]) -> tuple[LayerState, ...]:
    return tuple(hosts[0].status.kubernetes.layers) if hosts else ()


def _stamped(
    before: Sequence[Condition], after: Sequence[Condition], now: datetime
) -> tuple[Condition, ...]:
    known = {item.type: item for item in before}
    found: list[Condition] = []
    for item in after:
        old = known.get(item.type)
        same = old is not None and (old.status, old.reason) == (item.status, item.reason)
        found.append(msgspec.structs.replace(item, since=old.since if old and same else now))
    return tuple(found)


def _same(before: ClusterStatus, after: ClusterStatus) -> bool:
    return before == after
