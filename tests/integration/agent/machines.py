"""A real agent on a machine with two slots: when it is told to restart, its process ends and the
loader decides what starts next."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
from tests.integration.agent.agents import Agent
from tests.integration.sim.conftest import Manager
from tests.unit.agent.os_machine import os_artifact

from skerry.agent.core import Parts, run_agent
from skerry.agent.facts import architecture
from skerry.agent.osengine.engine import OsEngine
from skerry.agent.osengine.fake import FakeOsEngine, OsFaults
from skerry.lib.digest import sha256
from skerry.model.meta import Condition
from skerry.plan.desired import DesiredCluster
from skerry.plan.osupdate import OsObserved
from skerry.sim.engine import KeptEngine
from skerry.sim.machines import Machine, MachineRunner, shapes


class SickEngine(KeptEngine):
    """Kubernetes that does not come up under some versions of the OS."""

    def __init__(self, host: OsHost) -> None:
        super().__init__(host.root, host.clock, step_s=0)
        self._host = host

    async def health(self, cluster: DesiredCluster) -> tuple[Condition, ...]:
        found = await super().health(cluster)
        if (await self._host.seen()).version not in self._host.sick:
            return found
        message = "the kubelet does not start"
        bad = Condition(type="NodeReady", status="False", reason="KubeletNotReady", message=message)
        return tuple(bad if item.type == bad.type else item for item in found)


@dataclass
class OsHost(Agent):
    """`sick` are versions of the OS under which Kubernetes does not come up."""

    sick: set[str] = field(default_factory=set)
    faults: OsFaults = field(default_factory=OsFaults)
    starts: list[str] = field(default_factory=list)

    def engine(self) -> FakeOsEngine:
        engine = FakeOsEngine(self.root, architecture=architecture())
        engine.faults = self.faults
        return engine

    async def seen(self) -> OsObserved:
        return await self.engine().describe()

    def os_engine(self, _content: Any) -> OsEngine:
        return self.engine()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[OsHost]:
        async with anyio.create_task_group() as tg:
            tg.start_soon(self._boots)
            yield self
            tg.cancel_scope.cancel()

    async def _boots(self) -> None:
        while True:
            self.starts.append((await self.seen()).version)
            down = anyio.Event()
            machine = Machine(
                shape=shapes()[0], name=f"till-{self.number}", number=self.number, seed=1
            )
            self.runner = MachineRunner(machine, down.set)
            async with anyio.create_task_group() as tg:
                tg.start_soon(self._agent)
                await down.wait()
                tg.cancel_scope.cancel()
            self.engine().start()

    async def _agent(self) -> None:
        await run_agent(
            Parts(
                root=self.root,
                runner=self.runner,
                clock=self.clock,
                engine=lambda _: SickEngine(self),
                os_engine=self.os_engine,
                idle_s=0.05,
                hold_s=0,
                **self.parts,
            )
        )


async def push_os(manager: Manager, version: str) -> str:
    """A signed OS image at the manager; its digest. It is called edge-VERSION."""
    assert manager.centre.keys.release is not None
    ref, blobs = os_artifact(version, signer=manager.centre.keys.release)
    for data in blobs:
        await manager.centre.blobs.put(data)
    spec = {
        "type": "os",
        "version": version,
        "architecture": ref.architecture,
        "digest": ref.digest,
        "envelopeDigest": sha256(blobs[-1]),
    }
    name = f"edge-{version}".replace(".", "-")
    await manager.apply({"kind": "Artifact", "metadata": {"name": name}, "spec": spec})
    return ref.digest
