"""The working half over the fake engine: it converges, and a power cut anywhere changes nothing.

Assignments are really signed and verified; journal, content and desired state are the product's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import anyio
import msgspec
import pytest

from skerry.agent import accept, facts
from skerry.agent.content import ContentStore
from skerry.agent.identity import Identity, load_or_make_keys
from skerry.agent.journal import EventLog, Journal
from skerry.agent.kube.fake import FakeKubeEngine
from skerry.agent.work import Standing, Worker
from skerry.lib import pki
from skerry.lib.clock import ManualClock
from skerry.lib.digest import canonical_json, sha256
from skerry.lib.memory_files import MemoryRoot, PowerCut
from skerry.model.artifact import ArtifactRef
from skerry.model.kinds import LayerType, ProfileType, Variable
from skerry.model.profile import Revision, RevisionLayer
from skerry.plan.observed import KubeObserved
from skerry.wire import envelope as env
from skerry.wire.messages import (
    ArtifactStatement,
    Assignment,
    ClusterAssignment,
    RevisionRef,
    SealedSecret,
)

pytestmark = pytest.mark.anyio
CHANNEL = env.SigningKey(role=env.KeyRole.CHANNEL, key=pki.new_signing_key())
RELEASE = env.SigningKey(role=env.KeyRole.RELEASE, key=pki.new_signing_key())
NOW = datetime(2026, 1, 1, tzinfo=UTC)
OLD, NEW = "1.35.4", "1.36.3"


class InstantClock(ManualClock):
    """Sleeping takes no time, so that pauses between tries do not slow the test."""

    async def sleep(self, seconds: float) -> None:
        self.advance(seconds)


@dataclass
class Bench:
    """A host with its own disk; what it gets is put into its content store like a bundle."""

    root: MemoryRoot = field(default_factory=MemoryRoot)
    clock: InstantClock = field(default_factory=InstantClock)
    identity: Identity = field(
        default_factory=lambda: Identity(
            manager="https://m",
            authorities=(),
            trusted_keys=(CHANNEL.trusted, RELEASE.trusted),
            state="approved",
            host_uid="uid-1",
            host_name="till-1",
        )
    )
    signer: env.SigningKey = RELEASE
    arch: str = field(default_factory=facts.architecture)
    epoch: int = 0

    def __post_init__(self) -> None:
        self.engine = FakeKubeEngine(self.clock, architecture=self.arch)
        self.restart()

    def restart(self) -> None:
        """The agent's process begins anew; disk and Kubernetes are as they were."""
        self.content = ContentStore(self.root, None)
        self.standing = Standing()
        self.worker = Worker(
            root=self.root,
            clock=self.clock,
            content=self.content,
            engine=self.engine,
            keys=load_or_make_keys(self.root),
            identity=self.identity,
            journal=Journal(self.root),
            events=EventLog(self.root),
            standing=self.standing,
            idle_s=1,
        )

    def release(self, version: str) -> ArtifactRef:
        statement = ArtifactStatement(
            name="kubernetes",
            type="kubernetes",
            version=version,
            architecture=self.arch,
            digest=sha256(version.encode()),
        )
        signed = env.sign(env.ARTIFACT, canonical_json(statement), [self.signer]).encode()
        self.content.put(sha256(signed), signed)
        return ArtifactRef(
            name=f"kubernetes-{version}",
            type="kubernetes",
            version=version,
            architecture=self.arch,
            digest=statement.digest,
            envelope_digest=sha256(signed),
        )

    def assign(
        self,
        version: str | None,
        *,
        greeting: str = "hi",
        secret: str = "",
        retry: int = 0,
        lacks: str = "",
    ) -> None:
        """Accept a new assignment; None takes the cluster away."""
        self.epoch += 1
        cluster = None
        if version is not None:
            body = "text: ${{ greeting }}" + (" ${{ secret.db.key }}" if secret else "")
            revision = Revision(
                profile="shop",
                version="1.0.0",
                type=ProfileType.FULL,
                variables=(Variable(name="greeting", default="hi"),),
                layers=(
                    RevisionLayer(
                        name="kubernetes",
                        type=LayerType.KUBERNETES,
                        provider="kubeadm",
                        version=version,
                    ),
                    RevisionLayer(name="network", type=LayerType.NETWORK, provider="routed"),
                    RevisionLayer(
                        name="web",
                        type=LayerType.ADDON,
                        manifests=body,
                        artifacts=(lacks,) if lacks else (),
                    ),
                ),
            )
            self.content.put(revision.digest, revision.encode())
            name = "secret.db.key"
            sealing = self.worker.keys.sealing.public_key()
            cluster = ClusterAssignment(
                name="harbour",
                uid="c-1",
                role="control-plane",
                revisions=(RevisionRef(profile="shop", version="1.0.0", digest=revision.digest),),
                variables={"greeting": greeting},
                retry_failed=retry,
                artifacts=(self.release(version),),
                secrets=(
                    SealedSecret(
                        name=name, sealed=pki.seal(secret.encode(), sealing, info=name.encode())
                    ),
                )
                if secret
                else (),
            )
        assignment = Assignment(host_uid="uid-1", epoch=self.epoch, issued_at=NOW, cluster=cluster)
        envelope = env.sign(env.ASSIGNMENT, canonical_json(assignment), [CHANNEL])
        accept.accept(self.root, envelope, self.identity)

    async def settle(self, turns: int = 30) -> None:
        """Turn until the worker rests twice in a row."""
        rested = 0
        for _ in range(turns):
            rested = rested + 1 if await self.worker.turn() else 0
            if rested == 2:
                return

    async def run_until(self, reason: str) -> None:
        """Let the real loop run until this is what the host says."""
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tg:
                tg.start_soon(self.worker.run)
                while self.reasons.get("Reconciled") != reason:
                    await self.standing.changed.wait()
                tg.cancel_scope.cancel()

    @property
    def reasons(self) -> dict[str, str]:
        return {item.type: item.reason for item in self.standing.conditions}


