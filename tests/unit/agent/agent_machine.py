"""A machine whose agent has slots: the product's code over a disk in memory, the real watchdog
script in a real shell, and just enough of systemd to start what the link names.

What a program does is its content: "0.2.0 good", "0.2.0 crash" (ends at once), "0.2.0 hang"
(never does anything), "0.2.0 liar" (says another version).
"""

from __future__ import annotations

import gzip
import io
import os
import shutil
import subprocess
import tarfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from skerry.agent import accept, facts, paths
from skerry.agent.content import ContentStore
from skerry.agent.identity import Identity, load_or_make_keys
from skerry.agent.journal import EventLog, Journal
from skerry.agent.kube.fake import FakeKubeEngine
from skerry.agent.selfupdate import Updater
from skerry.agent.slots import AgentSlots
from skerry.agent.standing import Standing
from skerry.agent.work import Worker
from skerry.lib import pki
from skerry.lib.clock import ManualClock
from skerry.lib.digest import canonical_json, sha256
from skerry.lib.memory_files import MemoryRoot, PowerCut
from skerry.lib.oci import Descriptor, new_manifest
from skerry.lib.proc import FakeRunner, Result
from skerry.model.agentrelease import (
    AGENT_ARCHIVE_TYPE,
    AGENT_ARTIFACT_TYPE,
    AGENT_CONFIG_TYPE,
    AgentInfo,
)
from skerry.model.artifact import ArtifactRef
from skerry.wire import envelope as env
from skerry.wire.messages import AgentAssignment, ArtifactStatement, Assignment

CHANNEL = env.SigningKey(role=env.KeyRole.CHANNEL, key=pki.new_signing_key())
RELEASE = env.SigningKey(role=env.KeyRole.RELEASE, key=pki.new_signing_key())
ARCH = facts.architecture()
TRIAL_S = 600


class InstantClock(ManualClock):
    """Sleeping takes no time."""

    async def sleep(self, seconds: float) -> None:
        self.advance(seconds)


