"""Writes docs/reference/cli.md from the tree of commands.

python -m skerry.cli.reference > docs/reference/cli.md
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import click

from skerry.cli.exitcodes import MEANINGS

_HEAD = """\
# Commands of `skerry`

Generated from the program by `python -m skerry.cli.reference`; a test keeps it current.

Every command takes `-h`. Results go to standard output, everything else to standard error. Without
a terminal there is no colour and nothing is wrapped or cut.
"""

_ENVIRONMENT = {
    "SKERRY_CONFIG": "file with the contexts (default: `~/.config/skerry/config.yaml`)",
    "SKERRY_CONTEXT": "context to use, like `--context`",
    "SKERRY_SERVER": "address of the manager; with the next three, a context without a file",
    "SKERRY_TOKEN": "API key or session key",
    "SKERRY_CA_FILE": "certificate of the manager's authority",
    "SKERRY_PROJECT": "project",
    "SKERRY_DATA": "folder of `skerry serve` and `skerry backup`",
    "SKERRY_CACHE": "folder of built things (default: `~/.cache/skerry`)",
    "SKERRY_CHECKOUT": "checkout that `skerry lab up` shows (set by `./dev`)",
    "SKERRY_STATE": "folder of `skerry lab up` (default: `.state/up` in the checkout)",
    "SKERRY_LOG": "lowest level of log lines: debug, info, warning, error",
    "SKERRY_TRACEBACK": "`1` shows tracebacks, for developers",
    "HTTPS_PROXY": "proxy on the way to a manager or to upstream; NO_PROXY lists what goes direct",
    "SSL_CERT_FILE": "authorities to believe instead of the computer's",
    "NO_COLOR": "no colour, also on a terminal",
}


def reference(root: click.Command) -> str:
    """The whole page."""
    context = click.Context(root, info_name="skerry")
    parts = [_HEAD, _exit_codes(), _environment(), *_pages(root, context)]
    return "\n".join(parts).rstrip() + "\n"


def _pages(command: click.Command, context: click.Context) -> Iterator[str]:
    yield _page(command, context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None and not inner.hidden:
                yield from _pages(inner, click.Context(inner, info_name=name, parent=context))


def _page(command: click.Command, context: click.Context) -> str:
    words = [context.command_path, *command.collect_usage_pieces(context)]
    lines = [f"## `{context.command_path}`", "", f"    {' '.join(words)}", ""]
    lines += [_text(command.help or ""), ""]
    rows = [
        record
        for parameter in command.get_params(context)
        if isinstance(parameter, click.Option)
        and "--help" not in parameter.opts
        and (record := parameter.get_help_record(context))
    ]
    if rows:
        lines += ["| option | |", "|---|---|"]
        lines += [f"| `{_cell(option)}` | {_cell(text)} |" for option, text in rows]
        lines.append("")
    return "\n".join(lines)


def _exit_codes() -> str:
    rows = [f"| {int(code)} | {text} |" for code, text in MEANINGS.items()]
    return "\n".join(["## Exit codes", "", "| code | |", "|---|---|", *rows, ""])


def _environment() -> str:
    rows = [f"| `{name}` | {text} |" for name, text in _ENVIRONMENT.items()]
    return "\n".join(["## Environment", "", "| variable | |", "|---|---|", *rows, ""])


def _text(help_text: str) -> str:
    """Help as Markdown; click's \\b paragraphs keep their lines."""
    parts = []
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(help_text)):
        if paragraph.startswith("\b"):
            lines = paragraph.splitlines()[1:]
            parts.append("\n".join(f"    {line}" for line in lines))
        else:
            parts.append(paragraph)
    return "\n\n".join(parts)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main() -> None:
    """Print the page."""
    from skerry.cli.main import cli

    click.echo(reference(cli), nl=False)


if __name__ == "__main__":
    main()
