"""What a host does next: a pure function of what is wanted and what was measured.

`plan_host` is asked again after every operation, so each operation is one concern and the order
of the concerns is the priority. A refused change never stops the upkeep of what runs: as long as
there is a last good cluster, its certificates, snapshots and layers are looked after.
"""

from __future__ import annotations

from datetime import timedelta

import msgspec

from skerry.lib.digest import canonical_json, sha256
from skerry.model.meta import Record
from skerry.plan import steps as do
from skerry.plan.desired import DesiredCluster, DesiredHost, DesiredLayer
from skerry.plan.kubernetes import KubernetesValues, check_values, read_values
from skerry.plan.observed import KubeObserved
from skerry.plan.reactions import Reaction, ReactionKind, reactions, strongest

__all__ = ["Reaction", "ReactionKind", "Refusal", "cluster_digest", "plan_host", "reactions"]

_GATE_MARGIN_S = 60.0


class Refusal(Record, frozen=True, kw_only=True):
    """Why a desired state is not carried out. `reason` is a condition reason."""

    reason: str
    message: str
    hint: str = ""


def cluster_digest(cluster: DesiredCluster) -> str:
    """Names what is remembered as failed: all that an upgrade or a change of configuration
    brings, without the layers above, whose repair must not make a bad release look new."""
    return sha256(
        canonical_json(
            {
                "uid": cluster.uid,
                "provider": cluster.provider,
                "role": cluster.role,
                "version": cluster.version,
                "release": cluster.release.digest,
                "config": cluster.config_digest,
            }
        )
    )


def plan_host(
    desired: DesiredHost,
    observed: KubeObserved,
    *,
    failed: frozenset[str],
    last_good: DesiredCluster | None,
) -> do.Operation | Refusal | None:
    """The next operation, why there is none, or None when everything is as desired.

    `failed` are digests (`cluster_digest`) that failed on this host and are not tried again.
    """
    cluster = desired.cluster
    if cluster is None:
        return _reset(desired, observed)
    if observed.cluster_uid and observed.cluster_uid != cluster.uid:
        return _reset(desired, observed)
    good = last_good if last_good is not None and last_good.uid == cluster.uid else None
    refusal = _refusal(cluster, observed, good) or _failed_before(cluster, failed)
    if refusal is None:
        return _towards(desired.digest, cluster, observed, good)
    if good is not None and good != cluster and cluster_digest(good) not in failed:
        upkeep = _towards(desired.digest, good, observed, good)
        if upkeep is not None:
            return msgspec.structs.replace(upkeep, to_last_good=True)
    return refusal


def version_key(version: str) -> tuple[int, int, int]:
    """(major, minor, patch); an empty or odd version sorts first."""
    parts = version.split("-")[0].split(".")
    if len(parts) != 3 or not all(part.isdigit() for part in parts):
        return (0, 0, 0)
    return (int(parts[0]), int(parts[1]), int(parts[2]))


# -- refusals ----------------------------------------------------------------------------------


def _refusal(
    cluster: DesiredCluster, observed: KubeObserved, good: DesiredCluster | None
) -> Refusal | None:
    problems = check_values(cluster.values, version=cluster.version)
    if problems:
        told = "; ".join(f"{item.path}: {item.message}" for item in problems[:5])
        return Refusal(
            reason="ValuesInvalid",
            message=f"values of the kubernetes layer of {cluster.name}: {told}",
            hint="correct the kubernetes layer's values in the profile",
        )
    if cluster.provider not in ("", "kubeadm"):
        return Refusal(
            reason="ProviderUnknown",
            message=f"Kubernetes provider {cluster.provider!r} is not known to this agent",
            hint="use provider kubeadm, or update the agent",
        )
    if cluster.role != "control-plane":
        return Refusal(
            reason="RoleUnsupported",
            message=f"role {cluster.role!r} is not supported yet",
            hint="put the host into a pool with role control-plane",
        )
    if cluster.release.architecture != observed.architecture:
        return Refusal(
            reason="ArchitectureMismatch",
            message=f"release {cluster.version} is for {cluster.release.architecture},"
            f" this host is {observed.architecture}",
            hint=f"push the release for {observed.architecture}",
        )
    if not observed.initialised:
        return _foreign(observed)
    return _version_refusal(cluster, observed) or _fixed(cluster, good)


