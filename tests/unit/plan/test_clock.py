"""When a clock is stepped, and what a host says about two clocks that differ."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from skerry.model.reasons import why
from skerry.plan.clock import FAR, judge, step_to

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
YEARS = timedelta(days=730)


@pytest.mark.parametrize(
    ("floor", "kept", "settable", "steps"),
    [
        (NOW + YEARS, False, True, True),
        (NOW + YEARS, True, True, False),
        (NOW + YEARS, False, False, False),
        (NOW + FAR, False, True, False),
        (NOW - YEARS, False, True, False),
        (None, False, True, False),
    ],
    ids=["behind", "kept-by-ntp", "container", "drift", "ahead", "no-floor"],
)
def test_only_an_unkept_clock_that_is_behind_is_stepped(
    floor: datetime | None, kept: bool, settable: bool, steps: bool
) -> None:
    found = step_to(NOW, floor, kept=kept, settable=settable)

    assert found == (floor if steps else None)


@pytest.mark.parametrize(
    ("now", "manager", "floor", "reason"),
    [
        (NOW, NOW, NOW, ""),
        (NOW, NOW + FAR, None, ""),
        (NOW - YEARS, NOW, NOW - FAR, "ClockWrong"),
        (NOW + YEARS, NOW, NOW, "ClockWrong"),
        (NOW, NOW - YEARS, NOW, "ManagerClockWrong"),
        (NOW, NOW + YEARS, NOW, "ClockWrong"),
    ],
)
def test_the_clock_that_contradicts_what_was_signed_is_named(
    now: datetime, manager: datetime, floor: datetime | None, reason: str
) -> None:
    found = judge(now, manager, floor)

    assert (found.reason if found else "") == reason
    if found is not None:
        cause = why([found], {"host": "till-1"})
        assert cause.reason == reason
        assert cause.next_action
        later = timedelta(seconds=30)
        assert judge(now + later, manager + later, floor) == found, "no new words each time"
