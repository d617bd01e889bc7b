"""`events` and `audit`: what happened, and who did what."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from skerry.cli.ages import span
from skerry.cli.columns import clean
from skerry.cli.output import as_json, show_table
from skerry.cli.session import connect, project_option, runs, the_clock

if TYPE_CHECKING:
    from skerry.client.answers import EventLine

_POLL_S = 2.0


@click.command()
@click.option("--kind", "word", default="", metavar="KIND", help="Events of this kind only.")
@click.option("--name", default="", help="Events of this object only.")
@click.option(
    "--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="At most so many."
)
@click.option("-w", "--watch", is_flag=True, help="Go on with new events.")
@click.option("-A", "--all-projects", is_flag=True, help="Events of all projects.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="How to show it.",
)
@project_option
@runs
async def events(
    word: str,
    name: str,
    limit: int,
    watch: bool,
    all_projects: bool,
    output: str,
    project: str | None,
) -> None:
    """Show what happened, oldest first."""
    from skerry.cli.naming import kind_of

    kind = kind_of(word).name if word else ""
    async with connect() as api:
        where = None if all_projects else project or api.context.project
        found = await api.events(project=where, kind=kind, name=name, limit=limit)
        _show_events(tuple(reversed(found)), output, titles=True)
        last = found[0].sequence if found else 0
        while watch:
            await the_clock().sleep(_POLL_S)
            newest = await api.events(project=where, kind=kind, name=name, limit=limit)
            new = [item for item in reversed(newest) if item.sequence > last]
            if new:
                last = new[-1].sequence
                _show_events(new, output, titles=False)


@click.group()
def audit() -> None:
    """Show, export and verify who did what."""


@audit.command("list")
@click.option("--after", type=click.IntRange(min=0), default=0, help="Only above this sequence.")
@click.option(
    "--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="At most so many."
)
@click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="How to show it.",
)
@runs
async def audit_list(after: int, limit: int, output: str) -> None:
    """Show audit records, oldest first."""
    from skerry.cli.columns import text

    async with connect() as api:
        found = await api.audits(after=after, limit=limit)
    if output == "json":
        click.echo(as_json(list(found)))
        return
    rows = [
        [
            str(item.sequence),
            f"{item.at:%Y-%m-%d %H:%M:%S}",
            text(item.actor),
            text(item.verb),
            text(f"{item.kind.lower()}/{item.name}" if item.kind else item.name),
            text(item.source),
            text(item.change),
        ]
        for item in found
    ]
    show_table(["#", "TIME (UTC)", "WHO", "VERB", "OBJECT", "FROM", "CHANGE"], rows)


@audit.command("export")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@runs
async def audit_export(file: Path) -> None:
    """Write the whole chain to FILE, one JSON record per line.

    Keep such files elsewhere: a later export must begin with the same records.
    """
    import msgspec

    count = 0
    async with connect() as api:
        with file.open("wb") as stream:
            while found := await api.audits(after=count):
                for item in found:
                    stream.write(msgspec.json.encode(item) + b"\n")
                count = found[-1].sequence
    click.echo(f"{count} records in {file}")


@audit.command("heads")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@runs
async def audit_heads(file: Path) -> None:
    """Write the signed heads of the chain to FILE, one envelope per line.

    The manager signs a head every few minutes; it keeps them in DATA/audit and says each in its
    log. Keep them elsewhere: with them, 'skerry audit verify --heads' finds a chain that was
    rewritten or cut.
    """
    async with connect() as api:
        data = await api.audit_heads()
    file.write_bytes(data)
    click.echo(f"{len(data.splitlines())} signed heads in {file}")


@audit.command("verify")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--against",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="An earlier export; the chain must still begin with it.",
)
@click.option(
    "--heads",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Signed heads exported by the manager, one envelope per line.",
)
@click.option(
    "--key",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Public channel key (PEM) that the heads are signed with.",
)
def audit_verify(file: Path, against: Path | None, heads: Path | None, key: Path | None) -> None:
    """Check an exported chain; needs no manager.

    A chain that was rewritten as a whole is sound in itself, so compare it with an earlier export
    or with signed heads that were kept elsewhere.
    """
    from skerry.cli.chains import check_against, check_heads, read_chain

    if (heads is None) != (key is None):
        raise click.UsageError("--heads and --key go together")
    chain = read_chain(file)
    click.echo(f"{len(chain)} records, unbroken")
    if against is not None:
        click.echo(f"{check_against(chain, against)} records as in {against}")
    if heads is not None and key is not None:
        click.echo(f"{check_heads(chain, heads, key)} signed heads match")


def event_rows(
    items: Sequence[EventLine], now: datetime, *, objects: bool = True
) -> list[list[str]]:
    """Rows for a table of events."""
    rows = []
    for item in items:
        row = [span((now - item.at).total_seconds()), item.reason, clean(item.message)]
        if objects:
            row.insert(1, f"{item.kind.lower()}/{item.name}")
        rows.append(row)
    return rows


def _show_events(items: Sequence[EventLine], output: str, *, titles: bool) -> None:
    import msgspec

    if output == "json":
        for item in items:
            click.echo(msgspec.json.encode(item).decode())
        return
    if not items and titles:
        click.echo("no events", err=True)
        return
    heads = ["AGE", "OBJECT", "REASON", "MESSAGE"] if titles else ["", "", "", ""]
    show_table(heads, event_rows(items, the_clock().now()))
