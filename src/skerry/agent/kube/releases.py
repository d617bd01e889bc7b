"""A release on this host: fetched by digest, unpacked under its version, removed when unused.

`release.json` is written last, so a folder without it counts as nothing. A file that another
unpacked release already has with the same content is copied from there, never downloaded again.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator

import anyio.to_thread
import msgspec

from skerry.agent.kube import places
from skerry.agent.kube.engine import EngineFailed, Reason
from skerry.agent.kube.record import Doors
from skerry.lib.digest import sha256
from skerry.lib.files import DiskFull
from skerry.lib.oci import MAX_MANIFEST_BYTES, Descriptor, Manifest, parse_manifest
from skerry.model.artifact import ArtifactRef
from skerry.model.meta import Record
from skerry.model.release import (
    ARTIFACT_TYPE,
    CONTENT_KEY,
    MAX_METADATA_BYTES,
    MODE_KEY,
    PATH_KEY,
    ReleaseMetadata,
    check_path,
    parse_metadata,
    parse_mode,
)

_CHUNK = 1 << 20
_MARGIN_BYTES = 256 << 20


class InstalledRelease(Record, frozen=True, kw_only=True):
    """Content of `release.json`. `files` maps paths to digests of their content."""

    digest: str
    metadata: ReleaseMetadata
    files: dict[str, str]


def installed(doors: Doors) -> dict[str, InstalledRelease]:
    """Every release that is completely unpacked, by version."""
    found: dict[str, InstalledRelease] = {}
    for version in doors.root.list(places.RELEASES):
        path = f"{places.release(version)}/release.json"
        if doors.root.exists(path):
            found[version] = msgspec.json.decode(doors.root.read(path), type=InstalledRelease)
    return found


def release_of(doors: Doors, version: str) -> InstalledRelease:
    """Raises EngineFailed when it is not unpacked."""
    path = f"{places.release(version)}/release.json"
    if not doors.root.exists(path):
        raise EngineFailed(
            Reason.RELEASE_INVALID,
            f"Kubernetes release {version} is not unpacked on this host",
            hint="it is fetched again by itself",
        )
    return msgspec.json.decode(doors.root.read(path), type=InstalledRelease)


async def fetch(doors: Doors, release: ArtifactRef) -> None:
    """Bring the manifest and every blob that no unpacked release can give."""
    manifest = await _manifest(doors, release)
    await _metadata(doors, manifest)
    have = _have(doors)
    for layer in manifest.layers:
        if layer.annotations.get(CONTENT_KEY, "") not in have:
            await doors.content.ensure(layer.digest, size=layer.size)


async def unpack(doors: Doors, release: ArtifactRef) -> None:
    """Lay the release out and give the blobs' space back."""
    manifest = await _manifest(doors, release)
    metadata = await _metadata(doors, manifest)
    if metadata.version != release.version or metadata.architecture != release.architecture:
        raise EngineFailed(
            Reason.RELEASE_INVALID,
            f"release {release.version} for {release.architecture} says of itself that it is"
            f" {metadata.version} for {metadata.architecture}",
            retryable=False,
        )
    folder = places.release(metadata.version)
    wanted = sum(file.size_bytes for file in metadata.files)
    wanted += sum(image.size_bytes for image in metadata.images)
    if doors.root.free_bytes(places.STATE) < wanted + _MARGIN_BYTES:
        raise DiskFull(folder)
    doors.root.remove(f"{folder}/release.json")
    have, files = _have(doors), {}
    for layer in manifest.layers:
        path = check_path(layer.annotations.get(PATH_KEY, ""))
        wants = layer.annotations.get(CONTENT_KEY, "")
        mode = parse_mode(layer.annotations.get(MODE_KEY, "0644"))
        target = f"{folder}/{path}"
        source = have.get(wants)
        if source is None:
            blob = await doors.content.ensure(layer.digest, size=layer.size)
            await anyio.to_thread.run_sync(_expand, doors, blob, target, wants, mode)
        elif source != target:
            await anyio.to_thread.run_sync(_copy, doors, source, target, wants, mode)
        files[path] = wants
    record = InstalledRelease(digest=release.digest, metadata=metadata, files=files)
    doors.root.write(f"{folder}/release.json", msgspec.json.encode(record))
    for layer in manifest.layers:
        doors.content.drop(layer.digest)


