"""Measures the appliance: which slot runs, what lies in both, what would start.

Nothing here raises for what is broken; it becomes a sentence in `problems`. Cheap enough for every
half minute: four sectors, a few small files; boot images are read whole once in six hours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import msgspec

from skerry.agent import paths
from skerry.agent.identity import boot_id
from skerry.agent.osengine.bootfiles import BOOT, BootFiles
from skerry.agent.osengine.osrelease import release_of
from skerry.agent.osengine.slotdisk import measure
from skerry.lib.files import FileMissing, Root, text_of
from skerry.lib.volumes import VolumeFailed, Volumes
from skerry.plan.bootentries import EntryName, parse_name, uki_name
from skerry.plan.disklayout import SLOTS, data_label, verity_label
from skerry.plan.osslots import (
    FoundEntry,
    RunningSystem,
    SlotFacts,
    SlotNote,
    judge,
    parse_cmdline,
    running_slot,
    standing,
)
from skerry.plan.osupdate import OsEngineKind, OsObserved, OsSlot

NOTES = f"{paths.STATE}/os"
_SELECTED = "/sys/firmware/efi/efivars/LoaderEntrySelected-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured, and what it was judged from."""

    observed: OsObserved
    system: RunningSystem
    entries: tuple[FoundEntry, ...]
    facts: dict[str, SlotFacts]

    def entry(self, slot: str) -> FoundEntry | None:
        return standing(self.entries, slot)

    def of_slot(self, slot: str) -> list[FoundEntry]:
        """Every entry that leads to the slot, and those that lead nowhere."""
        return [item for item in self.entries if item.slot in (slot, "")]

    @property
    def newest(self) -> int:
        """The highest generation that any entry has, damaged ones included."""
        return max((item.name.generation for item in self.entries), default=0)


def note_path(slot: str) -> str:
    return f"{NOTES}/slot-{slot}.json"


@dataclass(slots=True)
class AbMeasure:
    """The appliance through its doors."""

    root: Root
    volumes: Volumes
    boot: BootFiles
    architecture: str
    _loaded: EntryName | None = None
    _looked: bool = False

    def now(self) -> Measured:
        """Measure. Reads of small files and sectors, so for a thread."""
        try:
            return self._measure()
        except OSError as exc:
            text = f"the slots cannot be looked at: {exc.strerror}"
            observed = self._observed(RunningSystem(), "", (), (text,))
            return Measured(
                observed, RunningSystem(), (), {slot: SlotFacts(slot) for slot in SLOTS}
            )

    def note(self, slot: str) -> SlotNote | None:
        """What this host wrote, or adopted, as the content of a slot."""
        try:
            data = self.root.read(note_path(slot))
            note = msgspec.json.decode(data, type=SlotNote)
        except (FileMissing, OSError, msgspec.DecodeError, RecursionError):
            return None
        return note if note.slot == slot else None

    def disk_trouble(self, system: RunningSystem) -> str:
        """Why the labels cannot be trusted: two disks with the same ones."""
        try:
            labels = [label(slot) for slot in SLOTS for label in (data_label, verity_label)]
            disks = sorted({self.volumes.disk(item) for item in labels})
        except VolumeFailed:
            return ""  # said for its slot
        at = [name for name in system.devices if not _lies_on(name, disks[0])]
        if len(disks) > 1 or at:
            found = ", ".join([*disks, *at])
            return f"partitions of the slots lie on more than one disk ({found}); remove one"
        return ""

    def _measure(self) -> Measured:
        system = self._system()
        entries, problems = self.boot.entries()
        facts = {slot: measure(self.volumes, slot, self.note(slot)) for slot in SLOTS}
        facts = {slot: self._with_uki(entries, found) for slot, found in facts.items()}
        running, odd = (
            ("", ()) if system.recovery else running_slot(system, tuple(facts.values()), entries)
        )
        judged = [
            judge(facts[slot], standing(entries, slot), running=slot == running) for slot in SLOTS
        ]
        if not self.boot.mounted():
            problems = (f"the boot partition is not mounted at {BOOT}",)
        else:
            problems += tuple(text for _, texts in judged for text in texts)
        problems += odd
        if not running and not system.recovery:
            problems += ("which slot runs is not known: none holds what the command line names",)
        for text in (self.disk_trouble(system), _passed_over(running, entries)):
            problems += (text,) if text else ()
        slots = tuple(slot for slot, _ in judged)
        return Measured(self._observed(system, running, slots, problems), system, entries, facts)

    def _observed(
        self,
        system: RunningSystem,
        running: str,
        slots: tuple[OsSlot, ...],
        problems: tuple[str, ...],
    ) -> OsObserved:
        here = next((slot for slot in slots if slot.name == running), None)
        return OsObserved(
            engine=OsEngineKind.AB,
            architecture=self.architecture,
            boot_id=boot_id(self.root),
            running=running,
            version=(here.version if here else "")
            or release_of(self.root).get("IMAGE_VERSION", ""),
            image=here.image if here else "",
            recovery=system.recovery,
            slots=slots,
            problems=problems,
        )

    def _with_uki(self, entries: tuple[FoundEntry, ...], facts: SlotFacts) -> SlotFacts:
        found, note = standing(entries, facts.name), facts.note
        size = 0
        if found is not None and found.entry is not None:
            uki, digest = found.entry.uki, found.entry.uki_digest
        elif note is not None:
            uki = uki_name(facts.name, note.info.root_hash)
            digest, size = note.info.uki.digest, note.info.uki.size_bytes
        else:
            return facts
        return replace(facts, uki_trouble=self.boot.uki_trouble(uki, digest, size))

    def _system(self) -> RunningSystem:
        devices = _devices(self.root)
        labels = {_label(self.root, name) for name in devices} - {""}
        return replace(
            parse_cmdline(text_of(self.root, "/proc/cmdline")),
            labels=frozenset(labels),
            devices=devices,
            loaded=self._selected(),
        )

    def _selected(self) -> EntryName | None:
        """The entry that the loader started; it stays the same for as long as the system runs."""
        if not self._looked:
            self._looked = True
            try:
                data = self.root.read(_SELECTED)
            except (FileMissing, OSError):
                data = b""
            file = data[4:].decode("utf-16-le", errors="replace").rstrip("\0")
            self._loaded = parse_name(file if file.endswith(".conf") else f"{file}.conf")
        return self._loaded


def _devices(root: Root) -> tuple[str, ...]:
    """Partitions that the running root lies on: those below its mapped device."""
    number = ""
    for line in text_of(root, "/proc/self/mountinfo").splitlines():
        words = line.split()
        if len(words) > 4 and words[4] == "/":
            number = words[2]
    return tuple(root.list(f"/sys/dev/block/{number}/slaves")) if number else ()


def _label(root: Root, device: str) -> str:
    for line in text_of(root, f"/sys/class/block/{device}/uevent").splitlines():
        key, _, value = line.partition("=")
        if key == "PARTNAME":
            return value
    return ""


def _lies_on(device: str, disk: str) -> bool:
    return re.fullmatch(rf"{re.escape(disk)}p?\d+", device) is not None


def _passed_over(running: str, entries: tuple[FoundEntry, ...]) -> str:
    """A confirmed slot that should have been started before the one that runs."""
    here = standing(entries, running)
    if here is None:
        return ""
    for slot in SLOTS:
        other = standing(entries, slot)
        if slot == running or other is None or not other.name.confirmed:
            continue
        if other.name.generation > here.name.generation:
            return f"slot {slot} is confirmed and newer, but slot {running} runs: it did not start"
    return ""
