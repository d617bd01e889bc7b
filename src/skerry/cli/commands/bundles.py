"""`bundle`: what sync would bring, as a file."""

from __future__ import annotations

from pathlib import Path

import click

from skerry.cli.naming import kind_of, label_of
from skerry.cli.session import connect, project_of, project_option, runs


@click.group()
def bundle() -> None:
    """Carry a host's state to a site without a line."""


@bundle.command("export")
@click.argument("host")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@project_option
@runs
async def bundle_export(host: str, file: Path, project: str | None) -> None:
    """Write the desired state of HOST, with all its content, to FILE.

    On the host: skerry-agent import FILE. The file is signed and for this host only; secrets in it
    are sealed to the host's key.
    """
    from skerry.cli.ages import size
    from skerry.client.blobs import save_bundle

    kind = kind_of("host")
    name = host.removeprefix("host/")
    async with connect() as api:
        count = await save_bundle(api, project_of(api, kind, project), name, file)
    click.echo(f"{label_of(kind, name)}: {size(count)} in {file}")
    click.echo(f"on the host: skerry-agent import {file.name}", err=True)
