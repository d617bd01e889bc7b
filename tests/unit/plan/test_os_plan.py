"""When a host changes its OS: one rule per test."""

from __future__ import annotations

import pytest

from skerry.lib.digest import sha256
from skerry.model.artifact import ArtifactRef
from skerry.plan import steps as do
from skerry.plan.host import Refusal
from skerry.plan.osupdate import (
    RETURN_OS,
    STAGE_OS,
    UPDATE_OS,
    DesiredOs,
    FetchImage,
    OsEngineKind,
    OsMove,
    OsObserved,
    OsReturn,
    OsSlot,
    SlotState,
    is_settled,
    judge,
    may_confirm_os,
    plan_os,
)


def ref(version: str, *, architecture: str = "amd64") -> ArtifactRef:
    return ArtifactRef(
        name="edge",
        type="os",
        version=version,
        architecture=architecture,
        digest=sha256(version.encode()),
        envelope_digest=sha256(b"e"),
    )


def want(version: str, **more: str) -> DesiredOs:
    return DesiredOs(version=version, artifact=ref(version, **more))


def slot(name: str, version: str, state: SlotState) -> OsSlot:
    return OsSlot(name=name, state=state, version=version, image=sha256(version.encode()))


def host(
    a: SlotState = SlotState.GOOD, b: OsSlot | None = None, *, running: str = "a", **more: object
) -> OsObserved:
    slots = (slot("a", "1.0.0", a), b or OsSlot(name="b", state=SlotState.EMPTY))
    here = next((item for item in slots if item.name == running), None)
    return OsObserved(
        engine=more.pop("engine", OsEngineKind.AB),  # type: ignore[arg-type]
        architecture="amd64",
        boot_id="boot-1",
        running=running,
        version=here.version if here else "",
        image=here.image if here else "",
        slots=slots,
        **more,  # type: ignore[arg-type]
    )


def plan(desired: DesiredOs | None, observed: OsObserved, **more: object) -> OsMove:
    return plan_os(desired, observed, failed=frozenset(), **more)  # type: ignore[arg-type]


def reason(move: OsMove) -> str:
    return move.reason if isinstance(move, Refusal) else ""


def test_nobody_wants_anything_nothing_is_done() -> None:
    assert plan(None, host()) is None


def test_the_wanted_image_runs_nothing_is_done() -> None:
    assert plan(want("1.0.0"), host()) is None
    assert is_settled(want("1.0.0"), host())


def test_an_image_is_fetched_then_staged_then_started() -> None:
    staged = host(b=slot("b", "2.0.0", SlotState.STAGED))

    fetch = plan(want("2.0.0"), host(), fetched=False)
    stage = plan(want("2.0.0"), host())
    update = plan(want("2.0.0"), staged, healthy=("NodeReady",), line=True)

    assert isinstance(fetch, FetchImage)
    assert isinstance(stage, do.Operation)
    assert (stage.name, stage.disruptive, stage.undo) == (STAGE_OS, False, ())
    assert isinstance(update, do.Operation)
    assert (update.name, update.disruptive) == (UPDATE_OS, True)
    assert [type(step) for step in update.steps] == [
        do.StageImage,
        do.ActivateImage,
        do.Restart,
        do.CheckImage,
        do.GateHost,
        do.ConfirmImage,
    ]
    assert isinstance(update.steps[update.undo_from], do.ActivateImage)
    gate = update.steps[4]
    assert isinstance(gate, do.GateHost)
    assert (gate.healthy, gate.line) == (("NodeReady",), True)
    assert gate.timeout_s < 900 < gate.limit_s + 900


def test_going_back_to_the_former_image_needs_no_content() -> None:
    update = plan(want("2.0.0"), host(b=slot("b", "2.0.0", SlotState.GOOD)), fetched=False)

    assert isinstance(update, do.Operation)
    assert update.name == UPDATE_OS


@pytest.mark.parametrize("state", [SlotState.PARTIAL, SlotState.EMPTY])
def test_a_half_written_slot_is_never_started(state: SlotState) -> None:
    move = plan(want("2.0.0"), host(b=slot("b", "2.0.0", state)))

    assert isinstance(move, do.Operation)
    assert move.name == STAGE_OS


