"""In which state something is shown."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from skerry.console import states
from skerry.model import kinds as k
from skerry.model.meta import Condition, Metadata, Resource
from skerry.model.osstate import OsSlotState
from skerry.model.reasons import REASONS, Cause, Severity, why
from skerry.plan.osupdate import SlotState

NOW = datetime(2026, 6, 1, tzinfo=UTC)
SILENT = Condition(type="Reachable", status="Unknown", reason="HostSilent")
FULL = Condition(type="Reconciled", status="False", reason="DiskFull")
WORKING = Condition(type="Reconciled", status="Unknown", reason="InProgress")


def host(
    *conditions: Condition,
    approval: k.Approval = k.Approval.APPROVED,
    revoked: bool = False,
    **status: Any,
) -> Any:
    return Resource(
        kind="Host",
        metadata=Metadata(name="a", project="default"),
        spec=k.HostSpec(approval=approval, revoked=revoked),
        status=k.HostStatus(conditions=conditions, **status),
    )


def test_a_disconnected_host_is_quiet_and_no_alarm() -> None:
    assert states.host_state(host(SILENT)).tone == "quiet"


def test_a_host_that_nobody_hears_is_offline_whatever_it_last_said() -> None:
    assert states.host_state(host(SILENT, FULL)).word == "Offline"


def test_an_error_needs_attention_also_while_work_goes_on() -> None:
    progress = k.Progress(operation="Upgrade", step="x", index=2, total=5)

    assert states.host_state(host(FULL, progress=progress)).tone == "bad"


def test_work_shows_how_far_it_is() -> None:
    progress = k.Progress(operation="Upgrade", step="x", index=2, total=5)

    state = states.host_state(host(WORKING, progress=progress))

    assert (state.tone, state.more) == ("busy", "step 3 of 5")


def test_a_host_is_not_in_sync_before_it_proved_the_digest() -> None:
    wanted, had = k.DesiredMark(epoch=2, digest="b"), k.DesiredMark(epoch=1, digest="a")

    assert states.host_state(host(desired=wanted, acknowledged=had)).word == "Changing"
    assert states.host_state(host(desired=wanted, acknowledged=wanted)).tone == "good"


@pytest.mark.parametrize(
    ("found", "word"),
    [
        (host(approval=k.Approval.PENDING), "Waits for approval"),
        (host(approval=k.Approval.DENIED), "Denied"),
        (host(FULL, revoked=True), "Revoked"),
    ],
)
def test_registration_stands_before_everything_else(found: Any, word: str) -> None:
    assert states.host_state(found).word == word


def token(**spec: Any) -> Any:
    return Resource(
        kind="RegistrationToken",
        metadata=Metadata(name="t"),
        spec=k.RegistrationTokenSpec(**spec),
        status=k.RegistrationTokenStatus(uses=3),
    )


@pytest.mark.parametrize(
    ("found", "word"),
    [
        (token(), "Usable"),
        (token(revoked=True), "Revoked"),
        (token(expires_at=NOW), "Expired"),
        (token(expires_at=NOW + timedelta(seconds=1)), "Usable"),
        (token(maximum_uses=3), "Used up"),
        (token(maximum_uses=4), "Usable"),
    ],
)
def test_a_token_says_whether_it_still_counts(found: Any, word: str) -> None:
    assert states.token_state(found, NOW).word == word


@pytest.mark.parametrize("reason", sorted(REASONS))
def test_every_reason_has_a_look(reason: str) -> None:
    condition = Condition(type="X", status="False", reason=reason)

    assert states.condition_tone(condition) == states.TONES[REASONS[reason].severity]


def test_the_console_offers_its_own_way_where_it_has_one() -> None:
    facts = {"cluster": "harbour", "host": "a"}
    cause = why([Condition(type="Ready", status="False", reason="ValuesInvalid")], facts)

    assert states.here(cause, "north") == ("/clusters/north/harbour/change", "Change the cluster")
    other = Cause(
        reason="X",
        severity=Severity.ERROR,
        title="",
        message="",
        next_action="skerry release push",
    )
    assert states.here(other, "north") is None


@pytest.mark.parametrize("state", list(SlotState))
def test_every_state_of_a_slot_has_words_of_its_own(state: SlotState) -> None:
    looks = states.slot_state(OsSlotState(name="a", state=state.value))

    assert looks.word != state.value or state is SlotState.EMPTY
    assert looks.tone in {"good", "busy", "quiet", "bad", "off"}
