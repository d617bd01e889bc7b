"""What to do about a clock that cannot be right.

The floor is the newest time that a trusted key vouched for: true time is never before it. A clock
that somebody keeps (NTP) is left alone; others are stepped forward to the floor, never back,
because what ran until now has already seen the later time.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from skerry.model.meta import Condition

# Nearer than this is drift, which hurts nothing that skerry does.
FAR = timedelta(hours=1)


def step_to(
    now: datetime, floor: datetime | None, *, kept: bool, settable: bool
) -> datetime | None:
    """The time to set, or None to leave the clock alone.

    `kept`: a time service says that it keeps the clock. `settable`: the clock is this machine's
    own, which a container's is not.
    """
    if floor is None or kept or not settable or now >= floor - FAR:
        return None
    return floor


def judge(now: datetime, manager: datetime, floor: datetime | None) -> Condition | None:
    """What this host says after an answer that the manager signed at `manager` by its own clock."""
    if floor is not None and manager < floor - FAR:
        return Condition(
            type="ClockRight",
            status="False",
            reason="ManagerClockWrong",
            message=f"the manager's clock shows {_text(manager)}; it signed something at"
            f" {_text(floor)} already",
        )
    if abs(now - manager) <= FAR:
        return None
    ahead = "ahead of" if now > manager else "behind"
    return Condition(
        type="ClockRight",
        status="False",
        reason="ClockWrong",
        message=f"this host's clock is {_span(abs(now - manager))} {ahead} the manager's, which"
        f" shows {_text(manager)}",
    )


def _text(at: datetime) -> str:
    # To the day: the message must not change with each answer.
    return f"{at:%Y-%m-%d} UTC"


def _span(span: timedelta) -> str:
    hours = int(span.total_seconds() // 3600)
    return f"{hours // 24} days" if hours >= 48 else f"{hours} hours"
