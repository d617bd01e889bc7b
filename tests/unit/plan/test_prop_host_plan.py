"""The planner against the fake engine: it converges, from any crash, and then rests."""

from __future__ import annotations

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skerry.agent.journal import Entry, Failure, Phase, Verdict, advance
from skerry.agent.kube.fake import FakeKubeEngine
from skerry.lib.clock import ManualClock
from skerry.lib.digest import canonical_json, sha256
from skerry.lib.errors import SkerryError
from skerry.model.artifact import ArtifactRef
from skerry.model.kinds import LayerType
from skerry.plan.desired import DesiredCluster, DesiredHost, DesiredLayer
from skerry.plan.host import Refusal, cluster_digest, plan_host
from skerry.plan.steps import Operation

VERSIONS = ("1.34.4", "1.35.4", "1.36.1", "1.36.3", "1.37.2")


def a_cluster(
    version: str, *, values: dict[str, object] | None = None, layers: dict[str, str] | None = None
) -> DesiredCluster:
    values = values or {}
    return DesiredCluster(
        name="shop",
        uid="u1",
        role="control-plane",
        node_name="n1",
        provider="kubeadm",
        version=version,
        release=ArtifactRef(
            name="kubernetes",
            type="kubernetes",
            version=version,
            architecture="amd64",
            digest=sha256(version.encode()),
            envelope_digest=sha256(b"e"),
        ),
        values=values,
        config_digest=sha256(canonical_json(values)),
        layers=tuple(
            DesiredLayer(name=name, type=LayerType.ADDON, digest=sha256(text.encode()))
            for name, text in (layers or {}).items()
        ),
    )


def want(cluster: DesiredCluster | None) -> DesiredHost:
    return DesiredHost(epoch=1, digest=sha256(canonical_json(cluster)), cluster=cluster)


class Host:
    """Engine, journal and memory of one host, driven as the agent drives them."""

    def __init__(self) -> None:
        self.engine = FakeKubeEngine(ManualClock())
        self.failed: set[str] = set()
        self.good: DesiredCluster | None = None
        self.entry: Entry | None = None
        self.performed = 0

    async def plan(self, desired: DesiredHost) -> Operation | Refusal | None:
        return plan_host(
            desired,
            await self.engine.observe(),
            failed=frozenset(self.failed),
            last_good=self.good,
        )

    async def settle(
        self, cluster: DesiredCluster | None, *, crash_at: int = -1, lose_journal: bool = False
    ) -> Refusal | None:
        """Work until nothing is left to do. The crash comes after a step's effect and before
        the journal knows of it, the worst moment."""
        for _ in range(12):
            if self.entry is None:
                plan = await self.plan(want(cluster))
                if plan is None:
                    self.good = cluster
                    return None
                if isinstance(plan, Refusal):
                    return plan
                target = self.good if plan.to_last_good else cluster
                self.entry = Entry(
                    operation=plan,
                    started_at=self.engine._clock.now(),
                    cluster=target,
                    previous=self.good,
                )
            await self._carry_out(crash_at, lose_journal=lose_journal)
        raise AssertionError("the plan never comes to rest")

    async def _carry_out(self, crash_at: int, *, lose_journal: bool) -> None:
        while self.entry is not None and self.entry.step is not None:
            entry, step = self.entry, self.entry.step
            assert step is not None
            failure, retryable = None, False
            part = entry.cluster if entry.phase is Phase.FORWARD else entry.previous
            try:
                await self.engine.perform(step, part)
            except SkerryError as exc:
                failure, retryable = Failure(reason=exc.reason, message=exc.message), exc.retryable
            self.performed += 1
            if self.performed == crash_at:
                if lose_journal:
                    self.entry = None
                continue  # the journal did not see it: the same step comes again
            outcome = advance(entry, failure, retryable=retryable)
            if outcome.verdict is Verdict.RETURNED and entry.cluster is not None:
                self.failed.add(cluster_digest(entry.cluster))
            self.entry = None if outcome.verdict is not None else outcome.entry


def assert_is(host: Host, cluster: DesiredCluster) -> None:
    state = host.engine._state
    assert state.version == cluster.version
    assert state.control_plane_version == cluster.version
    assert state.kubelet_version == cluster.version
    assert state.runtime_version == cluster.version
    assert state.config_digest == cluster.config_digest
    assert {layer.name: layer.digest for layer in state.layers} == {
        layer.name: layer.digest for layer in cluster.layers
    }
    assert not state.fenced
    assert not state.api_stopped
    assert list(state.releases) == [cluster.version]


changes = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.sampled_from([{}, {"kubelet": {"maxPods": 50}}, {"kubelet": {"maxPods": 60}}]),
        st.dictionaries(st.sampled_from(["a", "b", "c"]), st.sampled_from(["1", "2"])),
    ),
    max_size=4,
)


@settings(max_examples=80, deadline=None)
@given(changes=changes)
def test_every_chain_of_changes_is_reached_and_then_nothing_moves(changes) -> None:
    async def run() -> None:
        host, at = Host(), 1
        for step, values, layers in [(0, {}, {}), *changes]:
            at = min(at + step, len(VERSIONS) - 1)
            cluster = a_cluster(VERSIONS[at], values=values, layers=layers)
            assert await host.settle(cluster) is None
            assert_is(host, cluster)
            assert await host.plan(want(cluster)) is None
        await host.settle(None)
        assert host.engine._state == host.engine._empty

    anyio.run(run)


@settings(max_examples=120, deadline=None)
@given(crash_at=st.integers(1, 45), bad=st.sampled_from(["", "version", "config"]))
def test_a_crash_after_any_step_changes_nothing_about_the_end(crash_at: int, bad: str) -> None:
    async def run() -> None:
        host = Host()
        old = a_cluster("1.35.4", layers={"a": "1"})
        new = a_cluster("1.36.3", values={"kubelet": {"maxPods": 50}}, layers={"a": "1"})
        await host.settle(old, crash_at=crash_at)
        if bad == "version":
            host.engine.faults.bad_versions = frozenset({new.version})
        elif bad == "config":
            host.engine.faults.bad_configs = frozenset({new.config_digest})

        refusal = await host.settle(new, crash_at=crash_at)

        if bad:
            assert isinstance(refusal, Refusal)
            assert refusal.reason == "FailedBefore"
            assert_is(host, old)
        else:
            assert_is(host, new)

    anyio.run(run)


@settings(max_examples=60, deadline=None)
@given(crash_at=st.integers(1, 40))
def test_a_lost_journal_still_leads_to_the_desired_state(crash_at: int) -> None:
    async def run() -> None:
        host = Host()
        await host.settle(a_cluster("1.35.4"), crash_at=crash_at, lose_journal=True)
        new = a_cluster("1.36.3", layers={"a": "1"})

        await host.settle(new, crash_at=crash_at, lose_journal=True)

        assert_is(host, new)

    anyio.run(run)


@pytest.mark.anyio
async def test_a_return_loses_no_object_and_keeps_none_written_meanwhile() -> None:
    host = Host()
    await host.settle(a_cluster("1.35.4", layers={"a": "1", "b": "1"}))
    before = host.engine.objects
    host.engine.faults.bad_versions = frozenset({"1.36.3"})

    await host.settle(a_cluster("1.36.3", layers={"a": "1", "b": "1"}))

    assert host.engine.objects == before
    assert host.engine._state.version == "1.35.4"
