"""Which of two versions is newer: Semantic Versioning's order (https://semver.org, section 11).

Build metadata (`+...`) does not count. A version that is not of this form has no order, so that
nobody is ever moved to or from it by accident.
"""

from __future__ import annotations

import re
from typing import TypeAlias

_FORM = re.compile(
    r"(0|[1-9]\d{0,5})\.(0|[1-9]\d{0,5})\.(0|[1-9]\d{0,5})"
    r"(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+[0-9A-Za-z.-]+)?",
    re.ASCII,
)
_MAX_LENGTH = 60

VersionOrder: TypeAlias = tuple[int, int, int, bool, tuple[tuple[bool, int, str], ...]]


def version_order(text: str) -> VersionOrder | None:
    """A value that sorts as the versions do, or None for what is not a version."""
    found = _FORM.fullmatch(text) if len(text) <= _MAX_LENGTH else None
    if found is None:
        return None
    major, minor, patch, early = found.groups()
    parts = tuple(_part(part) for part in early.split(".")) if early else ()
    return (int(major), int(minor), int(patch), not parts, parts)


def is_newer(candidate: str, running: str) -> bool:
    """Whether `candidate` comes strictly after `running`; False when either has no order."""
    after, before = version_order(candidate), version_order(running)
    return after is not None and before is not None and after > before


def _part(text: str) -> tuple[bool, int, str]:
    number = text.isdigit()
    return (not number, int(text) if number else 0, "" if number else text)
