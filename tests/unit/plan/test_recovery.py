"""What a recovery system decides."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skerry.plan.bootentries import EntryName
from skerry.plan.recovery import (
    Part,
    RecoveryAct,
    RecoveryFacts,
    RecoverySlot,
    RecoveryStep,
    next_step,
)

GONE = (Part.DAMAGED, Part.MISSING)


def slot(
    name: str,
    generation: int,
    *,
    left: int | None = None,
    uki: Part = Part.WHOLE,
    root: Part = Part.WHOLE,
) -> RecoverySlot:
    entry = EntryName(generation=generation, left=left)
    return RecoverySlot(name=name, version=f"1.{generation}.0", entry=entry, uki=uki, root=root)


def test_the_other_confirmed_slot_is_tried_when_the_newest_failed() -> None:
    facts = RecoveryFacts(slots=(slot("a", 1), slot("b", 2, uki=Part.DAMAGED)), loaded=2)

    step = next_step(facts)

    assert (step.act, step.slot, step.generation) == (RecoveryAct.START_ONCE, "a", 1)
    assert step.cause == "the boot image of slot b, which was to start, is damaged"


def test_what_just_failed_comes_after_everything_else() -> None:
    facts = RecoveryFacts(slots=(slot("a", 1, left=0), slot("b", 2)), loaded=2)

    assert next_step(facts).slot == "a"
    assert next_step(msgspec.structs.replace(facts, tried=(1,))).slot == "b"


def test_a_confirmed_slot_comes_before_one_on_trial() -> None:
    facts = RecoveryFacts(slots=(slot("a", 1), slot("b", 2, left=2)))

    assert next_step(facts).slot == "a"


def test_after_each_was_tried_the_machine_waits_and_asks_again() -> None:
    facts = RecoveryFacts(slots=(slot("a", 1), slot("b", 2)), tried=(1, 2), loaded=1)

    step = next_step(facts)

    assert (step.act, step.again_s) == (RecoveryAct.WAIT, 3600.0)
    assert step.cause == "slot a was to start and did not"
    assert "stick" in step.next


def test_a_broken_slot_is_written_again_from_an_image_at_hand() -> None:
    facts = RecoveryFacts(
        slots=(slot("a", 3, root=Part.DAMAGED), slot("b", 2, uki=Part.MISSING)),
        source="the stick SKERRY",
        allowed=True,
    )

    step = next_step(facts)

    assert (step.act, step.slot) == (RecoveryAct.REINSTALL, "b")
    assert "what the state partition holds stays" in step.next


def test_nothing_is_written_without_being_allowed() -> None:
    facts = RecoveryFacts(
        slots=(slot("a", 3, root=Part.DAMAGED), slot("b", 2, uki=Part.MISSING)),
        source="the stick SKERRY",
    )

    step = next_step(facts)

    assert (step.act, step.slot) == (RecoveryAct.WAIT, "b")
    assert "confirm" in step.next


def test_a_lost_boot_partition_is_named_as_the_cause() -> None:
    facts = RecoveryFacts(
        slots=(slot("a", 1), slot("b", 2)),
        boot_partition=Part.DAMAGED,
        state_partition=Part.MISSING,
    )

    step = next_step(facts)

    assert step.act is RecoveryAct.WAIT
    assert step.cause == "the boot partition is damaged"
    assert "enrols anew" in step.next


@pytest.mark.parametrize("name", [None, EntryName(generation=1), EntryName(generation=1, left=0)])
def test_every_slot_is_told_in_one_line(name: EntryName | None) -> None:
    step = next_step(RecoveryFacts(slots=(RecoverySlot(name="a", entry=name),)))

    assert len(step.told) == 1
    assert step.told[0].startswith("slot a: unknown version, ")


_entries = st.one_of(
    st.none(),
    st.builds(
        EntryName, generation=st.integers(1, 5), left=st.one_of(st.none(), st.integers(0, 3))
    ),
)
_slots = [
    st.builds(
        RecoverySlot,
        name=st.just(name),
        entry=_entries,
        uki=st.sampled_from(Part),
        root=st.sampled_from(Part),
    )
    for name in ("a", "b")
]
_facts = st.builds(
    RecoveryFacts,
    slots=st.tuples(*_slots),
    boot_partition=st.sampled_from(Part),
    loaded=st.integers(0, 5),
    source=st.sampled_from(["", "a stick"]),
    allowed=st.booleans(),
)


@settings(deadline=None)
@given(_facts)
def test_a_whole_slot_is_never_written_and_every_other_chance_is_taken(
    facts: RecoveryFacts,
) -> None:
    step = next_step(facts)
    by_name = {item.name: item for item in facts.slots}

    if step.act is RecoveryAct.REINSTALL:
        assert facts.allowed
        assert facts.source
        found = by_name[step.slot]
        assert found.root in GONE or found.uki in GONE
    assert step.cause
    assert step.next
    for line in (step.cause, step.next, *step.told):
        assert "\n" not in line


@settings(deadline=None)
@given(_facts)
def test_trying_ends(facts: RecoveryFacts) -> None:
    steps: list[RecoveryStep] = []
    for _ in itertools.count():
        step = next_step(facts)
        steps.append(step)
        if step.act is not RecoveryAct.START_ONCE:
            break
        facts = msgspec.structs.replace(
            facts, tried=(*facts.tried, step.generation), loaded=step.generation
        )

    asked = [step.generation for step in steps if step.act is RecoveryAct.START_ONCE]
    assert len(asked) == len(set(asked)) <= 2
