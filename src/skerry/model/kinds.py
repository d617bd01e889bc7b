"""The kinds of object and the one table that lists them.

A kind's spec is what people write (unknown fields refused), its status what programs write.
Adding a kind means: a spec, a status and a row in `KINDS`; store, API, CLI and OpenAPI follow.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from msgspec import Meta

from skerry.model.inventory import Inventory
from skerry.model.meta import Condition, Document, Name, Record
from skerry.model.osstate import OsState
from skerry.model.people import RoleBindingSpec, RoleSpec, ServiceAccountSpec, UserSpec, UserStatus

Version = Annotated[str, Meta(pattern=r"^\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?$")]
DigestText = Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}$")]


# -- project, site ---------------------------------------------------------------------------


class ProjectSpec(Document, frozen=True, kw_only=True):
    description: str = ""
    pause_agent_updates: bool = False


class EmptyStatus(Record, frozen=True, kw_only=True):
    conditions: tuple[Condition, ...] = ()


class SiteSpec(Document, frozen=True, kw_only=True):
    address: str = ""
    latitude: Annotated[float, Meta(ge=-90, le=90)] | None = None
    longitude: Annotated[float, Meta(ge=-180, le=180)] | None = None
    time_zone: str = "UTC"


# -- registration ----------------------------------------------------------------------------


class RegistrationTokenSpec(Document, frozen=True, kw_only=True):
    """The secret itself is shown once at creation and stored as a hash in the status.

    `proxy`: HTTP proxy of the site, through which its hosts reach the manager; it stands in the
    install line and hosts keep it.
    """

    site: str = ""
    labels: dict[str, str] = {}
    expires_at: datetime | None = None
    maximum_uses: Annotated[int, Meta(ge=1)] | None = None
    auto_approve: bool = False
    allowed_networks: tuple[str, ...] = ()
    proxy: str = ""
    revoked: bool = False


class RegistrationTokenStatus(Record, frozen=True, kw_only=True):
    secret_hash: str = ""
    uses: int = 0
    last_used_at: datetime | None = None
    conditions: tuple[Condition, ...] = ()


class HostClaimSpec(Document, frozen=True, kw_only=True):
    """Expect a host. A pairing key approves by itself; every other fact only pre-fills."""

    host_id: str = ""
    serial: str = ""
    mac: str = ""
    pairing_key_hash: str = ""
    site: str = ""
    labels: dict[str, str] = {}
    host_name: str = ""


class HostClaimStatus(Record, frozen=True, kw_only=True):
    claimed_by: str = ""
    claimed_at: datetime | None = None
    conditions: tuple[Condition, ...] = ()


# -- host ------------------------------------------------------------------------------------


class HostPhase(StrEnum):
    """Where a host is in its life with this manager."""

    PENDING = "Pending"
    READY = "Ready"
    IN_USE = "InUse"
    DENIED = "Denied"
    REVOKED = "Revoked"


class Approval(StrEnum):
    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"


class HostSpec(Document, frozen=True, kw_only=True):
    """`os_image` names an Artifact of type os, for hosts whose cluster's profiles bring none."""

    site: str = ""
    os_image: str = ""
    approval: Approval = Approval.PENDING
    revoked: bool = False


class DesiredMark(Record, frozen=True, kw_only=True):
    """An assignment by its epoch and the digest of its bytes."""

    epoch: int = 0
    digest: str = ""


class Progress(Record, frozen=True, kw_only=True):
    """The operation a host is carrying out. `index` counts finished steps."""

    operation: str = ""
    step: str = ""
    index: int = 0
    total: int = 0
    started_at: datetime | None = None


class LayerState(Record, frozen=True, kw_only=True):
    name: str
    digest: str = ""
    ready: bool = False
    message: str = ""
    reason: str = ""


class KubernetesState(Record, frozen=True, kw_only=True):
    """What the host measured of its Kubernetes; versions without a leading v."""

    cluster: str = ""
    release: str = ""
    control_plane_version: str = ""
    kubelet_version: str = ""
    api_ready: bool = False
    node_ready: bool = False
    config_digest: str = ""
    certificates_expire_at: datetime | None = None
    last_snapshot_at: datetime | None = None
    layers: tuple[LayerState, ...] = ()
    failed: tuple[str, ...] = ()


class AgentState(Record, frozen=True, kw_only=True):
    """Where the running agent lies (`slot` is empty for one that lies in none), whether it still
    has to prove itself, and the digests of agents that failed on this host."""

    slot: str = ""
    on_trial: bool = False
    failed: tuple[str, ...] = ()