def remove(doors: Doors, version: str) -> None:
    """Remove a release's files."""
    doors.root.remove(f"{places.release(version)}/release.json")
    doors.root.remove(places.release(version))


async def read_manifest(doors: Doors, artifact: ArtifactRef, *, artifact_type: str) -> Manifest:
    """An artifact's manifest. Raises EngineFailed when it is of another type."""
    path = await doors.content.ensure(artifact.digest)
    if doors.root.size(path) > MAX_MANIFEST_BYTES:
        raise EngineFailed(Reason.RELEASE_INVALID, f"manifest of {artifact.name} is too large")
    data = doors.root.read(path)
    if sha256(data) != artifact.digest:
        doors.content.drop(artifact.digest)
        raise EngineFailed(Reason.RELEASE_INVALID, f"manifest of {artifact.name} was damaged")
    manifest = parse_manifest(data)
    if manifest.artifact_type != artifact_type:
        raise EngineFailed(
            Reason.RELEASE_INVALID,
            f"{artifact.name} {artifact.version} is a {manifest.artifact_type},"
            f" wanted {artifact_type}",
            retryable=False,
        )
    return manifest


def expand(doors: Doors, blob: str, target: str, digest: str) -> None:
    """Decompress a blob to a file whose content must have the digest."""
    _expand(doors, blob, target, digest, 0o644)


async def _manifest(doors: Doors, release: ArtifactRef) -> Manifest:
    return await read_manifest(doors, release, artifact_type=ARTIFACT_TYPE)


async def _metadata(doors: Doors, manifest: Manifest) -> ReleaseMetadata:
    return parse_metadata(await small_blob(doors, manifest.config, limit=MAX_METADATA_BYTES))


async def small_blob(doors: Doors, descriptor: Descriptor, *, limit: int) -> bytes:
    """Content of a small blob. Raises EngineFailed when it is larger than `limit`."""
    path = await doors.content.ensure(descriptor.digest, size=descriptor.size)
    if doors.root.size(path) > limit:
        raise EngineFailed(
            Reason.RELEASE_INVALID, f"blob {descriptor.digest[:19]} is too large", retryable=False
        )
    return doors.root.read(path)


def _have(doors: Doors) -> dict[str, str]:
    """Digest of content -> path, over all unpacked releases."""
    return {
        digest: f"{places.release(version)}/{path}"
        for version, release in installed(doors).items()
        for path, digest in release.files.items()
        if doors.root.exists(f"{places.release(version)}/{path}")
    }


def _expand(doors: Doors, blob: str, target: str, digest: str, mode: int) -> None:
    try:
        _write(doors, _gunzip(doors.root.read_chunks(blob, size=_CHUNK)), target, digest, mode)
    except zlib.error as exc:
        raise _damaged(target) from exc


def _gunzip(packed: Iterator[bytes]) -> Iterator[bytes]:
    """Decompress in bounded pieces; a cut stream simply ends, its digest tells."""
    machine = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    for piece in packed:
        rest = piece
        while rest:
            yield machine.decompress(rest, _CHUNK)
            rest = machine.unconsumed_tail
    yield machine.flush()


def _copy(doors: Doors, source: str, target: str, digest: str, mode: int) -> None:
    _write(doors, doors.root.read_chunks(source, size=_CHUNK), target, digest, mode)


def _write(doors: Doors, chunks: Iterator[bytes], target: str, digest: str, mode: int) -> None:
    hashing = hashlib.sha256()

    def counted() -> Iterator[bytes]:
        for chunk in chunks:
            hashing.update(chunk)
            yield chunk

    # Under another name until its digest is known: a program of this release may be running.
    fresh = f"{target}.unchecked"
    doors.root.write_chunks(fresh, counted(), mode=mode)
    if f"sha256:{hashing.hexdigest()}" != digest:
        doors.root.remove(fresh)
        raise _damaged(target)
    doors.root.rename(fresh, target)


def _damaged(target: str) -> EngineFailed:
    return EngineFailed(
        Reason.RELEASE_INVALID,
        f"content of {target} is not what the release says",
        hint="it is fetched again; if this repeats, build and push the release again",
    )
