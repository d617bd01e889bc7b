"""Every reason that a condition can have, in one table, and the one cause behind an unhappy host.

Centre and host ask the same `why`, so they say the same words. The table's order is the rank: when
several conditions are unhappy, the one that stands first here is the cause and the others are its
consequences. A next action is a command line of `skerry` or `skerry-agent`.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from skerry.model.meta import Condition, Record


class Severity(StrEnum):
    """`quiet` needs nobody, `working` ends by itself, `waiting` waits for a person's decision,
    `error` needs somebody to repair something."""

    QUIET = "quiet"
    WORKING = "working"
    WAITING = "waiting"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Reason:
    """One row: `cause` explains, `action` is the next command; both may hold `{host}` and so on."""

    name: str
    severity: Severity
    rank: int
    title: str
    cause: str
    action: str


class Cause(Record, frozen=True, kw_only=True):
    """Why something is as it is. `chain` leads from the cause to what is seen."""

    reason: str
    severity: str
    title: str
    message: str
    next_action: str
    chain: tuple[str, ...] = ()


# Reason | severity | title | next action, and below it the cause in words.
_TABLE = """
# this host may not be here
Revoked | error | Host is revoked | skerry token create
    An operator removed this host from the fleet.
Denied | error | Registration was denied | skerry approve host {host}
    An operator denied this host.
HostUnknown | error | Manager does not know this host | skerry token create
    The manager has no such host; perhaps it was restored from an older backup.
HardwareIdTaken | waiting | Known machine with a new key | skerry approve host {host}
    A machine with this hardware id is registered under another key; it was installed again, or
    somebody copies it.
RequestReplayed | error | Requests repeat | skerry token create
    The manager saw newer requests of this host: its disk was copied or set back.
# registration
SiteDataInvalid | error | Site data is not valid | skerry-agent status
    What this host was told of its site, by a stick, its image or its command line, holds something
    wrong. Nothing of that source is used until it is corrected.
SiteDataMissing | waiting | Host was not told its manager | skerry token create
    Put a file skerry.yaml on a stick with the volume name SKERRY and plug it in; it is read at
    once.
NotRegistered | waiting | Host is not registered | skerry token create
    This host was never told which manager it belongs to.
TokenUnknown | error | Token is unknown | skerry token create
    The registration token or pairing key does not belong to this manager.
TokenRevoked | error | Token was revoked | skerry token create
    The registration token was revoked.
TokenExpired | error | Token expired | skerry token create
    The registration token is too old.
TokenUsedUp | error | Token is used up | skerry token create
    The registration token was used as often as it may be.
NetworkNotAllowed | error | Address is not allowed | skerry token create
    The registration token does not count at this address.
TooManyRequests | working | Registration is slowed down | skerry-agent status
    Many hosts register from this address at once; it goes on by itself.
AwaitingApproval | waiting | Waits for approval | skerry approve host {host}
    A person has to compare the code and approve this host.
Starting | working | Agent starts | skerry-agent status
    The agent has just started.
# the line
ClockWrong | error | Clock is wrong | skerry-agent status
    This host's clock is so far off that certificates do not count; set it, or let a time service
    keep it.
ManagerClockWrong | error | Manager's clock is wrong | skerry describe host {host}
    The manager's clock shows a time before what it signed itself; set the manager's clock.
DnsFailed | error | Name cannot be resolved | skerry-agent status
    The manager's name has no address on this host.
ProxyRefused | error | Proxy refuses | skerry-agent status
    The proxy does not let this host reach the manager.
ManagerUntrusted | error | Not this host's manager | skerry-agent status
    What answers at the manager's address cannot prove that it is this host's manager: another
    server, or a proxy that opens TLS.
ManagerUnreachable | quiet | Manager cannot be reached | skerry-agent status
    There is no line to the manager; everything on the host goes on.
HostSilent | quiet | No contact | skerry describe host {host}
    The host has not called for a while: it is off, or its line is down. What runs on it goes
    on.
Unsupported | error | Versions do not fit | skerry token create
    Agent and manager are too far apart to understand each other.
# desired state and content
SignatureInvalid | error | Signature is not valid | skerry-agent status
    A document is not signed by a key that this host trusts; nothing of it was used.