def test_an_image_that_failed_is_refused_until_it_is_forgotten() -> None:
    failed = frozenset({sha256(b"2.0.0")})

    assert reason(plan_os(want("2.0.0"), host(), failed=failed)) == "OsReturned"
    assert plan_os(want("1.0.0"), host(), failed=frozenset({sha256(b"1.0.0")})) is None


def test_a_host_of_packages_says_that_it_is_not_managed() -> None:
    observed = OsObserved(engine=OsEngineKind.PACKAGE, architecture="amd64", boot_id="b")

    assert reason(plan(want("2.0.0"), observed)) == "OsNotManaged"
    assert plan(None, observed) is None
    assert is_settled(None, observed)
    assert not is_settled(want("2.0.0"), observed)


@pytest.mark.parametrize(
    ("observed", "desired", "expected"),
    [
        (host(), want("2.0.0", architecture="arm64"), "ArchitectureMismatch"),
        (host(running="", recovery=True), want("2.0.0"), "OsInRecovery"),
        (host(running=""), want("2.0.0"), "SlotUnreadable"),
        (host(SlotState.BAD), want("1.0.0"), "OsProblem"),
    ],
)
def test_refusals_are_named(observed: OsObserved, desired: DesiredOs, expected: str) -> None:
    assert reason(plan(desired, observed)) == expected


def test_a_trial_without_journal_is_confirmed_when_it_is_what_is_wanted() -> None:
    move = plan(want("2.0.0"), host(b=slot("b", "2.0.0", SlotState.TRIAL), running="b"))

    assert isinstance(move, do.Operation)
    assert [type(step) for step in move.steps] == [do.GateHost, do.ConfirmImage]
    assert [type(step) for step in move.undo] == [do.RollBackImage, do.Restart]


@pytest.mark.parametrize("desired", [None, want("3.0.0")])
def test_a_trial_without_journal_returns_from_what_is_not_wanted(
    desired: DesiredOs | None,
) -> None:
    move = plan(desired, host(b=slot("b", "2.0.0", SlotState.TRIAL), running="b"))

    assert isinstance(move, do.Operation)
    assert move.name == RETURN_OS
    assert [type(step) for step in move.steps] == [do.RollBackImage, do.Restart]


def test_a_trial_with_nothing_to_return_to_is_confirmed() -> None:
    move = plan(None, host(SlotState.TRIAL))

    assert isinstance(move, do.Operation)
    assert [type(step) for step in move.steps] == [do.ConfirmImage]


def test_the_image_of_the_disk_counts_by_its_version() -> None:
    observed = host()
    unnamed = OsObserved(
        engine=OsEngineKind.AB,
        architecture="amd64",
        boot_id="b",
        running="a",
        version="1.0.0",
        slots=(OsSlot(name="a", state=SlotState.GOOD, version="1.0.0"), observed.slots[1]),
    )

    assert plan(want("1.0.0"), unnamed) is None
    assert isinstance(plan(want("1.0.1"), unnamed), do.Operation)


def test_a_lost_entry_of_what_runs_is_written_again() -> None:
    observed = host(SlotState.STAGED)

    move = plan(want("1.0.0"), observed)

    assert isinstance(move, do.Operation)
    assert move.steps == (do.ConfirmImage(version="1.0.0"),)
    assert not is_settled(want("1.0.0"), observed)
    assert plan(None, observed) is None


def test_a_return_without_a_verdict_counts_the_second_time() -> None:
    assert judge(verdict=True, interrupted_before=0) is OsReturn.FAILED
    assert judge(verdict=False, interrupted_before=0) is OsReturn.INTERRUPTED
    assert judge(verdict=False, interrupted_before=1) is OsReturn.FAILED


@pytest.mark.parametrize(
    ("line_before", "synced", "offline", "ran_s", "expected"),
    [
        (True, True, False, 0, True),
        (True, False, True, 500, False),
        (False, True, False, 0, True),
        (False, False, True, 299, False),
        (False, False, True, 300, True),
        # A manager that answers and refuses proves nothing.
        (False, False, False, 599, False),
    ],
)
def test_the_line_has_to_be_as_good_as_before(
    line_before: bool, synced: bool, offline: bool, ran_s: float, expected: bool
) -> None:
    assert (
        may_confirm_os(
            line_before=line_before, synced=synced, offline=offline, ran_s=ran_s, timeout_s=600
        )
        is expected
    )
