"""`profile`: versions of cluster profiles. Profiles are written as files and applied."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from skerry.cli.output import Printer, as_yaml, difference, format_option
from skerry.cli.session import connect, project_of, project_option, runs, the_clock

if TYPE_CHECKING:
    from skerry.client.answers import Document
    from skerry.client.api import Api


@click.group()
def profile() -> None:
    """Compare versions of cluster profiles."""


@profile.command("list")
@format_option
@project_option
@runs
async def profile_list(output: str, project: str | None) -> None:
    """Show profiles with their recorded versions."""
    from skerry.model.kinds import KINDS

    kind = KINDS["ClusterProfile"]
    async with connect() as api:
        found = await api.list(kind, project=project_of(api, kind, project))
    Printer(kind, output, now=the_clock().now()).show_all(found.items)


@profile.command("diff")
@click.argument("name")
@click.argument("old", required=False)
@click.argument("new", required=False)
@project_option
@runs
async def profile_diff(name: str, old: str | None, new: str | None, project: str | None) -> None:
    """Show what changed between two recorded versions (default: the last two)."""
    from skerry.model.kinds import KINDS

    kind = KINDS["ClusterProfile"]
    async with connect() as api:
        item = await api.get(kind, project_of(api, kind, project), name)
        known = {str(ref["version"]): str(ref["digest"]) for ref in _revisions(item)}
        old, new = _choose(name, list(known), old, new)
        before, after = [await _text(api, known[version]) for version in (old, new)]
    lines = difference(before, after, old=f"{name} {old}", new=f"{name} {new}")
    for line in lines:
        click.echo(line)
    if not lines:
        click.echo(f"{name} {old} and {new} are the same", err=True)


def _revisions(item: Document) -> list[dict[str, Any]]:
    return (item.get("status") or {}).get("revisions") or []


def _choose(name: str, known: list[str], old: str | None, new: str | None) -> tuple[str, str]:
    from skerry.client.errors import NotFound

    if old is None and len(known) < 2:
        raise NotFound(f"profile {name} has only {len(known)} version", hint="apply another one")
    chosen = (old or known[-2], new or known[-1])
    for version in chosen:
        if version not in known:
            raise NotFound(
                f"profile {name} has no version {version}", hint=f"there are: {', '.join(known)}"
            )
    return chosen


async def _text(api: Api, digest: str) -> str:
    """A revision as YAML, texts of layers as blocks."""
    import msgspec

    from skerry.client.blobs import download_blob
    from skerry.model.profile import MAX_REVISION_BYTES, decode_revision

    revision = decode_revision(await download_blob(api, digest, limit=MAX_REVISION_BYTES))
    return as_yaml(msgspec.to_builtins(revision))
