"""Reads an OS image artifact from the content store: what it is, and where its files lie.

Nothing is believed that the artifact says of itself before it was compared with the reference that
led to it: name, version and architecture of a signed statement.
"""

from __future__ import annotations

from dataclasses import dataclass

from skerry.agent.content import Content
from skerry.agent.osengine.engine import OsEngineFailed, OsReason
from skerry.lib.digest import sha256
from skerry.lib.files import Root
from skerry.lib.oci import MAX_MANIFEST_BYTES, LayoutInvalid, Manifest, parse_manifest
from skerry.model.artifact import ArtifactRef
from skerry.model.osimage import (
    MAX_OS_METADATA_BYTES,
    OS_ARTIFACT_TYPE,
    OS_CONFIG_TYPE,
    ROOT_TYPE,
    UKI_TYPE,
    VERITY_TYPE,
    OsBlob,
    OsImageInfo,
    OsImageInvalid,
    parse_os_image,
)


@dataclass(frozen=True, slots=True)
class OsArtifacts:
    """OS images by their reference, through the content store."""

    root: Root
    content: Content

    async def info(self, image: ArtifactRef) -> OsImageInfo:
        """What the image is. Raises OsEngineFailed (ImageInvalid), or content errors."""
        try:
            return await self._info(image)
        except (LayoutInvalid, OsImageInvalid) as exc:
            raise _invalid(image, str(exc)) from exc

    async def fetch(self, blob: OsBlob) -> str:
        """Path of a blob's verified bytes."""
        return await self.content.ensure(blob.digest, size=blob.size_bytes)

    def drop(self, info: OsImageInfo) -> None:
        """Give back the space of what is written to a slot now."""
        for blob in (info.root, info.verity, info.uki):
            self.content.drop(blob.digest)

    async def _info(self, image: ArtifactRef) -> OsImageInfo:
        place = await self.content.ensure(image.digest)
        if self.root.size(place) > MAX_MANIFEST_BYTES:
            raise _invalid(image, "its manifest is too large")
        data = self.root.read(place)
        if sha256(data) != image.digest:
            self.content.drop(image.digest)
            raise _invalid(image, "its manifest was damaged on this host's disk", retryable=True)
        manifest = parse_manifest(data)
        config = manifest.config
        if (manifest.artifact_type, config.media_type) != (OS_ARTIFACT_TYPE, OS_CONFIG_TYPE):
            raise _invalid(image, f"it is a {manifest.artifact_type[:100]}")
        if config.size > MAX_OS_METADATA_BYTES:
            raise _invalid(image, "its metadata is too large")
        place = await self.content.ensure(config.digest, size=config.size)
        info = parse_os_image(self.root.read(place))
        self._compare(image, info, manifest)
        return info

    def _compare(self, image: ArtifactRef, info: OsImageInfo, manifest: Manifest) -> None:
        # Not the name: the reference has that of the Artifact object, which people choose.
        if info.version != image.version:
            raise _invalid(image, f"it says of itself that it is {info.name} {info.version}")
        if info.architecture != image.architecture:
            raise _invalid(image, f"it says of itself that it is for {info.architecture}")
        layers = {(item.media_type, item.digest, item.size) for item in manifest.layers}
        for kind, blob in (
            (ROOT_TYPE, info.root),
            (VERITY_TYPE, info.verity),
            (UKI_TYPE, info.uki),
        ):
            if (kind, blob.digest, blob.size_bytes) not in layers:
                raise _invalid(image, f"its layers lack {blob.digest[:19]}")


def _invalid(image: ArtifactRef, why: str, *, retryable: bool = False) -> OsEngineFailed:
    return OsEngineFailed(
        OsReason.IMAGE_INVALID,
        f"OS image {image.name} {image.version} cannot be used: {why}",
        hint="build and push the image again",
        retryable=retryable,
    )
