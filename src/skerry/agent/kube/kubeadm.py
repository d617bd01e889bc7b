"""The kubeadm engine: Kubernetes from skerry's releases by kubeadm's phases.

This module only sends each step to the part that does it and measures; see `controlplane`,
`runtime`, `releases`, `images`, `layers`, `etcd`, `certificates`, `reset`.
"""

from __future__ import annotations

import platform

from skerry.agent.kube import (
    certificates,
    controlplane,
    etcd,
    gate,
    hostsetup,
    images,
    layers,
    places,
    releases,
    reset,
    runtime,
    surroundings,
)
from skerry.agent.kube.api import HttpKubeApi, KubeApi
from skerry.agent.kube.engine import Content, EngineFailed, Reason
from skerry.agent.kube.record import Doors, needed
from skerry.lib.clock import Clock
from skerry.lib.errors import SkerryError
from skerry.lib.files import Root
from skerry.lib.proc import Runner
from skerry.model.meta import Condition
from skerry.plan import steps as do
from skerry.plan.desired import DesiredCluster
from skerry.plan.observed import KubeObserved, ObservedLayer

_IMAGES_EVERY_S = 300.0
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class KubeadmEngine:
    """Single-node control planes made with kubeadm."""

    def __init__(
        self,
        runner: Runner,
        root: Root,
        clock: Clock,
        content: Content,
        *,
        api: KubeApi | None = None,
    ) -> None:
        self._doors = Doors(
            runner=runner, root=root, clock=clock, content=content, api=api or HttpKubeApi(root)
        )
        self._complete = ""
        self._look_again = 0.0

    async def perform(self, step: do.Step, cluster: DesiredCluster | None) -> None:
        """Do one step. Raises EngineFailed or another SkerryError with a reason."""
        if not (
            await self._host_step(step, cluster)
            or await self._plane_step(step, cluster)
            or await self._layer_step(step, cluster)
        ):
            raise EngineFailed(
                Reason.STEP_UNKNOWN,
                f"step {step.title!r} is not known to this agent",
                hint="update the agent",
                retryable=False,
            )

    async def _host_step(self, step: do.Step, cluster: DesiredCluster | None) -> bool:
        doors = self._doors
        match step:
            case do.Preflight():
                surroundings.preflight(doors)
            case do.FetchRelease():
                await releases.fetch(doors, step.release)
            case do.UnpackRelease():
                await releases.unpack(doors, step.release)
            case do.ConfigureHost():
                await hostsetup.configure(doors, needed(cluster), version=step.version)
            case do.StartRuntime():
                await runtime.start_runtime(doors)
            case do.SwitchRuntime():
                await runtime.switch_runtime(doors, step.version)
            case do.ImportImages():
                await images.import_release(doors, step.version)
            case do.RemoveContent():
                await images.remove_artifact(doors, step.digest)
            case do.RemoveRelease():
                await images.remove_release(doors, step.version)
                releases.remove(doors, step.version)
            case do.ConfigureNetwork():
                hostsetup.configure_network(doors, needed(cluster))
            case do.Reset():
                await reset.reset(doors)
            case _:
                return False
        return True

    async def _plane_step(self, step: do.Step, cluster: DesiredCluster | None) -> bool:
        doors = self._doors
        match step:
            case do.InitControlPlane():
                await controlplane.init(doors, needed(cluster), version=step.version)
            case do.ReplaceControlPlane():
                await controlplane.replace(doors, needed(cluster), version=step.version)
            case do.SwitchKubelet():
                await controlplane.switch_kubelet(doors, needed(cluster), version=step.version)
            case do.ConfirmControlPlane():
                await controlplane.confirm(
                    doors, needed(cluster), version=step.version, config_digest=step.config_digest
                )
            case do.GateControlPlane():
                await self._live_certificates(cluster, step.version)
                await gate.control_plane(doors, version=step.version, limit_s=step.gate_limit_s)
            case do.GateNode():
                await self._live_certificates(cluster, step.version)
                await gate.node(
                    doors,
                    version=step.version,
                    limit_s=step.gate_limit_s,
                    settle_s=step.settle_s,
                )
            case do.SaveRestorePoint():
                etcd.save_files(doors, step.point)
            case do.StopApiServer():
                await controlplane.stop(doors)
            case do.SnapshotEtcd():
                await etcd.snapshot(doors, step.point, keep=step.keep)
            case do.RestoreControlPlane():
                await etcd.restore(doors, step.point)
            case do.FenceApi():
                await controlplane.fence(doors)
            case do.OpenApi():
                await controlplane.open_api(doors)
            case do.RenewCertificates():
                await certificates.renew(doors, needed(cluster), version=step.version)
            case _:
                return False
        return True

    async def _live_certificates(self, cluster: DesiredCluster | None, version: str) -> None:
        """No gate opens with expired ones, and an operation that a long absence interrupted comes
        to its gate before a renewal is planned."""
        if cluster is not None:
            await certificates.renew_expired(self._doors, cluster, version=version)

    async def _layer_step(self, step: do.Step, cluster: DesiredCluster | None) -> bool:
        doors = self._doors
        match step:
            case do.ApplyLayer():
                await layers.apply(doors, needed(cluster), name=step.name, digest=step.digest)
            case do.WaitLayer():
                await layers.wait(doors, name=step.name, wait_s=step.wait_s)
            case do.PruneLayer():
                await layers.prune(doors, step.name)
            case _:
                return False
        return True

    async def observe(self) -> KubeObserved:
        """Measure everything the planner needs."""
        doors = self._doors
        record = doors.record()
        running = record.initialised
        validity = certificates.validity(doors) if record.started else None
        node = await gate.this_node(doors) if running else {}
        return KubeObserved(
            architecture=_ARCHITECTURES.get(platform.machine(), platform.machine()),
            observed_at=doors.clock.now(),
            cluster_uid=record.cluster_uid,
            cluster_name=record.cluster_name,
            initialised=running,
            version=record.version,
            control_plane_version=gate.manifest_image(doors, "kube-apiserver").partition(":v")[2],
            kubelet_version=doors.linked_version("kubelet"),
            runtime_version=doors.linked_version("containerd"),
            runtime_active=running and await doors.active(places.CONTAINERD_UNIT),
            kubelet_active=running and await doors.active(places.KUBELET_UNIT),
            api_stopped=running and not doors.root.exists(places.manifest("kube-apiserver")),
            api_ready=running and await gate.api_ready(doors),
            node_ready=gate.is_ready(node),
            config_digest=record.config_digest,
            releases={name: item.digest for name, item in releases.installed(doors).items()},
            content=(*record.content, *record.charts),
            images_missing=await self._images_missing(record.version) if running else (),
            layers=await layers.observe(doors) if running else (),
            fenced=doors.root.exists(places.FENCE),
            foreign=() if record.started else surroundings.foreign(doors),
            certificates_issued_at=validity[0] if validity else None,
            certificates_expire_at=validity[1] if validity else None,
            last_snapshot_at=record.snapshot_at,
            leftovers=reset.leftovers(doors),
        )

    async def _images_missing(self, version: str) -> tuple[str, ...]:
        """Asked anew every few minutes only, once nothing was missing: each question starts a
        program, and nobody but a person at the host takes pinned images away."""
        now = self._doors.clock.monotonic()
        if self._complete == version and now < self._look_again:
            return ()
        found = await images.missing(self._doors, version)
        # A look that failed is repeated in the next round: what stopped it is repaired first.
        self._complete = version if found == () else ""
        self._look_again = now + _IMAGES_EVERY_S
        return found or ()

    async def health(self, cluster: DesiredCluster) -> tuple[Condition, ...]:
        """One condition each for control plane, node, core add-ons and layers."""
        doors = self._doors
        return (
            await self._gate_condition("ControlPlaneReady", Reason.CONTROL_PLANE_NOT_READY),
            await self._gate_condition("NodeReady", Reason.KUBELET_NOT_READY),
            await self._system_condition(),
            self._layers_condition(cluster, await layers.observe(doors)),
        )

    async def _gate_condition(self, kind: str, reason: Reason) -> Condition:
        doors = self._doors
        version = doors.record().version
        try:
            if reason is Reason.CONTROL_PLANE_NOT_READY:
                await gate.control_plane(doors, version=version, limit_s=0)
            else:
                await gate.node(doors, version=version, limit_s=0, settle_s=0)
        except SkerryError as exc:
            return Condition(type=kind, status="False", reason=exc.reason, message=exc.message)
        return Condition(type=kind, status="True", reason="Ready")

    async def _system_condition(self) -> Condition:
        lacks = await layers.system_lacks(self._doors)
        if lacks:
            return Condition(
                type="SystemReady", status="False", reason="SystemNotReady", message=lacks
            )
        return Condition(type="SystemReady", status="True", reason="Ready")

    def _layers_condition(
        self, cluster: DesiredCluster, observed: tuple[ObservedLayer, ...]
    ) -> Condition:
        ready = {item.name for item in observed if item.ready}
        told = [f"{item.name}: {item.message}" for item in observed if not item.ready]
        told += [
            f"{item.name}: not applied yet"
            for item in cluster.layers
            if item.name not in {have.name for have in observed}
        ]
        if told or not {item.name for item in cluster.layers} <= ready:
            return Condition(
                type="LayersReady",
                status="False",
                reason=next((item.reason for item in observed if item.reason), "")
                or Reason.LAYER_NOT_READY.value,
                message="; ".join(told)[:2000],
            )
        return Condition(type="LayersReady", status="True", reason="Ready")
