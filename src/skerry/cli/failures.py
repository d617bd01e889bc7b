"""How failures look: `error: what`, every problem below it, then `next: what to do`.

Nobody sees a traceback for something expected; SKERRY_TRACEBACK=1 shows it to a developer.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator

import click

from skerry.cli.exitcodes import ExitCode, exit_code
from skerry.lib.errors import SkerryError

_SHOWN = 100
_INVALID = " is not valid: "


def report(exc: BaseException) -> ExitCode:
    """Show a failure on stderr; the exit code that belongs to it. Unexpected ones are raised."""
    if os.environ.get("SKERRY_TRACEBACK"):
        traceback.print_exception(exc)
    if isinstance(exc, BaseExceptionGroup):
        return _report_group(exc)
    if isinstance(exc, SkerryError):
        show(exc)
        return exit_code(exc.exit_code)
    if isinstance(exc, click.exceptions.NoArgsIsHelpError):
        # Somebody who names no command asks which there are; that is no mistake to be told of.
        click.echo(exc.format_message(), err=True)
        return ExitCode.USAGE
    if isinstance(exc, click.UsageError):
        return _report_usage(exc)
    if isinstance(exc, click.ClickException):
        say(exc.format_message())
        return exit_code(exc.exit_code)
    if isinstance(exc, click.Abort | KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return ExitCode.INTERRUPTED
    if isinstance(exc, OSError):
        place = f": {exc.filename}" if exc.filename else ""
        say(f"{exc.strerror or type(exc).__name__}{place}")
        return ExitCode.NOT_ALLOWED if isinstance(exc, PermissionError) else ExitCode.FAILED
    raise exc


def show(exc: SkerryError, *, about: str = "") -> None:
    """One failure on stderr with its problems, changes and next step."""
    problems = getattr(exc, "problems", ())
    changes = getattr(exc, "changes", ())
    say(f"{about}: {_headline(exc)}" if about else _headline(exc))
    alone = len(problems) == 1
    for item in problems[:_SHOWN]:
        path = f"{item.path}: " if item.path else ""
        hint = f" ({item.hint})" if item.hint and not alone else ""
        click.echo(f"  {path}{item.message}{hint}", err=True)
    for item in changes[:_SHOWN]:
        click.echo(f"  {item.path}: {item.before or '-'} -> {item.after or '-'}", err=True)
    left = len(problems) + len(changes) - 2 * _SHOWN
    if left > 0:
        click.echo(f"  and {left} more", err=True)
    if len(problems) > 1:
        next_step("correct these and try again")
    elif hint := exc.hint or (problems[0].hint if problems else ""):
        next_step(hint)


def say(text: str) -> None:
    """`error: ...`; further lines are indented."""
    first, *rest = text.strip().splitlines() or [""]
    click.echo(f"{click.style('error', fg='red', bold=True)}: {first}", err=True)
    for line in rest:
        click.echo(f"  {line}", err=True)


def next_step(text: str) -> None:
    """`next: ...`"""
    click.echo(f"  {click.style('next', bold=True)}: {text}", err=True)


def _headline(exc: SkerryError) -> str:
    """The message, without the problems that follow line by line."""
    if getattr(exc, "problems", ()) and _INVALID in exc.message:
        return exc.message.partition(_INVALID)[0] + _INVALID.rstrip(": ")
    return exc.message


def _report_usage(exc: click.UsageError) -> ExitCode:
    say(exc.format_message())
    if exc.ctx is not None:
        next_step(f"{exc.ctx.command_path} --help")
    return ExitCode.USAGE


def _report_group(exc: BaseExceptionGroup[BaseException]) -> ExitCode:
    """Several tasks failed together: each once, the worst code."""
    leaves = list(_leaves(exc))
    unexpected = [leaf for leaf in leaves if not isinstance(leaf, SkerryError | OSError)]
    if unexpected:
        raise exc
    codes = []
    said: set[str] = set()
    for leaf in leaves:
        if str(leaf) not in said:
            said.add(str(leaf))
            codes.append(report(leaf))
    return max(codes, default=ExitCode.FAILED)


def _leaves(exc: BaseException) -> Iterator[BaseException]:
    if isinstance(exc, BaseExceptionGroup):
        for inner in exc.exceptions:
            yield from _leaves(inner)
    else:
        yield exc
