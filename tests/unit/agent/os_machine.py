"""A machine with two slots: the product's agent over a disk in memory and the fake OS engine, whose
loader counts tries as the real one does. A restart ends the agent's process as it really would.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from skerry.agent import accept, facts
from skerry.agent.content import ContentStore
from skerry.agent.identity import Identity, load_or_make_keys
from skerry.agent.journal import EventLog, Journal
from skerry.agent.kube.fake import FakeKubeEngine
from skerry.agent.osengine.fake import FakeOsEngine, OsFaults
from skerry.agent.osupdate import OsUpdater
from skerry.agent.standing import Standing
from skerry.agent.work import Worker
from skerry.lib import pki
from skerry.lib.clock import ManualClock
from skerry.lib.digest import canonical_json, sha256
from skerry.lib.memory_files import MemoryRoot, PowerCut
from skerry.lib.oci import Descriptor, new_manifest
from skerry.lib.proc import FakeRunner, Result
from skerry.model.artifact import ArtifactRef
from skerry.model.meta import Condition
from skerry.model.osimage import OS_ARTIFACT_TYPE, OS_CONFIG_TYPE, ROOT_TYPE
from skerry.plan.osupdate import OsObserved
from skerry.wire import envelope as env
from skerry.wire.messages import ArtifactStatement, Assignment, OsAssignment

CHANNEL = env.SigningKey(role=env.KeyRole.CHANNEL, key=pki.new_signing_key())
RELEASE = env.SigningKey(role=env.KeyRole.RELEASE, key=pki.new_signing_key())
ARCH = facts.architecture()
TRIAL_S = 600


class InstantClock(ManualClock):
    """Sleeping takes no time."""

    async def sleep(self, seconds: float) -> None:
        self.advance(seconds)


class Restarts(BaseException):
    """The machine goes down, and the agent's process with it."""


def os_artifact(
    version: str, *, arch: str = ARCH, signer: env.SigningKey = RELEASE
) -> tuple[ArtifactRef, tuple[bytes, ...]]:
    """An OS image and every blob of it, its release key's statement last."""
    root, config = f"root of {version}".encode(), f'{{"version":"{version}"}}'.encode()
    manifest = new_manifest(
        artifact_type=OS_ARTIFACT_TYPE,
        config=Descriptor(media_type=OS_CONFIG_TYPE, digest=sha256(config), size=len(config)),
        layers=(Descriptor(media_type=ROOT_TYPE, digest=sha256(root), size=len(root)),),
    ).encode()
    statement = ArtifactStatement(
        name="edge", type="os", version=version, architecture=arch, digest=sha256(manifest)
    )
    signed = env.sign(env.ARTIFACT, canonical_json(statement), [signer]).encode()
    ref = ArtifactRef(
        name=f"edge-{version}",
        type="os",
        version=version,
        architecture=arch,
        digest=sha256(manifest),
        envelope_digest=sha256(signed),
    )
    return ref, (root, config, manifest, signed)


