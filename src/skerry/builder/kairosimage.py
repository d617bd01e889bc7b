"""An image for Kairos hosts as an artifact: a saved container image, read once and described.

The image itself is built elsewhere, with the tools of Kairos. What goes into the description is
read from the tar, never asked for: the host compares the two before it touches a slot.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from skerry.builder.layout import BuiltArtifact, LayoutWriter, describe, sign_layout
from skerry.lib.errors import SkerryError
from skerry.lib.oci import file_digest
from skerry.lib.savedimage import scan
from skerry.model.kairosimage import (
    KAIROS_ARTIFACT_TYPE,
    KAIROS_CONFIG_TYPE,
    KAIROS_IMAGE_TYPE,
    KairosImageInfo,
    kairos_version,
    parse_kairos_image,
    tar_problem,
    wanted_of_tar,
)
from skerry.model.osimage import OsBlob
from skerry.wire.envelope import SigningKey

_CHUNK = 1024 * 1024


class KairosImageRefused(SkerryError):
    """The tar is not an image that a Kairos host could start."""

    def __init__(self, tar: Path, problem: str) -> None:
        super().__init__(
            f"{tar} is no image for Kairos hosts: {problem}",
            hint="save a Kairos image with `docker save` or `podman save --format docker-archive`",
            reason="ImageInvalid",
        )


def pack_kairos_image(
    tar: Path,
    out: Path,
    *,
    name: str,
    version: str,
    architecture: str,
    signer: SigningKey | None = None,
) -> BuiltArtifact:
    """Write the artifact's layout to `out`. Raises KairosImageRefused, SavedImageInvalid,
    OsImageInvalid (name or version)."""
    found = scan(_chunks(tar), wanted_of_tar)
    boot, said = kairos_version(found)
    if not said:
        raise KairosImageRefused(tar, "it says no KAIROS_VERSION")
    digest, size = file_digest(tar)
    info = KairosImageInfo(
        name=name,
        version=version,
        architecture=architecture,
        kairos_version=said,
        boot=boot,
        image=OsBlob(digest=digest, size_bytes=size),
        unpacked_bytes=found.unpacked_bytes,
    )
    parse_kairos_image(info.encode())
    if problem := tar_problem(found, info):
        raise KairosImageRefused(tar, problem)
    writer = LayoutWriter(out)
    writer.add_archive(tar, media_type=KAIROS_IMAGE_TYPE, path="image.tar")
    writer.finish(
        info.encode(),
        config_type=KAIROS_CONFIG_TYPE,
        artifact_type=KAIROS_ARTIFACT_TYPE,
        name=name,
        version=version,
        architecture=architecture,
    )
    if signer is not None:
        sign_layout(out, signer)
    return describe(out)


def _chunks(tar: Path) -> Iterator[bytes]:
    with tar.open("rb") as stream:
        while piece := stream.read(_CHUNK):
            yield piece