ReleaseSignatureMissing | error | Release signature is missing | skerry get artifacts
    The artifact is not signed by a release key; nothing of it was used.
ManagerRestored | waiting | Manager was restored | skerry backup confirm
    The manager came back from a backup. It learns what hosts have and tells them nothing new
    until a person confirms it.
OlderEpoch | error | Older desired state | skerry describe host {host}
    The manager sent an older state than this host has; perhaps it was restored from a backup.
RevisionInvalid | error | Revision cannot be read | skerry get profiles
    A profile revision is not in a form that this version understands.
ProfileMissing | error | Profile is missing | skerry edit cluster {cluster}
    The cluster names a profile version that is not there.
SecretMissing | error | Secret is missing | skerry get secrets
    The stack refers to a secret that is not there.
ArchitectureMismatch | error | Wrong architecture | skerry get artifacts
    The content is for another processor architecture than the host's.
ArtifactMissing | error | Content is missing | skerry release push
    The manager does not have everything that the stack needs.
ArtifactInvalid | error | Content is damaged | skerry release push
    An artifact is not of the expected form.
ArtifactDigestMismatch | error | Content is damaged | skerry release push
    An artifact's bytes are not what its name says.
DigestMismatch | error | Content is not what it claims | skerry-agent status
    Bytes arrived that are not what their name says; they were thrown away and are fetched
    again.
ReleaseInvalid | error | Release is damaged | skerry release push
    The Kubernetes release is not of the form that skerry makes.
BundleInvalid | error | Bundle cannot be read | skerry bundle export
    The bundle file is damaged or for another host.
DiskFull | error | Disk is full | skerry describe host {host}
    There is too little space on the host; the work resumes when there is some.
DownloadInterrupted | working | Download was cut | skerry-agent status
    A download stopped; it goes on where it was.
# what cannot be carried out
ForeignKubernetes | error | Another Kubernetes is here | skerry describe host {host}
    A kubelet, k3s or another program that skerry did not start holds this host.
PreflightRefused | error | Host does not meet the needs | skerry describe host {host}
    Something that Kubernetes needs is missing on the host.
SystemNotReady | error | System is not ready | skerry describe host {host}
    The operating system lacks something that Kubernetes needs.
ValuesInvalid | error | Values are not valid | skerry edit cluster {cluster}
    The kubernetes layer has values that this version does not know.
ProviderUnknown | error | Provider is unknown | skerry edit cluster {cluster}
    A layer names a provider that this version does not know.
RoleUnsupported | error | Role is not supported | skerry edit cluster {cluster}
    This version cannot give the host that role yet.
FixedAtCreation | error | Cannot be changed | skerry edit cluster {cluster}
    The change needs a new cluster.
VersionDowngrade | error | Kubernetes cannot go down | skerry edit cluster {cluster}
    The stack names an older Kubernetes than the cluster runs.
DowngradeRefused | error | Kubernetes cannot go down | skerry edit cluster {cluster}
    The stack names an older Kubernetes than the cluster runs.
VersionSkipped | error | Minor version is skipped | skerry edit cluster {cluster}
    Kubernetes goes up one minor version at a time.
SkippedMinor | error | Minor version is skipped | skerry edit cluster {cluster}
    Kubernetes goes up one minor version at a time.
FailedBefore | error | This state failed before | skerry edit cluster {cluster}
    The host tried this state, it failed, and it is not tried again until a person says so.
PoisonedRevision | error | This state failed before | skerry edit cluster {cluster}
    The host tried this state, it failed, and it is not tried again until a person says so.
StepUnknown | error | Unknown step | skerry token create
    The agent is too old for what the stack needs.
HostMissing | error | Host is missing | skerry edit cluster {cluster}
    The cluster names a host that is not there any more.
# Kubernetes
UpgradeReturned | error | Change was taken back | skerry edit cluster {cluster}
    The new state was not healthy; the host returned to the old one by itself.
RestoreFailed | error | Restore failed | skerry describe host {host}
    The host could not return to its snapshot.
SnapshotFailed | error | Snapshot failed | skerry describe host {host}
    etcd could not be saved, so nothing risky was begun.
ImageMissing | error | Image is missing | skerry release push
    A container image is neither in the content nor can it be pulled.