class HostStatus(Record, frozen=True, kw_only=True):
    """`desired_agent` is the version that the centre assigned last, empty when it leaves the
    agent alone; `agent_version` is the one that runs. `desired_os` likewise."""

    phase: HostPhase = HostPhase.PENDING
    hardware_id: str = ""
    public_key: str = ""
    sealing_key: str = ""
    fingerprint: str = ""
    registration_code: str = ""
    agent_version: str = ""
    desired_agent: str = ""
    agent: AgentState = AgentState()
    desired_os: str = ""
    os: OsState = OsState()
    addresses: tuple[str, ...] = ()
    host_name: str = ""
    boot_id: str = ""
    own_labels: dict[str, str] = {}
    inventory: Inventory = Inventory()
    desired: DesiredMark = DesiredMark()
    acknowledged: DesiredMark = DesiredMark()
    kubernetes: KubernetesState = KubernetesState()
    progress: Progress | None = None
    status_digest: str = ""
    counter: int = 0
    registered_at: datetime | None = None
    last_contact: datetime | None = None
    certificate_expires_at: datetime | None = None
    conditions: tuple[Condition, ...] = ()


# -- secret, profile, cluster, artifact --------------------------------------------------------


class SecretSpec(Document, frozen=True, kw_only=True):
    """Write-only: the API answers with the keys and empty values."""

    data: dict[str, str] = {}


class SecretStatus(Record, frozen=True, kw_only=True):
    keys: tuple[str, ...] = ()
    digest: str = ""
    conditions: tuple[Condition, ...] = ()


class ProfileType(StrEnum):
    FULL = "full"
    INFRA = "infra"
    ADDON = "addon"


class LayerType(StrEnum):
    OS = "os"
    KUBERNETES = "kubernetes"
    NETWORK = "network"
    STORAGE = "storage"
    ADDON = "addon"


class Layer(Document, frozen=True, kw_only=True):
    """One layer of the stack.

    kubernetes: `provider` kubeadm, `version`, `values` (YAML: kubelet, kubeProxy, kubeadm,
    containerd, registries, proxy). network: `provider` routed, or as an addon. storage and addon:
    `manifests` (YAML documents), or `chart` (the one of `artifacts` that is a chart) with its
    `values`. os: nothing but the one artifact that is the image. `artifacts` name Artifact objects
    whose images or charts this layer needs.
    `namespace` (default: default) is made when it is not there. `values`, `manifests`,
    `namespace` and `version` may hold `${{ variable }}`.
    """

    name: Name
    type: LayerType
    provider: str = ""
    version: str = ""
    values: str = ""
    manifests: str = ""
    chart: str = ""
    namespace: str = ""
    artifacts: tuple[str, ...] = ()
    wait_s: Annotated[int, Meta(ge=10, le=3600)] = 300


class VariableFormat(StrEnum):
    STRING = "string"
    NUMBER = "number"
    BOOLEAN = "boolean"
    IPV4 = "ipv4"
    IPV4_CIDR = "ipv4cidr"
    VERSION = "version"


class Variable(Document, frozen=True, kw_only=True):
    name: Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$")]
    format: VariableFormat = VariableFormat.STRING
    default: str | None = None
    regex: str = ""
    required: bool = False
    description: str = ""


class ClusterProfileSpec(Document, frozen=True, kw_only=True):
    """One version of a stack. Applying another `version` adds a revision; a version that was
    recorded never changes its content."""

    version: Version
    type: ProfileType = ProfileType.FULL
    description: str = ""
    layers: tuple[Layer, ...] = ()
    variables: tuple[Variable, ...] = ()


class ProfileRevisionRef(Record, frozen=True, kw_only=True):
    version: str
    digest: str
    created_at: datetime | None = None


class ClusterProfileStatus(Record, frozen=True, kw_only=True):
    revisions: tuple[ProfileRevisionRef, ...] = ()
    conditions: tuple[Condition, ...] = ()


class ProfileUse(Document, frozen=True, kw_only=True):
    name: Name
    version: Version


class PoolRole(StrEnum):
    CONTROL_PLANE = "control-plane"
    WORKER = "worker"


class Pool(Document, frozen=True, kw_only=True):
    name: Name = "main"
    role: PoolRole = PoolRole.CONTROL_PLANE
    hosts: tuple[Name, ...] = ()


class ClusterSpec(Document, frozen=True, kw_only=True):
    profiles: tuple[ProfileUse, ...]
    variables: dict[str, str] = {}
    pools: tuple[Pool, ...]


class ClusterPhase(StrEnum):
    PENDING = "Pending"
    PROVISIONING = "Provisioning"
    RUNNING = "Running"
    UPDATING = "Updating"
    DEGRADED = "Degraded"
    DELETING = "Deleting"


