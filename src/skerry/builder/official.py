"""Releases from what upstream publishes: fetched against the lock, laid out like built ones.

Nothing is fetched before every file and image of the release has a locked digest. Signatures are
not checked yet; what upstream signs and nobody here checks is told each time, by name.
"""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import anyio.to_thread

from skerry.builder.cache import Cache, content_id
from skerry.builder.fetching import Fetcher, FetchFailed
from skerry.builder.imagefetch import FetchedImage, Registry, write_fetched_image
from skerry.builder.layout import BuiltArtifact
from skerry.builder.recipes import ReleaseTable, release_table
from skerry.builder.release import (
    Contents,
    Progress,
    ReleasePlan,
    Step,
    WriteImage,
    keep_release,
    silent,
    write_release,
)
from skerry.builder.sbom import Fetched, fetched_document
from skerry.builder.upstream import (
    FileNeed,
    Lock,
    Locked,
    Needs,
    Sources,
    digest_in,
    needs_of,
    require_locked,
)
from skerry.lib.errors import SkerryError
from skerry.wire.envelope import SigningKey

# Raised when a release is assembled differently from the same files.
_FORM = 1
_KIND = "releases/kubernetes-official"
_DISTRIBUTION = "kubernetes"
_BILL_PATH = "sbom/kubernetes.spdx"
_MAX_CHECKSUMS_BYTES = 1 << 20
_MAX_MEMBER_BYTES = 400 << 20


class ArchiveInvalid(SkerryError):
    """A fetched archive has the locked digest but not the file that the release needs."""


class DigestChanged(SkerryError):
    """Upstream names another digest than the lock does."""

    exit_code = 5


@dataclass(frozen=True, slots=True)
class Found:
    """One line of what `lock_release` learned. `state` is "new" or "known"."""

    title: str
    digest: str
    state: str
    origin: str


def plan_official(needs: Needs, lock: Lock) -> ReleasePlan:
    """What has to be fetched, by locked digest. Raises NotLocked."""
    require_locked(needs, lock)
    steps = [
        Step(kind="file", name=need.name, version=need.version, content_id=locked.digest)
        for need in needs.files.values()
        if (locked := lock.file(*need.key)) is not None
    ]
    steps += [
        Step(kind="image", name=name, version=reference, content_id=lock.images[reference].digest)
        for name, reference in needs.images.items()
    ]
    whole = content_id({"form": _FORM, "steps": steps, "placed": needs.placed})
    release = Step(kind="release", name=_DISTRIBUTION, version=needs.version, content_id=whole)
    return ReleasePlan(
        version=needs.version, architecture=needs.architecture, steps=(*steps, release)
    )


async def build_official(
    version: str,
    *,
    architecture: str,
    cache: Cache,
    fetcher: Fetcher,
    lock: Lock,
    signer: SigningKey | None = None,
    table: ReleaseTable | None = None,
    sources: Sources | None = None,
    progress: Progress | None = None,
) -> BuiltArtifact:
    """Fetch a release into `releases/kubernetes-official/VERSION-ARCH` of the cache, or find it.

    Raises UnknownRelease, NotLocked, FetchFailed, WrongDigest, ImageInvalid, ArchiveInvalid.
    """
    tell = progress or silent
    table = table or release_table(version)
    needs = needs_of(table, architecture, sources=sources)
    plan = plan_official(needs, lock)

    async def write(work: Path) -> None:
        files, images = await _fetch(needs, lock, fetcher, tell)
        tell("release.assemble", version=table.version)
        await anyio.to_thread.run_sync(_assemble, needs, table, lock, files, images, work)

    built = await keep_release(
        plan,
        kind=_KIND,
        cache=cache,
        write=write,
        signer=signer,
        tell=tell,
        clock=fetcher.clock,
    )
    tell("release.unchecked", what=needs.unchecked())
    return built


async def lock_release(
    needs: Sequence[Needs],
    *,
    known: Lock,
    into: Lock,
    fetcher: Fetcher,
    now: datetime,
    tell: Progress,
) -> tuple[Lock, list[Found]]:
    """Ask upstream for the digests of everything that releases need: `into` with those that
    nothing in `known` names, and all that was learned.

    A digest that is known already is asked for as well: raises DigestChanged when upstream says
    another one. Raises FetchFailed.
    """
    found: list[Found] = []
    changed: list[str] = []
    registry = Registry(fetcher)
    for need in {item.key: item for part in needs for item in part.files.values()}.values():
        tell("lock.ask", what=need.title)
        digest = await _ask(need, fetcher)
        one = Locked(digest=digest, origin=f"{need.checksums or need.url}, {now:%Y-%m-%d}")
        found.append(_found(need.title, one, known.file(*need.key), changed))
        if found[-1].state == "new":
            into = into.with_file(*need.key, one)
    for reference in dict.fromkeys(name for part in needs for name in part.images.values()):
        tell("lock.ask", what=f"image {reference}")
        digest = await registry.resolve(reference)
        one = Locked(digest=digest, origin=f"the registry's tag, {now:%Y-%m-%d}")
        found.append(_found(f"image {reference}", one, known.images.get(reference), changed))
        if found[-1].state == "new":
            into = into.with_image(reference, one)
    if changed:
        told = "upstream names other digests than the lock; nothing was written"
        raise DigestChanged(
            "\n".join([told, *changed]),
            hint="find out which is right before anything else, on upstream's release pages",
        )
    return into, found


