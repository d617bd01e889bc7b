"""Labels: their syntax, and who decides about one.

A host brings labels of its own. People decide at the centre: what they set, changed or took away
there stays so, whatever the host says later. `merge` tells both apart by what the host said last.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import islice
from typing import Any

from skerry.model.meta import LABEL_KEY_PATTERN, LABEL_VALUE_PATTERN
from skerry.model.problems import Problem

MAX_LABELS = 64
MAX_HOST_LABELS = 32
_MAX_PROBLEMS = 100
# Only skerry itself gives labels a meaning there.
RESERVED = "skerry.dev/"

_TYPES = {
    dict: "a mapping",
    list: "a list",
    str: "text",
    bool: "true or false",
    int: "a number",
    float: "a number",
    type(None): "empty",
}


def check_labels(path: str, raw: Any, *, quote: bool = True) -> list[Problem]:
    """What is wrong with labels, by Kubernetes' syntax.

    `quote` False leaves values out of the messages: what a script prints by mistake may be a
    secret.
    """
    if not isinstance(raw, Mapping):
        return [Problem(path=path, message=f"must be a mapping, is {kind_of(raw)}")]
    problems: list[Problem] = []
    if len(raw) > MAX_LABELS:
        problems.append(Problem(path=path, message=f"more than {MAX_LABELS} labels"))
    for key, value in islice(raw.items(), _MAX_PROBLEMS):
        if not isinstance(key, str) or re.fullmatch(LABEL_KEY_PATTERN.strip("^$"), key) is None:
            problems.append(
                Problem(
                    path=path,
                    message=f"{quoted(key)} is not a label key",
                    hint="letters, digits, '-', '_', '.', with an optional prefix as example.org/",
                )
            )
        if not isinstance(value, str) or (
            re.fullmatch(LABEL_VALUE_PATTERN.removeprefix("^").removesuffix("$"), value) is None
        ):
            shown = quoted(value) if quote else "the value"
            problems.append(
                Problem(
                    path=f"{path}.{quoted(key).strip(chr(39))}",
                    message=f"{shown} is not a label value",
                    hint="text of at most 63 letters, digits, '-', '_' and '.'; quote numbers",
                )
            )
    return problems


def host_labels(path: str, raw: Mapping[str, Any]) -> tuple[dict[str, str], list[Problem]]:
    """The labels that a host may bring, and what is wrong with the others, by name."""
    good: dict[str, str] = {}
    problems: list[Problem] = []
    left_out = 0
    for key, value in raw.items():
        wrong = check_labels(path, {key: value}, quote=False)
        if not wrong and key.startswith(RESERVED):
            wrong = [Problem(path=f"{path}.{key}", message=f"{RESERVED} is skerry's own")]
        if wrong:
            problems += wrong
        elif len(good) >= MAX_HOST_LABELS:
            left_out += 1
        else:
            good[key] = value
    if left_out:
        message = f"a host has at most {MAX_HOST_LABELS} labels of its own, {left_out} are left out"
        problems.append(Problem(path=path, message=message))
    return good, problems


def merge(
    current: Mapping[str, str], *, before: Mapping[str, str], now: Mapping[str, str]
) -> dict[str, str]:
    """An object's labels after its host said `now`, having said `before` the last time.

    A label follows the host only while its value is the one that the host said; a label that
    somebody changed, or took away, is theirs.
    """
    merged = dict(current)
    for key in before.keys() - now.keys():
        if merged.get(key) == before[key]:
            del merged[key]
    for key, value in now.items():
        if key in before:
            if merged.get(key) == before[key]:
                merged[key] = value
        elif key not in merged and len(merged) < MAX_LABELS:
            merged[key] = value
    return merged


def kind_of(value: Any) -> str:
    """A value's type in words for people."""
    return _TYPES.get(type(value), type(value).__name__)


def quoted(value: Any) -> str:
    """A value as messages show it: short."""
    text = str(value)
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
