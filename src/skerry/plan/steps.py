"""Steps of a host's operations: values that the journal keeps and an engine performs.

Every step is idempotent: doing an interrupted one again is always right. A step carries all it
needs besides the desired cluster, so that a journal written by an older agent can be finished.
`limit_s` bounds one try from outside; gates also carry their own, shorter limit and say what was
missing when it is over.
"""

from __future__ import annotations

from typing import ClassVar, TypeAlias

from skerry.model.artifact import ArtifactRef
from skerry.model.meta import Record


class _Step(Record, frozen=True, kw_only=True, tag_field="step"):
    """What every step has: how often it is tried and how long one try may take."""

    words: ClassVar[str] = ""

    attempts: int = 3
    limit_s: float = 300.0

    @property
    def title(self) -> str:
        """Short words for people."""
        fields = {name: getattr(self, name) for name in self.__struct_fields__}
        return self.words.format(**fields)


class FetchRelease(_Step, frozen=True, kw_only=True):
    """Bring every blob of a release that the host lacks into the content store."""

    words = "fetch Kubernetes {version}"
    version: str
    release: ArtifactRef
    attempts: int = 10
    limit_s: float = 3600.0


class UnpackRelease(_Step, frozen=True, kw_only=True):
    """Lay the release out under its own version and check every file."""

    words = "unpack Kubernetes {version}"
    version: str
    release: ArtifactRef
    limit_s: float = 900.0


class Preflight(_Step, frozen=True, kw_only=True):
    """Refuse by name what would make the cluster fail later."""

    words = "check this host"
    attempts: int = 1
    limit_s: float = 60.0


class ConfigureHost(_Step, frozen=True, kw_only=True):
    """Address, kernel settings, units, containerd's configuration and registries, proxies."""

    words = "configure the host for Kubernetes {version}"
    version: str


class StartRuntime(_Step, frozen=True, kw_only=True):
    """Start containerd, or restart it when its configuration changed."""

    words = "start the container runtime {version}"
    version: str


class ImportImages(_Step, frozen=True, kw_only=True):
    """Import and pin the release's images that the runtime lacks."""

    words = "import the images of Kubernetes {version}"
    version: str
    limit_s: float = 1200.0


class RemoveContent(_Step, frozen=True, kw_only=True):
    """Remove an artifact's chart, or unpin and remove its images: no layer needs it any more."""

    words = "remove content {digest}"
    digest: str


class ConfigureNetwork(_Step, frozen=True, kw_only=True):
    """Write the built-in pod network's configuration."""

    words = "configure the pod network"


class InitControlPlane(_Step, frozen=True, kw_only=True):
    """Make the cluster: certificates, etcd, control plane, kubelet, core add-ons."""

    words = "start the control plane {version}"
    version: str
    gate_limit_s: float = 240.0
    limit_s: float = 600.0


class GateControlPlane(_Step, frozen=True, kw_only=True):
    """Wait until API server, controllers and scheduler answer as the given version."""

    words = "wait for the control plane {version}"
    version: str
    gate_limit_s: float = 240.0
    attempts: int = 1
    limit_s: float = 300.0


class GateNode(_Step, frozen=True, kw_only=True):
    """Wait until the kubelet of the given version is Ready and stays so for `settle_s`."""

    words = "wait for the node with kubelet {version}"
    version: str
    gate_limit_s: float = 240.0
    settle_s: float = 5.0
    attempts: int = 1
    limit_s: float = 300.0


class ApplyLayer(_Step, frozen=True, kw_only=True):
    """Import the images a layer needs, apply its objects or its chart, prune what it no longer has.

    A layer that cannot be applied is remembered as such and tried again later; it is no failure
    of the operation, because one broken add-on must not hold up the others.
    """

    words = "apply layer {name}"
    name: str
    digest: str
    limit_s: float = 3600.0


class WaitLayer(_Step, frozen=True, kw_only=True):
    """Wait for a layer's workloads; its end without them is remembered, never a failure."""

    words = "wait for layer {name}"
    name: str
    digest: str
    wait_s: float = 300.0
    attempts: int = 1
    limit_s: float = 360.0


class PruneLayer(_Step, frozen=True, kw_only=True):
    """Take a layer that is gone from the profile off the cluster; a failure is remembered and
    tried again later."""

    words = "remove layer {name}"
    name: str
    limit_s: float = 900.0


class SaveRestorePoint(_Step, frozen=True, kw_only=True):
    """Copy what a return needs except etcd: manifests, kubelet and runtime settings, links."""

    words = "save restore point {point}"
    point: str


class StopApiServer(_Step, frozen=True, kw_only=True):
    """Stop API server, controllers and scheduler, so that nothing is written any more."""

    words = "stop the API server"
    limit_s: float = 180.0


class SnapshotEtcd(_Step, frozen=True, kw_only=True):
    """Save etcd into a restore point, then keep only the newest `keep`."""

    words = "save etcd to {point}"
    point: str
    keep: int = 5
    limit_s: float = 180.0


class FenceApi(_Step, frozen=True, kw_only=True):
    """Let only this host reach the API server until the new version is confirmed."""

    words = "keep others away from the API server"


class OpenApi(_Step, frozen=True, kw_only=True):
    """Take the fence away."""

    words = "let everyone reach the API server"


class ReplaceControlPlane(_Step, frozen=True, kw_only=True):
    """Write the control plane's manifests with the given release's kubeadm."""

    words = "replace the control plane by {version}"
    version: str
    limit_s: float = 180.0


