"""Builds a Kubernetes release: one OCI layout with every program and image a host needs.

Here releases are compiled from the Go module system; `official` puts them together from what
upstream publishes. Both end in `write_release`, so a host sees no difference.
Planning is pure: `plan_release` says what would be built and under which content ids. Building
finds each component in the cache or makes it, then writes the layout. The layout itself is not
signed, so that it can be cached; `sign_layout` puts `envelope.json` beside it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import anyio.to_thread
import msgspec

from skerry.builder.cache import Cache, content_id
from skerry.builder.gomodules import (
    Component,
    Toolchain,
    build_component,
    drop_build_cache,
    probe_toolchain,
    recipe_id,
)
from skerry.builder.images import Base, base_id, base_layer, write_program_image
from skerry.builder.layout import BuiltArtifact, LayoutWriter, describe, sign_layout
from skerry.builder.recipes import ImageRecipe, ReleaseTable, release_table
from skerry.builder.sbom import Module, document, parse_go_version
from skerry.lib.clock import Clock, SystemClock
from skerry.lib.oci import LayoutInvalid
from skerry.lib.proc import Runner
from skerry.model.release import ARTIFACT_TYPE, CONFIG_TYPE, SBOM_PATH, ReleaseMetadata
from skerry.wire.envelope import SigningKey

# Raised when a release is assembled differently from the same components.
_RELEASE_FORM = 1

_DISTRIBUTION = "kubernetes"


class Progress(Protocol):
    """Told about the state of long work: an event name and its fields."""

    def __call__(self, event: str, /, **fields: object) -> None: ...


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to build or fetch. `kind` is "programs", "base", "file", "image" or "release"."""

    kind: str
    name: str
    version: str
    content_id: str