def _foreign(observed: KubeObserved) -> Refusal | None:
    if not observed.foreign:
        return None
    told = ", ".join(f"{item.what} ({item.where})" for item in observed.foreign)
    return Refusal(
        reason="ForeignKubernetes",
        message=f"this host already runs something in the cluster's place: {told}",
        hint="remove it, or use another host",
    )


def _version_refusal(cluster: DesiredCluster, observed: KubeObserved) -> Refusal | None:
    have, want = version_key(observed.version), version_key(cluster.version)
    if want < have:
        return Refusal(
            reason="VersionDowngrade",
            message=f"Kubernetes {cluster.version} is older than the running {observed.version}",
            hint=f"ask for {observed.version} or newer; Kubernetes cannot go back",
        )
    if want[0] != have[0] or want[1] > have[1] + 1:
        return Refusal(
            reason="VersionSkipped",
            message=f"from Kubernetes {observed.version} to {cluster.version} is more than one"
            " minor version",
            hint=f"upgrade to {have[0]}.{have[1] + 1} first",
        )
    return None


def _fixed(cluster: DesiredCluster, good: DesiredCluster | None) -> Refusal | None:
    if good is None:
        return None
    changed = [item.path for item in reactions(good, cluster) if item.kind is ReactionKind.RECREATE]
    if not changed:
        return None
    return Refusal(
        reason="FixedAtCreation",
        message=f"{', '.join(changed)} cannot change while cluster {cluster.name} lives",
        hint="put the old value back, or make a new cluster",
    )


def _failed_before(cluster: DesiredCluster, failed: frozenset[str]) -> Refusal | None:
    if cluster_digest(cluster) not in failed:
        return None
    return Refusal(
        reason="FailedBefore",
        message=f"Kubernetes {cluster.version} with these values failed on this host before"
        " and is not tried again",
        hint="change the profile, or ask for another try of the cluster",
    )


# -- operations --------------------------------------------------------------------------------


def _reset(desired: DesiredHost, observed: KubeObserved) -> do.Operation | None:
    ours = observed.cluster_uid or observed.initialised or observed.releases or observed.leftovers
    if not ours:
        return None
    return do.Operation(
        name="reset", desired_digest=desired.digest, steps=(do.Reset(),), disruptive=True
    )


def _towards(
    digest: str, cluster: DesiredCluster, observed: KubeObserved, good: DesiredCluster | None
) -> do.Operation | None:
    values = read_values(cluster.values)
    if not observed.initialised:
        return _create(digest, cluster, observed, values)
    if observed.certificates_due:
        return _renew(digest, observed, values)
    if cluster.version != observed.version:
        return _upgrade(digest, cluster, observed, values)
    if cluster.config_digest != observed.config_digest:
        return _configure(digest, cluster, observed, values, good)
    return (
        _repair(digest, cluster, observed, values)
        or _layers(digest, cluster, observed)
        or _snapshot(digest, observed, values)
        or _tidy(digest, cluster, observed)
    )


def _create(
    digest: str, cluster: DesiredCluster, observed: KubeObserved, values: KubernetesValues
) -> do.Operation:
    version = cluster.version
    steps: tuple[do.Step, ...] = (
        do.Preflight(),
        *_bring(cluster, observed),
        do.ConfigureHost(version=version),
        do.SwitchRuntime(version=version),
        do.ImportImages(version=version),
        do.ConfigureNetwork(),
        do.InitControlPlane(version=version),
        _gate(version, values),
        _gate_node(version, values),
        do.ConfirmControlPlane(version=version, config_digest=cluster.config_digest),
    )
    return do.Operation(name="create", desired_digest=digest, steps=steps)


