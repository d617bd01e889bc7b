"""How objects and tables are printed: aligned columns, JSON, YAML, names.

Colour marks status words and only on a terminal; nothing is ever wrapped or cut, so that the same
command line gives the same text to a file.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import click
import msgspec

from skerry.cli.columns import Column, clean, columns_of
from skerry.cli.naming import name_of

if TYPE_CHECKING:
    from skerry.model.kinds import Kind

_GAP = "  "
_COLOURS = {
    "green": {"Ready", "InUse", "Running", "Complete", "Enabled", "Reachable", "True"},
    "yellow": {
        "Pending",
        "Provisioning",
        "Updating",
        "Deleting",
        "AwaitingApproval",
        "InProgress",
        "Disabled",
        "Unknown",
    },
    "red": {"Denied", "Revoked", "Degraded", "ArtifactMissing", "False"},
}
_COLOUR_OF = {word: colour for colour, words in _COLOURS.items() for word in words}


class Format(StrEnum):
    """Values of `-o`."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


format_option = click.option(
    "-o",
    "--output",
    type=click.Choice([item.value for item in Format]),
    default=Format.TABLE.value,
    show_default=True,
    help="How to show objects.",
)


def table(
    titles: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    states: Iterable[int] = (),
    widths: list[int] | None = None,
) -> list[str]:
    """Aligned lines; a row of empty titles is left out. `states` are columns of status words.

    `widths` keeps the widths for later rows of the same table (a watch).
    """
    wide = widths if widths is not None else []
    wide.extend(0 for _ in range(len(titles) - len(wide)))
    for row in (titles, *rows):
        for index, cell in enumerate(row):
            wide[index] = max(wide[index], len(cell))
    marked = set(states)
    lines = [_line(titles, wide, set(), bold=True)] if any(titles) else []
    return lines + [_line(row, wide, marked) for row in rows]


def show_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table of texts."""
    for line in table(titles, rows):
        click.echo(line)


def state_word(word: str) -> str:
    """A status word with its colour."""
    colour = _COLOUR_OF.get(word)
    return click.style(word, fg=colour) if colour else word


class Printer:
    """Prints objects of one kind in one format, also one after the other."""

    def __init__(self, kind: Kind, output: str, *, now: datetime, projects: bool = False) -> None:
        self.kind = kind
        self.format = Format(output)
        self.now = now
        wide = self.format is Format.WIDE
        self._columns: list[Column] = columns_of(kind.name, wide=wide, projects=projects)
        self._widths: list[int] = []
        self._started = False

    def show_all(self, items: Sequence[Mapping[str, Any]]) -> None:
        """A list of objects."""
        if self.format is Format.JSON:
            found = [ordered(item) for item in items]
            click.echo(as_json({"kind": f"{self.kind.name}List", "items": found}))
            return
        self.show_more(items)

    def show_one(self, item: Mapping[str, Any]) -> None:
        """One object."""
        if self.format is Format.JSON:
            click.echo(as_json(ordered(item)))
            return
        self.show_more([item])

    def show_more(self, items: Sequence[Mapping[str, Any]]) -> None:
        """Objects below those shown before; JSON has one per line."""
        items = [ordered(item) for item in items]
        match self.format:
            case Format.NAME:
                for item in items:
                    click.echo(f"{self.kind.name.lower()}/{name_of(item)}")
            case Format.YAML:
                for item in items:
                    click.echo(
                        f"---\n{as_yaml(item)}" if self._started else as_yaml(item), nl=False
                    )
                    self._started = True
            case Format.JSON:
                for item in items:
                    click.echo(msgspec.json.encode(item).decode())
            case _:
                self._rows(items)

    def _rows(self, items: Sequence[Mapping[str, Any]]) -> None:
        rows = [[clean(c.cell(item, self.now)) for c in self._columns] for item in items]
        titles = [column.title for column in self._columns]
        states = [index for index, column in enumerate(self._columns) if column.state]
        lines = table(titles, rows, states=states, widths=self._widths)
        for line in lines[1 if self._started else 0 :]:
            click.echo(line)
        self._started = True


def ordered(item: Mapping[str, Any]) -> dict[str, Any]:
    """An object with its fields in the order in which people write them."""
    first = {
        name: item[name] for name in ("apiVersion", "kind", "metadata", "spec") if name in item
    }
    return {**first, **item}


def as_json(value: Any) -> str:
    """Indented JSON."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def as_yaml(value: Any) -> str:
    """One YAML document, ending with a line feed."""
    from skerry.lib import yamltext

    return yamltext.dump(value)


def writable(item: Mapping[str, Any], *, revision: bool = False) -> dict[str, Any]:
    """The part of an object that people write."""
    metadata = item.get("metadata") or {}
    names = ["name", "project", "labels", "annotations", *(["revision"] if revision else [])]
    return {
        "apiVersion": item.get("apiVersion", "skerry.dev/v1"),
        "kind": item.get("kind", ""),
        "metadata": {name: metadata[name] for name in names if metadata.get(name)},
        "spec": item.get("spec", {}),
    }


def difference(before: str, after: str, *, old: str, new: str) -> list[str]:
    """A unified diff of two texts, coloured on a terminal."""
    lines = difflib.unified_diff(
        before.splitlines(), after.splitlines(), old, new, lineterm="", n=2
    )
    return [_coloured(line) for line in lines]


def _coloured(line: str) -> str:
    if line.startswith(("+++", "---")):
        return click.style(line, bold=True)
    if line.startswith("@@"):
        return click.style(line, fg="cyan")
    if line.startswith("+"):
        return click.style(line, fg="green")
    return click.style(line, fg="red") if line.startswith("-") else line


def _line(
    cells: Sequence[str], widths: Sequence[int], states: set[int], *, bold: bool = False
) -> str:
    parts = []
    for index, cell in enumerate(cells):
        last = index == len(cells) - 1
        padding = "" if last else " " * (widths[index] - len(cell))
        shown = state_word(cell) if index in states else cell
        parts.append((click.style(shown, bold=True) if bold and shown else shown) + padding)
    return _GAP.join(parts).rstrip()