async def test_a_host_without_assignment_does_nothing() -> None:
    bench = Bench()
    await bench.settle(3)
    assert bench.standing.acknowledged.epoch == 0
    assert not bench.standing.kubernetes.release


async def test_it_creates_upgrades_and_acknowledges_each_by_digest() -> None:
    bench = Bench()
    for version in (OLD, NEW):
        bench.assign(version)
        await bench.settle()

        have = accept.stored(bench.root, bench.identity)
        assert have is not None
        assert bench.standing.kubernetes.release == version
        assert bench.standing.acknowledged.digest == have.digest
        assert bench.standing.acknowledged.epoch == bench.epoch


async def test_what_is_well_is_looked_at_less_often_than_what_is_not() -> None:
    bench = Bench()
    bench.assign(OLD)
    await bench.settle()
    well_s = await bench.worker.turn()

    bench.engine.faults.bad_layers = frozenset({"web"})
    bench.assign(OLD, greeting="ahoy")
    await bench.settle()
    unwell_s = await bench.worker.turn()

    assert bench.reasons["LayersReady"] == "LayerNotReady"
    assert (well_s, unwell_s) == (30.0, bench.worker.idle_s)


async def test_variables_and_sealed_secrets_are_expanded_on_the_host_only() -> None:
    bench = Bench()
    bench.assign(OLD, greeting="ahoy", secret="hunter2")
    await bench.settle()
    desired = await accept.desired_host(
        bench.root, bench.content, bench.identity, bench.worker.keys, architecture=bench.arch
    )

    assert desired is not None
    assert desired.cluster is not None
    assert desired.cluster.layers[-1].manifests == "text: ahoy hunter2"
    assert desired.cluster.hidden == ("hunter2",)
    assert b"hunter2" not in msgspec.json.encode(bench.standing.kubernetes)
    assert b"hunter2" not in msgspec.json.encode(bench.standing.conditions)


async def test_a_bad_upgrade_returns_is_remembered_and_a_good_one_goes_through() -> None:
    bench = Bench()
    bench.assign(OLD)
    await bench.settle()
    bench.engine.faults.bad_versions = frozenset({NEW})

    bench.assign(NEW)
    await bench.settle()
    assert bench.standing.kubernetes.release == OLD
    assert bench.standing.kubernetes.kubelet_version == OLD
    assert bench.reasons["Reconciled"] == "UpgradeReturned"
    assert bench.standing.acknowledged.epoch == 1
    disrupted = bench.engine.disrupted
    await bench.settle()
    assert bench.engine.disrupted == disrupted  # never tried again by itself

    bench.engine.faults.bad_versions = frozenset()
    bench.assign("1.36.4")
    await bench.settle()
    assert bench.standing.kubernetes.release == "1.36.4"
    assert bench.reasons["Reconciled"] == "Reconciled"


async def test_a_request_to_try_again_counts_once_also_after_a_restart() -> None:
    bench = Bench()
    bench.assign(OLD)
    await bench.settle()
    bench.engine.faults.bad_versions = frozenset({NEW})
    bench.assign(NEW)
    await bench.settle()
    bench.assign(NEW, retry=1)
    await bench.settle()
    tried = bench.engine.disrupted

    bench.restart()
    await bench.settle()

    assert bench.reasons["Reconciled"] == "UpgradeReturned"
    assert bench.engine.disrupted == tried


