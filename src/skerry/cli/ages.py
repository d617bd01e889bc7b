"""Times and sizes in a few characters: 3m, in 2h, 210 MiB."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

_UNITS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
_DURATION = re.compile(r"(?:(\d{1,6})d)?(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6})s)?")


def parse_time(text: object) -> datetime | None:
    """A time of the API, None when there is none."""
    if not isinstance(text, str) or not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else None


def age(since: object, now: datetime) -> str:
    """How long ago, in the largest unit that is at least two: 119s, 3m, 47h, 5d."""
    at = parse_time(since)
    if at is None:
        return ""
    return span((now - at).total_seconds())


def until(end: object, now: datetime) -> str:
    """How long until then; "expired" when it was."""
    at = parse_time(end)
    if at is None:
        return "never"
    left = (at - now).total_seconds()
    return f"in {span(left)}" if left > 0 else "expired"


def span(seconds: float) -> str:
    """A time span; small and negative ones are 0s (clocks differ)."""
    whole = max(0, int(seconds))
    for unit, length in _UNITS:
        if whole >= 2 * length:
            return f"{whole // length}{unit}"
    return f"{whole}s"


def parse_span(text: str) -> timedelta | None:
    """12h, 7d, 1d12h; None for anything else."""
    found = _DURATION.fullmatch(text.strip().lower())
    if found is None or not any(found.groups()):
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)


def size(count: object) -> str:
    """Bytes for people."""
    if not isinstance(count, int) or count <= 0:
        return ""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
