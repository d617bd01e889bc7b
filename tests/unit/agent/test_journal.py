"""The journal: what follows a step's outcome, and that a crash anywhere changes nothing."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from skerry.agent.journal import Entry, EventLog, Failure, Journal, Phase, Verdict, advance
from skerry.lib.memory_files import MemoryRoot, PowerCut
from skerry.plan.steps import FenceApi, OpenApi, Operation, StartRuntime, StopApiServer

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BROKEN = Failure(reason="KubeletNotReady", message="kubelet died")


def _entry(*, undo_from: int = 1, undo: bool = True) -> Entry:
    operation = Operation(
        name="upgrade",
        desired_digest="sha256:" + "0" * 64,
        steps=(StartRuntime(version="1.36.3"), StopApiServer(), FenceApi()),
        undo=(OpenApi(), StartRuntime(version="1.35.4")) if undo else (),
        undo_from=undo_from,
        disruptive=True,
    )
    return Entry(operation=operation, started_at=NOW)


def test_success_goes_on_to_the_next_step_and_ends_after_the_last() -> None:
    entry = _entry()

    second = advance(entry, None).entry
    assert second is not None
    assert second.index == 1
    third = advance(second, None).entry
    assert third is not None
    assert advance(third, None).verdict is Verdict.DONE


def test_a_failing_step_is_tried_its_number_of_times_with_growing_pauses() -> None:
    entry: Entry | None = _entry()
    pauses = []
    while entry is not None:
        outcome = advance(entry, BROKEN)
        pauses.append(outcome.wait_s)
        entry = outcome.entry

    assert len(pauses) == StartRuntime(version="x").attempts
    assert pauses[0] < pauses[1]


def test_before_undo_from_a_failure_stops_without_undo() -> None:
    outcome = advance(_entry(), BROKEN, retryable=False)

    assert outcome.verdict is Verdict.STOPPED
    assert outcome.failure == BROKEN


def test_from_undo_from_on_a_failure_turns_back_and_remembers_why() -> None:
    entry = advance(_entry(), None).entry
    assert entry is not None

    outcome = advance(entry, BROKEN, retryable=False)
    assert outcome.entry is not None
    assert outcome.entry.phase is Phase.UNDO
    assert outcome.entry.index == 0

    second = advance(outcome.entry, None).entry
    assert second is not None
    ended = advance(second, None)
    assert ended.verdict is Verdict.RETURNED
    assert ended.failure == BROKEN


def test_undo_never_gives_up() -> None:
    entry = advance(_entry(undo_from=0), BROKEN, retryable=False).entry
    assert entry is not None
    for _ in range(50):
        outcome = advance(entry, BROKEN, retryable=False)
        assert outcome.entry is not None
        assert 0 < outcome.wait_s <= 60
        entry = outcome.entry
    assert entry.phase is Phase.UNDO


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_every_operation_ends_or_is_still_undoing(outcomes: list[bool]) -> None:
    entry: Entry | None = _entry()
    for ok in outcomes:
        assert entry is not None
        outcome = advance(entry, None if ok else BROKEN)
        if outcome.verdict is not None:
            return
        entry = outcome.entry
        assert entry is not None
        assert entry.step is not None


def _carry_out(root: MemoryRoot, effects: list[str]) -> None:
    """A miniature of the worker's loop: perform, advance, persist."""
    journal = Journal(root)
    entry = journal.load()
    while entry is not None and entry.step is not None:
        effects.append(entry.step.title)
        outcome = advance(entry, None)
        if outcome.verdict is not None:
            journal.clear()
            return
        entry = outcome.entry
        assert entry is not None
        journal.save(entry)


def test_a_power_cut_at_any_write_resumes_and_performs_every_step_in_order() -> None:
    root = MemoryRoot()
    Journal(root).save(_entry())
    wanted = [step.title for step in _entry().steps]
    total_changes = 3

    for at in range(1, total_changes + 1):
        for halfway in (False, True):
            root = MemoryRoot()
            Journal(root).save(_entry())
            effects: list[str] = []
            root.cut_power_at(at, halfway=halfway)
            try:
                _carry_out(root, effects)
            except PowerCut:
                root.power_on()
                _carry_out(root, effects)

            # A step may be done twice, never skipped and never out of order.
            assert list(dict.fromkeys(effects)) == wanted
            assert Journal(root).load() is None


def test_events_grow_in_number_across_restarts_and_go_when_confirmed() -> None:
    root = MemoryRoot()
    log = EventLog(root)
    log.add("A", "first", at=NOW)
    log.add("B", "second", at=NOW)

    again = EventLog(root)
    again.add("C", "third", at=NOW)
    numbers = [event.sequence for event in again.waiting()]
    assert numbers == sorted(set(numbers))

    again.confirm(numbers[1])
    assert [event.reason for event in EventLog(root).waiting()] == ["C"]
