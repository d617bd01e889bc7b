"""The OS planner against the fake engine's loader: whatever is wanted, whatever fails and wherever
the power goes, some confirmed slot is left, nothing else begins on trial, and it comes to rest."""

from __future__ import annotations

import anyio
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.plan.test_os_plan import want

from skerry.agent.osengine.engine import OsEngineFailed
from skerry.agent.osengine.fake import FakeOsEngine
from skerry.lib.memory_files import MemoryRoot
from skerry.plan import steps as do
from skerry.plan.osupdate import (
    DesiredOs,
    OsObserved,
    SlotState,
    judge,
    plan_os,
    runs,
)

VERSIONS = ("1.0.0", "2.0.0", "2.0.1", "3.0.0")


class Host:
    """Engine and memory of one host; operations are performed as the agent performs them, without
    a journal: each interruption is one that lost it."""

    def __init__(self, bad: frozenset[str], dead: frozenset[str]) -> None:
        self.engine = FakeOsEngine(MemoryRoot())
        self.engine.faults.unbootable = dead
        self.bad = bad
        self.failed: set[str] = set()
        self.interrupted: dict[str, int] = {}
        self.disruptions = 0

    async def settle(self, desired: DesiredOs | None, *, cut: int) -> OsObserved:
        """Work until nothing is planned; the power fails before the `cut`-th step."""
        steps = 0
        for _ in range(12):
            observed = await self.engine.describe()
            move = plan_os(desired, observed, failed=frozenset(self.failed))
            if not isinstance(move, do.Operation):
                return observed
            if observed.on_trial:
                assert move.desired_digest == observed.image, "something else begins on trial"
            self.disruptions += move.disruptive
            for step in move.steps:
                steps += 1
                if steps == cut:
                    self.engine.start()
                    break
                if not await self._do(step, move, observed):
                    break
        raise AssertionError("does not come to rest")

    async def _do(self, step: do.Step, move: do.Operation, before: OsObserved) -> bool:
        engine = self.engine
        now = await engine.describe()
        good = [item for item in now.slots if item.state is SlotState.GOOD]
        assert good or len(move.steps) == 1, "no confirmed slot is left"
        try:
            match step:
                case do.StageImage():
                    await engine.stage(step.image)
                    assert (await engine.describe()).slot(now.running) == now.slot(now.running)
                case do.ActivateImage():
                    await engine.activate(step.image, trial_s=step.trial_s)
                case do.Restart():
                    if now.running != step.unless_slot:
                        engine.start()
                case do.CheckImage():
                    if now.image != step.image.digest:
                        self._returned(step.image.digest, verdict=False)
                        return False
                case do.GateHost():
                    if now.version in self.bad:
                        self._returned(now.image, verdict=True)
                        await engine.roll_back()
                        engine.start()
                        return False
                case do.ConfirmImage():
                    await engine.confirm()
                case do.RollBackImage():
                    await engine.roll_back()
        except OsEngineFailed:
            return False
        return True

    def _returned(self, digest: str, *, verdict: bool) -> None:
        kind = judge(verdict=verdict, interrupted_before=self.interrupted.get(digest, 0))
        if kind.reason == "OsReturned":
            self.failed.add(digest)
        self.interrupted[digest] = 1


some = st.frozensets(st.sampled_from(VERSIONS[1:]), max_size=2)


@given(
    wishes=st.lists(st.sampled_from((None, *VERSIONS)), min_size=1, max_size=5),
    bad=some,
    dead=some,
    cuts=st.lists(st.integers(min_value=0, max_value=9), min_size=5, max_size=5),
)
@settings(max_examples=300, deadline=None)
def test_it_comes_to_rest_in_what_is_wanted_or_in_what_ran_before(
    wishes: list[str | None], bad: frozenset[str], dead: frozenset[str], cuts: list[int]
) -> None:
    async def live() -> None:
        host = Host(bad, dead)
        for wish, cut in zip(wishes, cuts, strict=False):
            desired = want(wish) if wish is not None else None
            observed = await host.settle(desired, cut=cut)
            assert not observed.on_trial
            if desired is not None and wish not in bad | dead:
                assert runs(desired, observed)
            assert observed.version not in bad | dead
            before = host.disruptions
            assert await host.settle(desired, cut=0) == observed
            assert host.disruptions == before, "a host at rest is left alone"

    anyio.run(live)
