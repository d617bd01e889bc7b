"""`cluster create`: a cluster without writing a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from skerry.cli.naming import label_of, pairs
from skerry.cli.session import connect, project_of, project_option, runs

if TYPE_CHECKING:
    from skerry.client.answers import Document
    from skerry.client.api import Api
    from skerry.model.kinds import Kind

_POLL_S = 2.0


@click.group()
def cluster() -> None:
    """Make clusters."""


@cluster.command("create")
@click.argument("name")
@click.option(
    "--profile",
    "profiles",
    multiple=True,
    required=True,
    metavar="NAME[@VERSION]",
    help="Stack of the cluster; several are put together. Default version: the profile's newest.",
)
@click.option("--host", "hosts", multiple=True, required=True, help="Host that it runs on.")
@click.option(
    "--var", "variables", multiple=True, metavar="NAME=VALUE", help="Value of a variable."
)
@click.option("-l", "--label", "labels", multiple=True, metavar="KEY=VALUE", help="Its labels.")
@click.option("--dry-run", is_flag=True, help="Check it and show what it does to the hosts.")
@click.option("--wait", is_flag=True, help="Wait until it runs; Ctrl-C ends only the waiting.")
@project_option
@runs
async def cluster_create(
    name: str,
    profiles: tuple[str, ...],
    hosts: tuple[str, ...],
    variables: tuple[str, ...],
    labels: tuple[str, ...],
    dry_run: bool,
    wait: bool,
    project: str | None,
) -> None:
    """Make the cluster NAME from profiles and hosts."""
    from skerry.cli.commands.changing import show_reactions
    from skerry.model.kinds import KINDS

    kind = KINDS["Cluster"]
    async with connect() as api:
        where = project_of(api, kind, project)
        spec: dict[str, Any] = {
            "profiles": [await _profile(api, where, word) for word in profiles],
            "variables": pairs(variables, what="variable"),
            "pools": [{"name": "main", "role": "control-plane", "hosts": list(hosts)}],
        }
        metadata = {"name": name, "project": where, "labels": pairs(labels, what="label")}
        document = {"kind": kind.name, "metadata": metadata, "spec": spec}
        if dry_run:
            found = await api.dry_run(kind, where, document)
            click.echo(f"{label_of(kind, name)} would be created")
            show_reactions(found.reactions)
            return
        await api.apply(kind, where, document, revision=0)
        click.echo(f"{label_of(kind, name)} created")
        if wait:
            await wait_until_running(api, kind, where, name)


async def wait_until_running(api: Api, kind: Kind, project: str, name: str) -> None:
    """Show each change of phase and progress until the cluster runs."""
    before = ""
    while True:
        item = await api.get(kind, project, name)
        phase = str((item.get("status") or {}).get("phase") or "Pending")
        now = " ".join(part for part in (label_of(kind, name), phase, _detail(item)) if part)
        if now != before:
            click.echo(now, err=phase != "Running")
            before = now
        if phase == "Running":
            return
        await api.clock.sleep(_POLL_S)


def _detail(item: Document) -> str:
    from skerry.cli.columns import clean

    for one in (item.get("status") or {}).get("conditions") or []:
        if one.get("status") != "True" and one.get("message"):
            return f"({clean(str(one['message']))})"
    return ""


async def _profile(api: Api, project: str, word: str) -> dict[str, str]:
    from skerry.model.kinds import KINDS

    name, at, version = word.partition("@")
    if at and not version:
        raise click.UsageError(f"profile {word!r} is not NAME or NAME@VERSION")
    if not version:
        item = await api.get(KINDS["ClusterProfile"], project, name)
        version = str((item.get("spec") or {}).get("version") or "")
    return {"name": name, "version": version}