RuntimeNotReady | error | containerd is not ready | skerry describe host {host}
    containerd does not run or does not answer.
KubeadmFailed | error | kubeadm failed | skerry describe host {host}
    kubeadm ended with an error.
ControlPlaneNotReady | error | Control plane is not ready | skerry describe host {host}
    The API server, etcd or a controller does not answer.
KubeletNotReady | error | kubelet is not ready | skerry describe host {host}
    The kubelet does not run or does not answer.
NodeNotReady | error | Node is not Ready | skerry describe host {host}
    Kubernetes does not see the node as Ready.
ImagePullFailed | error | Image cannot be pulled | skerry edit cluster {cluster}
    A registry does not give an image that a layer runs. Its address, authority and credentials
    are `registries` of the profile's kubernetes layer; the image's name is in the layer.
LayerInvalid | error | Layer cannot be applied | skerry edit cluster {cluster}
    A layer's manifests or values cannot be used.
LayerNotReady | error | Layer is not ready | skerry describe cluster {cluster}
    The workloads of a layer did not become ready in time.
ResetIncomplete | error | Reset left something | skerry describe host {host}
    The host could not remove everything that the cluster made.
StepFailed | error | Step failed | skerry describe host {host}
    A step ended with an error; it is tried again.
StepTimedOut | error | Step took too long | skerry describe host {host}
    A step did not end within its limit; it is tried again.
HostError | error | Machine refused | skerry describe host {host}
    The host's disk or kernel refused an operation; it is tried again.
AgentError | error | Agent failed | skerry describe host {host}
    The agent met an error that it does not know.
AgentReturned | error | New agent was taken back | skerry retry host {host}
    A newer agent did not prove itself on this host; the old one runs again by itself.
AgentUnusable | error | New agent does not start here | skerry get artifacts
    A newer agent was brought to this host and cannot be used on it; the old one goes on.
OsReturned | error | New OS was taken back | skerry retry host {host}
    A newer OS image did not prove itself on this host; the old one runs again by itself.
ImageInvalid | error | OS image is damaged | skerry release push
    The OS image is not of the form that skerry makes; nothing of it was started.
ImageTooLarge | error | OS image does not fit | skerry get artifacts
    The OS image is larger than this host's slots, which were cut when it was installed.
BootPartitionFull | error | Boot partition is full | skerry describe host {host}
    The boot partition has no space for another boot image; something foreign lies on it.
BootPartitionBroken | error | Boot partition is broken | skerry describe host {host}
    The boot partition cannot be read or written; the running system goes on, and after a restart
    the machine may only find its recovery system.
SlotUnreadable | error | Slot cannot be read | skerry describe host {host}
    It cannot be told what lies in a slot, or in which slot the running system lies; nothing is
    written meanwhile.
OsInRecovery | error | Recovery system runs | skerry describe host {host}
    Neither slot of this host started, so the machine runs its recovery system.
OsEngineFailed | error | OS update met an error | skerry describe host {host}
    A step of the OS update ended with an error; it is tried again.
OsProblem | error | Something of the OS is not in order | skerry describe host {host}
    The host runs, and a slot or the boot partition is not as it should be.
OsNotManaged | waiting | OS is not skerry's to update | skerry describe host {host}
    An OS image is assigned to a host whose system is kept by its own packages; all else of the
    stack is carried out. Install the appliance on it, or take the os layer out of its profile.
CertificatesExpiring | error | Certificates expire soon | skerry describe host {host}
    The cluster's certificates were not renewed in time.
# the host works, something beside it does not
SettingsInvalid | error | Agent settings are not valid | skerry-agent status
    /etc/skerry/agent.yaml is not of the expected form; the host works on without it.
LabelsInvalid | error | Labels are refused | skerry-agent status
    Some labels that the host brings cannot be used; the others count.
# ends by itself
InProgress | working | Work is under way | skerry describe host {host}
    The host carries out its desired state.
AgentUpdating | working | Agent is being updated | skerry describe host {host}
    The host brings a newer agent, or that agent still has to prove itself.
OsUpdating | working | OS is being updated | skerry describe host {host}
    The host brings a newer OS image, restarts into it, or that one still has to prove itself.
