"""Messages between agent and manager, and the documents inside envelopes.

All are tolerant records: unknown optional fields pass. Sizes are bounded where bytes enter
(`decode`). Protocol version: `PROTOCOL`; both sides serve their own and the one before.
"""

from __future__ import annotations

from datetime import datetime
from typing import TypeVar

import msgspec

from skerry.lib.errors import SkerryError
from skerry.model.artifact import ArtifactRef
from skerry.model.inventory import Inventory
from skerry.model.kinds import AgentState, HostStatus, KubernetesState, Progress
from skerry.model.meta import Condition, Record
from skerry.model.osstate import OsState
from skerry.wire.envelope import Envelope, TrustedKey

PROTOCOL = 1
MAX_MESSAGE_BYTES = 1024 * 1024

ENROL_PATH = "/v1/channel/enrol"
SYNC_PATH = "/v1/channel/sync"
RENEW_PATH = "/v1/channel/renew"
CONTENT_PATH = "/v1/channel/content/"  # + digest; answers byte ranges

MessageT = TypeVar("MessageT")


class MessageInvalid(SkerryError):
    """Bytes from the network that are not the expected message."""


class HostFacts(Record, frozen=True, kw_only=True):
    """What identifies a machine. Junk serials are left empty by the sender and ignored."""

    hardware_id: str
    host_name: str = ""
    serial: str = ""
    macs: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    architecture: str = "amd64"


class EnrolRequest(Record, frozen=True, kw_only=True):
    """Signed by the host key (HTTP message signature, `skerry-host` = key fingerprint)."""

    protocol: int = PROTOCOL
    agent_version: str
    public_key: str
    sealing_key: str
    facts: HostFacts
    token: str = ""
    pairing_key: str = ""
    labels: dict[str, str] = {}
    site: str = ""


class EnrolState(Record, frozen=True, kw_only=True):
    """`state`: pending, approved or denied; `reason` is a condition reason."""

    state: str
    reason: str = ""
    message: str = ""
    registration_code: str = ""
    retry_s: int = 10
    host_uid: str = ""
    host_name: str = ""
    project: str = ""
    certificate: str = ""
    trusted_keys: tuple[TrustedKey, ...] = ()
    authorities: tuple[str, ...] = ()


class ArtifactStatement(Record, frozen=True, kw_only=True):
    """What a release key signs about an artifact."""

    name: str
    type: str
    version: str
    architecture: str
    digest: str


class RevisionRef(Record, frozen=True, kw_only=True):
    """A profile revision; `digest` names the blob that holds its canonical JSON."""

    profile: str
    version: str
    digest: str


class SealedSecret(Record, frozen=True, kw_only=True):
    """A secret sealed to the host's key; HPKE `info` is the secret's name."""

    name: str
    sealed: bytes


class ClusterAssignment(Record, frozen=True, kw_only=True):
    """A host's part in a cluster. `site` is the one that the centre decided, for `host.site`."""

    name: str
    uid: str
    role: str
    site: str = ""
    revisions: tuple[RevisionRef, ...]
    variables: dict[str, str] = {}
    artifacts: tuple[ArtifactRef, ...] = ()
    secrets: tuple[SealedSecret, ...] = ()
    retry_failed: int = 0


class AgentAssignment(Record, frozen=True, kw_only=True):
    """The agent version a host should run. `trial_s` is how long it may take to prove itself.

    An agent reads this part whatever `min_protocol` says: it is the way out for a host that was
    away while the manager moved on, so its form never changes.
    """

    version: str
    artifact: ArtifactRef
    trial_s: int = 600
    retry_failed: int = 0


class OsAssignment(Record, frozen=True, kw_only=True):
    """The OS image a host should run. `trial_s` is how long each start may take to prove itself."""

    version: str
    artifact: ArtifactRef
    trial_s: int = 900
    retry_failed: int = 0


