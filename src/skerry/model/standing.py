"""How a host stands with its fleet, in one word: every host has exactly one standing.

List, overview, filter and figures ask this one function, so their counts agree. It follows the
host's one cause (`reasons.why`), so a host that merely works is not counted as one in trouble.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from skerry.model.kinds import Approval, HostSpec, HostStatus
from skerry.model.meta import Resource
from skerry.model.reasons import Cause, Severity, why


class Standing(StrEnum):
    """In the order in which they are decided."""

    LEAVING = "leaving"
    REVOKED = "revoked"
    DENIED = "denied"
    PENDING = "pending"
    ATTENTION = "attention"
    WAITING = "waiting"
    OFFLINE = "offline"
    WORKING = "working"
    WELL = "well"


_BY_SEVERITY = {
    Severity.ERROR: Standing.ATTENTION,
    Severity.WAITING: Standing.WAITING,
    Severity.QUIET: Standing.OFFLINE,
    Severity.WORKING: Standing.WORKING,
}


def standing(host: Resource[Any, Any]) -> Standing:
    """The standing of a Host."""
    spec: HostSpec = host.spec
    status: HostStatus = host.status
    if host.metadata.deleted_at is not None:
        return Standing.LEAVING
    if spec.revoked:
        return Standing.REVOKED
    if spec.approval is Approval.DENIED:
        return Standing.DENIED
    if spec.approval is Approval.PENDING:
        return Standing.PENDING
    cause = cause_of(host)
    if cause.reason:
        return _BY_SEVERITY[Severity(cause.severity)]
    behind = status.desired.digest and status.desired.digest != status.acknowledged.digest
    return Standing.WORKING if status.progress is not None or behind else Standing.WELL


def cause_of(host: Resource[Any, Any]) -> Cause:
    """The one cause of a host's state; its reason is "" when nothing is wrong."""
    return why(host.status.conditions, {})
