"""How people name objects on the command line: `host NAME`, `hosts`, `host/NAME`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from skerry.model.kinds import Kind

ELSEWHERE = {"Event": "skerry events", "AuditRecord": "skerry audit list"}


class KindWord(click.ParamType[str]):
    """A kind by name, plural or short form, perhaps with `/NAME` behind it. The value is text."""

    name = "kind"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from skerry.model.kinds import KINDS

        words = [word for kind in KINDS.values() for word in (kind.name.lower(), kind.plural)]
        return [CompletionItem(word) for word in words if word.startswith(incomplete.lower())]


def kind_of(word: str) -> Kind:
    """Raises UsageError with the nearest word."""
    from skerry.model.kinds import KINDS, find_kind

    found = find_kind(word)
    if found is None:
        words = [k for kind in KINDS.values() for k in (kind.name.lower(), kind.plural)]
        near = difflib.get_close_matches(word.lower(), words, n=1)
        hint = f"did you mean {near[0]}?" if near else f"kinds: {', '.join(sorted(KINDS))}"
        raise click.UsageError(f"there is no kind {word!r}; {hint}")
    if found.name in ELSEWHERE:
        raise click.UsageError(f"{found.plural} are shown by '{ELSEWHERE[found.name]}'")
    return found


def kind_and_names(word: str, names: Sequence[str]) -> tuple[Kind, tuple[str, ...]]:
    """`host a b`, `host/a host/b`: one kind and its names. Raises UsageError."""
    head, slash, tail = word.partition("/")
    kind = kind_of(head)
    found = [tail] if slash else []
    if slash and not tail:
        raise click.UsageError(f"{word!r} names no object")
    for name in names:
        other, slash, tail = name.partition("/")
        if slash and kind_of(other).name != kind.name:
            raise click.UsageError(f"{name!r} is another kind than {kind.name}")
        found.append(tail if slash else name)
    return kind, tuple(found)


def label_of(kind: Kind, name: str) -> str:
    """`host/NAME`."""
    return f"{kind.name.lower()}/{name}"


def name_of(document: Mapping[str, Any]) -> str:
    """An object's name, "" when it has none."""
    metadata = document.get("metadata")
    return str(metadata.get("name") or "") if isinstance(metadata, Mapping) else ""


def pairs(items: Sequence[str], *, what: str) -> dict[str, str]:
    """KEY=VALUE words. Raises UsageError."""
    found: dict[str, str] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise click.UsageError(f"{what} {item!r} is not KEY=VALUE")
        found[key] = value
    return found
