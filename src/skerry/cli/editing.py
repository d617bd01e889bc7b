"""Edit a text until it is accepted or given up.

What was refused comes back with its problems as comments on top. Leaving it unchanged gives up, and
the text is kept in a file so that no work is lost.
"""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable

import click

from skerry.cli.failures import next_step
from skerry.lib.errors import SkerryError

_MARK = "# "
_HEAD = "# Comments at the top are dropped. Save to apply, leave unchanged to give up.\n"


async def edit_text(before: str, store: Callable[[str], Awaitable[bool]], *, label: str) -> bool:
    """Whether something was stored. Raises what `store` refused last."""
    refused: SkerryError | None = None
    text = before
    while True:
        opened = _HEAD + _comments(refused) + text
        saved = click.edit(opened, extension=".yaml", require_save=True)
        edited = _without_comments(saved) if saved is not None else text
        if edited == text:
            if refused is None:
                return False
            _keep(text, label)
            raise refused
        if not edited.strip():
            return False
        text = edited
        try:
            return await store(text)
        except SkerryError as exc:
            if exc.exit_code not in (2, 5):
                _keep(text, label)
                raise
            refused = exc


def _comments(exc: SkerryError | None) -> str:
    if exc is None:
        return ""
    lines = [exc.message]
    lines += [
        f"  {item.path}: {item.message}{f' ({item.hint})' if item.hint else ''}"
        for item in getattr(exc, "problems", ())
    ]
    lines += [
        f"  {item.path}: you {item.before or '-'}, now {item.after or '-'}"
        for item in getattr(exc, "changes", ())
    ]
    if exc.hint:
        lines.append(f"next: {exc.hint}")
    flat = [part for line in lines for part in line.splitlines()]
    return "".join(f"{_MARK}{line}\n" for line in ["", *flat, ""])


def _without_comments(text: str) -> str:
    """The text without the comments on top. Others stay: a layer's manifests may hold some."""
    lines = text.splitlines(keepends=True)
    while lines and lines[0].startswith("#"):
        lines.pop(0)
    return "".join(lines)


def _keep(text: str, label: str) -> None:
    name = label.replace("/", "-")
    with tempfile.NamedTemporaryFile(
        "w", prefix=f"skerry-{name}-", suffix=".yaml", delete=False
    ) as stream:
        stream.write(text)
    next_step(f"your text is kept in {stream.name}")
