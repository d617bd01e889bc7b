"""The appliance's own engine: two slots, found by content, chosen by files.

What a power cut can meet at any write here is in docs/adr/0004-appliance-slots.md; the order of
writes is the design. `reset` leaves `/boot/skerry/reset`, JSON `{"keepIdentity": true|false}`,
which the initrd carries out before it mounts the state and removes last.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import anyio
import anyio.to_thread
import msgspec

from skerry.agent.content import Content
from skerry.agent.osengine import slotdisk
from skerry.agent.osengine.abchecks import (
    changed,
    check_generation,
    idle_of,
    invalid,
    is_armed,
    noted,
    reference_to,
    require_fallback,
    require_other,
    running_of,
    trial_entry,
    unreadable,
)
from skerry.agent.osengine.abmeasure import AbMeasure, Measured, note_path
from skerry.agent.osengine.bootfiles import RESET, BootFiles
from skerry.agent.osengine.engine import OsEngineFailed, OsReason
from skerry.agent.osengine.osartifact import OsArtifacts
from skerry.agent.osengine.osrelease import release_of
from skerry.lib.clock import Clock
from skerry.lib.files import Root
from skerry.lib.proc import Runner
from skerry.lib.volumes import VolumeFailed, Volumes
from skerry.model.artifact import ArtifactRef
from skerry.model.osimage import OsImageInfo
from skerry.plan.bootentries import TRIES, BootEntry, EntryName, uki_name
from skerry.plan.osslots import (
    DATA_SUPER,
    SECTOR,
    VERITY_SUPER,
    SlotNote,
    erofs_uuid,
    verity_uuid,
)
from skerry.plan.osupdate import OsObserved, SlotState


@dataclass(slots=True)
class AbEngine:
    """The slots of this machine through the doors given. `chunk` is the bytes of one write."""

    root: Root
    runner: Runner
    volumes: Volumes
    content: Content
    clock: Clock
    architecture: str
    chunk: int = slotdisk.CHUNK
    _boot: BootFiles = field(init=False)
    _measure: AbMeasure = field(init=False)
    _artifacts: OsArtifacts = field(init=False)
    _changing: anyio.Lock = field(default_factory=anyio.Lock)

    def __post_init__(self) -> None:
        self._boot = BootFiles(self.root, self.runner, self.clock)
        self._measure = AbMeasure(self.root, self.volumes, self._boot, self.architecture)
        self._artifacts = OsArtifacts(self.root, self.content)

    async def describe(self) -> OsObserved:
        return (await self._seen()).observed

    async def stage(self, image: ArtifactRef) -> None:
        async with self._changing:
            await self._boot.ready()
            seen = await self._seen()
            idle = idle_of(seen)
            info = noted(seen, image) or await self._artifacts.info(image)
            if info.root_hash == seen.system.root_hash:
                await self._adopt_running(seen, image, info)
                return
            seen = await self._secured(seen)
            await self._accept(seen, info, idle)
            if not await self._already(seen, image, info, idle):
                await self._fill(seen, image, info, idle)
            self._artifacts.drop(info)

    async def activate(self, image: ArtifactRef, *, trial_s: int) -> None:
        async with self._changing:
            await self._boot.ready()
            seen = await self._seen()
            observed = seen.observed
            idle = idle_of(seen)
            if observed.image == image.digest:
                return
            require_fallback(seen)
            entry = trial_entry(seen, idle, image, trial_s=trial_s)
            self._boot.look_again()
            self._check_uki(idle, entry)
            present = seen.entry(idle)
            if present is not None and is_armed(present.name, seen) and present.entry == entry:
                others = [item for item in seen.of_slot(idle) if item != present]
            else:
                entry = msgspec.structs.replace(entry, generation=seen.newest + 1)
                others = seen.of_slot(idle)
            async with self._boot.writable():
                name = EntryName(generation=entry.generation, left=TRIES)
                if present is None or present.entry != entry or present.name != name:
                    self._boot.write_entry(name, entry)
                for item in others:
                    self._boot.remove_entry(item.file)

    async def confirm(self) -> None:
        async with self._changing:
            await self._boot.ready()
            await self._confirm(await self._seen())

    async def roll_back(self) -> None:
        async with self._changing:
            await self._boot.ready()
            seen = await self._seen()
            for slot in seen.observed.slots:
                if slot.state is SlotState.TRIAL:
                    require_other(seen, slot.name)
                    await self._return(seen, slot.name)

    async def reset(self, *, keep_identity: bool) -> None:
        async with self._changing:
            text = msgspec.json.encode({"keepIdentity": keep_identity})
            async with self._boot.writable():
                self.root.write(RESET, text)

    async def _seen(self) -> Measured:
        return await anyio.to_thread.run_sync(self._measure.now)

    async def _confirm(self, seen: Measured) -> None:
        running = running_of(seen)
        entry = self._confirmed(seen, running)
        name = EntryName(generation=entry.generation)
        stale = [item.file for item in seen.of_slot(running) if item.file != name.file]
        whole = any(item.name == name and item.entry == entry for item in seen.entries)
        if whole and not stale:
            return
        async with self._boot.writable():
            # First the name that stays: a cut in between leaves both, never none.
            if not whole:
                self._boot.write_entry(name, entry)
            for file in stale:
                self._boot.remove_entry(file)

    async def _secured(self, seen: Measured) -> Measured:
        """The running slot as something to return to, where that can be mended.

        A boot image that rotted is written anew. A slot that was given up and runs all the same,
        because the other one did not start, counts as confirmed before the other one is written:
        of two slots without tries the loader would choose the newer, whatever it is.
        """
        running = running_of(seen)
        found = seen.entry(running)
        if found is None or found.entry is None:
            return seen
        if seen.facts[running].uki_trouble:
            await self._mend(seen, running, found.entry)
            seen = await self._seen()
        if found.name.rolled_back and found.name.started_as(seen.system.loaded):
            await self._confirm(seen)
            seen = await self._seen()
        return seen

    async def _mend(self, seen: Measured, running: str, entry: BootEntry) -> None:
        """Write the running slot's boot image again. Raises when its image cannot be had."""
        note = seen.facts[running].note
        if note is not None and note.info.root_hash == entry.root_hash:
            info = note.info
        elif entry.image:
            info = await self._artifacts.info(reference_to(entry, self.architecture))
        else:
            return
        if entry.uki_digest in ("", info.uki.digest):
            source = await self._artifacts.fetch(info.uki)
            async with self._boot.writable():
                await anyio.to_thread.run_sync(
                    self._boot.write_uki, entry.uki, source, info.uki.digest
                )
            self._artifacts.drop(info)

    async def _accept(self, seen: Measured, info: OsImageInfo, idle: str) -> None:
        """Refuse before anything is lost. Raises OsEngineFailed."""
        require_fallback(seen)
        trouble = seen.facts[idle].trouble or self._measure.disk_trouble(seen.system)
        if trouble:
            raise OsEngineFailed(OsReason.SLOT_UNREADABLE, f"slot {idle} is not written: {trouble}")
        if info.architecture != self.architecture:
            raise OsEngineFailed(
                OsReason.ARCHITECTURE_MISMATCH,
                f"OS image {info.name} {info.version} is for {info.architecture}, this host is"
                f" {self.architecture}",
                hint="assign an image that was built for this host",
                retryable=False,
            )
        check_generation(seen, info)
        for label, blob, _ in slotdisk.parts(idle, info):
            size = self._size(label)
            if blob.size_bytes % SECTOR or blob.size_bytes < 2 * DATA_SUPER:
                raise invalid(info, f"what belongs on {label} has {blob.size_bytes} bytes")
            if blob.size_bytes > size:
                raise OsEngineFailed(
                    OsReason.IMAGE_TOO_LARGE,
                    f"OS image {info.name} {info.version} needs {blob.size_bytes} bytes on"
                    f" partition {label}, which has {size}",
                    hint="build a smaller image, or install the machine with larger slots",
                    retryable=False,
                )
        self._boot.space_for(info.uki.size_bytes, slot=idle)

    def _size(self, label: str) -> int:
        try:
            return self.volumes.size(label)
        except VolumeFailed as exc:
            raise unreadable(exc) from exc

    async def _already(
        self, seen: Measured, image: ArtifactRef, info: OsImageInfo, idle: str
    ) -> bool:
        """Whether the idle slot holds the image, looked at bit by bit."""
        facts, found = seen.facts[idle], seen.entry(idle)
        if (facts.root_uuid, facts.verity_uuid) != (info.root_uuid, info.verity_uuid):
            return False
        noted = facts.note is not None and facts.note.complete and facts.note.info == info
        if not noted and (found is None or found.entry is None):
            return False
        uki = uki_name(idle, info.root_hash)
        if await anyio.to_thread.run_sync(self._boot.digest_of, uki) != info.uki.digest:
            return False
        try:
            if not await anyio.to_thread.run_sync(slotdisk.holds, self.volumes, idle, info):
                return False
        except VolumeFailed as exc:
            raise unreadable(exc) from exc
        self._write_note(SlotNote(slot=idle, image=image.digest, info=info, complete=True))
        return True

    async def _fill(self, seen: Measured, image: ArtifactRef, info: OsImageInfo, idle: str) -> None:
        paths = {
            blob.digest: await self._artifacts.fetch(blob)
            for blob in (info.root, info.verity, info.uki)
        }
        self._check_names(info, paths)
        uki = uki_name(idle, info.root_hash)
        note = SlotNote(slot=idle, image=image.digest, info=info)
        self._write_note(note)
        async with self._boot.writable():
            # From here on the idle slot cannot start; no half of it must be startable.
            for item in seen.of_slot(idle):
                self._boot.remove_entry(item.file)
            self._boot.remove_images(idle, keep=uki)
        try:
            await anyio.to_thread.run_sync(self._write_slot, info, paths, idle)
        except VolumeFailed as exc:
            raise unreadable(exc) from exc
        async with self._boot.writable():
            await anyio.to_thread.run_sync(
                self._boot.write_uki, uki, paths[info.uki.digest], info.uki.digest
            )
        self._write_note(msgspec.structs.replace(note, complete=True))

    def _write_slot(self, info: OsImageInfo, paths: dict[str, str], idle: str) -> None:
        slotdisk.wipe(self.volumes, idle)
        for label, blob, at in slotdisk.parts(idle, info):
            path = paths[blob.digest]
            slotdisk.fill(self.volumes, self.root, path, label, at, chunk=self.chunk)
        for label, blob, at in slotdisk.parts(idle, info):
            slotdisk.name(self.volumes, self.root, paths[blob.digest], label, at)
        if not slotdisk.holds(self.volumes, idle, info):
            slotdisk.wipe(self.volumes, idle)
            raise OsEngineFailed(
                OsReason.SLOT_UNREADABLE,
                f"slot {idle} gives back other bytes than were written to it",
                hint="it is written again by itself; if this repeats, replace the disk",
            )

    def _check_names(self, info: OsImageInfo, paths: dict[str, str]) -> None:
        data = slotdisk.superblock(self.root, paths[info.root.digest], DATA_SUPER)
        hashes = slotdisk.superblock(self.root, paths[info.verity.digest], VERITY_SUPER)
        if (erofs_uuid(data), verity_uuid(hashes)) != (info.root_uuid, info.verity_uuid):
            raise invalid(info, "its files are not named as its metadata says")

    async def _adopt_running(self, seen: Measured, image: ArtifactRef, info: OsImageInfo) -> None:
        """The image runs already: remember its name, and mend its boot image if that is damaged."""
        running = running_of(seen)
        found, uki = seen.entry(running), uki_name(running, info.root_hash)
        if found is not None and found.entry is not None:
            uki = found.entry.uki
        digest = await anyio.to_thread.run_sync(self._boot.digest_of, uki)
        if digest != info.uki.digest:
            ours = image.digest == seen.observed.image
            if not ours:
                raise invalid(
                    info, "it has the root that runs, but another boot image; give it a new version"
                )
            source = await self._artifacts.fetch(info.uki)
            async with self._boot.writable():
                await anyio.to_thread.run_sync(self._boot.write_uki, uki, source, info.uki.digest)
        note = SlotNote(slot=running, image=image.digest, info=info, complete=True)
        if seen.facts[running].note != note:
            self._write_note(note)
        self._artifacts.drop(info)

    def _check_uki(self, slot: str, entry: BootEntry) -> None:
        trouble = self._boot.uki_trouble(entry.uki, entry.uki_digest)
        if trouble:
            raise OsEngineFailed(
                OsReason.BOOT_PARTITION_BROKEN,
                f"slot {slot} cannot be armed: {trouble}",
                hint="stage the image again",
                retryable=False,
            )

    def _confirmed(self, seen: Measured, running: str) -> BootEntry:
        """The entry that the running slot is to have: the first that the loader would choose."""
        found = seen.entry(running)
        facts = seen.facts[running]
        here = (facts.root_uuid, facts.verity_uuid)
        if found is not None and found.entry is not None:
            entry = found.entry
            if here != (entry.root_uuid, entry.verity_uuid):
                raise changed(running)
        else:
            entry = self._rebuilt(seen, running)
        self._boot.look_again()
        trouble = self._boot.uki_trouble(entry.uki, entry.uki_digest)
        if trouble:
            raise OsEngineFailed(
                OsReason.BOOT_PARTITION_BROKEN,
                f"slot {running} cannot be confirmed: {trouble}",
                hint="assign the image of this host again, so that its boot image is written anew",
            )
        others = (
            item.name.generation
            for item in seen.entries
            if item.name.confirmed and item.slot != running
        )
        if max(others, default=0) > entry.generation:
            return msgspec.structs.replace(entry, generation=seen.newest + 1)
        return entry

    def _rebuilt(self, seen: Measured, running: str) -> BootEntry:
        """The running slot's entry when the boot partition lost it."""
        facts, system, release = seen.facts[running], seen.system, release_of(self.root)
        if (facts.root_uuid, facts.verity_uuid) != (system.root_uuid, system.verity_uuid):
            raise changed(running)
        note = facts.note
        if note is not None and note.info.root_hash != system.root_hash:
            note = None
        return BootEntry(
            generation=seen.newest + 1,
            slot=running,
            name=note.info.name if note else release.get("IMAGE_ID", "image"),
            version=note.info.version if note else release.get("IMAGE_VERSION", "0.0.0"),
            root_hash=system.root_hash,
            root_uuid=system.root_uuid,
            verity_uuid=system.verity_uuid,
            uki=uki_name(running, system.root_hash),
            image=note.image if note else "",
            policy_generation=note.info.generation if note else 1,
            uki_digest=note.info.uki.digest if note else "",
        )

    async def _return(self, seen: Measured, slot: str) -> None:
        found = seen.entry(slot)
        if found is None or found.entry is None:
            return
        name = found.name.returned()
        async with self._boot.writable():
            self._boot.write_entry(name, found.entry)
            for item in seen.of_slot(slot):
                if item.file != name.file:
                    self._boot.remove_entry(item.file)

    def _write_note(self, note: SlotNote) -> None:
        self.root.write(note_path(note.slot), msgspec.json.encode(note), mode=0o600)
