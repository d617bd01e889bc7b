"""The Kubernetes of a simulated host: the fake engine, kept on the host's disk.

Updates of a host with that fault fail where it hurts most: after the control plane was replaced.
"""

from __future__ import annotations

from skerry.agent.facts import architecture
from skerry.agent.kube.fake import FakeKubeEngine
from skerry.lib.clock import Clock
from skerry.lib.files import Root
from skerry.model.meta import Condition
from skerry.plan import steps as do
from skerry.plan.desired import DesiredCluster
from skerry.plan.observed import KubeObserved

PLACE = "/var/lib/skerry/simulated/kubernetes.json"
STEP_S = 1.0


class KeptEngine:
    """A `KubeEngine` whose state survives a restart of the simulation."""

    __slots__ = ("_bad_updates", "_engine", "_root")

    def __init__(
        self, root: Root, clock: Clock, *, bad_updates: bool = False, step_s: float = STEP_S
    ) -> None:
        self._root = root
        self._bad_updates = bad_updates
        self._engine = FakeKubeEngine(clock, architecture=architecture())
        self._engine.faults.step_s = step_s
        if root.exists(PLACE):
            self._engine.load(root.read(PLACE))

    async def observe(self) -> KubeObserved:
        return await self._engine.observe()

    async def perform(self, step: do.Step, cluster: DesiredCluster | None) -> None:
        if self._bad_updates and isinstance(step, do.ReplaceControlPlane):
            now = (await self._engine.observe()).version
            if now and step.version != now:
                self._engine.faults.bad_versions |= {step.version}
        await self._engine.perform(step, cluster)
        self._root.write(PLACE, self._engine.save())

    async def health(self, cluster: DesiredCluster) -> tuple[Condition, ...]:
        return await self._engine.health(cluster)
