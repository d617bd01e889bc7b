"""Refusals, the order of steps, where the way back begins, and the upkeep that never stops."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from skerry.lib.digest import canonical_json, sha256
from skerry.model.artifact import ArtifactRef
from skerry.model.kinds import LayerType
from skerry.plan import steps as do
from skerry.plan.desired import DesiredCluster, DesiredHost, DesiredLayer
from skerry.plan.host import (
    ReactionKind,
    Refusal,
    cluster_digest,
    plan_host,
    reactions,
)
from skerry.plan.observed import Finding, KubeObserved, ObservedLayer

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def a_cluster(version: str = "1.35.4", **changes: object) -> DesiredCluster:
    values = changes.pop("values", {})
    plain = DesiredCluster(
        name="shop",
        uid="u1",
        role="control-plane",
        node_name="n1",
        provider="kubeadm",
        version=version,
        release=ArtifactRef(
            name="kubernetes",
            type="kubernetes",
            version=version,
            architecture="amd64",
            digest=sha256(version.encode()),
            envelope_digest=sha256(b"e"),
        ),
        values=values,
        config_digest=sha256(canonical_json(values)),
    )
    return msgspec.structs.replace(plain, **changes)


def running(cluster: DesiredCluster, **changes: object) -> KubeObserved:
    state = KubeObserved(
        architecture="amd64",
        observed_at=NOW,
        cluster_uid=cluster.uid,
        initialised=True,
        version=cluster.version,
        control_plane_version=cluster.version,
        kubelet_version=cluster.version,
        runtime_version=cluster.version,
        runtime_active=True,
        kubelet_active=True,
        api_ready=True,
        node_ready=True,
        config_digest=cluster.config_digest,
        releases={cluster.version: cluster.release.digest},
        layers=tuple(
            ObservedLayer(name=item.name, digest=item.digest, ready=True) for item in cluster.layers
        ),
        certificates_issued_at=NOW,
        certificates_expire_at=NOW + timedelta(days=365),
        last_snapshot_at=NOW,
    )
    return msgspec.structs.replace(state, **changes)


def plan(
    cluster: DesiredCluster | None,
    observed: KubeObserved,
    *,
    failed: tuple[DesiredCluster, ...] = (),
    good: DesiredCluster | None = None,
) -> do.Operation | Refusal | None:
    return plan_host(
        DesiredHost(epoch=1, digest="d", cluster=cluster),
        observed,
        failed=frozenset(cluster_digest(item) for item in failed),
        last_good=good,
    )


def names(found: do.Operation | Refusal | None) -> list[str]:
    assert isinstance(found, do.Operation)
    return [type(step).__name__ for step in found.steps]


def test_nothing_moves_when_everything_is_as_desired() -> None:
    cluster = a_cluster()

    assert plan(cluster, running(cluster), good=cluster) is None


@pytest.mark.parametrize(
    ("have", "want", "reason"),
    [
        ("1.36.3", "1.36.1", "VersionDowngrade"),
        ("1.36.3", "1.35.9", "VersionDowngrade"),
        ("1.34.4", "1.36.3", "VersionSkipped"),
        ("1.36.3", "2.0.0", "VersionSkipped"),
    ],
)
def test_versions_that_kubernetes_cannot_reach_are_refused(
    have: str, want: str, reason: str
) -> None:
    found = plan(a_cluster(want), running(a_cluster(have)))

    assert isinstance(found, Refusal)
    assert found.reason == reason
    assert have in found.message
    assert want in found.message


def test_another_architecture_is_refused_by_name() -> None:
    cluster = a_cluster()
    release = msgspec.structs.replace(cluster.release, architecture="arm64")

    found = plan(
        msgspec.structs.replace(cluster, release=release),
        KubeObserved(architecture="amd64", observed_at=NOW),
    )

    assert isinstance(found, Refusal)
    assert found.reason == "ArchitectureMismatch"
    assert "arm64" in found.message


def test_a_foreign_kubernetes_is_refused_by_name_and_place() -> None:
    foreign = (Finding(what="k3s", where="/var/lib/rancher/k3s/server"),)

    found = plan(a_cluster(), KubeObserved(architecture="amd64", observed_at=NOW, foreign=foreign))

    assert isinstance(found, Refusal)
    assert found.reason == "ForeignKubernetes"
    assert "/var/lib/rancher/k3s/server" in found.message


def test_a_host_without_assignment_leaves_a_foreign_kubernetes_alone() -> None:
    foreign = (Finding(what="k3s", where="/var/lib/rancher/k3s/server"),)

    assert plan(None, KubeObserved(architecture="amd64", observed_at=NOW, foreign=foreign)) is None


def test_unknown_values_are_refused_with_all_their_names() -> None:
    found = plan(
        a_cluster(values={"kubelet": {"maxPodz": 1}, "nonsense": True}), running(a_cluster())
    )

    assert isinstance(found, Refusal)
    assert found.reason == "ValuesInvalid"
    assert "kubelet.maxPodz" in found.message
    assert "nonsense" in found.message


def test_ranges_of_a_living_cluster_cannot_change() -> None:
    old = a_cluster(values={"network": {"podCIDR": "10.1.0.0/16"}})
    new = a_cluster(values={"network": {"podCIDR": "10.2.0.0/16"}})

    found = plan(new, running(old), good=old)

    assert isinstance(found, Refusal)
    assert found.reason == "FixedAtCreation"
    assert "network.podCIDR" in found.message


def test_nothing_disrupts_before_the_new_release_is_complete_on_the_host() -> None:
    old, new = a_cluster("1.35.4"), a_cluster("1.36.3")

    found = plan(new, running(old), good=old)

    order = names(found)
    assert isinstance(found, do.Operation)
    assert order[found.undo_from] == "StopApiServer"
    assert set(order[: found.undo_from]) == {
        "FetchRelease",
        "UnpackRelease",
        "StartRuntime",
        "ImportImages",
        "SaveRestorePoint",
    }


def test_etcd_is_saved_only_after_the_api_server_stopped_and_opened_only_by_the_confirmation() -> (
    None
):
    old, new = a_cluster("1.35.4"), a_cluster("1.36.3")

    order = names(plan(new, running(old), good=old))

    assert order.index("StopApiServer") < order.index("SnapshotEtcd") < order.index("FenceApi")
    assert order.index("FenceApi") < order.index("ReplaceControlPlane")
    assert order[-1] == "ConfirmControlPlane"
    assert "OpenApi" not in order


def test_the_way_back_ends_on_the_old_version_with_the_fence_taken_away() -> None:
    old, new = a_cluster("1.35.4"), a_cluster("1.36.3")

    found = plan(new, running(old), good=old)

    assert isinstance(found, do.Operation)
    restore, plane, node, opened = found.undo
    assert isinstance(restore, do.RestoreControlPlane)
    assert isinstance(plane, do.GateControlPlane)
    assert isinstance(node, do.GateNode)
    assert isinstance(opened, do.OpenApi)
    assert plane.version == node.version == "1.35.4"


def test_what_failed_here_is_not_tried_again_even_when_a_layer_changed() -> None:
    old, bad = a_cluster("1.35.4"), a_cluster("1.36.3")
    layer = DesiredLayer(name="web", type=LayerType.ADDON, digest="x")

    found = plan(
        msgspec.structs.replace(bad, layers=(layer,)), running(old), failed=(bad,), good=old
    )

    assert isinstance(found, Refusal)
    assert found.reason == "FailedBefore"


def test_a_refused_change_does_not_stop_the_upkeep_of_what_runs() -> None:
    old, bad = a_cluster("1.35.4"), a_cluster("1.36.3")
    issued = NOW - timedelta(days=362)
    observed = running(
        old, certificates_issued_at=issued, certificates_expire_at=NOW + timedelta(days=3)
    )

    found = plan(bad, observed, failed=(bad,), good=old)

    assert isinstance(found, do.Operation)
    assert found.name == "renew"
    assert found.to_last_good


def test_a_node_counts_as_ready_only_while_its_kubelet_runs() -> None:
    observed = KubeObserved(architecture="amd64", observed_at=NOW, node_ready=True)

    assert not observed.to_state().node_ready
    assert msgspec.structs.replace(observed, kubelet_active=True).to_state().node_ready


def test_certificates_are_renewed_thirty_days_ahead() -> None:
    cluster = a_cluster()
    early = running(cluster, certificates_expire_at=NOW + timedelta(days=31))
    issued = NOW - timedelta(days=335)
    due = running(
        cluster,
        certificates_issued_at=issued,
        certificates_expire_at=NOW + timedelta(days=29),
    )

    assert plan(cluster, msgspec.structs.replace(early, certificates_issued_at=issued)) is None
    assert names(plan(cluster, due))[0] == "RenewCertificates"


def test_short_lived_certificates_are_renewed_in_their_last_third() -> None:
    cluster = a_cluster()
    life = {"certificates_issued_at": NOW - timedelta(minutes=6)}
    young = running(cluster, certificates_expire_at=NOW + timedelta(minutes=4), **life)
    old = running(cluster, certificates_expire_at=NOW + timedelta(minutes=2), **life)

    assert plan(cluster, young) is None
    assert names(plan(cluster, old))[0] == "RenewCertificates"


def test_a_snapshot_is_due_after_six_hours() -> None:
    cluster = a_cluster()

    assert plan(cluster, running(cluster, last_snapshot_at=NOW - timedelta(hours=5))) is None
    late = plan(cluster, running(cluster, last_snapshot_at=NOW - timedelta(hours=6)))
    assert names(late) == ["SnapshotEtcd"]


def test_a_layer_that_cannot_be_removed_yet_holds_up_no_other() -> None:
    new = DesiredLayer(name="new", type=LayerType.ADDON, digest="d1")
    cluster = a_cluster(layers=(new,))
    gone = ObservedLayer(name="gone", digest="", message="cannot be removed", stuck=True)

    early = plan(cluster, running(cluster, layers=(gone,)))
    late = plan(cluster, running(cluster, layers=(msgspec.structs.replace(gone, stuck=False),)))

    assert [type(step) for step in early.steps] == [do.ApplyLayer, do.WaitLayer]
    assert late.steps[0] == do.PruneLayer(name="gone")


def test_a_charts_own_time_limits_end_before_its_steps() -> None:
    """So that a slow chart is a fact about its layer and not a failure of the operation."""
    layer = DesiredLayer(name="web", type=LayerType.ADDON, chart="c", digest="1", wait_s=3600)
    cluster = a_cluster(layers=(layer,))

    step = plan(cluster, running(cluster, layers=())).steps[0]

    upgrade_s, clearing_s = 2 * layer.wait_s, 3 * layer.wait_s
    assert step.limit_s > upgrade_s + clearing_s + layer.wait_s


def test_only_changed_layers_are_applied_and_gone_ones_pruned() -> None:
    same = DesiredLayer(name="same", type=LayerType.ADDON, digest="1")
    gone = DesiredLayer(name="gone", type=LayerType.ADDON, digest="1")
    changed = DesiredLayer(name="changed", type=LayerType.ADDON, digest="1")
    old = a_cluster(layers=(same, gone, changed))
    new = a_cluster(layers=(same, msgspec.structs.replace(changed, digest="2")))

    found = plan(new, running(old), good=old)

    assert isinstance(found, do.Operation)
    assert [step.title for step in found.steps] == [
        "remove layer gone",
        "apply layer changed",
        "wait for layer changed",
    ]


def test_a_layer_that_never_becomes_ready_is_not_applied_again_and_again() -> None:
    layer = DesiredLayer(name="web", type=LayerType.ADDON, digest="1")
    cluster = a_cluster(layers=(layer,))
    stuck = (ObservedLayer(name="web", digest="1", ready=False, message="ImagePullBackOff"),)

    assert plan(cluster, running(cluster, layers=stuck), good=cluster) is None


def test_another_cluster_or_none_resets_the_host_first() -> None:
    old = a_cluster()

    assert names(plan(None, running(old))) == ["Reset"]
    assert names(plan(msgspec.structs.replace(old, uid="u2"), running(old))) == ["Reset"]


@pytest.mark.parametrize(
    ("change", "step"),
    [
        ({"kubelet_active": False}, "SwitchKubelet"),
        ({"runtime_active": False}, "SwitchRuntime"),
        ({"api_stopped": True, "control_plane_version": ""}, "ReplaceControlPlane"),
        ({"images_missing": ("registry.k8s.io/pause:3.10",)}, "ImportImages"),
        ({"fenced": True}, "ConfirmControlPlane"),
        ({"releases": {}}, "FetchRelease"),
    ],
)
def test_what_broke_is_repaired(change: dict[str, object], step: str) -> None:
    cluster = a_cluster()

    found = plan(cluster, running(cluster, **change), good=cluster)

    assert isinstance(found, do.Operation)
    assert found.name == "repair"
    assert step in names(found)


def test_gates_wait_as_long_as_the_values_say() -> None:
    old = a_cluster("1.35.4")
    new = a_cluster("1.36.3", values={"upgrade": {"gateLimit": "30s", "settle": "2s"}})

    found = plan(new, running(old), good=old)

    assert isinstance(found, do.Operation)
    gates = [step for step in found.steps if isinstance(step, do.GateNode)]
    assert [(gate.gate_limit_s, gate.settle_s) for gate in gates] == [(30.0, 2.0)]
    assert all(gate.limit_s > gate.gate_limit_s for gate in gates)


def test_operations_survive_the_journal() -> None:
    old, new = a_cluster("1.35.4"), a_cluster("1.36.3")
    found = plan(new, running(old), good=old)

    assert msgspec.json.decode(msgspec.json.encode(found), type=do.Operation) == found


@pytest.mark.parametrize(
    ("values", "path", "kind"),
    [
        ({"kubelet": {"maxPods": 1}}, "kubelet.maxPods", ReactionKind.RESTART),
        ({"registries": {"mirrors": {"a.b": []}}}, "registries.mirrors.a.b", ReactionKind.RELOAD),
        ({"upgrade": {"settle": "1s"}}, "upgrade.settle", ReactionKind.NOTHING),
        ({"network": {"podCIDR": "10.9.0.0/16"}}, "network.podCIDR", ReactionKind.RECREATE),
        (
            {"cluster": {"config": {"certificateValidityPeriod": "10m"}}},
            "cluster.config.certificateValidityPeriod",
            ReactionKind.NOTHING,
        ),
    ],
)
def test_each_change_has_the_reaction_of_the_table(
    values: dict[str, object], path: str, kind: ReactionKind
) -> None:
    found = reactions(a_cluster(), a_cluster(values=values))

    assert [(item.path, item.kind) for item in found] == [(path, kind)]


def test_only_a_change_that_restarts_something_counts_as_disruptive() -> None:
    old = a_cluster()
    gentle = a_cluster(values={"registries": {"mirrors": {"docker.io": []}}})
    rough = a_cluster(values={"kubelet": {"maxPods": 9}})

    found = [plan(new, running(old), good=old) for new in (gentle, rough)]

    assert [isinstance(item, do.Operation) and item.disruptive for item in found] == [False, True]
