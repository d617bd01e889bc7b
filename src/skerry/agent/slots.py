"""The agent's two slots: what lies in them, and the steps that fill and switch them.

The slot that runs is never written. The other one is filled beside its place and appears by one
rename, with a note of what it is, so that a half-written slot cannot be taken for a whole one.
"""

from __future__ import annotations

import hashlib
import posixpath
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, cast

import anyio.to_thread
import msgspec

from skerry import __version__
from skerry.agent import paths, trial
from skerry.agent.content import Content
from skerry.lib.digest import sha256
from skerry.lib.errors import SkerryError
from skerry.lib.files import DiskFull, Root
from skerry.lib.oci import MAX_MANIFEST_BYTES, Descriptor, Manifest, parse_manifest
from skerry.lib.proc import CommandFailed, CommandMissing, CommandTimedOut, Runner
from skerry.model.agentrelease import (
    AGENT_ARTIFACT_TYPE,
    MAX_AGENT_METADATA_BYTES,
    PROGRAM,
    AgentInfo,
    AgentReleaseInvalid,
    parse_agent_info,
)
from skerry.model.artifact import ArtifactRef
from skerry.model.meta import Record
from skerry.plan.agentupdate import SLOTS
from skerry.plan.steps import CheckAgent, StageAgent, SwitchAgent

AgentStep = StageAgent | CheckAgent | SwitchAgent

_MARGIN_BYTES = 64 << 20
_CHECK_S = 60.0


class AgentUnusable(SkerryError):
    """The new agent cannot be used on this host; the present one stays."""

    def __init__(self, message: str) -> None:
        super().__init__(
            message,
            hint="see what it needs with 'skerry release build agent'; push another one",
            reason="AgentUnusable",
        )


class SlotNote(Record, frozen=True, kw_only=True):
    """Content of `slot.json`: which artifact was unpacked into the slot."""

    version: str
    digest: str


def slot_of(program: str) -> str:
    """The slot that a program's real path lies in, or "" for one that lies elsewhere."""
    rest = program.removeprefix(f"{paths.SLOTS}/")
    slot = rest.split("/", 1)[0]
    return slot if rest != program and slot in SLOTS else ""


