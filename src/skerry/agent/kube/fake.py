"""A Kubernetes engine in memory: product code for simulation and for tests of the planner.

It keeps what a real host would keep (so that a crash between steps loses nothing) and changes it
step by step. Faults are asked for by name and are those that a real host has: slow steps, a
version that never becomes healthy, a step that fails some times.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

import msgspec

from skerry.agent.kube.engine import EngineFailed, Reason
from skerry.lib.clock import Clock
from skerry.model.meta import Condition, Record
from skerry.plan import steps as do
from skerry.plan.desired import DesiredCluster
from skerry.plan.observed import Finding, KubeObserved, ObservedLayer

_LIFE = timedelta(days=365)


@dataclass
class Faults:
    """What goes wrong. Versions and layer names are those of the desired state."""

    step_s: float = 0.0
    bad_versions: frozenset[str] = frozenset()
    bad_configs: frozenset[str] = frozenset()
    bad_layers: frozenset[str] = frozenset()
    failing: dict[str, int] = field(default_factory=dict)
    """Name of a step's class -> how many times it still fails."""
    foreign: tuple[Finding, ...] = ()


@dataclass
class _Saved:
    state: KubeObserved
    objects: int
    etcd: bool = False


class _Kept(Record, frozen=True, kw_only=True):
    """What a real host would have on its disk."""

    state: KubeObserved
    config: str = ""
    objects: int = 0
    fetched: tuple[str, ...] = ()
    imported: tuple[str, ...] = ()
    points: dict[str, _Saved] = {}
    bad_versions: tuple[str, ...] = ()


