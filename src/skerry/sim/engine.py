"""TEMPORARY"""
from __future__ import annotations
from skerry.agent import facts
from skerry.agent.kube.engine import KubeEngine
from skerry.lib.clock import Clock
from skerry.sim.disk import HostRoot
from skerry.plan.observed import KubeObserved
class Eng:
    def __init__(s, clock: Clock): s.clock=clock
    async def observe(s): return KubeObserved(architecture=facts.architecture(), observed_at=s.clock.now())
    async def perform(s, step, cluster): pass
    async def health(s, c): return ()
def fake_engine(root: HostRoot, clock: Clock, bad: bool) -> KubeEngine:
    return Eng(clock)
