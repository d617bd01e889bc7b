"""`image kairos-overlay` and `image kairos-artifact`: images for hosts that run Kairos."""

from __future__ import annotations

from pathlib import Path

import click

from skerry.cli.session import runs, surroundings


@click.command("kairos-overlay")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="New folder for the files and the recipe.",
)
@click.option(
    "--agent",
    "agent_archive",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Archive of the agent to put in (default: built from this checkout).",
)
@click.option(
    "--lock",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("requirements/dev.txt"),
    show_default=True,
    help="Locked dependencies with hashes, for building the agent.",
)
@runs
async def kairos_overlay(out: Path, agent_archive: Path | None, lock: Path) -> None:
    """Write what turns a Kairos base image into a host of skerry, and a recipe that does it."""
    from skerry.builder.agent import build_agent
    from skerry.builder.cache import default_cache
    from skerry.builder.kairosoverlay import CONTAINERFILE, write_overlay
    from skerry.lib.proc import SystemRunner

    if agent_archive is None:
        if not lock.is_file():
            raise click.UsageError(
                f"there is no {lock}; name a lock file, or an archive by --agent"
            )
        click.echo("agent ...", err=True)
        built = await build_agent(
            cache=default_cache(surroundings().env), runner=SystemRunner(), lock=lock
        )
        agent_archive = built.path
    made = await write_overlay(out, agent=agent_archive, runner=SystemRunner())
    click.echo(f"{len(made)} files are in {out}", err=True)
    click.echo(str(out / CONTAINERFILE))


@click.command("kairos-artifact")
@click.argument("tar", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--name", required=True, help="Name of the image.")
@click.option("--version", required=True, help="Version of the image, as 1.2.3.")
@click.option(
    "--architecture",
    type=click.Choice(["amd64", "arm64"]),
    default="amd64",
    show_default=True,
    help="Machines that it is for.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="New folder for the artifact.",
)
def kairos_artifact(tar: Path, name: str, version: str, architecture: str, out: Path) -> None:
    """Make an artifact of TAR, a Kairos image as 'docker save' writes it.

    The tar is read whole: an image without kernel, initrd or release file is refused here, not by
    the hosts.
    """
    from skerry.builder.kairosimage import pack_kairos_image
    from skerry.cli.ages import size

    made = pack_kairos_image(tar, out, name=name, version=version, architecture=architecture)
    click.echo(f"artifact {made.digest}, {size(made.size_bytes)}", err=True)
    click.echo(str(made.path))
