"""YAML from people and from the network, as plain values, in bearable time and depth.

Aliases are refused, because a few lines of them can stand for gigabytes. The events are looked at
first: the fast loader of libyaml recurses in C, so deep nesting would end the process. Every way
in which a text can be wrong is a `yaml.YAMLError`.
"""

from __future__ import annotations

from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

MAX_DEPTH = 100

# libyaml's where it was built in: ten times as fast as the same in Python.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load(text: str) -> Any:
    """The one document of a text; None for an empty one. Raises yaml.YAMLError."""
    _check(text)
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a safe loader
    except (ValueError, TypeError, OverflowError) as exc:
        raise _unreadable(exc) from exc


def load_all(text: str) -> list[Any]:
    """All documents of a text. Raises yaml.YAMLError."""
    _check(text)
    try:
        return list(yaml.load_all(text, Loader=_Loader))
    except (ValueError, TypeError, OverflowError) as exc:
        raise _unreadable(exc) from exc


def _check(text: str) -> None:
    depth = 0
    try:
        for event in yaml.parse(text, Loader=_Loader):
            mark: Any = event.start_mark
            if isinstance(event, yaml.AliasEvent):
                raise ComposerError(None, None, "aliases are not supported", mark)
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if depth > MAX_DEPTH:
                raise ComposerError(None, None, f"nested deeper than {MAX_DEPTH}", mark)
    except (ValueError, RecursionError) as exc:
        raise _unreadable(exc) from exc


def _unreadable(exc: Exception) -> yaml.YAMLError:
    # A date like 2020-13-45, or a number that is none: the loader lets Python's own errors through.
    return ConstructorError(None, None, f"a value cannot be read: {exc}", None)