def _upgrade(
    digest: str, cluster: DesiredCluster, observed: KubeObserved, values: KubernetesValues
) -> do.Operation:
    """Nothing disrupts until the release is complete here; from then on there is a way back."""
    old, new = observed.version, cluster.version
    point = f"{old}-to-{new}-{cluster_digest(cluster)[7:15]}"
    bring: tuple[do.Step, ...] = (
        *_bring(cluster, observed),
        do.StartRuntime(version=observed.runtime_version or old),
        do.ImportImages(version=new),
        do.SaveRestorePoint(point=point),
    )
    change: tuple[do.Step, ...] = (
        do.StopApiServer(),
        do.SnapshotEtcd(point=point, keep=values.snapshot_keep),
        do.FenceApi(),
        do.ReplaceControlPlane(version=new),
        _gate(new, values),
        do.ConfigureHost(version=new),
        do.SwitchRuntime(version=new),
        do.SwitchKubelet(version=new),
        _gate_node(new, values),
        _gate(new, values),
        do.ConfirmControlPlane(version=new, config_digest=cluster.config_digest),
    )
    return do.Operation(
        name="upgrade",
        desired_digest=digest,
        steps=(*bring, *change),
        undo=_back(point, old, values),
        undo_from=len(bring),
        disruptive=True,
    )


def _configure(
    digest: str,
    cluster: DesiredCluster,
    observed: KubeObserved,
    values: KubernetesValues,
    good: DesiredCluster | None,
) -> do.Operation:
    version = cluster.version
    point = f"config-{cluster_digest(cluster)[7:15]}"
    gentle = good is not None and strongest(reactions(good, cluster)) in (
        ReactionKind.NOTHING,
        ReactionKind.RELOAD,
    )
    bring = _bring(cluster, observed)
    steps: tuple[do.Step, ...] = (
        *bring,
        do.SnapshotEtcd(point=f"before-{point}", keep=values.snapshot_keep),
        do.SaveRestorePoint(point=point),
        do.ConfigureHost(version=version),
        do.SwitchRuntime(version=version),
        do.ReplaceControlPlane(version=version),
        _gate(version, values),
        do.SwitchKubelet(version=version),
        _gate_node(version, values),
        do.ConfirmControlPlane(version=version, config_digest=cluster.config_digest),
    )
    return do.Operation(
        name="configure",
        desired_digest=digest,
        steps=steps,
        undo=_back(point, version, values),
        undo_from=len(bring) + 2,
        disruptive=not gentle,
    )


def _repair(
    digest: str, cluster: DesiredCluster, observed: KubeObserved, values: KubernetesValues
) -> do.Operation | None:
    """What should already be so and is not: stopped units, lost images, a left-over fence."""
    version = cluster.version
    bring = _bring(cluster, observed)
    runtime = not observed.runtime_active or observed.runtime_version != version
    kubelet = not observed.kubelet_active or observed.kubelet_version != version
    plane = observed.api_stopped or observed.control_plane_version != version
    images = bool(observed.images_missing)
    if not (bring or runtime or kubelet or plane or images or observed.fenced):
        return None
    steps: list[do.Step] = [*bring]
    if bring or runtime or kubelet:
        steps += [do.ConfigureHost(version=version), do.SwitchRuntime(version=version)]
    if bring or images:
        steps.append(do.ImportImages(version=version))
    if plane:
        steps.append(do.ReplaceControlPlane(version=version))
    if bring or kubelet:
        steps += [do.ConfigureNetwork(), do.SwitchKubelet(version=version)]
    if bring or runtime or kubelet or plane:
        steps += [_gate(version, values), _gate_node(version, values)]
    if plane or observed.fenced:
        steps.append(do.ConfirmControlPlane(version=version, config_digest=cluster.config_digest))
    return do.Operation(name="repair", desired_digest=digest, steps=tuple(steps))