OsInterrupted | working | OS update was interrupted | skerry describe host {host}
    The new OS was started and nobody knows why it did not go on (power cuts, a hang, a lost line);
    the old one runs, and the update is tried once more by itself.
OsBusy | working | OS is busy with an update | skerry describe host {host}
    Another step of an OS update is not done yet.
NotAcknowledged | working | Not done yet | skerry describe host {host}
    The host has not proved yet that it runs the desired state.
Deleting | working | Is being deleted | skerry delete cluster {cluster} --force
    The hosts remove what the cluster made.
"""


def _read(table: str) -> dict[str, Reason]:
    rows: list[list[str]] = []
    for line in table.strip().splitlines():
        if line.startswith("    "):
            rows[-1][4] = f"{rows[-1][4]} {line.strip()}".strip()
        elif not line.startswith("#"):
            rows.append([*(part.strip() for part in line.split("|")), ""])
    return {
        name: Reason(name, Severity(severity), rank, title, cause, action)
        for rank, (name, severity, title, action, cause) in enumerate(rows)
    }


REASONS: dict[str, Reason] = _read(_TABLE)

_HEALTHY = (
    "Approved",
    "Registered",
    "Synced",
    "Reconciled",
    "Ready",
    "Complete",
    "Reachable",
    "Healthy",
    "Running",
)
# Before what merely takes its time, behind everything that is known.
_UNKNOWN = Reason(
    "",
    Severity.ERROR,
    REASONS["InProgress"].rank,
    "Something is wrong",
    "No text is known for this reason.",
    "skerry describe host {host}",
)
_WELL = Cause(
    reason="", severity=Severity.QUIET.value, title="Nothing is wrong", message="", next_action=""
)


def why(conditions: Sequence[Condition], facts: Mapping[str, str]) -> Cause:
    """The one cause of an unhappy host or cluster, and what to do next.

    `facts` fills the texts: host, cluster, project, code. A fact that is missing becomes its name
    in capitals, as in a usage line.
    """
    unhappy = sorted(
        (item for item in conditions if is_unhappy(item)),
        key=lambda item: (
            _row(item).rank,
            bool(_row(item).name),
            item.since.timestamp() if item.since else 0.0,
            item.type,
        ),
    )
    if not unhappy:
        return _WELL
    first = unhappy[0]
    row = _row(first)
    return Cause(
        reason=first.reason,
        severity=row.severity.value,
        title=row.title,
        message=first.message or _fill(row.cause, facts),
        next_action=_fill(row.action, facts),
        chain=tuple(dict.fromkeys(_line(item) for item in unhappy)),
    )


def is_unhappy(condition: Condition) -> bool:
    """Whether a condition says that something is not as it should be."""
    return condition.status != "True" and condition.reason not in _HEALTHY


def explain(reason: str, facts: Mapping[str, str]) -> str:
    """The table's text for a reason."""
    return _fill(REASONS.get(reason, _UNKNOWN).cause, facts)


def _row(condition: Condition) -> Reason:
    return REASONS.get(condition.reason, _UNKNOWN)


def _line(condition: Condition) -> str:
    row = _row(condition)
    title = row.title if row.name else condition.reason or condition.type
    return f"{title}: {condition.message}" if condition.message else title


def usage(row: Reason) -> str:
    """The next action as a usage line, with what is to be filled in as capitals."""
    return _fill(row.action, {})


class _Facts(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return key.upper()


def _fill(text: str, facts: Mapping[str, str]) -> str:
    return string.Formatter().vformat(text, (), _Facts({k: v for k, v in facts.items() if v}))


def reference_page() -> str:
    """docs/reference/reasons.md: every reason, what it means and what to do next."""
    lines = [
        "# Reasons",
        "",
        "Why a host or cluster is not as it should be. `skerry why host NAME` at the centre and",
        "`skerry-agent status` on the host choose the one cause: the reason highest in this list.",
        "Severity: `quiet` needs nobody, `working` ends by itself, `waiting` waits for a decision,",
        "`error` needs somebody.",
        "",
    ]
    for row in sorted(REASONS.values(), key=lambda item: item.rank):
        action = usage(row)
        lines += [f"## {row.name}", "", f"{row.title} ({row.severity.value}). {row.cause}", ""]
        lines += [f"Next: `{action}`", ""]
    return "\n".join(lines)
