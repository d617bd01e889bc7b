"""What the agent's halves know of each other's work; the syncing half reports it."""

from __future__ import annotations

from dataclasses import dataclass, field

import anyio

from skerry.model.kinds import AgentState, DesiredMark, KubernetesState, Progress
from skerry.model.meta import Condition
from skerry.model.osstate import OsState


@dataclass
class Standing:
    """What was last known. `worked` and `synced` say that the working and the syncing half have
    done their work at least once since this process started, `offline` that no manager answered
    at the last try; `labels` are those that the host brings, `note` what is wrong with them."""

    acknowledged: DesiredMark = DesiredMark()
    kubernetes: KubernetesState = KubernetesState()
    agent: AgentState = AgentState()
    os: OsState = OsState()
    progress: Progress | None = None
    conditions: tuple[Condition, ...] = ()
    agent_condition: Condition | None = None
    os_condition: Condition | None = None
    os_problem: Condition | None = None
    labels: dict[str, str] = field(default_factory=dict)
    note: Condition | None = None
    worked: bool = False
    synced: bool = False
    offline: bool = False
    changed: anyio.Event = field(default_factory=anyio.Event)

    def announce(self) -> None:
        """Let the syncing half report now."""
        self.changed.set()
        self.changed = anyio.Event()