def _renew(digest: str, observed: KubeObserved, values: KubernetesValues) -> do.Operation:
    version = observed.version
    steps: tuple[do.Step, ...] = (
        do.RenewCertificates(version=version),
        _gate(version, values),
        _gate_node(version, values),
    )
    return do.Operation(name="renew", desired_digest=digest, steps=steps)


def _layers(digest: str, cluster: DesiredCluster, observed: KubeObserved) -> do.Operation | None:
    if not observed.api_ready:
        return None
    applied = {layer.name: layer for layer in observed.layers}
    wanted = {layer.name for layer in cluster.layers}
    steps: list[do.Step] = [
        do.PruneLayer(name=name)
        for name, layer in reversed(applied.items())
        if name not in wanted and not layer.stuck
    ]
    for layer in cluster.layers:
        have = applied.get(layer.name)
        if have is not None and have.digest == layer.digest and not have.again:
            continue
        steps.append(_apply(layer))
        steps.append(
            do.WaitLayer(
                name=layer.name,
                digest=layer.digest,
                wait_s=layer.wait_s,
                limit_s=layer.wait_s + _GATE_MARGIN_S,
            )
        )
    if not steps:
        return None
    return do.Operation(name="layers", desired_digest=digest, steps=tuple(steps))


def _apply(layer: DesiredLayer) -> do.ApplyLayer:
    """A chart's hooks may take the layer's time again and again: once to clear a torn change
    away, before and after, and each hook for itself."""
    step = do.ApplyLayer(name=layer.name, digest=layer.digest)
    if not layer.chart:
        return step
    limit_s = max(step.limit_s, 8 * layer.wait_s + _GATE_MARGIN_S)
    return msgspec.structs.replace(step, limit_s=limit_s)


def _snapshot(digest: str, observed: KubeObserved, values: KubernetesValues) -> do.Operation | None:
    last = observed.last_snapshot_at
    due = last is None or observed.observed_at - last >= timedelta(seconds=values.snapshot_every_s)
    if not due or not observed.api_ready:
        return None
    point = f"scheduled-{observed.observed_at:%Y%m%dT%H%M%SZ}"
    step = do.SnapshotEtcd(point=point, keep=values.snapshot_keep)
    return do.Operation(name="snapshot", desired_digest=digest, steps=(step,))


def _tidy(digest: str, cluster: DesiredCluster, observed: KubeObserved) -> do.Operation | None:
    needed = {ref.digest for layer in cluster.layers for ref in layer.artifacts}
    steps: list[do.Step] = [
        do.RemoveRelease(version=version)
        for version in sorted(observed.releases)
        if version != cluster.version
    ]
    steps += [do.RemoveContent(digest=item) for item in observed.content if item not in needed]
    if not steps:
        return None
    return do.Operation(name="tidy", desired_digest=digest, steps=tuple(steps))


# -- pieces ------------------------------------------------------------------------------------


def _bring(cluster: DesiredCluster, observed: KubeObserved) -> tuple[do.Step, ...]:
    if observed.releases.get(cluster.version) == cluster.release.digest:
        return ()
    return (
        do.FetchRelease(version=cluster.version, release=cluster.release),
        do.UnpackRelease(version=cluster.version, release=cluster.release),
    )


def _back(point: str, version: str, values: KubernetesValues) -> tuple[do.Step, ...]:
    return (
        do.RestoreControlPlane(point=point),
        _gate(version, values),
        _gate_node(version, values),
        do.OpenApi(),
    )


def _gate(version: str, values: KubernetesValues) -> do.GateControlPlane:
    return do.GateControlPlane(
        version=version,
        gate_limit_s=values.gate_limit_s,
        limit_s=values.gate_limit_s + _GATE_MARGIN_S,
    )


def _gate_node(version: str, values: KubernetesValues) -> do.GateNode:
    return do.GateNode(
        version=version,
        gate_limit_s=values.gate_limit_s,
        settle_s=values.settle_s,
        limit_s=values.gate_limit_s + values.settle_s + _GATE_MARGIN_S,
    )
