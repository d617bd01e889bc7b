"""An OS engine without an OS: product code for simulated hosts, and for tests of the planner.

It keeps what a real host keeps on its disk in one file of the Root, so that a crash between calls
loses nothing. `start` is the machine's loader: it counts tries and falls back as systemd-boot
does. Faults are asked for by name and are those that a real host has.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from skerry.agent import paths
from skerry.agent.content import Content
from skerry.agent.osengine.engine import OsEngineFailed, OsReason
from skerry.lib.files import Root
from skerry.model.artifact import ArtifactRef
from skerry.model.meta import Record
from skerry.plan.bootentries import TRIES, EntryName, counted, first_to_start
from skerry.plan.disklayout import SLOTS
from skerry.plan.osupdate import OsEngineKind, OsObserved, OsSlot, SlotState

PLACE = f"{paths.STATE}/os/fake.json"


class _Slot(Record, frozen=True, kw_only=True):
    """What lies in a slot; `entry` is None while nothing leads to it."""

    image: str = ""
    version: str = ""
    whole: bool = False
    entry: EntryName | None = None


class _Kept(Record, frozen=True, kw_only=True):
    """What a real host would have on its disk and in its firmware."""

    slots: dict[str, _Slot]
    running: str
    starts: int = 1
    reset: str = ""


@dataclass
class OsFaults:
    """What goes wrong. Versions are those of images."""

    unbootable: frozenset[str] = frozenset()
    """Images that never come up: each start uses up a try."""
    lost_starts: int = 0
    """How many of the next starts on trial lose their power before a verdict."""
    failing: dict[str, int] = field(default_factory=dict)
    """Name of a call -> how many times it still fails, before it did anything."""
    half: dict[str, int] = field(default_factory=dict)
    """The same, but halfway through: the slot is left partial."""


class FakeOsEngine:
    """Two slots that take no time. `version` is what a fresh host has in slot a."""

    def __init__(
        self,
        root: Root,
        *,
        content: Content | None = None,
        architecture: str = "amd64",
        version: str = "1.0.0",
        image: str = "",
    ) -> None:
        self._root = root
        self._content = content
        self._architecture = architecture
        self._fresh = _Kept(
            slots={
                "a": _Slot(version=version, image=image, whole=True, entry=EntryName(generation=1)),
                "b": _Slot(),
            },
            running="a",
        )
        self.faults = OsFaults()

    async def describe(self) -> OsObserved:
        kept = self._kept()
        here = kept.slots[kept.running]
        return OsObserved(
            engine=OsEngineKind.FAKE,
            architecture=self._architecture,
            boot_id=f"fake-boot-{kept.starts}",
            running=kept.running,
            version=here.version,
            image=here.image,
            slots=tuple(_said(name, kept) for name in SLOTS),
        )

    async def stage(self, image: ArtifactRef) -> None:
        self._fail("stage")
        kept = self._kept()
        if kept.slots[kept.running].image == image.digest:
            return
        idle = self._idle(kept)
        if image.architecture != self._architecture:
            raise OsEngineFailed(
                OsReason.ARCHITECTURE_MISMATCH,
                f"OS image {image.name} {image.version} is for {image.architecture}, this host is"
                f" {self._architecture}",
                retryable=False,
            )
        if kept.slots[idle].image == image.digest and kept.slots[idle].whole:
            return
        if self._content is not None:
            await self._content.ensure(image.digest)
        half = _Slot(image=image.digest, version=image.version)
        kept = self._put(kept, idle, half)
        self._fail("stage", self.faults.half)
        self._put(kept, idle, msgspec.structs.replace(half, whole=True))

    async def activate(self, image: ArtifactRef, *, trial_s: int) -> None:
        self._fail("activate")
        kept = self._kept()
        if kept.slots[kept.running].image == image.digest:
            return
        idle = self._idle(kept)
        slot = kept.slots[idle]
        if slot.image != image.digest or not slot.whole:
            raise OsEngineFailed(
                OsReason.OS_ENGINE_FAILED,
                f"OS image {image.name} {image.version} is not staged in slot {idle}",
                retryable=False,
            )
        newest = _newest(kept)
        if slot.entry != EntryName(generation=newest, left=TRIES):
            entry = EntryName(generation=newest + 1, left=TRIES)
            self._put(kept, idle, msgspec.structs.replace(slot, entry=entry))

    async def confirm(self) -> None:
        self._fail("confirm")
        kept = self._kept()
        slot = kept.slots[kept.running]
        generation = slot.entry.generation if slot.entry else _newest(kept) + 1
        others = (
            item.entry.generation
            for name, item in kept.slots.items()
            if name != kept.running and item.entry and item.entry.confirmed
        )
        if max(others, default=0) > generation:
            generation = _newest(kept) + 1
        entry = EntryName(generation=generation)
        if slot.entry != entry:
            self._put(kept, kept.running, msgspec.structs.replace(slot, entry=entry))

    async def roll_back(self) -> None:
        self._fail("roll_back")
        kept = self._kept()
        for name in SLOTS:
            slot = kept.slots[name]
            if slot.entry is not None and _said(name, kept).state is SlotState.TRIAL:
                returned = slot.entry.returned()
                kept = self._put(kept, name, msgspec.structs.replace(slot, entry=returned))

    async def reset(self, *, keep_identity: bool) -> None:
        self._fail("reset")
        asked = "keep" if keep_identity else "all"
        self._write(msgspec.structs.replace(self._kept(), reset=asked))

    def start(self) -> str:
        """The machine starts: until some slot comes up. Answers the slot that runs now."""
        while True:
            kept = self._kept()
            names = {slot.entry: name for name, slot in kept.slots.items() if slot.entry}
            chosen = first_to_start(tuple(names))
            if chosen is None:
                raise OsEngineFailed(OsReason.OS_ENGINE_FAILED, "no slot of this host can start")
            name = names[chosen]
            slot = msgspec.structs.replace(kept.slots[name], entry=counted(chosen))
            kept = msgspec.structs.replace(
                self._put(kept, name, slot), running=name, starts=kept.starts + 1
            )
            self._write(kept)
            if self.faults.lost_starts and not chosen.confirmed:
                self.faults.lost_starts -= 1
            elif slot.version not in self.faults.unbootable or chosen.confirmed or chosen.bad:
                return name

    def _idle(self, kept: _Kept) -> str:
        here = kept.slots[kept.running]
        if here.entry is None or not here.entry.confirmed:
            raise OsEngineFailed(
                OsReason.OS_BUSY, f"slot {kept.running} runs without being confirmed"
            )
        return next(name for name in SLOTS if name != kept.running)

    def _fail(self, call: str, faults: dict[str, int] | None = None) -> None:
        left = self.faults.failing if faults is None else faults
        if left.get(call, 0) > 0:
            left[call] -= 1
            raise OsEngineFailed(OsReason.OS_ENGINE_FAILED, f"{call} was made to fail")

    def _kept(self) -> _Kept:
        if not self._root.exists(PLACE):
            return self._fresh
        return msgspec.json.decode(self._root.read(PLACE), type=_Kept)

    def _put(self, kept: _Kept, name: str, slot: _Slot) -> _Kept:
        kept = msgspec.structs.replace(kept, slots={**kept.slots, name: slot})
        self._write(kept)
        return kept

    def _write(self, kept: _Kept) -> None:
        self._root.write(PLACE, msgspec.json.encode(kept))


def _newest(kept: _Kept) -> int:
    return max((slot.entry.generation for slot in kept.slots.values() if slot.entry), default=0)


def _said(name: str, kept: _Kept) -> OsSlot:
    slot = kept.slots[name]
    if not slot.image and not slot.whole:
        return OsSlot(name=name, state=SlotState.EMPTY)
    if not slot.whole:
        state = SlotState.PARTIAL
    elif slot.entry is None:
        state = SlotState.STAGED
    elif slot.entry.confirmed:
        state = SlotState.GOOD
    elif slot.entry.rolled_back or (slot.entry.bad and name != kept.running):
        state = SlotState.BAD
    else:
        state = SlotState.TRIAL
    left = (slot.entry.left or 0) if slot.entry else 0
    return OsSlot(name=name, state=state, image=slot.image, version=slot.version, tries_left=left)