class NodeState(Record, frozen=True, kw_only=True):
    host: str
    role: str = ""
    ready: bool = False
    version: str = ""
    message: str = ""


class ClusterStatus(Record, frozen=True, kw_only=True):
    phase: ClusterPhase = ClusterPhase.PENDING
    kubernetes_version: str = ""
    nodes: tuple[NodeState, ...] = ()
    layers: tuple[LayerState, ...] = ()
    desired_digest: str = ""
    conditions: tuple[Condition, ...] = ()


class ArtifactType(StrEnum):
    KUBERNETES = "kubernetes"
    IMAGES = "images"
    CHART = "chart"
    AGENT = "agent"
    OS = "os"


class ArtifactSpec(Document, frozen=True, kw_only=True):
    """Content by digest. `architecture` is part of the key and refused on mismatch."""

    type: ArtifactType
    version: str
    architecture: str = "amd64"
    digest: DigestText
    envelope_digest: DigestText
    size_bytes: int = 0


class ArtifactStatus(Record, frozen=True, kw_only=True):
    blobs: tuple[str, ...] = ()
    complete: bool = False
    conditions: tuple[Condition, ...] = ()


class LeaseSpec(Document, frozen=True, kw_only=True):
    limit: Annotated[int, Meta(ge=0)] = 1


class LeaseStatus(Record, frozen=True, kw_only=True):
    holders: tuple[str, ...] = ()
    conditions: tuple[Condition, ...] = ()


# -- append-only -------------------------------------------------------------------------------


class EventSpec(Document, frozen=True, kw_only=True):
    """Something that happened to an object."""

    object_kind: str
    object_name: str
    reason: str
    message: str
    severity: str = "info"
    at: datetime | None = None


class AuditRecordSpec(Document, frozen=True, kw_only=True):
    """One mutation: who, what, on which object, with which outcome; chained by hash."""

    sequence: int
    at: datetime
    actor: str
    verb: str
    object_kind: str
    object_project: str
    object_name: str
    source: str
    change: str
    previous_hash: str
    hash: str


class Scope(StrEnum):
    SYSTEM = "system"
    PROJECT = "project"


@dataclass(frozen=True, slots=True)
class Kind:
    """One row of the table of kinds."""

    name: str
    plural: str
    scope: Scope
    spec: Any
    status: Any
    writable: bool = True
    short: tuple[str, ...] = ()


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("Project", "projects", Scope.SYSTEM, ProjectSpec, EmptyStatus),
        Kind("Site", "sites", Scope.PROJECT, SiteSpec, EmptyStatus),
        Kind(
            "RegistrationToken",
            "registrationtokens",
            Scope.PROJECT,
            RegistrationTokenSpec,
            RegistrationTokenStatus,
            short=("token", "tokens"),
        ),
        Kind(
            "HostClaim",
            "hostclaims",
            Scope.PROJECT,
            HostClaimSpec,
            HostClaimStatus,
            short=("claim", "claims"),
        ),
        Kind("Host", "hosts", Scope.PROJECT, HostSpec, HostStatus),
        Kind("Secret", "secrets", Scope.PROJECT, SecretSpec, SecretStatus),
        Kind(
            "ClusterProfile",
            "clusterprofiles",
            Scope.PROJECT,
            ClusterProfileSpec,
            ClusterProfileStatus,
            short=("profile", "profiles"),
        ),
        Kind("Cluster", "clusters", Scope.PROJECT, ClusterSpec, ClusterStatus),
        Kind("Artifact", "artifacts", Scope.SYSTEM, ArtifactSpec, ArtifactStatus),
        Kind("Lease", "leases", Scope.PROJECT, LeaseSpec, LeaseStatus),
        Kind("Event", "events", Scope.PROJECT, EventSpec, EmptyStatus, writable=False),
        Kind(
            "AuditRecord",
            "auditrecords",
            Scope.SYSTEM,
            AuditRecordSpec,
            EmptyStatus,
            writable=False,
            short=("audit",),
        ),
        Kind("User", "users", Scope.SYSTEM, UserSpec, UserStatus),
        Kind("ServiceAccount", "serviceaccounts", Scope.SYSTEM, ServiceAccountSpec, EmptyStatus),
        Kind("Role", "roles", Scope.SYSTEM, RoleSpec, EmptyStatus),
        Kind("RoleBinding", "rolebindings", Scope.SYSTEM, RoleBindingSpec, EmptyStatus),
    )
}


def find_kind(word: str) -> Kind | None:
    """A kind by its name, plural or short form, in any case."""
    wanted = word.lower()
    for kind in KINDS.values():
        if wanted in (kind.name.lower(), kind.plural, *kind.short):
            return kind
    return None
