"""A Kairos image on this host: its description, and whether its tar holds what that says.

The check happens before anything of the running host is touched. What `kairos-agent` finds missing
it finds only after it has begun to write.
"""

from __future__ import annotations

import anyio.to_thread

from skerry.agent.content import Content
from skerry.agent.osengine.engine import OsEngineFailed, OsReason
from skerry.lib.files import Root
from skerry.lib.oci import MAX_MANIFEST_BYTES, LayoutInvalid, parse_manifest
from skerry.lib.savedimage import SavedImage, SavedImageInvalid, scan
from skerry.model.artifact import ArtifactRef
from skerry.model.kairosimage import (
    KAIROS_ARTIFACT_TYPE,
    KAIROS_CONFIG_TYPE,
    KAIROS_IMAGE_TYPE,
    KairosImageInfo,
    parse_kairos_image,
    tar_problem,
    wanted_of_tar,
)
from skerry.model.osimage import MAX_OS_METADATA_BYTES, OsImageInvalid


async def image_info(root: Root, content: Content, image: ArtifactRef) -> KairosImageInfo:
    """The image's description. Raises OsEngineFailed (ImageInvalid), content errors."""
    manifest_path = await content.ensure(image.digest)
    if root.size(manifest_path) > MAX_MANIFEST_BYTES:
        raise _invalid(image, f"its manifest is larger than {MAX_MANIFEST_BYTES} bytes")
    try:
        manifest = parse_manifest(root.read(manifest_path))
    except LayoutInvalid as exc:
        raise _invalid(image, exc.message) from exc
    layers = manifest.layers
    kinds = [layer.media_type for layer in layers]
    if manifest.artifact_type != KAIROS_ARTIFACT_TYPE or kinds != [KAIROS_IMAGE_TYPE]:
        raise _invalid(
            image, f"it is not an image for Kairos hosts: {manifest.artifact_type[:80]!r}"
        )
    if manifest.config.media_type != KAIROS_CONFIG_TYPE:
        raise _invalid(image, "its description is of an unknown type")
    if manifest.config.size > MAX_OS_METADATA_BYTES:
        raise _invalid(image, f"its description is larger than {MAX_OS_METADATA_BYTES} bytes")
    config = await content.ensure(manifest.config.digest, size=manifest.config.size)
    try:
        info = parse_kairos_image(root.read(config))
    except OsImageInvalid as exc:
        raise _invalid(image, exc.message) from exc
    if (info.image.digest, info.image.size_bytes) != (layers[0].digest, layers[0].size):
        raise _invalid(image, "its description names another tar than its manifest")
    if info.version != image.version:
        raise _invalid(image, f"it says of itself that it is version {info.version}")
    if info.architecture != image.architecture:
        raise _invalid(image, f"it says of itself that it is for {info.architecture}")
    return info


async def check_image(root: Root, path: str, info: KairosImageInfo) -> None:
    """Read the whole tar and compare it with its description. Raises OsEngineFailed."""
    try:
        found = await anyio.to_thread.run_sync(scan_tar, root, path)
    except SavedImageInvalid as exc:
        raise _wrong(info, exc.message) from exc
    if problem := tar_problem(found, info):
        raise _wrong(info, problem)


def scan_tar(root: Root, path: str) -> SavedImage:
    """One pass over the tar. Raises SavedImageInvalid."""
    return scan(root.read_chunks(path), wanted_of_tar)


def _invalid(image: ArtifactRef, problem: str) -> OsEngineFailed:
    return OsEngineFailed(
        OsReason.IMAGE_INVALID,
        f"image {image.name} {image.version} ({sha_short(image.digest)}): {problem}",
        hint="build and push the image again",
        retryable=False,
    )


def _wrong(info: KairosImageInfo, problem: str) -> OsEngineFailed:
    return OsEngineFailed(
        OsReason.IMAGE_INVALID,
        f"image {info.name} {info.version}: {problem}",
        hint="build and push the image again",
        retryable=False,
    )


def sha_short(digest: str) -> str:
    """A digest for people."""
    return digest[:19]
