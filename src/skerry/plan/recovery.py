"""What a recovery system does next: it runs because nothing on the boot partition could.

The one rule: a machine that nobody visits must try everything that could still start, each once,
before it waits, and ask again after a while, for cables and disks come back. A slot that is whole
is never written over.
"""

from __future__ import annotations

from enum import StrEnum

from skerry.model.meta import Record
from skerry.plan.bootentries import EntryName
from skerry.plan.disklayout import SLOTS

ASK_AGAIN_S = 3600.0


class Part(StrEnum):
    """How a part of a slot was found. `unread`: nobody looked, or it could not be told."""

    WHOLE = "whole"
    DAMAGED = "damaged"
    MISSING = "missing"
    UNREAD = "unread"


class RecoverySlot(Record, frozen=True, kw_only=True):
    """A slot as the recovery system measured it. `entry` is the newest that leads to it."""

    name: str
    version: str = ""
    entry: EntryName | None = None
    uki: Part = Part.UNREAD
    root: Part = Part.UNREAD


class RecoveryFacts(Record, frozen=True, kw_only=True):
    """`loaded` is the generation of the entry that the loader chose at this start, so the one that
    just failed (0: unknown); `tried` the generations that recovery asked for since a system last
    ran; `source` says whether an image to install from is at hand, `allowed` whether it may be
    used without a person."""

    slots: tuple[RecoverySlot, ...] = ()
    boot_partition: Part = Part.WHOLE
    state_partition: Part = Part.UNREAD
    loaded: int = 0
    tried: tuple[int, ...] = ()
    source: str = ""
    allowed: bool = False


class RecoveryAct(StrEnum):
    START_ONCE = "start-once"
    REINSTALL = "reinstall"
    WAIT = "wait"


class RecoveryStep(Record, frozen=True, kw_only=True):
    """What to do. `slot` is empty when waiting; `cause` is one line, `told` one line for each
    part of the machine, `next` what a person can do; `again_s` when to look again (0: at once)."""

    act: RecoveryAct
    cause: str
    next: str
    slot: str = ""
    generation: int = 0
    told: tuple[str, ...] = ()
    again_s: float = 0.0


def next_step(facts: RecoveryFacts) -> RecoveryStep:
    """Decide. The same facts give the same step, whatever was decided before."""
    told = tuple(_told(slot) for slot in facts.slots)
    able = [slot for slot in facts.slots if _may_start(slot, facts)]
    if able and facts.boot_partition is Part.WHOLE:
        best = max(able, key=lambda slot: _hope(slot, facts))
        assert best.entry is not None
        return RecoveryStep(
            act=RecoveryAct.START_ONCE,
            slot=best.name,
            generation=best.entry.generation,
            cause=_cause(facts),
            next=f"slot {best.name} is tried once, now",
            told=told,
        )
    target = _to_write(facts)
    if facts.source and target:
        return _from_source(facts, target, told)
    return RecoveryStep(
        act=RecoveryAct.WAIT,
        cause=_cause(facts),
        next=f"install this machine again from a stick; {_state_text(facts)}",
        told=told,
        again_s=ASK_AGAIN_S,
    )


def _from_source(facts: RecoveryFacts, target: str, told: tuple[str, ...]) -> RecoveryStep:
    if facts.allowed:
        return RecoveryStep(
            act=RecoveryAct.REINSTALL,
            slot=target,
            cause=_cause(facts),
            next=f"slot {target} is written again from {facts.source}; {_state_text(facts)}",
            told=told,
        )
    return RecoveryStep(
        act=RecoveryAct.WAIT,
        slot=target,
        cause=_cause(facts),
        next=f"confirm at this screen that slot {target} may be written from {facts.source};"
        f" {_state_text(facts)}",
        told=told,
        again_s=ASK_AGAIN_S,
    )


def _may_start(slot: RecoverySlot, facts: RecoveryFacts) -> bool:
    gone = (Part.DAMAGED, Part.MISSING)
    return (
        slot.entry is not None
        and slot.uki not in gone
        and slot.root not in gone
        and slot.entry.generation not in facts.tried
    )


def _hope(slot: RecoverySlot, facts: RecoveryFacts) -> tuple[bool, bool, bool, int]:
    """What just failed comes last, what was confirmed before what never was; a slot that was
    given up is still better than none."""
    entry = slot.entry
    assert entry is not None
    return (
        entry.generation != facts.loaded,
        not entry.bad,
        entry.confirmed,
        entry.generation,
    )


def _to_write(facts: RecoveryFacts) -> str:
    """The slot that an image may go to: one that is broken, and of those the one whose entry is
    the oldest. None when every slot is whole: then not the slots are what is wrong."""
    gone = (Part.DAMAGED, Part.MISSING)
    known = {slot.name: slot for slot in facts.slots}
    broken = [
        name
        for name in SLOTS
        if name not in known or known[name].root in gone or known[name].uki in gone
    ]

    def age(name: str) -> tuple[int, str]:
        entry = known[name].entry if name in known else None
        return (entry.generation if entry else 0, name)

    return min(broken, key=age, default="")


def _cause(facts: RecoveryFacts) -> str:
    if facts.boot_partition is not Part.WHOLE:
        return f"the boot partition is {_word(facts.boot_partition)}"
    if not any(slot.entry for slot in facts.slots):
        return "no boot entry is on this machine"
    failed = next((x for x in facts.slots if x.entry and x.entry.generation == facts.loaded), None)
    if failed is None:
        return "no system on this machine could be started"
    for what, part in (("boot image", failed.uki), ("root", failed.root)):
        if part in (Part.DAMAGED, Part.MISSING):
            return f"the {what} of slot {failed.name}, which was to start, is {_word(part)}"
    return f"slot {failed.name} was to start and did not"


def _told(slot: RecoverySlot) -> str:
    entry = slot.entry
    if entry is None:
        standing = "no boot entry"
    elif entry.confirmed:
        standing = "confirmed"
    elif entry.bad:
        standing = "given up"
    else:
        standing = f"on trial, {entry.left} tries left"
    return (
        f"slot {slot.name}: {slot.version or 'unknown version'}, {standing},"
        f" boot image {_word(slot.uki)}, root {_word(slot.root)}"
    )


def _state_text(facts: RecoveryFacts) -> str:
    if facts.state_partition in (Part.DAMAGED, Part.MISSING):
        return f"the state partition is {_word(facts.state_partition)}, so the host enrols anew"
    return "what the state partition holds stays"


def _word(part: Part) -> str:
    return "not looked at" if part is Part.UNREAD else part.value
