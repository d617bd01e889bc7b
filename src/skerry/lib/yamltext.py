"""YAML from people and from the network: read in bearable time and depth, written readably.

Aliases are refused, because a few lines of them can stand for gigabytes, and so is a key that
stands twice, because the last would win silently. `load` looks at the events first: the fast
loader of libyaml recurses in C, so deep nesting would end the process. Every way in which a text
can be wrong is a `yaml.YAMLError`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

MAX_DEPTH = 100
_MERGE = "<<"

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


@dataclass(slots=True)
class _Open:
    """A mapping or sequence that has begun."""

    mapping: bool
    at_key: bool = True
    seen: set[str] = field(default_factory=set)


def _check(text: str) -> None:
    opened: list[_Open] = []
    try:
        for event in yaml.parse(text, Loader=_Loader):
            mark: Any = event.start_mark
            if isinstance(event, yaml.AliasEvent):
                raise ComposerError(None, None, "aliases are not supported", mark)
            if isinstance(event, yaml.CollectionEndEvent):
                opened.pop()
            elif isinstance(event, yaml.ScalarEvent):
                _note(opened, event.value, mark)
            elif isinstance(event, yaml.CollectionStartEvent):
                _note(opened, None, mark)
                opened.append(_Open(isinstance(event, yaml.MappingStartEvent)))
                if len(opened) > MAX_DEPTH:
                    raise ComposerError(None, None, f"nested deeper than {MAX_DEPTH}", mark)
    except (ValueError, RecursionError) as exc:
        raise _unreadable(exc) from exc


def _note(opened: list[_Open], scalar: str | None, mark: Any) -> None:
    """One more node of the innermost collection: every other one of a mapping is a key."""
    if not opened or not opened[-1].mapping:
        return
    inner = opened[-1]
    if inner.at_key and scalar is not None and scalar != _MERGE:
        if scalar in inner.seen:
            raise ConstructorError(None, None, f"key {scalar!r} stands twice", mark)
        inner.seen.add(scalar)
    inner.at_key = not inner.at_key


def _unreadable(exc: Exception) -> yaml.YAMLError:
    # A date like 2020-13-45, or a number that is none: the loader lets Python's own errors through.
    return ConstructorError(None, None, f"a value cannot be read: {exc}", None)


class StrictLoader(yaml.SafeLoader):
    """For files of a person's own computer: aliases may be used there, keys stand once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise ConstructorError(None, None, f"key {key!r} stands twice", key_node.start_mark)
            if isinstance(key, str):
                seen.add(key)
        return super().construct_mapping(node, deep=deep)


class PlainLoader(StrictLoader):
    """For a caller that needs the nodes and their lines, too; without aliases."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]  # no stubs
            raise ComposerError(None, None, "aliases are not supported", mark)
        return super().compose_node(parent, index)


class TextLoader(PlainLoader):
    """Reads every plain scalar as text: a version such as 1.10 is not a number."""

    yaml_implicit_resolvers: dict[Any, Any] = {}


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks, and no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def dump(value: Any) -> str:
    """One document, fields in their own order."""
    text: str = yaml.dump(
        value,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=False,
        width=100,
    )
    return text


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)
