"""`image`: plan, build and check OS images; `keys`: make the keys that sign them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from skerry.cli.commands.kairosimages import kairos_artifact, kairos_overlay
from skerry.cli.session import runs, surroundings, the_clock

if TYPE_CHECKING:
    from skerry.model.image import ImageDefinition
    from skerry.plan.image import ImageStep

_FILE = click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
_AGENT = click.option(
    "--agent",
    "agent_archive",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Archive of the agent to put in (default: built from this checkout).",
)
_LOCK = click.option(
    "--lock",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("requirements/dev.txt"),
    show_default=True,
    help="Locked dependencies with hashes, for building the agent.",
)


@click.group()
def image() -> None:
    """Build OS images for hosts."""


image.add_command(kairos_overlay)
image.add_command(kairos_artifact)


@image.command("plan")
@_FILE
@click.option(
    "--keys",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of 'skerry keys create'; steps that sign are named by its keys.",
)
@_AGENT
@_LOCK
@runs
async def plan(file: Path, keys: Path | None, agent_archive: Path | None, lock: Path) -> None:
    """Show the steps that FILE leads to, their ids, and which of them are in the cache."""
    from skerry.builder.cache import default_cache
    from skerry.builder.image.build import CACHED, cached
    from skerry.builder.image.inputs import gather, load_definition, load_distribution
    from skerry.builder.image.keys import open_keys
    from skerry.plan.image import plan_image

    _quiet_logs()
    definition = load_definition(file)
    base = definition.spec.base
    distribution = load_distribution(base.distribution, base.release)
    mark, _ = await _agent(definition, agent_archive, lock, build=False)
    inputs = gather(
        definition, base=file.parent, agent=mark, keys=open_keys(keys) if keys else None
    )
    cache = default_cache(surroundings().env)
    click.echo(f"{'STEP':<10}  {'ID':<16}  {'STATE':<8}  WHAT")
    for step in plan_image(definition, distribution, inputs):
        state = "cached" if cached(cache, step) else "to do"
        if step.name not in CACHED:
            state = "always"
        click.echo(f"{step.name:<10}  {step.id}  {state:<8}  {step.words}")


@image.command("build")
@_FILE
@click.option(
    "--keys",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="Folder of 'skerry keys create', or its part online/.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder for disk, artifact, boot images, bill of materials, provenance and log.",
)
@click.option("--qcow2", is_flag=True, help="Convert the raw disk to qcow2, too.")
@click.option("--installer", is_flag=True, help="Make an installation medium, too.")
@_AGENT
@_LOCK
@runs
async def build_image(
    file: Path,
    keys: Path,
    out: Path,
    qcow2: bool,
    installer: bool,
    agent_archive: Path | None,
    lock: Path,
) -> None:
    """Build the image that FILE defines. Needs root.

    Steps that were made before are taken from the cache, so a build that was interrupted goes on
    where it was. The log of commands lies in OUT/build.log.
    """
    from skerry.builder.cache import default_cache
    from skerry.builder.image.build import Build, check_machine, open_job
    from skerry.builder.image.deliver import deliver
    from skerry.builder.image.inputs import load_definition
    from skerry.builder.image.journal import BuildLog
    from skerry.builder.image.keys import open_keys
    from skerry.cli.ages import size
    from skerry.lib.proc import SystemRunner

    _quiet_logs()
    definition = load_definition(file)
    own_keys = open_keys(keys)
    check_machine(definition)
    mark, agent = await _agent(definition, agent_archive, lock, build=True)
    job = open_job(file, own_keys, agent=mark, archive=agent)
    out.mkdir(parents=True, exist_ok=True)
    cache, clock = default_cache(surroundings().env), the_clock()
    with (out / "build.log").open("w") as writing:
        log = BuildLog(writing, clock)
        build = Build(job, cache=cache, runner=SystemRunner(), log=log, tell=_tell)
        await build.run(installer=installer)
        click.echo("disk and artifact ...", err=True)
        made = await deliver(build, out, clock=clock, qcow2=qcow2, installer=installer)
        log.write("complete")
        seconds = log.seconds
    cache.trim(clock.now())
    click.echo(f"root hash {made.root_hash}", err=True)
    click.echo(f"artifact {made.artifact.digest}, {size(made.artifact.size_bytes)}", err=True)
    click.echo(f"ready after {seconds:.0f} s", err=True)
    click.echo(str(made.disk))


@image.command("check")
@click.argument("place", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--keys",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Compare signatures with these keys; otherwise only whether there are some.",
)
@click.option(
    "--definition",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="What was asked for (default: what the build's folder says; for a disk, nothing).",
)
@click.option(
    "--level",
    type=click.IntRange(0, 100),
    default=0,
    show_default=True,
    help="Fail below this score, in percent.",
)
@runs
async def check(place: Path, keys: Path | None, definition: Path | None, level: int) -> None:
    """Look at a built image by the written list: PLACE is a build's folder or a raw disk.

    Needs root. Fails when a grave item does (a password or SSH that nobody asked for), or when the
    score is below the level.
    """
    from skerry.builder.cache import default_cache
    from skerry.builder.image.checking import check_place
    from skerry.builder.image.inputs import load_definition
    from skerry.builder.image.keys import open_keys
    from skerry.lib.proc import SystemRunner

    _quiet_logs()
    report = await check_place(
        place,
        cache=default_cache(surroundings().env),
        runner=SystemRunner(),
        keys=open_keys(keys) if keys else None,
        asked=load_definition(definition).spec if definition else None,
    )
    for verdict in report.verdicts:
        state = "pass" if verdict.passed else "FAIL"
        click.echo(f"{state}  {verdict.check.id:<20}  {verdict.check.reason}")
        for finding in verdict.findings[:10]:
            click.echo(f"      {'':<20}  - {finding}")
        if len(verdict.findings) > 10:
            click.echo(f"      {'':<20}  - and {len(verdict.findings) - 10} more")
    passed = sum(verdict.passed for verdict in report.verdicts)
    click.echo(f"score {report.score} %: {passed} of {len(report.verdicts)} items")
    if report.grave:
        grave = ", ".join(verdict.check.id for verdict in report.grave)
        raise _refused(f"{place} fails grave items: {grave}")
    if report.score < level:
        raise _refused(f"{place} has a score of {report.score} %, wanted {level} %")


@click.group()
def keys() -> None:
    """Make the keys that sign OS images."""


@keys.command("create")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--organisation", default="skerry", show_default=True, help="Stands in each name.")
def create(folder: Path, organisation: str) -> None:
    """Make all keys of OS images in FOLDER: offline/ to take away, online/ to build with."""
    from skerry.builder.image.keys import create_keys

    create_keys(folder, organisation=organisation, now=the_clock().now())
    click.echo(f"keys are in {folder}; what each is for stands in {folder / 'README'}")
    click.echo(f"move {folder / 'offline'} off this machine now", err=True)


@keys.command("renew-policy")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def renew_policy(folder: Path) -> None:
    """Make the next key that may open hosts' state; images built from now on carry it."""
    from skerry.builder.image.keys import add_policy_key

    click.echo(f"policy key of generation {add_policy_key(folder)} is in {folder}")


