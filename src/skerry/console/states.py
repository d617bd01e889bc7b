"""In which state something is, in one word and one tone. Pure.

A tone is a shape and a colour in the design system: good, busy, wait (for a person), quiet
(disconnected is a normal state, not an alarm), bad, off.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from skerry.console.inside import AnyResource
from skerry.model.kinds import ClusterPhase, ClusterSpec, HostStatus
from skerry.model.meta import Condition
from skerry.model.osstate import OsSlotState
from skerry.model.reasons import REASONS, Cause, Severity, is_unhappy, why
from skerry.model.standing import Standing, standing

TONES: dict[str, str] = {
    Severity.QUIET.value: "quiet",
    Severity.WORKING.value: "busy",
    Severity.WAITING.value: "wait",
    Severity.ERROR.value: "bad",
}
_CLUSTER = "cluster/"


@dataclass(frozen=True, slots=True)
class State:
    """What a badge shows. `more` is a few words beside it."""

    tone: str
    word: str
    more: str = ""


_CHANGING = State("busy", "Changing")


def host_state(host: AnyResource) -> State:
    """The state of a host as lists show it: its standing, with a few words of why."""
    status: HostStatus = host.status
    cause = host_cause(host)
    match standing(host):
        case Standing.LEAVING:
            return State("busy", "Leaving")
        case Standing.REVOKED:
            return State("off", "Revoked")
        case Standing.DENIED:
            return State("off", "Denied")
        case Standing.PENDING:
            return State("wait", "Waits for approval")
        case Standing.ATTENTION:
            return State("bad", "Needs attention", cause.title)
        case Standing.WAITING:
            return State("wait", "Waits for a person", cause.title)
        case Standing.OFFLINE:
            return State("quiet", "Offline")
        case Standing.WORKING if status.progress is not None:
            number = min(status.progress.index + 1, status.progress.total)
            return State("busy", "Working", f"step {number} of {status.progress.total}")
        case Standing.WORKING:
            return State("busy", "Working", cause.title) if cause.reason else _CHANGING
    return State("good", "In sync" if cluster_of(host) else "Free")


def host_cause(host: AnyResource, cluster: AnyResource | None = None) -> Cause:
    """The one cause of a host's state, with the same words as everywhere else."""
    status: HostStatus = host.status
    conditions = list(status.conditions)
    if cluster is not None:
        conditions += cluster.status.conditions
    facts = {
        "host": host.name,
        "project": host.project,
        "cluster": cluster_of(host),
        "code": status.registration_code,
        "version": status.kubernetes.release,
        "serial": status.inventory.serial,
    }
    return why(conditions, facts)


def condition_tone(condition: Condition) -> str:
    """How a condition looks in a list."""
    if not is_unhappy(condition):
        return "good"
    row = REASONS.get(condition.reason)
    return TONES.get(row.severity, "bad") if row else "bad"


_SLOTS = {
    "good": State("good", "confirmed"),
    "trial": State("busy", "on trial"),
    "staged": State("quiet", "ready to start"),
    "partial": State("busy", "being written"),
    "bad": State("bad", "given up"),
    "empty": State("off", "empty"),
}


def slot_state(slot: OsSlotState) -> State:
    """How a slot of a host's OS looks."""
    return _SLOTS.get(slot.state, State("off", slot.state[:40]))


def cluster_cause(cluster: AnyResource) -> Cause:
    """The one cause of a cluster's state."""
    first = next(iter(hosts_of(cluster.spec)), "")
    facts = {"cluster": cluster.name, "project": cluster.project, "host": first}
    return why(cluster.status.conditions, facts)


def here(cause: Cause, project: str, *, may_change: bool = True) -> tuple[str, str] | None:
    """(address, words) of the console's own way to a next action, when there is one."""
    words = cause.next_action.split()
    match words[1:]:
        case ["edit", "cluster", name] if may_change:
            return f"/clusters/{project}/{name}/change", "Change the cluster"
        case ["describe" | "edit", "cluster", name]:
            return f"/clusters/{project}/{name}", "See the cluster"
        case ["describe", "host", name]:
            return f"/hosts/{project}/{name}", "See the host"
        case ["approve", "host", _]:
            return "/approvals", "Review"
        case ["token", "create"]:
            return "/tokens", "Make a token"
        case ["get", "profiles"]:
            return "/profiles", "See the profiles"
    return None


def cluster_state(cluster: AnyResource) -> State:
    """The state of a cluster."""
    if cluster.metadata.deleted_at is not None:
        return State("busy", "Deleting")
    phase: ClusterPhase = cluster.status.phase
    tone = {
        ClusterPhase.RUNNING: "good",
        ClusterPhase.DEGRADED: "bad",
        ClusterPhase.PENDING: "wait",
    }.get(phase, "busy")
    return State(tone, phase.value)


def token_state(token: AnyResource, now: datetime) -> State:
    """The state of a registration token."""
    spec = token.spec
    if spec.revoked:
        return State("off", "Revoked")
    if spec.expires_at is not None and spec.expires_at <= now:
        return State("off", "Expired")
    if spec.maximum_uses is not None and token.status.uses >= spec.maximum_uses:
        return State("off", "Used up")
    return State("good", "Usable")


def cluster_of(host: AnyResource) -> str:
    """Name of the cluster that holds the host, or ""."""
    marks = (item for item in host.metadata.finalizers if item.startswith(_CLUSTER))
    return next(marks, "").removeprefix(_CLUSTER)


def hosts_of(spec: ClusterSpec) -> list[str]:
    """Names of a cluster's hosts."""
    return [name for pool in spec.pools for name in pool.hosts]
