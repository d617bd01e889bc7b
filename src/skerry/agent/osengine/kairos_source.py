"""A Kairos image on this host: its description, and whether its tar holds what that says.

The check happens before anything of the running host is touched. What `kairos-agent` finds missing
it finds only after it has begun to write.
"""

from __future__ import annotations

import re

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
    KairosBoot,
    KairosImageInfo,
    parse_kairos_image,
)
from skerry.model.osimage import MAX_OS_METADATA_BYTES, OsImageInvalid

_RELEASE = "etc/kairos-release"
_KERNEL, _INITRD = "boot/vmlinuz", "boot/initrd"
_UKI = "efi/kairos/norole.efi"
_RELEASE_HEAD = 64 * 1024
# The release's text is in one of the first sections.
_UKI_HEAD = 1024 * 1024
_VERSION = re.compile(rb"KAIROS_(?:VERSION|RELEASE)=\"?([^\"\n\0]{1,128})")


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
    return scan(root.read_chunks(path), wanted)


def wanted(path: str) -> int | None:
    """How much is kept of the files that an image needs to start, and of what they may link to."""
    if path.lower() == _UKI:
        return _UKI_HEAD
    if path == _RELEASE:
        return _RELEASE_HEAD
    return 0 if path.startswith("boot/") else None


def kairos_version(found: SavedImage) -> tuple[KairosBoot, str]:
    """For which kind of host the tar is, and which version it says. Empty when it says none."""
    uki = next((item for path, item in found.files.items() if path.lower() == _UKI), None)
    holder = uki or found.file(_RELEASE)
    version = _VERSION.search(holder.head) if holder else None
    kind = KairosBoot.UKI if uki else KairosBoot.GRUB
    return kind, version[1].decode(errors="replace") if version else ""


def tar_problem(found: SavedImage, info: KairosImageInfo) -> str:
    """Why the tar is not the image that the description promises; empty when it is."""
    kind, version = kairos_version(found)
    if kind is not info.boot:
        return f"the tar is for {kind} hosts, its description says {info.boot}"
    if version != info.kairos_version:
        return f"the tar says version {version or 'nothing'}, not {info.kairos_version}"
    if found.unpacked_bytes > info.unpacked_bytes:
        return f"the tar unpacks to {found.unpacked_bytes} bytes, not {info.unpacked_bytes}"
    for path, what in ((_KERNEL, "kernel"), (_INITRD, "initrd")):
        file = found.file(path)
        if kind is KairosBoot.GRUB and (file is None or file.size == 0):
            return f"the tar has no {what} at /{path}"
    return ""


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