async def test_a_full_disk_is_reported_and_the_work_goes_on_when_there_is_space() -> None:
    bench = Bench()
    bench.assign(OLD)
    await bench.settle()
    bench.assign(NEW)
    bench.root.capacity = sum(len(data) for data in bench.root.files.values())

    await bench.run_until("DiskFull")
    bench.root.capacity = 1 << 40
    bench.worker.nudge()
    await bench.run_until("Reconciled")

    assert bench.standing.kubernetes.release == NEW


async def test_an_assignment_that_cannot_be_carried_out_does_not_end_the_agent() -> None:
    bench = Bench()
    bench.assign(OLD)
    await bench.settle()
    bench.assign(NEW, lacks="image-nobody-assigned")

    await bench.run_until("ArtifactMissing")
    bench.assign(NEW)
    bench.worker.nudge()
    await bench.run_until("Reconciled")

    assert bench.standing.kubernetes.release == NEW


async def test_a_defect_in_the_work_does_not_end_the_agent(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Odd(FakeKubeEngine):
        async def observe(self) -> KubeObserved:
            raise LookupError("hunter2")

    bench = Bench()
    bench.assign(OLD)
    bench.worker.engine = Odd(bench.clock, architecture=bench.arch)

    await bench.run_until("AgentError")

    assert "hunter2" not in str(bench.standing.conditions)


async def test_epochs_of_another_registration_do_not_count() -> None:
    """The host was deleted at the centre and made anew there: epochs begin again."""
    bench = Bench()
    for version in (OLD, NEW):
        bench.assign(version)
    anew = msgspec.structs.replace(bench.identity, host_uid="uid-2")
    first = Assignment(host_uid="uid-2", epoch=1, issued_at=NOW)
    envelope = env.sign(env.ASSIGNMENT, canonical_json(first), [CHANNEL])

    assert accept.stored(bench.root, anew) is None
    taken = accept.accept(bench.root, envelope, anew)

    assert taken.epoch == 1


async def test_taking_the_cluster_away_resets_the_host() -> None:
    bench = Bench()
    bench.assign(OLD)
    await bench.settle()
    bench.assign(None)
    await bench.settle()

    assert not bench.standing.kubernetes.release
    assert bench.standing.acknowledged.epoch == 2
    assert bench.worker.journal.last_good() is None


@pytest.mark.parametrize("bad", [False, True], ids=["good-upgrade", "bad-upgrade"])
async def test_a_power_cut_at_any_write_of_an_upgrade_leads_to_the_same_end(bad: bool) -> None:
    async def run(cut: int, *, halfway: bool) -> tuple[bool, tuple[object, ...]]:
        bench = Bench()
        bench.assign(OLD)
        await bench.settle()
        if bad:
            bench.engine.faults.bad_versions = frozenset({NEW})
        bench.assign(NEW)
        if cut:
            bench.root.cut_power_at(cut, halfway=halfway)
        was_cut = False
        try:
            await bench.settle()
        except PowerCut:
            was_cut = True
            bench.root.power_on()
            bench.restart()
            await bench.settle()
        kubernetes = bench.standing.kubernetes
        end = (
            kubernetes.release,
            kubernetes.kubelet_version,
            kubernetes.control_plane_version,
            kubernetes.failed,
            bench.reasons,
            bench.worker.journal.load(),
        )
        return was_cut, end

    _, wanted = await run(0, halfway=False)
    assert wanted[0] == (OLD if bad else NEW)
    cuts = 0
    for halfway in (False, True):
        at = 1
        while True:
            was_cut, end = await run(at, halfway=halfway)
            if not was_cut:
                break
            assert end == wanted, f"cut at write {at}"
            cuts += 1
            at += 1
    assert cuts > 20


class TestRefusals:
    async def _refused(self, bench: Bench) -> str:
        await bench.settle(3)
        assert not bench.standing.kubernetes.release
        return bench.reasons["Reconciled"]

    async def test_a_release_without_a_release_signature(self) -> None:
        bench = Bench(signer=CHANNEL)
        bench.assign(OLD)
        assert await self._refused(bench) == "ReleaseSignatureMissing"

    async def test_a_release_signed_by_a_stranger(self) -> None:
        stranger = env.SigningKey(role=env.KeyRole.RELEASE, key=pki.new_signing_key())
        bench = Bench(signer=stranger)
        bench.assign(OLD)
        assert await self._refused(bench) == "SignatureInvalid"

    async def test_a_release_for_another_architecture(self) -> None:
        bench = Bench(arch="s390x")
        bench.assign(OLD)
        assert await self._refused(bench) == "ArchitectureMismatch"

    async def test_a_downgrade_and_a_skipped_minor(self) -> None:
        bench = Bench()
        bench.assign(OLD)
        await bench.settle()
        for version in ("1.34.4", "1.37.2"):
            bench.assign(version)
            await bench.settle(3)
            assert bench.standing.kubernetes.release == OLD
            assert bench.reasons["Reconciled"] in ("VersionDowngrade", "VersionSkipped")

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"epoch": 0}, "OlderEpoch"),
            ({"epoch": 1}, "OlderEpoch"),
            ({"host_uid": "uid-2"}, "SignatureInvalid"),
            ({"min_protocol": 99}, "Unsupported"),
        ],
    )
    async def test_assignments_that_must_not_count(
        self, change: dict[str, object], reason: str
    ) -> None:
        bench = Bench()
        bench.assign(OLD)
        before = accept.stored(bench.root, bench.identity)
        other = Assignment(host_uid="uid-1", epoch=9, issued_at=NOW)
        forged = msgspec.structs.replace(other, **change)
        envelope = env.sign(env.ASSIGNMENT, canonical_json(forged), [CHANNEL])

        with pytest.raises(accept.AssignmentRefused) as caught:
            accept.accept(bench.root, envelope, bench.identity)
        assert caught.value.reason == reason
        assert accept.stored(bench.root, bench.identity) == before

    async def test_an_assignment_signed_by_a_release_key_only(self) -> None:
        bench = Bench()
        assignment = Assignment(host_uid="uid-1", epoch=9, issued_at=NOW)
        envelope = env.sign(env.ASSIGNMENT, canonical_json(assignment), [RELEASE])
        with pytest.raises(env.EnvelopeRefused):
            accept.accept(bench.root, envelope, bench.identity)


