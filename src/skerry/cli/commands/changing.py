"""`apply`, `edit` and `delete`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from skerry.cli.exitcodes import ExitCode, exit_code
from skerry.cli.failures import next_step, show
from skerry.cli.naming import KindWord, kind_and_names, label_of
from skerry.cli.output import as_yaml, difference, writable
from skerry.cli.session import connect, project_of, project_option, runs
from skerry.lib.errors import SkerryError

if TYPE_CHECKING:
    from skerry.cli.documents import Source
    from skerry.client.answers import Document, DryRun, Reaction
    from skerry.client.api import Api
    from skerry.model.kinds import Kind

_POLL_S = 1.0


@click.command()
@click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    required=True,
    metavar="FILE",
    help="YAML or JSON documents, a folder of such files, or - for standard input.",
)
@click.option("--dry-run", is_flag=True, help="Show the exact change and what it does to hosts.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "name"]),
    default="text",
    show_default=True,
    help="How to show it.",
)
@project_option
@click.pass_context
def apply(
    ctx: click.Context, files: tuple[str, ...], dry_run: bool, output: str, project: str | None
) -> None:
    """Create or change objects from files.

    Every document is tried, in order; the exit code is that of the worst failure. A document with
    metadata.revision is refused when somebody else changed the object since.
    """
    ctx.exit(_apply(files, dry_run=dry_run, output=output, project=project))


@runs
async def _apply(
    files: tuple[str, ...], *, dry_run: bool, output: str, project: str | None
) -> ExitCode:
    from skerry.cli.documents import read_documents

    sources = read_documents(files)
    worst = ExitCode.OK
    created: list[str] = []
    async with connect() as api:
        for source in sources:
            try:
                where = _project(api, source, project)
                if dry_run:
                    if await _preview(api, source, where):
                        created.append(source.label)
                else:
                    await _apply_one(api, source, where, output)
            except SkerryError as exc:
                if exc.exit_code == ExitCode.UNREACHABLE:
                    raise
                show(exc, about=source.label)
                if dry_run and created and not exc.hint:
                    next_step(f"a dry run sees only what is stored; apply {created[0]} first")
                worst = max(worst, exit_code(exc.exit_code))
    return worst


@click.command()
@click.argument("kind", type=KindWord())
@click.argument("name", required=False)
@project_option
def edit(kind: str, name: str | None, project: str | None) -> None:
    """Change one object in your editor ($VISUAL, $EDITOR).

    What is saved is applied with the revision that was opened, so nobody's change is lost. When the
    manager refuses it, the editor opens again with what is wrong on top.
    """
    _edit(kind, name, project)


@runs
async def _edit(kind: str, name: str | None, project: str | None) -> None:
    from skerry.cli.editing import edit_text

    found, names = kind_and_names(kind, [name] if name else [])
    if len(names) != 1:
        raise click.UsageError("write: skerry edit KIND NAME")
    async with connect() as api:
        where = project_of(api, found, project)
        item = await api.get(found, where, names[0])
        label = label_of(found, names[0])
        before = as_yaml(writable(item, revision=True))

        async def store(text: str) -> bool:
            from skerry.cli.documents import parse_documents
            from skerry.model.problems import DocumentInvalid, Problem

            problems: list[Problem] = []
            sources = parse_documents(text, label, problems)
            if not problems and len(sources) != 1:
                problems.append(Problem(path=label, message="wanted is exactly one document"))
            if not problems and sources[0].label != label:
                problems.append(Problem(path="metadata.name", message=f"has to stay {names[0]}"))
            if problems:
                raise DocumentInvalid(label, problems)
            stored = await api.apply(found, where, sources[0].body)
            return _revision(stored) != _revision(item)

        done = await edit_text(before, store, label=label)
    click.echo(f"{label} {'changed' if done else 'not changed'}")


@click.command()
@click.argument("kind", type=KindWord(), required=False)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("-f", "--file", "files", multiple=True, metavar="FILE", help="What these files name.")
@click.option("--force", is_flag=True, help="Do not wait for hosts that cannot be reached.")
@click.option("--wait", is_flag=True, help="Wait until it is gone, or until it may be forced.")
@click.option("--missing-ok", is_flag=True, help="What does not exist is no failure.")
@project_option
@click.pass_context
def delete(
    ctx: click.Context,
    kind: str | None,
    names: tuple[str, ...],
    files: tuple[str, ...],
    force: bool,
    wait: bool,
    missing_ok: bool,
    project: str | None,
) -> None:
    """Delete objects.

    A cluster is taken off its hosts first. When a host does not answer, --force ends the waiting,
    but only some time after the deletion was asked for; how long is shown.
    """
    if bool(kind) == bool(files):
        raise click.UsageError("write: skerry delete KIND NAME..., or skerry delete -f FILE")
    if kind:
        found, wanted = kind_and_names(kind, names)
        if not wanted:
            raise click.UsageError("NAME is missing")
        targets = [(found, project, name) for name in wanted]
    else:
        from skerry.cli.documents import read_documents

        targets = [
            (source.kind, project or (source.body["metadata"].get("project")), source.name)
            for source in reversed(read_documents(files))
        ]
    ctx.exit(_delete(targets, force=force, wait=wait, missing_ok=missing_ok))


@runs
async def _delete(
    targets: list[tuple[Kind, str | None, str]], *, force: bool, wait: bool, missing_ok: bool
) -> ExitCode:
    from skerry.client.errors import NotFound

    worst = ExitCode.OK
    async with connect() as api:
        for kind, project, name in targets:
            try:
                await _delete_one(api, kind, project_of(api, kind, project), name, force, wait)
            except NotFound as exc:
                if missing_ok:
                    click.echo(f"{label_of(kind, name)} does not exist")
                    continue
                show(exc, about=label_of(kind, name))
                worst = max(worst, ExitCode.NOT_FOUND)
            except SkerryError as exc:
                if exc.exit_code == ExitCode.UNREACHABLE:
                    raise
                show(exc, about=label_of(kind, name))
                worst = max(worst, exit_code(exc.exit_code))
    return worst


async def _delete_one(
    api: Api, kind: Kind, project: str, name: str, force: bool, wait: bool
) -> None:
    label = label_of(kind, name)
    left = await _ask_delete(api, kind, project, name, label, force=force, wait=wait)
    if left is None:
        click.echo(f"{label} deleted")
        return
    waits = ", ".join((left.get("metadata") or {}).get("finalizers") or ()) or "its hosts"
    click.echo(f"{label} is being deleted, waits for {waits}", err=wait)
    if not wait:
        return
    from skerry.client.errors import NotFound

    try:
        while True:
            await api.clock.sleep(_POLL_S)
            await api.get(kind, project, name)
    except NotFound:
        click.echo(f"{label} deleted")


async def _ask_delete(
    api: Api, kind: Kind, project: str, name: str, label: str, *, force: bool, wait: bool
) -> Document | None:
    from skerry.client.errors import Conflict

    while True:
        try:
            left = await api.delete(kind, project, name, force=force)
        except Conflict as exc:
            if not (force and wait and exc.wait_s):
                raise
            click.echo(f"{label} can be forced in {exc.wait_s} s; waiting", err=True)
            await api.clock.sleep(exc.wait_s)
            continue
        if force and left is not None:
            # The deletion was only asked for now; the manager says how long it waits from here.
            force_later = await _force_again(api, kind, project, name)
            if force_later is not None and wait:
                click.echo(f"{label} can be forced in {force_later} s; waiting", err=True)
                await api.clock.sleep(force_later)
                continue
            if force_later is not None:
                click.echo(f"{label} can be forced in {force_later} s")
        return left


async def _force_again(api: Api, kind: Kind, project: str, name: str) -> int | None:
    """Seconds until the deletion may be forced; None when the object is gone by now."""
    from skerry.client.errors import Conflict, NotFound

    try:
        left = await api.delete(kind, project, name, force=True)
    except Conflict as exc:
        return exc.wait_s or None
    except NotFound:
        return None
    return None if left is None else 1


def _project(api: Api, source: Source, project: str | None) -> str:
    from skerry.model.kinds import Scope
    from skerry.model.problems import DocumentInvalid, Problem

    own = source.body["metadata"].get("project") or ""
    if source.kind.scope is Scope.PROJECT and project and own and own != project:
        problem = Problem(path="metadata.project", message=f"is {own!r}, -p says {project!r}")
        raise DocumentInvalid(source.place, [problem])
    return project_of(api, source.kind, str(own) or project)


async def _apply_one(api: Api, source: Source, project: str, output: str) -> None:
    old = await _present(api, source, project)
    stored = await api.apply(source.kind, project, source.body)
    if output == "name":
        click.echo(source.label)
    elif old is None:
        click.echo(f"{source.label} created")
    else:
        changed = _revision(old) != _revision(stored)
        click.echo(f"{source.label} {'changed' if changed else 'unchanged'}")
    if line := stored.get("install"):
        click.echo("  run this on each host; it is shown only now:", err=True)
        click.echo(line)


async def _preview(api: Api, source: Source, project: str) -> bool:
    """Show what an apply would do; whether it would create the object."""
    old = await _present(api, source, project)
    found = await api.dry_run(source.kind, project, source.body)
    verb = "created" if found.created else "changed" if found.changes else "unchanged"
    click.echo(f"{source.label} would be {verb}")
    if not found.created:
        _show_change(source, old, found)
    show_reactions(found.reactions)
    return found.created


def _show_change(source: Source, old: Document | None, found: DryRun) -> None:
    before = as_yaml(_spec_only(old)) if old else ""
    lines = difference(
        before,
        as_yaml(_spec_only(found.object)),
        old=f"{source.label} now",
        new=f"{source.label} applied",
    )
    for line in lines:
        click.echo(f"  {line}")
    if not lines:
        # What the manager does not show, such as a secret's values, still changes.
        for item in found.changes:
            click.echo(f"  {item.path}: {item.before or '-'} -> {item.after or '-'}")


def show_reactions(reactions: tuple[Reaction, ...]) -> None:
    """What a change does to each host."""
    hosts = sorted({item.host for item in reactions})
    for host in hosts:
        click.echo(f"  on host {host}:")
        for item in reactions:
            if item.host == host:
                message = f" ({item.message})" if item.message else ""
                click.echo(f"    {item.kind}: {item.path}{message}")


async def _present(api: Api, source: Source, project: str) -> Document | None:
    from skerry.client.errors import NotFound

    try:
        return await api.get(source.kind, project, source.name)
    except NotFound:
        return None


def _spec_only(item: Document) -> dict[str, Any]:
    own = writable(item)
    metadata = own["metadata"]
    return {
        "labels": metadata.get("labels", {}),
        "annotations": metadata.get("annotations", {}),
        "spec": own["spec"],
    }


def _revision(item: Document) -> object:
    return (item.get("metadata") or {}).get("revision")