class Assignment(Record, frozen=True, kw_only=True):
    """Desired state of one host: payload of an ASSIGNMENT envelope, signed by the channel key.

    `epoch` grows strictly; an older one is refused. Without a cluster the host resets what an
    earlier assignment made. `min_protocol` above the agent's own is refused with a condition.
    """

    host_uid: str
    epoch: int
    issued_at: datetime
    cluster: ClusterAssignment | None = None
    agent: AgentAssignment | None = None
    os: OsAssignment | None = None
    min_protocol: int = 1


class HostReport(Record, frozen=True, kw_only=True):
    """The host's own status, sent when its digest changed."""

    agent_version: str
    addresses: tuple[str, ...] = ()
    host_name: str = ""
    boot_id: str = ""
    inventory: Inventory = Inventory()
    kubernetes: KubernetesState = KubernetesState()
    agent: AgentState = AgentState()
    os: OsState = OsState()
    progress: Progress | None = None
    conditions: tuple[Condition, ...] = ()
    labels: dict[str, str] = {}


class SyncRequest(Record, frozen=True, kw_only=True):
    """Heartbeat, acknowledgement and status delta in one.

    `have_*` is the newest assignment that the host persisted, `acknowledged_*` the one that it
    proves to run. `report` is left out when the manager already confirmed `status_digest`.
    """

    protocol: int = PROTOCOL
    have_epoch: int = 0
    have_digest: str = ""
    acknowledged_epoch: int = 0
    acknowledged_digest: str = ""
    status_digest: str = ""
    report: HostReport | None = None
    events: tuple[HostEvent, ...] = ()
    wait_s: int = 0


class HostEvent(Record, frozen=True, kw_only=True):
    """Something that happened on the host; `sequence` grows, so repeats are dropped."""

    sequence: int
    at: datetime
    reason: str
    message: str
    severity: str = "info"


class SyncAnswer(Record, frozen=True, kw_only=True):
    """`assignment` when the host's is not the newest; `want_report` when the manager lost it."""

    status_digest: str = ""
    events_through: int = 0
    assignment: Envelope | None = None
    want_report: bool = False
    next_s: int = 30
    now: datetime | None = None
    revoked: bool = False
    message: str = ""


class RenewRequest(Record, frozen=True, kw_only=True):
    """Signed by the old key; `public_key` may be a new one, which then proves itself.

    `proof` is the new key's signature over `renewal(...)`: nobody takes over a key that belongs
    to another machine.
    """

    public_key: str
    proof: bytes = b""


class RenewAnswer(Record, frozen=True, kw_only=True):
    certificate: str
    trusted_keys: tuple[TrustedKey, ...] = ()
    authorities: tuple[str, ...] = ()


class Refusal(Record, frozen=True, kw_only=True):
    """Body of a signed answer that refuses a channel request."""

    reason: str
    message: str
    hint: str = ""


def decode(data: bytes, kind: type[MessageT], *, limit: int = MAX_MESSAGE_BYTES) -> MessageT:
    """Raises MessageInvalid."""
    if len(data) > limit:
        raise MessageInvalid(f"{kind.__name__} is {len(data)} bytes, at most {limit}")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise MessageInvalid(f"not a valid {kind.__name__}: {exc}") from exc


def renewal(host_uid: str, counter: int) -> bytes:
    """What a new host key signs: it belongs to this host, and to this one request."""
    return f"skerry host key renewal\n{host_uid}\n{counter}".encode()


def apply_report(status: HostStatus, report: HostReport) -> HostStatus:
    """The host's status as the manager keeps it, with a new report in it."""
    return msgspec.structs.replace(
        status,
        agent_version=report.agent_version,
        addresses=report.addresses,
        host_name=report.host_name,
        boot_id=report.boot_id,
        inventory=report.inventory,
        kubernetes=report.kubernetes,
        agent=report.agent,
        os=report.os,
        progress=report.progress,
    )
