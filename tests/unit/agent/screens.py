"""Screens as they must look.

python -m tests.unit.agent.screens   writes the golden texts again; look at every change.
"""

from __future__ import annotations

import re
from pathlib import Path

from skerry.agent.firstboot import SiteState
from skerry.agent.screentext import ScreenFacts, render
from skerry.agent.sync import LocalStatus
from skerry.model.kinds import AgentState, KubernetesState, Progress
from skerry.model.meta import Condition
from skerry.wire.messages import HostReport

FOLDER = Path(__file__).parent / "screens"
_STYLE = re.compile(r"\x1b\[[0-9;]*m")

PRINT = "0123456789abcdef" * 4
MANAGER = "https://centre.example:8443"


def bad(reason: str, message: str = "", kind: str = "Synced") -> Condition:
    return Condition(type=kind, status="False", reason=reason, message=message)


def facts(status: LocalStatus | None = None, **fields: object) -> ScreenFacts:
    usual: dict[str, object] = {
        "host_name": "till-7",
        "system": "edge 1.2.3",
        "addresses": ("192.0.2.17", "2001:db8::17"),
        "service": "active",
    }
    return ScreenFacts(status=status, **{**usual, **fields})  # type: ignore[arg-type]


def status(state: str, *conditions: Condition, **fields: object) -> LocalStatus:
    usual: dict[str, object] = {
        "host_name": "till-7",
        "manager": MANAGER,
        "fingerprint": PRINT,
        "registration_code": "0A1B-2C3D",
    }
    return LocalStatus(identity_state=state, conditions=conditions, **{**usual, **fields})  # type: ignore[arg-type]


REPORT = HostReport(
    agent_version="0.1.0",
    kubernetes=KubernetesState(cluster="shop", release="1.36.3"),
    agent=AgentState(slot="b", on_trial=True),
    progress=Progress(operation="upgrade", step="drain", index=2, total=9),
)
LONG = "a-host-with-a-name-as-long-as-names-may-be-in-this-world-really"

SCREENS: dict[str, tuple[ScreenFacts, tuple[int, int]]] = {
    "not-told": (
        facts(
            site=SiteState(conditions=(bad("SiteDataMissing"),)), addresses=(), host_name="edge-1"
        ),
        (80, 25),
    ),
    "wrong-site-data": (
        facts(
            site=SiteState(
                conditions=(
                    bad("SiteDataInvalid", "/dev/sdb1:skerry.yaml.siet: unknown field, and 2 more"),
                ),
                manager=(MANAGER,),
            )
        ),
        (80, 25),
    ),
    "starting": (facts(), (80, 25)),
    "waiting": (facts(status("pending", bad("AwaitingApproval"))), (80, 25)),
    "waiting-large": (facts(status("pending", bad("AwaitingApproval"))), (160, 50)),
    "waiting-narrow": (facts(status("pending", bad("AwaitingApproval"))), (50, 20)),
    "waiting-long": (
        facts(
            status(
                "pending",
                bad("AwaitingApproval"),
                host_name=LONG,
                manager="https://a-manager-with-a-long-name.region-north.shops.example:8443",
            ),
            host_name=LONG,
        ),
        (80, 25),
    ),
    "token-expired": (facts(status("new", bad("TokenExpired"))), (80, 25)),
    "well": (facts(status("approved", report=REPORT)), (80, 25)),
    "offline": (
        facts(status("approved", bad("ManagerUnreachable", f"no answer from {MANAGER} in time"))),
        (80, 25),
    ),
    "revoked": (facts(status("revoked", bad("Revoked"))), (80, 25)),
    "dead-agent": (facts(status("approved"), service="failed"), (80, 25)),
}


def plain(lines: tuple[str, ...]) -> str:
    """Without attributes and blanks at the ends."""
    return "\n".join(_STYLE.sub("", line).rstrip() for line in lines).rstrip() + "\n"


def drawn(name: str) -> str:
    shown, (columns, rows) = SCREENS[name]
    return plain(render(shown, columns=columns, rows=rows))


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name in SCREENS:
        (FOLDER / f"{name}.txt").write_text(drawn(name))
