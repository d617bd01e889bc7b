"""What is made of the bytes and texts that slots are known by."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skerry.plan.bootentries import (
    TRIES,
    BootEntry,
    EntryName,
    counted,
    first_to_start,
    parse,
    parse_name,
    render,
    slot_named,
)
from skerry.plan.osslots import (
    FoundEntry,
    RunningSystem,
    SlotFacts,
    erofs_uuid,
    judge,
    parse_cmdline,
    running_slot,
    standing,
    verity_uuid,
)
from skerry.plan.osupdate import SlotState

HASH = "ab" * 32
ONE, TWO = (str(uuid.UUID(int=number)) for number in (1, 2))

names = st.builds(
    EntryName,
    generation=st.integers(1, 999_998),
    left=st.one_of(st.none(), st.integers(0, TRIES)),
    done=st.integers(0, 9),
)


def entry(slot: str, generation: int, *, left: int | None = None, done: int = 0) -> FoundEntry:
    name = EntryName(generation=generation, left=left, done=done)
    made = BootEntry(
        generation=generation,
        slot=slot,
        name="edge",
        version="1.0.0",
        root_hash=HASH,
        root_uuid=ONE,
        verity_uuid=TWO,
        uki=f"EFI/skerry/{slot}-abab.efi",
    )
    return FoundEntry(name.file, name, made, slot)


def test_names_of_slots_stand_in_their_superblocks() -> None:
    # First bytes as mkfs.erofs 1.5 and veritysetup 2.6 wrote them.
    erofs = bytes.fromhex("e2e1f5e0a1dd3cb7030000000c002400").ljust(0x30, b"\0")
    verity = bytes.fromhex("76657269747900000100000001000000")
    number = bytes.fromhex("11111111222233334444555566667777")

    assert erofs_uuid(erofs + number) == "11111111-2222-3333-4444-555566667777"
    assert verity_uuid(verity + number) == "11111111-2222-3333-4444-555566667777"


@settings(deadline=None)
@given(st.binary(max_size=600))
def test_any_bytes_can_lie_in_a_slot(sector: bytes) -> None:
    for found in (erofs_uuid(sector), verity_uuid(sector)):
        assert found == "" or uuid.UUID(found)


def test_the_signed_command_line_names_root_and_hashes() -> None:
    line = (
        f"quiet roothash={HASH} systemd.verity_root_data=/dev/disk/by-uuid/{ONE}"
        f" systemd.verity_root_hash=/dev/disk/by-uuid/{TWO}"
    )

    found = parse_cmdline(line)

    assert (found.root_hash, found.root_uuid, found.verity_uuid) == (HASH, ONE, TWO)
    assert not found.recovery
    assert parse_cmdline("skerry.recovery").recovery


@settings(deadline=None)
@given(st.text())
def test_any_command_line_is_bearable(text: str) -> None:
    assert parse_cmdline(text).labels == frozenset()


@settings(deadline=None)
@given(names)
def test_a_name_is_what_it_was_read_from(name: EntryName) -> None:
    again = parse_name(name.file)

    assert again is not None
    assert again.file == name.file


@settings(deadline=None)
@given(names)
def test_a_returned_entry_is_told_from_one_whose_tries_are_used_up(name: EntryName) -> None:
    assert name.returned().rolled_back
    assert parse_name(name.returned().file) == name.returned()
    used = EntryName(generation=name.generation, left=0, done=TRIES)
    assert not used.rolled_back


def test_three_starts_use_up_three_tries() -> None:
    name = EntryName(generation=7, left=TRIES)
    files = []
    for _ in range(TRIES):
        name = counted(name)
        files.append(name.file)

    assert files == [f"skerry-000007+{left}-{3 - left}.conf" for left in (2, 1, 0)]
    good = EntryName(generation=3)
    assert first_to_start((name, good)) == good
    assert first_to_start((EntryName(generation=7, left=1, done=2), good)) != good
    assert first_to_start((name,)) == name


def test_a_torn_description_still_shows_where_the_loader_would_go() -> None:
    found = entry("b", 4)
    assert found.entry is not None
    text = render(found.entry)

    assert parse(text) == found.entry
    assert slot_named(text) == "b"
    assert parse(text[: text.index("# skerry") + 20]) is None
    assert slot_named(text[: text.index("# skerry") + 20]) == "b"
    assert slot_named("efi /EFI/BOOT/BOOTX64.EFI\n") == ""


def test_a_confirmed_name_counts_before_a_counting_one_of_the_same_generation() -> None:
    both = (entry("b", 4, left=2, done=1), entry("b", 4))

    found = standing(both, "b")

    assert found is not None
    assert found.name.confirmed
    assert standing(both, "a") is None


@pytest.mark.parametrize(
    ("left", "done", "running", "state"),
    [
        (None, 0, False, SlotState.GOOD),
        (3, 0, False, SlotState.TRIAL),
        (0, 3, True, SlotState.TRIAL),
        (0, 3, False, SlotState.BAD),
        (0, 5, True, SlotState.BAD),
    ],
)
def test_states_follow_from_the_name(
    left: int | None, done: int, running: bool, state: SlotState
) -> None:
    slot, problems = judge(
        SlotFacts("b", ONE, TWO), entry("b", 4, left=left, done=done), running=running
    )

    assert (slot.state, problems) == (state, ())


def test_the_device_says_which_slot_runs_and_the_rest_is_compared() -> None:
    slots = (SlotFacts("a", ONE, TWO), SlotFacts("b"))
    system = RunningSystem(
        root_hash=HASH,
        root_uuid=ONE,
        verity_uuid=TWO,
        labels=frozenset({"skerry-a", "skerry-a-verity"}),
        loaded=EntryName(generation=4),
    )

    assert running_slot(system, slots, (entry("a", 4),)) == ("a", ())
    running, problems = running_slot(system, slots, (entry("b", 4),))
    assert running == "a"
    assert "the loader started slot b" in problems[0]


def test_two_slots_with_the_running_image_are_not_told_apart_by_content() -> None:
    slots = (SlotFacts("a", ONE, TWO), SlotFacts("b", ONE, TWO))
    system = RunningSystem(root_hash=HASH, root_uuid=ONE, verity_uuid=TWO)

    running, problems = running_slot(system, slots, ())

    assert running == ""
    assert "both slots" in problems[0]


def test_a_root_over_both_slots_is_no_slot() -> None:
    system = RunningSystem(labels=frozenset({"skerry-a", "skerry-b-verity"}))

    running, problems = running_slot(system, (SlotFacts("a"), SlotFacts("b")), ())

    assert (running, len(problems)) == ("", 1)
