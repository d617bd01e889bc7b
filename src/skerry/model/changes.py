"""What differs between two documents, as a list that people and the dry run read.

Values are shown only when they are short; of a long text it says that it changed, so that a list
of changes never grows with its documents. Secrets never come in here: callers pass their keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from skerry.model.meta import Record

_SHOWN_CHARS = 120
_EMPTY = ("(empty)", "{}", "[]")


class Difference(Record, frozen=True, kw_only=True):
    """One field. An empty `before` means that it was added, an empty `after` that it went."""

    path: str
    before: str = ""
    after: str = ""


def differences(before: Any, after: Any, path: str = "") -> list[Difference]:
    """Fields that differ between two JSON-like values, in order of their paths."""
    if before == after:
        return []
    if (isinstance(before, dict) and before and after is None) or (
        isinstance(after, dict) and after and before is None
    ):
        return differences(before or {}, after or {}, path)
    if isinstance(before, dict) and isinstance(after, dict):
        found: list[Difference] = []
        for key in sorted(before.keys() | after.keys()):
            found += differences(before.get(key), after.get(key), f"{path}.{key}" if path else key)
        return found
    if _is_list(before) and _is_list(after) and len(before) == len(after):
        found = []
        for index, pair in enumerate(zip(before, after, strict=True)):
            found += differences(pair[0], pair[1], f"{path}[{index}]")
        return found
    return [Difference(path=path, before=_shown(before), after=_shown(after))]


def summary(items: Sequence[Difference]) -> str:
    """One line per field; what is new and empty says nothing and is left out."""
    telling = [item for item in items if item.before or item.after not in _EMPTY]
    return "\n".join(
        f"{item.path}: {item.before or '-'} -> {item.after or '-'}" for item in telling[:100]
    )


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    if len(text) > _SHOWN_CHARS or "\n" in text:
        return f"({len(text)} characters)"
    return text or "(empty)"
