"""Groups whose commands are imported when they are used.

The table says of each command where it is and what it does in a few words, so that help needs no
import; a test compares the words with the commands' own.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click

Entry = tuple[str, str]
Sections = Mapping[str, Mapping[str, Entry]]


class LazyGroup(click.Group):
    """`sections` maps a heading to command name -> ("module:attribute", short help)."""

    def __init__(self, *args: Any, sections: Sections | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sections: Sections = sections or {}
        self._entries = {
            name: entry for part in self.sections.values() for name, entry in part.items()
        }

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self._entries, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = self._entries.get(cmd_name)
        if entry is None:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = entry[0].partition(":")
        found = getattr(import_module(module), attribute)
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max((len(name) for name in self._entries), default=0)
        for heading, part in self.sections.items():
            with formatter.section(heading):
                rows = [(name.ljust(width), text) for name, (_, text) in part.items()]
                formatter.write_dl(rows)