async def test_the_cause_of_a_failed_operation_stands_while_it_is_tried_again() -> None:
    bench = Bench()
    bench.engine.faults.failing = {"Preflight": 100}
    bench.assign(OLD)
    seen: list[tuple[str, str]] = []
    announce = bench.standing.announce

    def recorded() -> None:
        item = bench.standing.conditions[0]
        seen.append((item.status, item.reason))
        announce()

    bench.standing.announce = recorded  # type: ignore[method-assign]  # only listens
    for _ in range(30):
        bench.clock.advance(await bench.worker.turn())
    first = seen.index(("False", bench.reasons["Reconciled"]))
    assert len(seen) > first + 2
    assert {status for status, _ in seen[first:]} == {"False"}

    bench.engine.faults.failing = {}
    bench.clock.advance(300)
    await bench.settle()
    assert bench.reasons["Reconciled"] == "Reconciled"


async def test_a_node_that_is_not_ready_is_told_before_its_repair_ends() -> None:
    bench = Bench()
    bench.assign(OLD)
    await bench.settle()
    assert bench.standing.kubernetes.node_ready
    bench.engine._state = msgspec.structs.replace(
        bench.engine._state, kubelet_active=False, node_ready=True
    )
    bench.engine.faults.failing = {"GateNode": 100}

    await bench.worker.turn()

    assert not bench.standing.kubernetes.node_ready


async def test_a_cause_that_went_away_by_itself_is_seen_long_before_the_next_try() -> None:
    bench = Bench()
    bench.assign(OLD)
    await bench.settle()
    well = bench.engine._state
    bench.engine._state = msgspec.structs.replace(well, kubelet_active=False)
    bench.engine.faults.failing = {"ConfigureHost": 1000}
    for _ in range(100):
        bench.clock.advance(await bench.worker.turn())
    assert bench.reasons["Reconciled"] != "Reconciled"

    bench.engine._state = well
    began = bench.clock.monotonic()
    pause_s = await bench.worker.turn()
    while bench.reasons["Reconciled"] != "Reconciled":
        bench.clock.advance(pause_s)
        pause_s = await bench.worker.turn()

    assert bench.clock.monotonic() - began <= 2 * bench.worker.idle_s


async def test_a_new_assignment_does_not_wait_for_the_next_try_of_the_old_one() -> None:
    bench = Bench()
    bench.engine.faults.failing = {"Preflight": 1}
    bench.assign(OLD)
    await bench.worker.turn()
    assert bench.standing.kubernetes.release == ""

    bench.assign(NEW)
    bench.worker.nudge()
    began = bench.clock.monotonic()
    await bench.settle()

    assert bench.standing.kubernetes.release == NEW
    assert bench.clock.monotonic() == began


async def test_an_operation_that_helped_is_done_at_once_when_it_is_due_again() -> None:
    """Certificates that live minutes are renewed again and again by the same operation."""
    bench = Bench()
    bench.assign(OLD)
    await bench.settle()
    renewed = []
    for _ in range(3):
        bench.clock.advance(timedelta(days=340).total_seconds())
        assert await bench.worker.turn() == 0.0
        renewed.append(bench.engine._state.certificates_expire_at)
        await bench.settle()

    assert renewed == sorted(set(renewed))
