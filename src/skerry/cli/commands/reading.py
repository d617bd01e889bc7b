"""`get`, `describe` and `why`: everything that only looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from skerry.cli.naming import KindWord, kind_and_names, label_of, name_of
from skerry.cli.output import Format, Printer, as_yaml, format_option, show_table, writable
from skerry.cli.session import connect, project_of, project_option, runs, the_clock

if TYPE_CHECKING:
    from skerry.client.answers import Document, WatchEvent
    from skerry.client.api import Api
    from skerry.model.kinds import Kind
    from skerry.model.selectors import Selector

_EVENTS = 10


@click.command()
@click.argument("kind", type=KindWord())
@click.argument("names", nargs=-1, metavar="[NAME]...")
@format_option
@click.option("-l", "--selector", default="", metavar="LABELS", help="Like site=north,!old.")
@click.option("--field", "fields", multiple=True, metavar="PATH=VALUE", help="spec.type=full")
@click.option("--search", default="", metavar="TEXT", help="Part of a name or label.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many.")
@click.option("-w", "--watch", is_flag=True, help="Go on with every change.")
@click.option("-A", "--all-projects", is_flag=True, help="Objects of all projects.")
@project_option
@runs
async def get(
    kind: str,
    names: tuple[str, ...],
    output: str,
    selector: str,
    fields: tuple[str, ...],
    search: str,
    limit: int | None,
    watch: bool,
    all_projects: bool,
    project: str | None,
) -> None:
    """Show objects as a table, JSON or YAML.

    KIND is a kind, its plural or short form (skerry get hosts); with NAME, those objects only.
    """
    from skerry.model.selectors import parse_selector

    found, wanted = kind_and_names(kind, names)
    chosen = parse_selector(selector)
    async with connect() as api:
        where = None if all_projects else project_of(api, found, project)
        if wanted and where is None:
            raise click.UsageError("a name needs one project, not -A")
        printer = Printer(found, output, now=the_clock().now(), projects=all_projects)
        if wanted and not watch:
            await _show_named(api, found, where or "", wanted, printer)
            return
        listing = await api.list(
            found,
            project=where,
            labels=selector,
            fields=",".join(fields),
            search=search,
            limit=limit or 0,
        )
        items = [item for item in listing.items if not wanted or name_of(item) in wanted]
        if watch:
            printer.show_more(items)
            seen = {_key(item) for item in items}
            if fields or search:
                raise click.UsageError("--watch goes with -l and names, not --field or --search")
            await _follow(api, found, where, listing.revision, chosen, wanted, seen, printer)
            return
        if not items and printer.format in (Format.TABLE, Format.WIDE):
            place = "" if where is None else f" in project {where}" if where else ""
            chosen_by = " match" if selector or fields or search else ""
            click.echo(f"no {found.plural}{place}{chosen_by}", err=True)
            return
        printer.show_all(items)


@click.command()
@click.argument("kind", type=KindWord())
@click.argument("names", nargs=-1, metavar="NAME...")
@project_option
@runs
async def describe(kind: str, names: tuple[str, ...], project: str | None) -> None:
    """Show everything about objects: what they want, how they are, what happened."""
    found, wanted = kind_and_names(kind, names)
    if not wanted:
        raise click.UsageError("NAME is missing")
    async with connect() as api:
        where = project_of(api, found, project)
        for index, name in enumerate(wanted):
            if index:
                click.echo("")
            item = await api.get(found, where, name)
            events = await api.events(
                project=where or None, kind=found.name, name=name, limit=_EVENTS
            )
            _describe(found, item)
            if found.name == "Host":
                click.echo("\nWhy:")
                _show_cause(await api.why_host(where, name), indent="  ")
            now = the_clock().now()
            if events:
                click.echo("\nEvents:")
                from skerry.cli.commands.history import event_rows

                rows = [["", *row] for row in event_rows(events, now, objects=False)]
                show_table(["", "AGE", "REASON", "MESSAGE"], rows)


@click.command()
@click.argument("kind", metavar="host")
@click.argument("name", required=False)
@click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How to show it.",
)
@project_option
@runs
async def why(kind: str, name: str | None, output: str, project: str | None) -> None:
    """Say why a host is not as it should be: one cause and the next action.

    skerry why host NAME; the host itself says the same with skerry-agent status.
    """
    from skerry.cli.output import as_json

    found, names = kind_and_names(kind, [name] if name else [])
    if found.name != "Host" or len(names) != 1:
        raise click.UsageError("write: skerry why host NAME")
    async with connect() as api:
        cause = await api.why_host(project_of(api, found, project), names[0])
    if output == "json":
        click.echo(as_json(cause))
        return
    click.echo(f"{label_of(found, names[0])}: ", nl=False)
    _show_cause(cause)


def _show_cause(cause: Mapping[str, Any], *, indent: str = "") -> None:
    from skerry.cli.columns import clean

    reason = str(cause.get("reason") or "")
    title = clean(str(cause.get("title") or ""))
    click.echo(f"{indent}{click.style(title, bold=True)}{f' ({reason})' if reason else ''}")
    if message := cause.get("message"):
        click.echo(f"{indent}  {clean(str(message))}")
    chain = [clean(str(item)) for item in cause.get("chain") or ()]
    if len(chain) > 1:
        click.echo(f"{indent}  and as its consequence:")
        for item in chain[1:]:
            click.echo(f"{indent}    {item}")
    if action := cause.get("nextAction"):
        click.echo(f"{indent}  {click.style('next', bold=True)}: {clean(str(action))}")


async def _show_named(
    api: Api, kind: Kind, project: str, names: Sequence[str], printer: Printer
) -> None:
    items = [await api.get(kind, project, name) for name in names]
    if len(items) == 1:
        printer.show_one(items[0])
    else:
        printer.show_all(items)


async def _follow(
    api: Api,
    kind: Kind,
    project: str | None,
    since: int,
    selector: Selector,
    names: Sequence[str],
    seen: set[str],
    printer: Printer,
) -> None:
    """Every change of matching objects. One that stops matching, or goes, is shown as deleted."""
    async for event in api.watch(kind, project=project, since=since):
        item = event.object
        labels = (item.get("metadata") or {}).get("labels") or {}
        matches = (not names or name_of(item) in names) and selector.matches(labels)
        printer.now = the_clock().now()
        if event.type == "DELETED" or not matches:
            if _key(item) in seen:
                seen.discard(_key(item))
                _show_gone(kind, event, printer)
            continue
        seen.add(_key(item))
        printer.show_more([item])


def _show_gone(kind: Kind, event: WatchEvent, printer: Printer) -> None:
    label = label_of(kind, name_of(event.object))
    if printer.format is Format.JSON:
        printer.show_more([{**event.object, "deleted": True}])
    else:
        click.echo(f"{label} is gone", err=printer.format is not Format.TABLE)


def _describe(kind: Kind, item: Document) -> None:
    """Name, what people wrote, and the measured state; conditions as a table."""
    from skerry.cli.ages import age

    now = the_clock().now()
    metadata = item.get("metadata") or {}
    click.echo(click.style(label_of(kind, name_of(item)), bold=True))
    facts = [
        ("Project", metadata.get("project")),
        ("Revision", metadata.get("revision")),
        ("Created", f"{metadata.get('createdAt', '')} ({age(metadata.get('createdAt'), now)})"),
        ("Deleting since", metadata.get("deletedAt")),
        ("Held by", ", ".join(metadata.get("finalizers") or ())),
    ]
    for title, value in facts:
        if value:
            click.echo(f"  {title + ':':<16}{value}")
    own = writable(item)
    for title, part in (
        ("Labels", metadata.get("labels")),
        ("Annotations", metadata.get("annotations")),
        ("Spec", own["spec"]),
        ("Status", {k: v for k, v in (item.get("status") or {}).items() if k != "conditions"}),
    ):
        if part:
            click.echo(f"\n{title}:")
            for line in as_yaml(part).splitlines():
                click.echo(f"  {line}")
    conditions = (item.get("status") or {}).get("conditions") or []
    if conditions:
        from skerry.cli.columns import text
        from skerry.cli.output import table

        click.echo("\nConditions:")
        rows = [
            [
                "",
                text(one.get("type")),
                text(one.get("status")),
                text(one.get("reason")),
                age(one.get("since"), now),
                text(one.get("message")),
            ]
            for one in conditions
        ]
        for line in table(["", "TYPE", "STATUS", "REASON", "SINCE", "MESSAGE"], rows, states=(2,)):
            click.echo(line)


def _key(item: Mapping[str, Any]) -> str:
    metadata = item.get("metadata") or {}
    return f"{metadata.get('project', '')}/{metadata.get('name', '')}"