@dataclass(frozen=True, slots=True)
class AgentSlots:
    """The slots as the program in slot `own` sees them; `version` is that program's."""

    root: Root
    runner: Runner
    content: Content
    own: str
    version: str = __version__

    def current(self) -> str:
        """The slot that starts next, as the link says."""
        return self.root.read_link(paths.CURRENT) or ""

    def note(self, slot: str) -> SlotNote | None:
        """What is unpacked in a slot; None when that is not known or not complete."""
        path = f"{paths.SLOTS}/{slot}/slot.json"
        if not self.root.exists(path):
            return None
        return msgspec.json.decode(self.root.read(path), type=SlotNote)

    def has(self, ref: ArtifactRef) -> bool:
        """Whether the artifact is unpacked in the slot that does not run."""
        return any(
            note is not None and note.digest == ref.digest
            for note in (self.note(slot) for slot in SLOTS if slot != self.own)
        )

    async def fetch(self, ref: ArtifactRef) -> None:
        """Bring the artifact's content here. Raises SkerryError with a reason."""
        _, archive, info = await self._open(ref)
        if self.root.free_bytes(paths.SLOTS) < info.unpacked_bytes + _MARGIN_BYTES:
            raise DiskFull(paths.SLOTS)
        await self.content.ensure(archive.digest, size=archive.size)

    async def perform(self, step: AgentStep) -> None:
        """Do a step; doing it again changes nothing. Raises SkerryError with a reason."""
        match step:
            case StageAgent():
                await self._stage(step)
            case CheckAgent():
                await self._check(step)
            case SwitchAgent():
                await self._switch(step)

    async def restart(self) -> None:
        """Ask systemd for the program that the link names. It ends this one."""
        argv = ["systemctl", "--no-block", "restart", paths.AGENT_UNIT]
        await self.runner.run(argv, timeout_s=60)

    async def _stage(self, step: StageAgent) -> None:
        if self._runs(step.slot):
            return
        if step.slot == self.current():
            raise SkerryError(
                f"slot {step.slot} starts next and is not written", reason="AgentError"
            )
        note = self.note(step.slot)
        if note is None or note.digest != step.artifact.digest:
            manifest, archive, info = await self._open(step.artifact)
            blob = await self.content.ensure(archive.digest, size=archive.size)
            fresh = f"{paths.SLOTS}/.{step.slot}.new"
            self.root.remove(fresh)
            await anyio.to_thread.run_sync(self._unpack, blob, archive.digest, fresh)
            done = SlotNote(version=info.version, digest=step.artifact.digest)
            self.root.write(f"{fresh}/slot.json", msgspec.json.encode(done))
            self.root.remove(f"{paths.SLOTS}/{step.slot}")
            self.root.rename(fresh, f"{paths.SLOTS}/{step.slot}")
            for part in (archive, manifest.config):
                self.content.drop(part.digest)

    async def _check(self, step: CheckAgent) -> None:
        if self._runs(step.slot):
            return
        program = self.root.host_path(f"{paths.SLOTS}/{step.slot}/{PROGRAM}")
        try:
            said = await self.runner.run([program, "--version"], timeout_s=_CHECK_S)
        except (CommandFailed, CommandMissing, CommandTimedOut, PermissionError) as exc:
            raise AgentUnusable(f"agent {step.version} does not start here: {exc}") from exc
        found = said.stdout.strip()[:60]
        if found != step.version:
            raise AgentUnusable(f"agent {step.version} says that it is {found!r}")

    async def _switch(self, step: SwitchAgent) -> None:
        if self._runs(step.slot):
            return
        mark = trial.Trial(
            new=step.slot,
            old=self.own,
            starts=step.starts,
            seconds=step.trial_s,
            version=step.version,
            digest=step.digest,
        )
        await trial.begin(self.root, self.runner, mark)
        self.root.link(paths.CURRENT, step.slot)

    def _runs(self, slot: str) -> bool:
        """Whether the switch to this slot has happened: then its steps are done, and the slot is
        not to be touched."""
        return slot == self.own

    async def _open(self, ref: ArtifactRef) -> tuple[Manifest, Descriptor, AgentInfo]:
        place = await self.content.ensure(ref.digest)
        if self.root.size(place) > MAX_MANIFEST_BYTES:
            raise AgentReleaseInvalid(f"manifest of agent {ref.version} is too large")
        data = self.root.read(place)
        if sha256(data) != ref.digest:
            self.content.drop(ref.digest)
            raise AgentReleaseInvalid(f"manifest of agent {ref.version} was damaged")
        manifest = parse_manifest(data)
        if manifest.artifact_type != AGENT_ARTIFACT_TYPE or len(manifest.layers) != 1:
            raise AgentReleaseInvalid(
                f"{ref.name} {ref.version} is a {manifest.artifact_type[:100]} with"
                f" {len(manifest.layers)} layers, wanted an agent with one"
            )
        if manifest.config.size > MAX_AGENT_METADATA_BYTES:
            raise AgentReleaseInvalid(f"metadata of agent {ref.version} is too large")
        config = await self.content.ensure(manifest.config.digest, size=manifest.config.size)
        info = parse_agent_info(self.root.read(config))
        if (info.version, info.architecture) != (ref.version, ref.architecture):
            raise AgentReleaseInvalid(
                f"agent {ref.version} for {ref.architecture} says of itself that it is"
                f" {info.version} for {info.architecture}"
            )
        return manifest, manifest.layers[0], info

    def _unpack(self, blob: str, digest: str, into: str) -> None:
        reading = _Counted(self.root.read_chunks(blob))
        try:
            with tarfile.open(fileobj=cast("IO[bytes]", reading), mode="r|gz") as archive:
                for member in archive:
                    self._take(archive, member, into)
        except (tarfile.TarError, EOFError) as exc:
            raise AgentReleaseInvalid(f"the agent's archive cannot be unpacked: {exc}") from exc
        reading.drain()
        if reading.digest != digest:
            self.content.drop(digest)
            raise AgentReleaseInvalid("the agent's archive was damaged on this host's disk")

    def _take(self, archive: tarfile.TarFile, member: tarfile.TarInfo, into: str) -> None:
        top, _, name = member.name.partition("/")
        if top != PROGRAM or ".." in member.name.split("/"):
            raise AgentReleaseInvalid(f"unexpected entry in the archive: {member.name[:100]!r}")
        if not name or member.isdir():
            return
        target = f"{into}/{name}"
        if member.issym():
            end = posixpath.normpath(posixpath.join(posixpath.dirname(name), member.linkname))
            if end.startswith(("/", "..")):
                raise AgentReleaseInvalid(f"link out of the archive: {member.name[:100]!r}")
            self.root.link(target, member.linkname)
            return
        source = archive.extractfile(member) if member.isreg() else None
        if source is None:
            raise AgentReleaseInvalid(f"neither file nor link: {member.name[:100]!r}")
        mode = 0o755 if member.mode & 0o100 else 0o644
        self.root.write_chunks(target, iter(lambda: source.read(1 << 20), b""), mode=mode)


class _Counted:
    """A file of the Root as a stream that knows the digest of what was read."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""
        self._hashing = hashlib.sha256()

    @property
    def digest(self) -> str:
        return f"sha256:{self._hashing.hexdigest()}"

    def read(self, size: int) -> bytes:
        while len(self._rest) < size and (chunk := next(self._chunks, b"")):
            self._hashing.update(chunk)
            self._rest += chunk
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def drain(self) -> None:
        """Read what nobody asked for, so that the digest is that of the whole."""
        for chunk in self._chunks:
            self._hashing.update(chunk)
