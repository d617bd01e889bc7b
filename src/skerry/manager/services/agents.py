"""Which agent a host should run: the newest that was pushed completely for its architecture.

A project can pause updates, and no host is ever sent to an older agent than it runs. What an agent
artifact is worth is not decided here: the host believes release keys only.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from skerry.manager.services import artifacts
from skerry.manager.services.centre import Centre
from skerry.manager.store.protocol import AnyResource, NotFound, Query
from skerry.model.artifact import ArtifactRef
from skerry.model.meta import retries
from skerry.model.versions import VersionOrder, version_order
from skerry.wire.messages import AgentAssignment


@dataclass
class Offers:
    """What `wanted` looked up, so that a pass over a fleet asks the store once: the newest agent
    by architecture, and whether a project pauses."""

    newest: dict[str, ArtifactRef] | None = None
    paused: dict[str, bool] = field(default_factory=dict)


async def wanted(centre: Centre, host: AnyResource) -> AgentAssignment | None:
    """The agent for a host, or None to leave it alone."""
    offers = _offers(centre)
    if offers.newest is None:
        offers.newest = await _newest(centre)
    ref = offers.newest.get(host.status.inventory.architecture or "amd64")
    if ref is None or await _paused(centre, offers, host.project):
        return None
    offered, running = version_order(ref.version), version_order(host.status.agent_version)
    if offered is None or running is None or offered < running:
        return None
    return AgentAssignment(
        version=ref.version,
        artifact=ref,
        trial_s=centre.settings.agent_trial_s,
        retry_failed=retries(host.metadata.annotations),
    )


def forget(centre: Centre) -> None:
    """Artifacts or projects may have changed."""
    centre.live.agents = None


def _offers(centre: Centre) -> Offers:
    if not isinstance(centre.live.agents, Offers):
        centre.live.agents = Offers()
    found: Offers = centre.live.agents
    return found


async def _newest(centre: Centre) -> dict[str, ArtifactRef]:
    found: dict[str, tuple[VersionOrder, ArtifactRef]] = {}
    page = await centre.store.list(Query("Artifact", "", fields={"spec.type": "agent"}))
    for item in page.items:
        order = version_order(item.spec.version)
        if not item.status.complete or order is None:
            continue
        best = found.get(item.spec.architecture)
        if best is None or order > best[0]:
            found[item.spec.architecture] = (order, artifacts.reference(item))
    return {architecture: ref for architecture, (_, ref) in found.items()}


async def _paused(centre: Centre, offers: Offers, project: str) -> bool:
    if project not in offers.paused:
        try:
            spec = (await centre.store.get("Project", "", project)).spec
            offers.paused[project] = bool(spec.pause_agent_updates)
        except NotFound:
            offers.paused[project] = False
    return offers.paused[project]
