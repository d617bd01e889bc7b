"""All that is wrong with the form of a document, at once, by the types that it is decoded to.

For documents that are checked where no JSON Schema validator is installed. The type is walked field
by field, and what is no `Struct` of ours is left to msgspec, so one wrong field hides no other.
"""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from skerry.model.problems import Problem, under

MAX_PROBLEMS = 100
_MAX_WORD = 200


def problems_of(raw: Any, kind: Any) -> list[Problem]:
    """Problems of a value that is to become a `kind` (a Struct, or a list or tuple of them)."""
    found = []
    for problem in _walk(raw, kind):
        found.append(problem)
        if len(found) == MAX_PROBLEMS:
            found.append(Problem(path="", message="more is wrong than is listed here"))
            break
    return found


def _walk(raw: Any, kind: Any) -> Iterator[Problem]:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        if isinstance(raw, Mapping):
            yield from _walk_struct(raw, kind)
        else:
            yield Problem(path="", message=f"must be a mapping, is {_word(raw)}")
        return
    inner = _element(kind)
    if inner is not None and isinstance(raw, list | tuple):
        for index, item in enumerate(raw):
            yield from under(f"[{index}]", _walk(item, inner))
        return
    try:
        msgspec.convert(raw, type=kind)
    except msgspec.ValidationError as exc:
        message, _, place = str(exc).partition(" - at `")
        yield Problem(path=place.rstrip("`").removeprefix("$").removeprefix("."), message=message)


def _walk_struct(raw: Mapping[Any, Any], kind: type[msgspec.Struct]) -> Iterator[Problem]:
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    for key in raw:
        if key not in fields:
            near = difflib.get_close_matches(str(key)[:_MAX_WORD], fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(fields)}"
            yield Problem(path=str(key)[:_MAX_WORD], message="unknown field", hint=hint)
    for name, field in fields.items():
        if name in raw:
            yield from under(name, _walk(raw[name], field.type))
        elif field.required:
            yield Problem(path=name, message="is missing")


def _element(kind: Any) -> Any:
    """What a list or tuple of any length is of, None for another type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return arguments[0]
    return arguments[0] if origin is list else None


def _word(raw: Any) -> str:
    words = {list: "a list", str: "a text", int: "a number", bool: "true or false"}
    return "empty" if raw is None else words.get(type(raw), f"a {type(raw).__name__}")