class FakeKubeEngine:
    """Kubernetes that takes no time and no space, with faults on request.

    `objects` counts what was written to the API: one per applied layer. It shows whether a
    return lost or kept what it must.
    """

    def __init__(self, clock: Clock, *, architecture: str = "amd64") -> None:
        self._clock = clock
        self.faults = Faults()
        self.objects = 0
        self.disrupted = 0
        self._empty = KubeObserved(architecture=architecture, observed_at=clock.now())
        self._state = self._empty
        self._config = ""
        self._fetched: set[str] = set()
        self._imported: set[str] = set()
        self._points: dict[str, _Saved] = {}

    def save(self) -> bytes:
        """Everything that outlives the process; `load` takes it up."""
        return msgspec.json.encode(
            _Kept(
                state=self._state,
                config=self._config,
                objects=self.objects,
                fetched=tuple(sorted(self._fetched)),
                imported=tuple(sorted(self._imported)),
                points=self._points,
                bad_versions=tuple(sorted(self.faults.bad_versions)),
            )
        )

    def load(self, data: bytes) -> None:
        """Be what `save` described."""
        kept = msgspec.json.decode(data, type=_Kept)
        self._state, self._config, self.objects = kept.state, kept.config, kept.objects
        self._fetched, self._imported = set(kept.fetched), set(kept.imported)
        self._points = kept.points
        self.faults.bad_versions |= frozenset(kept.bad_versions)

    async def observe(self) -> KubeObserved:
        """The state now."""
        state = self._state
        live = state.initialised and state.kubelet_active and not state.api_stopped
        well = live and not self._broken()
        return msgspec.structs.replace(
            state,
            observed_at=self._clock.now(),
            api_ready=well,
            node_ready=well,
            foreign=() if state.cluster_uid else self.faults.foreign,
        )

    async def health(self, cluster: DesiredCluster) -> tuple[Condition, ...]:
        """Conditions as the real engine gives them."""
        state = await self.observe()
        layers = {layer.name for layer in state.layers if layer.ready}
        lacking = [layer.name for layer in cluster.layers if layer.name not in layers]
        return (
            _condition("ControlPlaneReady", Reason.CONTROL_PLANE_NOT_READY, state.api_ready),
            _condition("NodeReady", Reason.KUBELET_NOT_READY, state.node_ready),
            _condition(
                "LayersReady", Reason.LAYER_NOT_READY, not lacking, message=", ".join(lacking)
            ),
        )

    async def perform(self, step: do.Step, cluster: DesiredCluster | None) -> None:
        """Do one step in memory. Raises EngineFailed as the faults ask."""
        if self.faults.step_s:
            await self._clock.sleep(self.faults.step_s)
        name = type(step).__name__
        if self.faults.failing.get(name, 0) > 0:
            self.faults.failing[name] -= 1
            raise EngineFailed(Reason.KUBEADM_FAILED, f"{step.title} failed on request")
        self._release_step(step)
        self._plane_step(step, cluster)
        self._gate_step(step)
        self._layer_step(step, cluster)

    def _set(
        self,
        *,
        cluster: DesiredCluster | None = None,
        initialised: bool | None = None,
        version: str | None = None,
        plane: str | None = None,
        kubelet: str | None = None,
        runtime: str | None = None,
        config: str | None = None,
        stopped: bool | None = None,
        fenced: bool | None = None,
        renewed: datetime | None = None,
        saved: datetime | None = None,
        releases: dict[str, str] | None = None,
        layers: tuple[ObservedLayer, ...] | None = None,
    ) -> None:
        """Change the parts of the state that are given."""
        changes = {
            "cluster_uid": cluster.uid if cluster else None,
            "cluster_name": cluster.name if cluster else None,
            "initialised": initialised,
            "version": version,
            "control_plane_version": plane,
            "kubelet_version": kubelet,
            "kubelet_active": True if kubelet is not None else None,
            "runtime_version": runtime,
            "runtime_active": True if runtime is not None else None,
            "config_digest": config,
            "api_stopped": stopped,
            "fenced": fenced,
            "certificates_issued_at": renewed,
            "certificates_expire_at": renewed + _LIFE if renewed else None,
            "last_snapshot_at": saved,
            "releases": releases,
            "layers": layers,
        }
        given = {name: value for name, value in changes.items() if value is not None}
        self._state = msgspec.structs.replace(self._state, **given)

    def _release_step(self, step: do.Step) -> None:
        state = self._state
        match step:
            case do.FetchRelease():
                self._fetched.add(step.release.digest)
            case do.UnpackRelease():
                if step.release.digest not in self._fetched:
                    raise EngineFailed(Reason.RELEASE_INVALID, "the release was not fetched")
                self._set(releases={**state.releases, step.version: step.release.digest})
            case do.ImportImages():
                self._need_release(step.version)
                self._imported.add(step.version)
            case do.SwitchRuntime():
                self._need_release(step.version)
                self._set(runtime=step.version)
            case do.RemoveRelease():
                if step.version in (state.kubelet_version, state.runtime_version):
                    raise EngineFailed(Reason.RELEASE_INVALID, f"{step.version} is in use")
                self._set(releases={k: v for k, v in state.releases.items() if k != step.version})
                self._imported.discard(step.version)
            case do.Reset():
                self._state, self._config, self.objects = self._empty, "", 0
                self._fetched, self._imported, self._points = set(), set(), {}
            case _:
                return

    def _plane_step(self, step: do.Step, cluster: DesiredCluster | None) -> None:
        match step:
            case do.ConfigureHost():
                self._set(cluster=cluster)
                self._config = cluster.config_digest if cluster else self._config
            case do.InitControlPlane():
                self._need_images(step.version)
                self._set(plane=step.version, kubelet=step.version, renewed=self._clock.now())
            case do.ReplaceControlPlane():
                self._need_images(step.version)
                self._config = cluster.config_digest if cluster else self._config
                self._set(plane=step.version, stopped=False)
            case do.SwitchKubelet():
                self._set(kubelet=step.version)
            case do.ConfirmControlPlane():
                self._set(
                    initialised=True,
                    version=step.version,
                    config=step.config_digest,
                    fenced=False,
                )
            case do.RenewCertificates():
                self._set(renewed=self._clock.now())
            case do.StopApiServer():
                self.disrupted += 1
                self._set(stopped=True, plane="")
            case do.FenceApi():
                self._set(fenced=True)
            case do.OpenApi():
                self._set(fenced=False)
            case do.SaveRestorePoint():
                self._points[step.point] = _Saved(self._state, self.objects)
            case do.SnapshotEtcd():
                saved = self._points.setdefault(step.point, _Saved(self._state, self.objects))
                saved.objects, saved.etcd = self.objects, True
                self._set(saved=self._clock.now())
            case do.RestoreControlPlane():
                self._restore(step.point)
            case _:
                return

    def _restore(self, point: str) -> None:
        saved = self._points.get(point)
        if saved is None:
            raise EngineFailed(Reason.RESTORE_FAILED, f"restore point {point} is gone")
        if saved.etcd:
            self.objects = saved.objects
        self._config = saved.state.config_digest
        kept = self._state
        self._state = msgspec.structs.replace(
            saved.state,
            releases=kept.releases,
            layers=kept.layers,
            fenced=kept.fenced,
            last_snapshot_at=kept.last_snapshot_at,
        )

    def _gate_step(self, step: do.Step) -> None:
        state = self._state
        match step:
            case do.GateControlPlane():
                if state.control_plane_version != step.version or state.api_stopped:
                    found = state.control_plane_version or "stopped"
                    raise EngineFailed(
                        Reason.CONTROL_PLANE_NOT_READY,
                        f"the control plane is {found}, wanted {step.version}",
                        retryable=False,
                    )
            case do.GateNode():
                if state.kubelet_version != step.version or self._broken():
                    raise EngineFailed(
                        Reason.KUBELET_NOT_READY,
                        f"the node with kubelet {step.version} does not become Ready",
                        retryable=False,
                    )
            case _:
                return

    def _layer_step(self, step: do.Step, cluster: DesiredCluster | None) -> None:
        layers = {layer.name: layer for layer in self._state.layers}
        match step:
            case do.ApplyLayer():
                bad = step.name in self.faults.bad_layers
                layers[step.name] = ObservedLayer(
                    name=step.name,
                    digest=step.digest,
                    ready=not bad,
                    message="a pod does not start" if bad else "",
                )
                self.objects += 1
            case do.PruneLayer():
                layers.pop(step.name, None)
            case _:
                return
        self._set(layers=tuple(layers.values()))

    def _broken(self) -> bool:
        running = (self._state.control_plane_version, self._state.kubelet_version)
        return (
            any(version in self.faults.bad_versions for version in running)
            or self._config in self.faults.bad_configs
        )

    def _need_release(self, version: str) -> None:
        if version not in self._state.releases:
            raise EngineFailed(Reason.RELEASE_INVALID, f"release {version} is not unpacked")

    def _need_images(self, version: str) -> None:
        self._need_release(version)
        if version not in self._imported:
            raise EngineFailed(Reason.IMAGE_MISSING, f"images of {version} are not imported")


def _condition(kind: str, reason: Reason, good: bool, *, message: str = "") -> Condition:
    if good:
        return Condition(type=kind, status="True", reason="Ready")
    return Condition(type=kind, status="False", reason=reason.value, message=message)
