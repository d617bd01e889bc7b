"""The host's status for a tired person at three in the morning: one cause, one next action.

The words come from the same table that the centre uses.
"""

from __future__ import annotations

from skerry.agent.sync import LocalStatus
from skerry.model.osstate import OsState
from skerry.model.reasons import Cause, why

_SLOTS = {
    "good": "confirmed, the way back",
    "trial": "on trial",
    "staged": "ready to start",
    "partial": "being written",
    "bad": "given up",
    "empty": "empty",
}
_CODE_HINT = "compare this code with the one that the manager shows, then approve there"


def status_text(status: LocalStatus) -> str:
    """Several lines, widest column first; no colour."""
    report = status.report
    rows = [
        ("host", status.host_name or "(no name yet)"),
        ("manager", status.manager),
        ("state", state_text(status)),
        ("fingerprint", status.fingerprint[:16]),
    ]
    if status.registration_code and status.identity_state == "pending":
        rows.append(("code", f"{status.registration_code}  ({_CODE_HINT})"))
    if report is not None:
        where = f"  slot {report.agent.slot}" if report.agent.slot else ""
        trial = "  on trial" if report.agent.on_trial else ""
        rows.append(("agent", f"{report.agent_version}{where}{trial}"))
        rows += _system(report.os)
        kubernetes = report.kubernetes
        if kubernetes.cluster:
            rows.append(("cluster", kubernetes.cluster))
            rows.append(
                ("kubernetes", f"{kubernetes.release or '-'}  kubelet {kubernetes.kubelet_version}")
            )
            rows += [
                ("layer", f"{layer.name}  {'ready' if layer.ready else layer.message or 'waiting'}")
                for layer in kubernetes.layers
            ]
        if report.progress is not None:
            done = report.progress
            rows.append(
                ("doing", f"{done.operation}: {done.step} ({done.index + 1} of {done.total})")
            )
        rows.append(("addresses", ", ".join(report.addresses) or "-"))
    rows.append(("epoch", f"{status.acknowledged_epoch} of {status.have_epoch}"))
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value}" for name, value in rows]
    return "\n".join([*lines, "", *cause_lines(cause_of(status))])


def _system(os: OsState) -> list[tuple[str, str]]:
    """What runs and what lies in the slots; nothing where packages keep the system."""
    if not os.slots:
        return []
    where = f"slot {os.slot}" if os.slot else "recovery system" if os.recovery else "slot unknown"
    rows = [("os", f"{os.version or '-'}  {where}{'  on trial' if os.on_trial else ''}")]
    for slot in os.slots:
        if slot.name != os.slot:
            words = _SLOTS.get(slot.state, slot.state)
            rows.append((f"slot {slot.name}", f"{slot.version}  {words}".strip()))
    return rows


def state_text(status: LocalStatus) -> str:
    """The registration in words."""
    return {
        "new": "registering",
        "pending": "waiting for approval",
        "approved": "registered",
        "denied": "denied",
        "revoked": "revoked",
    }.get(status.identity_state, status.identity_state)


def cause_of(status: LocalStatus) -> Cause:
    """The one cause, with the names that its texts need."""
    return why(
        status.conditions,
        {
            "host": status.host_name,
            "code": status.registration_code,
            "cluster": status.report.kubernetes.cluster if status.report else "",
        },
    )


def cause_lines(cause: Cause) -> list[str]:
    """Title, why, next."""
    lines = [cause.title]
    if cause.message:
        lines.append(f"  why   {cause.message}")
    if cause.next_action:
        lines.append(f"  next  {cause.next_action}")
    return lines