class ReleasePlan(msgspec.Struct, frozen=True, kw_only=True):
    """What has to be there for a release, in order; the last step is the release itself."""

    version: str
    architecture: str
    steps: tuple[Step, ...]

    @property
    def content_id(self) -> str:
        return self.steps[-1].content_id

    @property
    def entry(self) -> str:
        """Name of the release's folder."""
        return f"{self.version}-{self.architecture}"


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything that goes into a release. `modules` maps a path in it to what it is made of."""

    table: ReleaseTable
    toolchain: Toolchain
    components: Mapping[str, Component]
    bases: Mapping[str, Base]
    modules: Mapping[str, list[Module]]


WriteImage = Callable[[Path], None]
"""Writes an image tar to a file."""


@dataclass(frozen=True, slots=True)
class Contents:
    """A release ready to be written. `files` maps a path in it to (file, executable), `images`
    a component to (full name, what writes its tar)."""

    version: str
    architecture: str
    source: str
    toolchain: str
    components: Mapping[str, str]
    files: Mapping[str, tuple[Path, bool]]
    images: Mapping[str, tuple[str, WriteImage]]
    sbom: bytes


def plan_release(
    version: str, *, toolchain: Toolchain, table: ReleaseTable | None = None
) -> ReleasePlan:
    """The build steps of a version, with content ids. Raises UnknownRelease."""
    table = table or release_table(version)
    steps = [
        Step(
            kind="programs",
            name=recipe.name,
            version=recipe.version,
            content_id=recipe_id(recipe, toolchain),
        )
        for recipe in table.recipes.values()
    ]
    steps += [
        Step(
            kind="base",
            name=name,
            version=base.suite,
            content_id=base_id(base, toolchain.architecture),
        )
        for name, base in table.bases.items()
    ]
    whole = content_id(
        {
            "form": _RELEASE_FORM,
            "steps": steps,
            "files": table.files,
            "images": table.images,
            "components": table.components,
        }
    )
    release = Step(kind="release", name=_DISTRIBUTION, version=table.version, content_id=whole)
    return ReleasePlan(
        version=table.version, architecture=toolchain.architecture, steps=(*steps, release)
    )


async def build_release(
    version: str,
    *,
    cache: Cache,
    runner: Runner,
    env: Mapping[str, str],
    signer: SigningKey | None = None,
    toolchain: Toolchain | None = None,
    table: ReleaseTable | None = None,
    progress: Progress | None = None,
    clock: Clock | None = None,
) -> BuiltArtifact:
    """Compile a release into `releases/kubernetes/VERSION-ARCH` of the cache, or find it there.

    With `signer` the layout is signed as well. Raises UnknownRelease, ComponentFailed,
    NotAllowedHere.
    """
    tell = progress or silent
    table = table or release_table(version)
    toolchain = toolchain or await probe_toolchain(runner)
    plan = plan_release(version, toolchain=toolchain, table=table)

    async def write(work: Path) -> None:
        parts = await _gather(table, toolchain, cache, runner, env, tell)
        tell("release.assemble", version=table.version)
        await anyio.to_thread.run_sync(assemble, parts, work)
        drop_build_cache(cache)

    return await keep_release(
        plan,
        kind=f"releases/{_DISTRIBUTION}",
        cache=cache,
        write=write,
        signer=signer,
        tell=tell,
        clock=clock or SystemClock(),
    )


async def keep_release(
    plan: ReleasePlan,
    *,
    kind: str,
    cache: Cache,
    write: Callable[[Path], Awaitable[None]],
    signer: SigningKey | None,
    tell: Progress,
    clock: Clock,
) -> BuiltArtifact:
    """The release of this very plan from the cache, or `write` it into a folder there."""
    place = cache.find(kind, plan.entry)
    if place is None or not _is_from(place, plan):
        work = Path(tempfile.mkdtemp(prefix=f".{plan.entry}.", dir=cache.folder(kind)))
        try:
            await write(work)
            (work / "build.json").write_bytes(msgspec.json.encode(plan))
            work.chmod(0o755)
            place = cache.replace(kind, plan.entry, work)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        cache.trim(clock.now())
    if signer is not None:
        sign_layout(place, signer)
    built = describe(place)
    tell("release.built", version=plan.version, digest=built.digest, size_bytes=built.size_bytes)
    return built


def assemble(parts: Parts, into: Path) -> None:
    """Write the layout of a release into an empty folder. Equal parts make equal bytes."""
    table, architecture = parts.table, parts.toolchain.architecture

    def image_writer(image: ImageRecipe) -> WriteImage:
        component, program = image.program

        def write(out: Path) -> None:
            write_program_image(
                image,
                program=parts.components[component].program(program),
                base=parts.bases[image.base].layer if image.base else None,
                architecture=architecture,
                work=out.parent,
                out=out,
            )

        return write

    write_release(
        Contents(
            version=table.version,
            architecture=architecture,
            source="modules",
            toolchain=parts.toolchain.go_version,
            components=table.components,
            files={
                path: (parts.components[component].program(program), True)
                for path, (component, program) in table.files.items()
            },
            images={
                name: (image.name, image_writer(image)) for name, image in table.images.items()
            },
            sbom=document(
                name=_DISTRIBUTION,
                version=table.version,
                programs=parts.modules,
                packages=[package for base in parts.bases.values() for package in base.packages],
            ),
        ),
        into,
    )


def write_release(contents: Contents, into: Path) -> None:
    """Write the layout of a release, wherever its parts come from, into an empty folder."""
    scratch = into / ".work"
    scratch.mkdir()
    writer = LayoutWriter(into)
    for path, (source, executable) in sorted(contents.files.items()):
        writer.add_file(source, path=path, executable=executable)
    for name, (reference, write) in sorted(contents.images.items()):
        tar = scratch / f"{name}.tar"
        write(tar)
        writer.add_image(tar, path=f"images/{name}.tar", name=reference)
        tar.unlink()
    bill = scratch / "sbom"
    bill.write_bytes(contents.sbom)
    writer.add_file(bill, path=SBOM_PATH, executable=False)
    shutil.rmtree(scratch)
    metadata = ReleaseMetadata(
        distribution=_DISTRIBUTION,
        version=contents.version,
        architecture=contents.architecture,
        source=contents.source,
        toolchain=contents.toolchain,
        components=dict(contents.components),
        files=tuple(writer.files),
        images=tuple(writer.images),
    )
    writer.finish(
        metadata.encode(),
        config_type=CONFIG_TYPE,
        artifact_type=ARTIFACT_TYPE,
        name=_DISTRIBUTION,
        version=contents.version,
        architecture=contents.architecture,
    )


async def _gather(
    table: ReleaseTable,
    toolchain: Toolchain,
    cache: Cache,
    runner: Runner,
    env: Mapping[str, str],
    tell: Progress,
) -> Parts:
    components = {}
    for recipe in table.recipes.values():
        tell("release.component", name=recipe.name, version=recipe.version)
        components[recipe.name] = await build_component(
            recipe, toolchain=toolchain, cache=cache, runner=runner, env=env
        )
    bases = {}
    for name, base in table.bases.items():
        tell("release.base", name=name, suite=base.suite)
        bases[name] = await base_layer(
            name, base, architecture=toolchain.architecture, cache=cache, runner=runner
        )
    places = dict(table.files)
    places |= {f"images/{name}": image.program for name, image in table.images.items()}
    modules = {}
    for path, (component, program) in places.items():
        said = await runner.run(
            ["go", "version", "-m", str(components[component].program(program))], timeout_s=60
        )
        modules[path] = parse_go_version(said.stdout)
    return Parts(
        table=table, toolchain=toolchain, components=components, bases=bases, modules=modules
    )


def _is_from(place: Path, plan: ReleasePlan) -> bool:
    """Whether the folder was built by this very plan and can be read."""
    try:
        made = msgspec.json.decode((place / "build.json").read_bytes(), type=ReleasePlan)
        describe(place)
    except (OSError, msgspec.DecodeError, LayoutInvalid):
        return False
    return made == plan


def silent(_event: str, /, **_fields: object) -> None:
    """Progress that nobody watches."""
