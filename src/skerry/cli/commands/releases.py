"""`release`: build, sign and push what hosts run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from skerry.cli.session import connect, runs, surroundings

if TYPE_CHECKING:
    from skerry.builder.layout import BuiltArtifact
    from skerry.wire.envelope import SigningKey

_KEY = click.option(
    "--key",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Private release key (PEM). A development manager has it in DATA/keys/release.key.",
)
_FOLDER = click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))


@click.group()
def release() -> None:
    """Build, sign and push what hosts run."""


@release.group("build")
def build() -> None:
    """Build an artifact into the cache and print its folder."""


_LOCK = click.option(
    "--lock",
    "lock_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Your own lock file (default: official.lock.yaml beside the contexts).",
)


@build.command("kubernetes")
@click.argument("version")
@click.option(
    "--from",
    "source",
    type=click.Choice(["modules", "official"]),
    default="modules",
    show_default=True,
    help="Compile from the Go module system, or fetch upstream's files.",
)
@click.option(
    "--architecture",
    type=click.Choice(["amd64", "arm64"]),
    help="For hosts of this kind; only with --from official (default: this computer's).",
)
@_LOCK
@_KEY
@runs
async def build_kubernetes(
    version: str,
    source: str,
    architecture: str | None,
    lock_file: Path | None,
    key: Path | None,
) -> None:
    """Build a Kubernetes release: programs, images, metadata, SBOM.

    From modules, the first time takes about half an hour on two cores; it needs Go, and root for
    the images. From official, upstream's own files and images are fetched (some 500 MB) and
    compared with locked digests: those that come with skerry and those of your own lock file.

    Not checked yet with --from official: cosign signatures of Kubernetes' programs, SBOM and
    images, GitHub's attestation of containerd, the OpenPGP signatures of runc and Helm.
    """
    from skerry.builder.cache import default_cache
    from skerry.builder.release import build_release
    from skerry.lib.proc import SystemRunner

    _quiet_logs()
    env = surroundings().env
    signer = _signer(key) if key else None
    if source == "official":
        built = await _fetch_official(version, architecture, lock_file, signer)
    elif architecture is not None or lock_file is not None:
        raise click.UsageError("--architecture and --lock go with --from official")
    else:
        built = await build_release(
            version,
            cache=default_cache(env),
            runner=SystemRunner(),
            env=env,
            signer=signer,
            progress=_tell,
        )
    _built(built.path, built.digest, built.size_bytes, signed=key is not None)


async def _fetch_official(
    version: str, architecture: str | None, lock_file: Path | None, signer: SigningKey | None
) -> BuiltArtifact:
    from skerry.builder.cache import default_cache
    from skerry.builder.gomodules import machine_architecture
    from skerry.builder.official import build_official
    from skerry.cli.upstream import fetching, known_lock, lock_place

    env = surroundings().env
    async with fetching() as fetcher:
        return await build_official(
            version,
            architecture=architecture or machine_architecture(),
            cache=default_cache(env),
            fetcher=fetcher,
            lock=known_lock(lock_place(env, lock_file)),
            signer=signer,
            progress=_tell,
        )


@release.command("lock")
@click.argument("version")
@click.option(
    "--architecture",
    "architectures",
    type=click.Choice(["amd64", "arm64"]),
    multiple=True,
    help="For hosts of this kind; can be given twice (default: both).",
)
@_LOCK
@click.option("-y", "--yes", is_flag=True, help="Write without asking.")
@runs
async def lock_digests(
    version: str, architectures: tuple[str, ...], lock_file: Path | None, yes: bool
) -> None:
    """Learn the digests of upstream's files for 'build kubernetes --from official'.

    Asks upstream's checksum files and the registry's tags, shows every digest and writes the new
    ones to your lock file. This is trust on first use: the digests come over the same line as the
    files later will, and signatures (cosign, OpenPGP, GitHub attestations) are not checked yet.
    From then on every fetch on any line has to match. A digest that differs from a locked one is
    refused, and nothing is written.
    """
    from skerry.builder.official import lock_release
    from skerry.builder.recipes import release_table
    from skerry.builder.upstream import ARCHITECTURES, needs_of
    from skerry.cli.session import the_clock
    from skerry.cli.upstream import (
        fetching,
        known_lock,
        lock_place,
        read_lock,
        show_found,
        write_lock,
    )

    _quiet_logs()
    table = release_table(version)
    place = lock_place(surroundings().env, lock_file)
    needs = [needs_of(table, name) for name in architectures or ARCHITECTURES]
    async with fetching() as fetcher:
        lock, found = await lock_release(
            needs,
            known=known_lock(place),
            into=read_lock(place),
            fetcher=fetcher,
            now=the_clock().now(),
            tell=_tell,
        )
    show_found(found)
    new = sum(one.state == "new" for one in found)
    if not new:
        click.echo(f"nothing new: all {len(found)} digests are locked already", err=True)
        return
    click.echo(
        f"{new} new digests, trusted because upstream says so now; no signature was checked",
        err=True,
    )
    if not yes:
        click.confirm(f"write them to {place}?", abort=True, err=True)
    write_lock(place, lock)
    click.echo(f"written to {place}", err=True)


@build.command("example")
@click.argument("version", default="1.0")
@_KEY
@runs
async def build_example_images(version: str, key: Path | None) -> None:
    """Build the images of the example web application. Needs root."""
    from skerry.builder.cache import default_cache
    from skerry.builder.example import build_example
    from skerry.lib.proc import SystemRunner

    _quiet_logs()
    built = await build_example(
        version,
        cache=default_cache(surroundings().env),
        runner=SystemRunner(),
        signer=_signer(key) if key else None,
    )
    _built(built.path, built.digest, built.size_bytes, signed=key is not None)


@build.command("chart")
@click.argument("chart", type=click.Path(exists=True, path_type=Path))
@_KEY
@runs
async def build_chart_artifact(chart: Path, key: Path | None) -> None:
    """Build an artifact of the Helm chart CHART, a folder or a .tgz, for every architecture.

    Nothing is fetched: dependencies have to lie under charts/.
    """
    import anyio.to_thread

    from skerry.builder.cache import default_cache
    from skerry.builder.charts import build_chart

    _quiet_logs()
    cache, signer = default_cache(surroundings().env), _signer(key) if key else None
    built = await anyio.to_thread.run_sync(
        lambda: build_chart(chart, cache=cache, signer=signer), abandon_on_cancel=True
    )
    _built(built.path, built.digest, built.size_bytes, signed=key is not None)


@build.command("images")
@click.argument(
    "archives",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)
@click.option("--name", default="", help="Name of the artifact (default: the only image's).")
@click.option("--version", default="", help="Version of the artifact (default: the image's tag).")
@click.option("--image", default="", help="Full name of the image, when its archive has none.")
@click.option(
    "--architecture",
    default="",
    help="Architecture of the images as amd64 or arm64 (default: this computer's).",
)
@_KEY
@runs
async def build_images_artifact(
    archives: tuple[Path, ...],
    name: str,
    version: str,
    image: str,
    architecture: str,
    key: Path | None,
) -> None:
    """Build an artifact of the container images in ARCHIVES.

    They are tar files as 'docker save', 'podman save' or 'skopeo copy ... oci-archive:FILE' write.
    """
    import anyio.to_thread

    from skerry.builder.archives import build_images
    from skerry.builder.cache import default_cache
    from skerry.builder.gomodules import machine_architecture

    _quiet_logs()
    cache, signer = default_cache(surroundings().env), _signer(key) if key else None
    machine = architecture or machine_architecture()
    built = await anyio.to_thread.run_sync(
        lambda: build_images(
            archives,
            cache=cache,
            architecture=machine,
            name=name,
            version=version,
            image=image,
            signer=signer,
        ),
        abandon_on_cancel=True,
    )
    _built(built.path, built.digest, built.size_bytes, signed=key is not None)


@build.command("agent")
@click.option(
    "--lock",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=Path("requirements/dev.txt"),
    show_default=True,
    help="Locked dependencies with hashes.",
)
@click.option(
    "--version",
    default="",
    help="What the built agent calls itself, for a build between two releases (default: skerry's).",
)
@_KEY
@runs
async def build_agent_artifact(lock: Path, version: str, key: Path | None) -> None:
    """Build the agent that hosts run, for this computer's architecture.

    The folder holds the artifact to sign and push, which hosts update themselves to, and in
    skerry-agent.tar.gz what 'skerry serve --agent-archive' hands out to new hosts.
    """
    from skerry import __version__
    from skerry.builder.agent import build_agent
    from skerry.builder.cache import default_cache
    from skerry.builder.layout import sign_layout
    from skerry.cli.ages import size
    from skerry.lib.proc import SystemRunner

    _quiet_logs()
    made = await build_agent(
        cache=default_cache(surroundings().env),
        runner=SystemRunner(),
        lock=lock,
        version=version or __version__,
    )
    info = made.info
    click.echo(
        f"agent {info.version} for {info.architecture}, {size(info.size_bytes)},"
        f" needs glibc {info.glibc} or later",
        err=True,
    )
    if key is not None:
        sign_layout(made.artifact.path, _signer(key))
    built = made.artifact
    _built(built.path, built.digest, built.size_bytes, signed=key is not None)


@release.command("sign")
@_FOLDER
@click.option(
    "--key",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="Private release key (PEM).",
)
def sign(folder: Path, key: Path) -> None:
    """Sign the artifact in FOLDER; the signature lies beside it in envelope.json."""
    from skerry.builder.layout import describe, sign_layout

    sign_layout(folder, _signer(key))
    built = describe(folder)
    click.echo(f"{built.name} {built.version} {built.architecture} signed, {built.digest}")


@release.command("verify")
@_FOLDER
def verify(folder: Path) -> None:
    """Read everything in FOLDER and compare it with its digests."""
    from skerry.cli.ages import size
    from skerry.lib.oci import Layout

    click.echo(f"{folder}: {size(Layout.open(folder).verify())} as their digests say")


@release.command("push")
@_FOLDER
@click.option("--name", default="", help="Name of the Artifact (default: from what it is).")
@_KEY
@runs
async def push(folder: Path, name: str, key: Path | None) -> None:
    """Bring the artifact in FOLDER to the manager. What is there already is not sent again.

    It has to be signed: before, by 'release build --key' or 'release sign', or now by --key.
    """
    from skerry.cli.pushing import prepare, push_artifact

    parcel = prepare(folder, name=name, signer=_signer(key) if key else None)
    async with connect() as api:
        with _progress(parcel.size_bytes, parcel.name) as count:
            sent = await push_artifact(api, parcel, progress=count)
    click.echo(f"artifact/{parcel.name} complete, {sent} of {len(parcel.blobs)} blobs were new")


def _signer(place: Path) -> SigningKey:
    from skerry.lib.pki import load_signing_key
    from skerry.wire.envelope import KeyRole, SigningKey

    return SigningKey(KeyRole.RELEASE, load_signing_key(place.read_bytes()))


def _built(path: Path, digest: str, size_bytes: int, *, signed: bool) -> None:
    from skerry.cli.ages import size

    state = "signed" if signed else "not signed yet"
    click.echo(f"{digest}, {size(size_bytes)}, {state}", err=True)
    click.echo(str(path))


def _tell(event: str, /, **fields: object) -> None:
    """One calm line per step of a long build."""
    match event:
        case "release.component":
            click.echo(f"building {fields['name']} {fields['version']}", err=True)
        case "release.base":
            click.echo(f"base image {fields['name']} from {fields['suite']}", err=True)
        case "release.fetch":
            click.echo(f"fetching {fields['what']}", err=True)
        case "lock.ask":
            click.echo(f"asking for {fields['what']}", err=True)
        case "release.unchecked":
            for line in fields["what"]:  # type: ignore[attr-defined]  # a list of texts
                click.echo(f"signatures not checked yet, {line}", err=True)
        case "release.assemble":
            click.echo(f"putting release {fields['version']} together", err=True)
        case _:
            pass


def _quiet_logs() -> None:
    from skerry.cli.logs import log_to_stderr

    log_to_stderr("warning")


def _progress(total: int, title: str) -> Any:
    """A context whose value counts bytes: a bar on a terminal, nothing otherwise."""
    import contextlib
    import sys
    from collections.abc import Iterator

    @contextlib.contextmanager
    def bar() -> Iterator[Callable[[int], None]]:
        if not sys.stderr.isatty():
            yield lambda _more: None
            return
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task(title, total=total)
            yield lambda more: progress.advance(task, more)

    return bar()