@dataclass
class OsMachine:
    """One host. `sick` are versions of the OS under which Kubernetes does not come up, `dead`
    those that never start, `deaf` those under which no line is found."""

    root: MemoryRoot = field(default_factory=MemoryRoot)
    clock: InstantClock = field(default_factory=InstantClock)
    sick: set[str] = field(default_factory=set)
    deaf: set[str] = field(default_factory=set)
    faults: OsFaults = field(default_factory=OsFaults)
    online: bool = True
    epoch: int = 0
    restarts: int = 0
    ran: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.runner = FakeRunner()
        self.runner.answer_with(answer=self._command)
        self.identity = Identity(
            manager="https://m",
            authorities=(),
            trusted_keys=(CHANNEL.trusted, RELEASE.trusted),
            state="approved",
            host_uid="uid-1",
            host_name="till-1",
        )
        self.content = ContentStore(self.root, None)
        self.kube = FakeKubeEngine(self.clock, architecture=ARCH)
        self.new_process()

    def new_process(self) -> None:
        self.standing = Standing()
        self.engine = FakeOsEngine(self.root, content=self.content, architecture=ARCH)
        self.engine.faults = self.faults
        events = EventLog(self.root)
        self.os = OsUpdater(
            root=self.root,
            runner=self.runner,
            clock=self.clock,
            content=ContentStore(self.root, None),
            engine=self.engine,
            identity=self.identity,
            events=events,
            standing=self.standing,
        )
        self.worker = Worker(
            root=self.root,
            clock=self.clock,
            content=ContentStore(self.root, None),
            engine=self.kube,
            keys=load_or_make_keys(self.root),
            identity=self.identity,
            journal=Journal(self.root),
            events=events,
            standing=self.standing,
            os=self.os,
            idle_s=1,
        )
        self.worker.health_now = self.health  # type: ignore[method-assign]  # the machine's own
        self.os.on_ready, self.os.health = self.worker.nudge, self.health

    async def health(self) -> tuple[Condition, ...]:
        seen = await self.engine.describe()
        good = seen.version not in self.sick
        return (
            Condition(
                type="NodeReady",
                status="True" if good else "False",
                reason="Ready" if good else "KubeletNotReady",
                message="" if good else "the kubelet does not start",
            ),
        )

    def image(self, version: str, **more: object) -> ArtifactRef:
        """Put an image's content on the host's disk, as a bundle would."""
        ref, blobs = os_artifact(version, **more)  # type: ignore[arg-type]
        for data in blobs:
            self.content.put(sha256(data), data)
        return ref

    def assign(self, ref: ArtifactRef | None, *, retry_failed: int = 0) -> str:
        """Accept a new assignment; its digest."""
        self.epoch += 1
        part = None
        if ref is not None:
            part = OsAssignment(
                version=ref.version, artifact=ref, trial_s=TRIAL_S, retry_failed=retry_failed
            )
        assignment = Assignment(
            host_uid="uid-1",
            epoch=self.epoch,
            issued_at=datetime(2026, 1, 1, tzinfo=UTC),
            os=part,
        )
        envelope = env.sign(env.ASSIGNMENT, canonical_json(assignment), [CHANNEL])
        return accept.accept(self.root, envelope, self.identity).digest

    async def live(self, *, limit: int = 30) -> None:
        """Let the machine run, through restarts, until it is at rest."""
        for _ in range(limit):
            try:
                if await self._process():
                    return
            except Restarts:
                self.restarts += 1
                self.start()
        raise AssertionError(f"the machine does not come to rest: {self.ran}")

    async def _process(self) -> bool:
        self.new_process()
        observed = await self.engine.describe()
        self.ran.append(f"{observed.running} {observed.version}")
        line = self.online and observed.version not in self.deaf
        self.standing.synced, self.standing.offline = line, not line
        await self.os.begin()
        for _ in range(8):
            await self.os.turn()
            await self.worker.turn()
            self.clock.advance(60)
        return Journal(self.root).load() is None and not self.os.on_trial()

    def start(self) -> None:
        self.engine.start()

    async def after_power_cut(self) -> None:
        self.root.power_on()
        self.start()
        await self.live()

    async def seen(self) -> OsObserved:
        return await self.engine.describe()

    @property
    def reason(self) -> str:
        condition = self.standing.os_condition
        return condition.reason if condition else ""

    async def end(self) -> tuple[object, ...]:
        """What two lives have in common that led to the same end. Which slot it is may differ."""
        observed = await self.seen()
        return (
            observed.version,
            observed.image,
            observed.on_trial,
            tuple(sorted(self.os.memory().failed)),
            self.reason,
            Journal(self.root).load(),
            self.standing.acknowledged.epoch,
        )

    def _command(self, argv: tuple[str, ...]) -> Result | None:
        if argv[:2] == ("systemctl", "reboot"):
            raise Restarts
        return None


async def live_with_a_cut(machine: OsMachine, cut: int, *, halfway: bool) -> bool:
    """Live to rest with a power cut at the `cut`-th write; whether it came to it."""
    machine.root.cut_power_at(cut, halfway=halfway)
    try:
        await machine.live()
    except PowerCut:
        await machine.after_power_cut()
        return True
    machine.root.power_on()
    return False
