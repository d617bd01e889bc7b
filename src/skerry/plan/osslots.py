"""What the appliance's slots are, judged from what was measured of disk and boot partition.

A slot is a name by what is in it (its superblocks' UUIDs), and can start by what points at it (an
entry and a boot image). Both must agree; whatever does not is said, never raised
(docs/adr/0004-appliance-slots.md).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from skerry.model.meta import Record
from skerry.model.osimage import OsImageInfo
from skerry.plan.bootentries import BootEntry, EntryName
from skerry.plan.disklayout import SLOTS, data_label, verity_label
from skerry.plan.osupdate import OsSlot, SlotState

# Where each superblock lies; one sector each, so that it is there whole or not at all.
# erofs: fs/erofs/erofs_fs.h, struct erofs_super_block; verity: cryptsetup, lib/verity/verity.c.
SECTOR = 512
DATA_SUPER = 1024
VERITY_SUPER = 0
_EROFS_MAGIC = b"\xe2\xe1\xf5\xe0"
_EROFS_UUID = 0x30
_VERITY_MAGIC = b"verity\0\0"
_VERITY_UUID = 16


class SlotNote(Record, frozen=True, kw_only=True):
    """What was, or is being, written to a slot. `complete`: read back and found right."""

    slot: str
    image: str
    info: OsImageInfo
    complete: bool = False


@dataclass(frozen=True, slots=True)
class RunningSystem:
    """What the kernel says of itself. `devices` are the partitions that the root lies on and
    `labels` their labels, `loaded` the entry that was started (None: unknown)."""

    root_hash: str = ""
    root_uuid: str = ""
    verity_uuid: str = ""
    recovery: bool = False
    labels: frozenset[str] = frozenset()
    devices: tuple[str, ...] = ()
    loaded: EntryName | None = None


@dataclass(frozen=True, slots=True)
class FoundEntry:
    """A file in the folder of entries. `entry` is None when it could not be understood; `slot` is
    where the loader would go all the same, empty for nowhere."""

    file: str
    name: EntryName
    entry: BootEntry | None
    slot: str = ""


@dataclass(frozen=True, slots=True)
class SlotFacts:
    """What lies in a slot. UUIDs are empty where no superblock is; `trouble` says what could not
    be read, `uki_trouble` what is wrong with the boot image that its entry or note names."""

    name: str
    root_uuid: str = ""
    verity_uuid: str = ""
    trouble: str = ""
    uki_trouble: str = ""
    note: SlotNote | None = None


def erofs_uuid(sector: bytes) -> str:
    """UUID in the sector at `DATA_SUPER`; empty when no erofs is there."""
    return _uuid(sector, _EROFS_UUID) if sector.startswith(_EROFS_MAGIC) else ""


def verity_uuid(sector: bytes) -> str:
    """UUID in the sector at `VERITY_SUPER`; empty when no tree of hashes is there."""
    return _uuid(sector, _VERITY_UUID) if sector.startswith(_VERITY_MAGIC) else ""


def parse_cmdline(text: str) -> RunningSystem:
    """What the signed command line names; empty fields for what it does not."""
    words = (word.partition("=") for word in text.split())
    given = {key: value for key, _, value in words}
    root_hash = given.get("roothash", "")
    return RunningSystem(
        root_hash=root_hash if re.fullmatch(r"[0-9a-f]{64}", root_hash) else "",
        root_uuid=_uuid_at_end(given.get("systemd.verity_root_data", "")),
        verity_uuid=_uuid_at_end(given.get("systemd.verity_root_hash", "")),
        recovery="skerry.recovery" in given,
    )


def standing(entries: tuple[FoundEntry, ...], slot: str) -> FoundEntry | None:
    """The entry that the loader would start this slot by, or the last that it had."""
    ours = [item for item in entries if item.entry is not None and item.entry.slot == slot]
    return max(ours, key=_weight, default=None)


def running_slot(
    system: RunningSystem, slots: tuple[SlotFacts, ...], entries: tuple[FoundEntry, ...]
) -> tuple[str, tuple[str, ...]]:
    """The slot that runs ("" for none), and what contradicts it."""
    by_device = [slot for slot in SLOTS if {data_label(slot), verity_label(slot)} & system.labels]
    by_content = [item.name for item in slots if _named(item, system, entries)]
    if len(by_device) > 1:
        return "", ("the running system lies on partitions of both slots",)
    if not by_device:
        if len(by_content) > 1:
            return "", ("both slots hold the image that runs; which one runs is not known",)
        return (by_content[0] if by_content else ""), ()
    running, problems = by_device[0], []
    if system.root_hash and running not in by_content:
        problems.append(f"slot {running}, which runs, was changed on the disk")
    loaded = system.loaded.generation if system.loaded else 0
    chosen = next((item.entry for item in entries if item.name.generation == loaded), None)
    if chosen is not None and chosen.slot != running:
        problems.append(f"the loader started slot {chosen.slot}, but slot {running} runs")
    return running, tuple(problems)


def judge(
    facts: SlotFacts, found: FoundEntry | None, *, running: bool
) -> tuple[OsSlot, tuple[str, ...]]:
    """One slot, and what is not as it should be about it."""
    slot, note = facts.name, facts.note
    if facts.trouble:
        return OsSlot(name=slot, state=SlotState.EMPTY), (f"slot {slot}: {facts.trouble}",)
    if found is None or found.entry is None:
        return _without_entry(facts, running=running)
    entry = found.entry
    if (facts.root_uuid, facts.verity_uuid) != (entry.root_uuid, entry.verity_uuid):
        text = f"slot {slot} does not hold what its boot entry {found.file} names"
        if not running:
            return OsSlot(name=slot, state=SlotState.EMPTY), (text,)
        problems = [text]
    else:
        problems = []
    if facts.uki_trouble:
        problems.append(f"boot image of slot {slot}: {facts.uki_trouble}")
    noted = note.image if note and note.info.root_hash == entry.root_hash else ""
    return OsSlot(
        name=slot,
        state=_state(found.name, running=running),
        image=entry.image or noted,
        version=entry.version,
        tries_left=found.name.left or 0,
    ), tuple(problems)


def _without_entry(facts: SlotFacts, *, running: bool) -> tuple[OsSlot, tuple[str, ...]]:
    slot, note = facts.name, facts.note
    whole = note is not None and (facts.root_uuid, facts.verity_uuid) == (
        note.info.root_uuid,
        note.info.verity_uuid,
    )
    said = OsSlot(
        name=slot,
        state=SlotState.EMPTY,
        image=note.image if note else "",
        version=note.info.version if note else "",
    )
    if running:
        trouble = (f"slot {slot}, which runs, has no boot entry and would not start again",)
        if not whole:
            said = OsSlot(name=slot, state=said.state)
        return _with(said, SlotState.STAGED), trouble
    if note is None:
        return said, ()
    if not note.complete:
        return _with(said, SlotState.PARTIAL), ()
    if whole and not facts.uki_trouble:
        return _with(said, SlotState.STAGED), ()
    what = facts.uki_trouble or "its superblocks are not those that were written"
    return OsSlot(name=slot, state=SlotState.EMPTY), (
        f"slot {slot} no longer holds what was staged: {what}",
    )


def _state(name: EntryName, *, running: bool) -> SlotState:
    if name.confirmed:
        return SlotState.GOOD
    # The loader counts down before it starts: the last try runs with none left.
    if name.rolled_back or (name.bad and not running):
        return SlotState.BAD
    return SlotState.TRIAL


def _with(slot: OsSlot, state: SlotState) -> OsSlot:
    return OsSlot(name=slot.name, state=state, image=slot.image, version=slot.version)


def _weight(item: FoundEntry) -> tuple[int, bool, int]:
    return item.name.generation, item.name.confirmed, item.name.left or 0


def _named(facts: SlotFacts, system: RunningSystem, entries: tuple[FoundEntry, ...]) -> bool:
    """Whether the command line names what is in this slot."""
    if not facts.root_uuid or not facts.verity_uuid:
        return False
    here = (facts.root_uuid, facts.verity_uuid)
    if system.root_uuid or system.verity_uuid:
        return here == (system.root_uuid, system.verity_uuid)
    return any(
        item.entry.root_hash == system.root_hash
        and here == (item.entry.root_uuid, item.entry.verity_uuid)
        for item in entries
        if item.entry is not None and system.root_hash
    )


def _uuid(sector: bytes, at: int) -> str:
    """Sixteen bytes as they stand, in both formats."""
    text = sector[at : at + 16].hex()
    cut = (text[:8], text[8:12], text[12:16], text[16:20], text[20:])
    return "-".join(cut) if len(text) == 32 else ""


def _uuid_at_end(text: str) -> str:
    found = re.search(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$", text.lower())
    return found[0] if found else ""