def archive_of(program: str, *, extra: dict[str, bytes] | None = None) -> bytes:
    """A small archive in the form of the builder's."""
    out = io.BytesIO()
    with (
        gzip.GzipFile("", "wb", fileobj=out, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        names = {"skerry-agent/skerry-agent": program.encode(), **(extra or {})}
        for name, data in names.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o755
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


@dataclass
class AgentMachine:
    """One host. `tmp` is where the watchdog's shell works."""

    tmp: Path
    root: MemoryRoot = field(default_factory=MemoryRoot)
    clock: InstantClock = field(default_factory=InstantClock)
    online: bool = True
    epoch: int = 0
    boots: int = 1
    timer_s: int | None = None
    restart_asked: bool = False
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
        self.engine = FakeKubeEngine(self.clock, architecture=ARCH)
        self.content = ContentStore(self.root, None)
        self.root.write(f"{paths.SLOTS}/a/skerry-agent", b"0.1.0 good")
        self.root.write(f"{paths.SLOTS}/a/lib/part", b"old")
        self.root.link(paths.CURRENT, "a")
        self.new_process("0.1.0", "a")

    def new_process(self, version: str, slot: str) -> None:
        self.standing = Standing()
        events, content = EventLog(self.root), ContentStore(self.root, None)
        self.updater = Updater(
            root=self.root,
            clock=self.clock,
            slots=AgentSlots(self.root, self.runner, content, slot, version=version),
            identity=self.identity,
            events=events,
            standing=self.standing,
        )
        self.worker = Worker(
            root=self.root,
            clock=self.clock,
            content=content,
            engine=self.engine,
            keys=load_or_make_keys(self.root),
            identity=self.identity,
            journal=Journal(self.root),
            events=events,
            standing=self.standing,
            updater=self.updater,
            idle_s=1,
        )

    def artifact(
        self, version: str, program: str, *, signer: env.SigningKey = RELEASE, arch: str = ARCH
    ) -> ArtifactRef:
        """Put an agent's content and its statement on the host's disk, as a bundle would."""
        archive = archive_of(program, extra={"skerry-agent/lib/part": b"new"})
        info = AgentInfo(
            version=version,
            architecture=arch,
            digest=sha256(archive),
            size_bytes=len(archive),
            unpacked_bytes=100,
            glibc="",
            python="",
        )
        config = msgspec.json.encode(info)
        manifest = new_manifest(
            artifact_type=AGENT_ARTIFACT_TYPE,
            config=Descriptor(
                media_type=AGENT_CONFIG_TYPE, digest=sha256(config), size=len(config)
            ),
            layers=(
                Descriptor(
                    media_type=AGENT_ARCHIVE_TYPE, digest=sha256(archive), size=len(archive)
                ),
            ),
        ).encode()
        statement = ArtifactStatement(
            name="agent", type="agent", version=version, architecture=arch, digest=sha256(manifest)
        )
        signed = env.sign(env.ARTIFACT, canonical_json(statement), [signer]).encode()
        for data in (archive, config, manifest, signed):
            self.content.put(sha256(data), data)
        return ArtifactRef(
            name=f"agent-{version}",
            type="agent",
            version=version,
            architecture=arch,
            digest=sha256(manifest),
            envelope_digest=sha256(signed),
        )

    def assign(
        self,
        ref: ArtifactRef | None,
        *,
        retry_failed: int = 0,
        min_protocol: int = 1,
        accepted: bool = True,
    ) -> env.Envelope:
        self.epoch += 1
        agent = None
        if ref is not None:
            agent = AgentAssignment(
                version=ref.version, artifact=ref, trial_s=TRIAL_S, retry_failed=retry_failed
            )
        assignment = Assignment(
            host_uid="uid-1",
            epoch=self.epoch,
            issued_at=datetime(2026, 1, 1, tzinfo=UTC),
            agent=agent,
            min_protocol=min_protocol,
        )
        envelope = env.sign(env.ASSIGNMENT, canonical_json(assignment), [CHANNEL])
        if accepted:
            accept.accept(self.root, envelope, self.identity)
        return envelope

    async def live(self, starts: int = 12) -> None:
        """Let systemd start what the link names until the machine is at rest."""
        for _ in range(starts):
            if await self.start():
                return
        raise AssertionError(f"the machine does not come to rest: {self.ran}")

    async def start(self) -> bool:
        """One start of the service; whether the program is at rest afterwards."""
        self.restart_asked = False
        if self.root.exists(paths.TRIAL_DROP_IN):
            self.script("start")
        slot = self.root.read_link(paths.CURRENT) or ""
        version, kind = self.root.read(f"{paths.SLOTS}/{slot}/skerry-agent").decode().split()
        self.ran.append(f"{slot} {version}")
        if kind == "crash":
            return False
        if kind == "hang":
            assert self.timer_s is not None, "nobody watches a program that hangs"
            self.clock.advance(self.timer_s)
            self.script("late")
            return False
        return await self._process(version, slot)

    async def _process(self, version: str, slot: str) -> bool:
        self.new_process(version, slot)
        self.standing.offline = not self.online
        await self.updater.begin()
        for _ in range(8):
            await self.worker.turn()
            self.standing.worked = True
            self.standing.synced = self.online
            if self.restart_asked:
                return False
            self.clock.advance(await self.updater.turn())
        return not self.updater.on_trial()

    async def after_power_cut(self) -> None:
        """The machine boots again: memory is gone, timers count anew."""
        self.root.power_on()
        self.boots += 1
        self.timer_s = TRIAL_S if self.root.exists(_timer_link()) else None
        await self.live()

    def script(self, word: str) -> None:
        """Run the watchdog that lies on the disk, in a real shell."""
        state, slots, programs = (self.tmp / name for name in ("state", "slots", "bin"))
        places = {paths.AGENT: state, paths.SLOTS: slots}
        for inside, outside in places.items():
            _write_out(self.root, inside, outside)
        programs.mkdir(exist_ok=True)
        for name in ("systemctl", "sync"):  # nothing to flush: the disk is in memory
            (programs / name).write_text("#!/bin/sh\nexit 0\n")
            (programs / name).chmod(0o755)
        (self.tmp / "boot_id").write_text(f"boot-{self.boots}\n")
        text = self.root.read(paths.WATCHDOG).decode()
        for inside, outside in places.items():
            text = text.replace(f"={inside}\n", f"={outside}\n")
        text = text.replace("/proc/sys/kernel/random/boot_id", str(self.tmp / "boot_id"))
        env_now = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
        subprocess.run(["sh", "-c", text, "watchdog", word], check=True, env=env_now)
        for inside, outside in places.items():
            _read_back(self.root, inside, outside)

    @property
    def reason(self) -> str:
        condition = self.standing.agent_condition
        return condition.reason if condition else ""

    @property
    def marks(self) -> list[str]:
        """What of a trial is left on the disk."""
        names = ("trial", "confirmed", "returning", "returned", "starts", "watchdog.sh")
        places = [f"{paths.AGENT}/{name}" for name in names]
        places += [paths.TRIAL_DROP_IN, _timer_link()]
        places += [
            f"{paths.UNITS}/{unit}" for unit in (paths.WATCHDOG_SERVICE, paths.WATCHDOG_TIMER)
        ]
        return [path for path in places if self.root.exists(path)]

    @property
    def end(self) -> tuple[object, ...]:
        """What two lives have in common that led to the same end."""
        return (
            self.root.read_link(paths.CURRENT),
            self.ran[-1],
            tuple(sorted(self.updater.memory().failed)),
            self.reason,
            tuple(self.marks),
            Journal(self.root).load(),
        )

    def check_bootable(self) -> None:
        """The link names a slot with a whole program in it, whatever happened."""
        slot = self.root.read_link(paths.CURRENT)
        part = self.root.read(f"{paths.SLOTS}/{slot}/lib/part")
        program = self.root.read(f"{paths.SLOTS}/{slot}/skerry-agent")
        assert (part == b"old") == program.startswith(b"0.1.0")

    def _command(self, argv: tuple[str, ...]) -> Result | None:
        if argv[-1:] == ("--version",):
            program = argv[0]
            version, kind = self.root.read(program).decode().split()
            return Result(argv, 0, f"{'9.9.9' if kind == 'liar' else version}\n", "")
        if argv[:3] == ("systemctl", "restart", paths.WATCHDOG_TIMER):
            text = self.root.read(f"{paths.UNITS}/{paths.WATCHDOG_TIMER}").decode()
            self.timer_s = int(text.split("OnActiveSec=")[1].split()[0])
        if argv[:3] == ("systemctl", "stop", paths.WATCHDOG_TIMER):
            self.timer_s = None
        if argv[:3] == ("systemctl", "--no-block", "restart"):
            self.restart_asked = True
        return None


async def live_with_a_cut(machine: AgentMachine, cut: int, *, halfway: bool) -> bool:
    """Live to rest with a power cut at the `cut`-th write; whether it came to it."""
    machine.root.cut_power_at(cut, halfway=halfway)
    try:
        await machine.live()
    except PowerCut:
        machine.check_bootable()
        await machine.after_power_cut()
        return True
    machine.root.power_on()
    return False


def _timer_link() -> str:
    return f"{paths.UNITS}/timers.target.wants/{paths.WATCHDOG_TIMER}"


def _write_out(root: MemoryRoot, inside: str, outside: Path) -> None:
    shutil.rmtree(outside, ignore_errors=True)
    outside.mkdir(parents=True)
    for path, data in root.files.items():
        if path.startswith(f"{inside}/"):
            place = outside / path.removeprefix(f"{inside}/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
    for path, target in root.links.items():
        if path.startswith(f"{inside}/"):
            place = outside / path.removeprefix(f"{inside}/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(target)


def _read_back(root: MemoryRoot, inside: str, outside: Path) -> None:
    for table in (root.files, root.links):
        for path in [path for path in table if path.startswith(f"{inside}/")]:
            del table[path]
    for place in outside.rglob("*"):
        path = f"{inside}/{place.relative_to(outside)}"
        if place.is_symlink():
            root.links[path] = str(place.readlink())
        elif place.is_file():
            root.files[path] = place.read_bytes()