def _found(title: str, now: Locked, known: Locked | None, changed: list[str]) -> Found:
    if known is None:
        return Found(title, now.digest, "new", now.origin)
    if known.digest != now.digest:
        changed.append(f"{title}: upstream {now.digest}, locked {known.digest} ({known.origin})")
    return Found(title, known.digest, "known", known.origin)


async def _ask(need: FileNeed, fetcher: Fetcher) -> str:
    if not need.checksums:
        return await fetcher.unlocked(need.url, what=need.title, limit_bytes=need.limit_bytes)
    answer = await fetcher.small(
        need.checksums, what=f"checksums of {need.title}", limit_bytes=_MAX_CHECKSUMS_BYTES
    )
    name = need.url.rpartition("/")[2]
    digest = digest_in(answer.body.decode(errors="replace"), name=name)
    if digest is None:
        raise FetchFailed(
            f"{need.checksums} has no SHA-256 of {name}",
            hint="open the address in a browser to see what it says",
        )
    return digest


async def _fetch(
    needs: Needs, lock: Lock, fetcher: Fetcher, tell: Progress
) -> tuple[dict[str, Path], dict[str, FetchedImage]]:
    files = {}
    for need in needs.files.values():
        locked = lock.file(*need.key)
        if locked is None:
            raise AssertionError(f"{need.title} passed require_locked without a digest")
        tell("release.fetch", what=need.title)
        files[need.name] = await fetcher.file(
            need.url, locked.digest, what=need.title, limit_bytes=need.limit_bytes
        )
    registry = Registry(fetcher)
    images = {}
    for name, reference in needs.images.items():
        tell("release.fetch", what=f"image {reference}")
        images[name] = await registry.image(
            reference,
            lock.images[reference].digest,
            architecture=needs.architecture,
            limit_bytes=needs.image_limit_bytes,
        )
    return files, images


def _assemble(
    needs: Needs,
    table: ReleaseTable,
    lock: Lock,
    files: dict[str, Path],
    images: dict[str, FetchedImage],
    into: Path,
) -> None:
    scratch = Path(tempfile.mkdtemp(prefix=".unpack.", dir=into))
    try:
        placed = {
            path: (
                extract(files[item.source], item.member, scratch / path.replace("/", "-"))
                if item.member
                else files[item.source],
                item.executable,
            )
            for path, item in needs.placed.items()
        }
        write_release(
            Contents(
                version=needs.version,
                architecture=needs.architecture,
                source="official",
                toolchain="",
                components=table.components,
                files=placed,
                images={
                    name: (str(image.reference), _image_writer(image))
                    for name, image in images.items()
                },
                sbom=fetched_document(
                    name=_DISTRIBUTION,
                    version=needs.version,
                    items=_bill(needs, lock),
                    upstream_bill=_BILL_PATH,
                ),
            ),
            into,
        )
    finally:
        shutil.rmtree(scratch)


def _image_writer(image: FetchedImage) -> WriteImage:
    return lambda out: write_fetched_image(image, out)


def _bill(needs: Needs, lock: Lock) -> list[Fetched]:
    items = []
    for path, item in needs.placed.items():
        need = needs.files[item.source]
        locked = lock.file(*need.key)
        digest = locked.digest if locked else ""
        items.append(Fetched(path=path, version=need.version, url=need.url, digest=digest))
    items += [
        Fetched(
            path=f"images/{name}.tar",
            version=reference.rpartition(":")[2],
            url=f"oci://{reference}",
            digest=lock.images[reference].digest,
        )
        for name, reference in needs.images.items()
    ]
    return items


def extract(archive: Path, member: str, into: Path) -> Path:
    """One plain file of a compressed tar; nothing else of it is unpacked. Raises
    ArchiveInvalid."""
    try:
        with tarfile.open(archive, "r|*") as reading:
            for entry in reading:
                if entry.name.removeprefix("./") != member:
                    continue
                source = reading.extractfile(entry) if entry.isreg() else None
                if source is None or entry.size > _MAX_MEMBER_BYTES:
                    break
                with into.open("wb") as writing:
                    shutil.copyfileobj(source, writing, 1 << 20)
                return into
    except (tarfile.TarError, EOFError, OSError) as exc:
        raise ArchiveInvalid(
            f"archive {archive.name} cannot be unpacked: {exc}",
            hint="the lock names this digest: correct the lock or the address in official.yaml",
        ) from exc
    raise ArchiveInvalid(
        f"archive {archive.name} has no plain file {member}",
        hint="upstream packs differently now: correct `member` in official.yaml",
    )