class SwitchRuntime(_Step, frozen=True, kw_only=True):
    """Move the runtime's links to the given release and restart it when they changed."""

    words = "switch the container runtime to {version}"
    version: str


class SwitchKubelet(_Step, frozen=True, kw_only=True):
    """Write the kubelet's configuration, move its link and restart it when either changed."""

    words = "switch the kubelet to {version}"
    version: str


class ConfirmControlPlane(_Step, frozen=True, kw_only=True):
    """Make the new version the cluster's own: stored configuration, core add-ons, then open."""

    words = "confirm Kubernetes {version}"
    version: str
    config_digest: str
    limit_s: float = 300.0


class RestoreControlPlane(_Step, frozen=True, kw_only=True):
    """Put etcd, manifests, settings and links of a restore point back and start the kubelet."""

    words = "return to restore point {point}"
    point: str
    limit_s: float = 600.0


class RenewCertificates(_Step, frozen=True, kw_only=True):
    """Renew the control plane's and the kubelet's certificates and restart what holds them."""

    words = "renew the certificates"
    version: str
    limit_s: float = 300.0


class RemoveRelease(_Step, frozen=True, kw_only=True):
    """Remove the files and images of a release that nothing runs."""

    words = "remove Kubernetes {version}"
    version: str


class Reset(_Step, frozen=True, kw_only=True):
    """Remove everything that skerry's Kubernetes made on this host."""

    words = "reset this host"
    limit_s: float = 600.0
    attempts: int = 5


class StageAgent(_Step, frozen=True, kw_only=True):
    """Unpack another agent into the slot that does not run."""

    words = "unpack agent {version}"
    version: str
    artifact: ArtifactRef
    slot: str
    limit_s: float = 600.0


class CheckAgent(_Step, frozen=True, kw_only=True):
    """Start the unpacked program once and hear its version."""

    words = "check that agent {version} starts"
    version: str
    slot: str
    limit_s: float = 120.0


class SwitchAgent(_Step, frozen=True, kw_only=True):
    """Set the watchdog, then let the link name the other slot. `starts` is how often the new
    agent may start, `trial_s` how long it has to prove itself."""

    words = "switch to agent {version}"
    version: str
    digest: str
    slot: str
    starts: int
    trial_s: int


class StageImage(_Step, frozen=True, kw_only=True):
    """Write an OS image to the slot that does not run."""

    words = "write OS image {version}"
    version: str
    image: ArtifactRef
    attempts: int = 10
    limit_s: float = 7200.0


class ActivateImage(_Step, frozen=True, kw_only=True):
    """Make the next start a trial of the staged image."""

    words = "arm OS image {version}"
    version: str
    image: ArtifactRef
    trial_s: int


class Restart(_Step, frozen=True, kw_only=True):
    """Restart the machine. Done when it runs under another boot id than the one in which the slot
    was armed or rolled back (`from_boot`, unless that is remembered), or, where `unless_slot` is
    given, when that slot runs already."""

    words = "restart"
    from_boot: str = ""
    unless_slot: str = ""
    limit_s: float = 600.0


class CheckImage(_Step, frozen=True, kw_only=True):
    """Whether the image that was armed is the one that runs."""

    words = "check that OS image {version} runs"
    version: str
    image: ArtifactRef
    attempts: int = 1


class GateHost(_Step, frozen=True, kw_only=True):
    """Wait until everything on the host that was healthy before is healthy again: the conditions
    of these types, and the line to the manager if there was one."""

    words = "wait for a healthy host"
    timeout_s: float
    healthy: tuple[str, ...] = ()
    line: bool = False
    attempts: int = 1
    limit_s: float = 3600.0


class ConfirmImage(_Step, frozen=True, kw_only=True):
    """The running image is the one to start from now on."""

    words = "confirm OS image {version}"
    version: str


class RollBackImage(_Step, frozen=True, kw_only=True):
    """The image on trial had its chance."""

    words = "return to the former OS image"


Step: TypeAlias = (
    FetchRelease
    | UnpackRelease
    | Preflight
    | ConfigureHost
    | StartRuntime
    | ImportImages
    | RemoveContent
    | ConfigureNetwork
    | InitControlPlane
    | GateControlPlane
    | GateNode
    | ApplyLayer
    | WaitLayer
    | PruneLayer
    | SaveRestorePoint
    | StopApiServer
    | SnapshotEtcd
    | FenceApi
    | OpenApi
    | ReplaceControlPlane
    | SwitchRuntime
    | SwitchKubelet
    | ConfirmControlPlane
    | RestoreControlPlane
    | RenewCertificates
    | RemoveRelease
    | Reset
    | StageAgent
    | CheckAgent
    | SwitchAgent
    | StageImage
    | ActivateImage
    | Restart
    | CheckImage
    | GateHost
    | ConfirmImage
    | RollBackImage
)


class Operation(Record, frozen=True, kw_only=True):
    """Steps towards a desired state, and the way back.

    `name`: create, upgrade, configure, layers, renew, snapshot, repair, tidy, reset,
    update-agent, stage-os, update-os or return-os. `undo_from` is the index of the first step
    whose failure, or that of a later one, starts `undo`; an empty `undo` means that there is
    nothing to return to. `to_last_good` says that the steps lead to the last good cluster because
    the desired one failed here before.
    """

    name: str
    desired_digest: str
    steps: tuple[Step, ...]
    undo: tuple[Step, ...] = ()
    undo_from: int = 0
    disruptive: bool = False
    to_last_good: bool = False
