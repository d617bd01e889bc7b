"""`retry`: a person says that what failed may be tried again."""

from __future__ import annotations

import click

from skerry.cli.naming import KindWord, kind_and_names, label_of
from skerry.cli.session import connect, project_of, project_option, runs


@click.command()
@click.argument("kind", type=KindWord())
@click.argument("names", nargs=-1, metavar="NAME...")
@project_option
@runs
async def retry(kind: str, names: tuple[str, ...], project: str | None) -> None:
    """Let hosts try again what failed on them.

    skerry retry cluster NAME: the state that the cluster's hosts returned from. skerry retry host
    NAME: the agent and the OS image that the host returned from. A host that failed tries nothing
    twice by itself.
    """
    from skerry.model.meta import RETRY_KEY, retries

    found, wanted = kind_and_names(kind, names)
    if found.name not in ("Cluster", "Host") or not wanted:
        raise click.UsageError("write: skerry retry cluster NAME..., or skerry retry host NAME...")
    async with connect() as api:
        where = project_of(api, found, project)
        for name in wanted:
            item = await api.get(found, where, name)
            count = retries(item["metadata"].get("annotations") or {}) + 1
            change = {"metadata": {"annotations": {RETRY_KEY: str(count)}}}
            await api.patch(found, where, name, change)
            click.echo(f"{label_of(found, name)} may try again what failed ({count})")