async def _agent(
    definition: ImageDefinition, archive: Path | None, lock: Path, *, build: bool
) -> tuple[str, Path | None]:
    """What names the agent, and its archive if it is given or to be built; "" for none."""
    from skerry.builder.agent import agent_entry, build_agent
    from skerry.builder.cache import default_cache
    from skerry.lib.oci import file_digest
    from skerry.lib.proc import SystemRunner

    if not definition.spec.agent:
        return "", None
    if archive is not None:
        return file_digest(archive)[0], archive
    if not lock.is_file():
        raise click.UsageError(f"there is no {lock}; name a lock file, or an archive by --agent")
    mark = await agent_entry(runner=SystemRunner(), lock=lock)
    if not build:
        return mark, None
    click.echo("agent ...", err=True)
    made = await build_agent(
        cache=default_cache(surroundings().env), runner=SystemRunner(), lock=lock
    )
    return mark, made.path


def _tell(step: ImageStep, event: str, seconds: float) -> None:
    """One calm line per step."""
    if event == "begun":
        click.echo(f"{step.words} ...", err=True)
    elif event == "done":
        click.echo(f"  {step.name} {step.id} made in {seconds:.0f} s", err=True)
    else:
        click.echo(f"  {step.name} {step.id} is in the cache", err=True)


def _refused(message: str) -> Exception:
    from skerry.lib.errors import SkerryError

    return SkerryError(message, hint="what is wrong stands above, below each item that failed")


def _quiet_logs() -> None:
    from skerry.cli.logs import log_to_stderr

    log_to_stderr("warning")
