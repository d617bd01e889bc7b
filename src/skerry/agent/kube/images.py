"""Container images on this host: imported from archives and pinned, so that the kubelet's
garbage collection never takes them.

Imported is what the runtime lists *and* the record says came from the same archive; either alone
is imported again.
"""

from __future__ import annotations

import anyio.to_thread

from skerry.agent.kube import charts, places, releases
from skerry.agent.kube.engine import EngineFailed, Reason
from skerry.agent.kube.record import Doors
from skerry.lib.errors import SkerryError
from skerry.lib.proc import CommandFailed
from skerry.model.artifact import ArtifactRef
from skerry.model.release import (
    CONTENT_KEY,
    IMAGE_KEY,
    IMAGE_TYPE,
    IMAGES_ARTIFACT_TYPE,
    ReleaseImage,
)

_PINNED = "io.cri-containerd.pinned=pinned"


async def listed(doors: Doors, *, version: str = "") -> frozenset[str]:
    """Names of the images that the runtime has."""
    answer = await doors.ctr("images", "ls", "-q", version=version)
    return frozenset(answer.stdout.split())


async def import_release(doors: Doors, version: str) -> None:
    """Import the release's images that are missing or came from another build."""
    release = releases.release_of(doors, version)
    have = await listed(doors, version=version)
    for image in release.metadata.images:
        if image.name not in have or doors.record().images.get(image.name) != image.digest:
            await _import_one(doors, version, image)


async def _import_one(doors: Doors, version: str, image: ReleaseImage) -> None:
    archive = f"{places.release(version)}/{image.path}"
    if not doors.root.exists(archive):
        doors.root.remove(f"{places.release(version)}/release.json")
        raise EngineFailed(
            Reason.IMAGE_MISSING,
            f"archive of image {image.name} is gone from {archive}",
            hint="the release is fetched again by itself",
        )
    await _import(doors, archive, image.name, version=version)
    doors.remember(images={**doors.record().images, image.name: image.digest})


async def _import(doors: Doors, archive: str, name: str, *, version: str = "") -> None:
    try:
        await doors.ctr(
            "images",
            "import",
            "--local",
            "--all-platforms",
            "--label",
            _PINNED,
            doors.root.host_path(archive),
            timeout_s=900,
            version=version,
        )
        # Labels given at import reach only new images.
        await doors.ctr("images", "label", name, _PINNED, version=version)
    except CommandFailed as exc:
        full = "no space left" in exc.result.stderr
        raise EngineFailed(
            Reason.DISK_FULL if full else Reason.IMAGE_MISSING,
            f"cannot import image {name}: {exc.result.stderr.strip()[-400:]}",
            hint="free some space" if full else "the import is tried again by itself",
        ) from exc


async def import_artifact(doors: Doors, artifact: ArtifactRef) -> None:
    """Fetch, import and pin every image of an artifact of type images."""
    record = doors.record()
    known = record.content.get(artifact.digest)
    if known is not None and set(known) <= await listed(doors):
        return
    manifest = await releases.read_manifest(doors, artifact, artifact_type=IMAGES_ARTIFACT_TYPE)
    names: list[str] = []
    for layer in manifest.layers:
        if layer.media_type != IMAGE_TYPE:
            continue
        blob = await doors.content.ensure(layer.digest, size=layer.size)
        name = layer.annotations.get(IMAGE_KEY, "")
        archive = f"{places.STATE}/content/import.tar"
        await anyio.to_thread.run_sync(
            releases.expand, doors, blob, archive, layer.annotations.get(CONTENT_KEY, "")
        )
        try:
            await _import(doors, archive, name)
        finally:
            doors.root.remove(archive)
        doors.content.drop(layer.digest)
        names.append(name)
    record = doors.record()
    doors.remember(content={**record.content, artifact.digest: tuple(names)})


async def remove_artifact(doors: Doors, digest: str) -> None:
    """Remove the chart, or the images that only this artifact brought."""
    record = doors.record()
    if digest in record.charts:
        charts.remove_artifact(doors, digest)
        return
    kept = {name for key, names in record.content.items() if key != digest for name in names}
    kept |= set(record.images)
    for name in record.content.get(digest, ()):
        if name not in kept:
            await doors.ctr("images", "rm", name, check=False)
    doors.content.drop(digest)
    doors.remember(content={k: v for k, v in record.content.items() if k != digest})


async def remove_release(doors: Doors, version: str) -> None:
    """Remove the images that only this release needs. A release in use is refused."""
    for name in ("containerd", "kubelet"):
        if doors.linked_version(name) == version:
            raise EngineFailed(
                Reason.RELEASE_INVALID, f"release {version} is in use", retryable=False
            )
    found = releases.installed(doors)
    kept = {
        image.name
        for other, release in found.items()
        if other != version
        for image in release.metadata.images
    }
    record = doors.record()
    kept |= {name for names in record.content.values() for name in names}
    gone = [
        image.name
        for image in (found[version].metadata.images if version in found else ())
        if image.name not in kept
    ]
    for name in gone:
        await doors.ctr("images", "rm", name, check=False)
    doors.remember(images={k: v for k, v in record.images.items() if k not in gone})


async def missing(doors: Doors, version: str) -> tuple[str, ...] | None:
    """Images of a release that the runtime does not have; None when that cannot be known now."""
    try:
        release = releases.release_of(doors, version)
        have = await listed(doors)
    except SkerryError:
        return None
    return tuple(image.name for image in release.metadata.images if image.name not in have)
