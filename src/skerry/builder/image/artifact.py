"""The update artifact: root, hashes, signature and boot image as blobs, with what they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from skerry.builder.images import Package
from skerry.builder.layout import BuiltArtifact, LayoutWriter, describe
from skerry.builder.sbom import document
from skerry.lib.oci import file_digest
from skerry.model.osimage import (
    OS_ARTIFACT_TYPE,
    OS_CONFIG_TYPE,
    OS_SBOM_TYPE,
    ROOT_TYPE,
    SIGNATURE_TYPE,
    UKI_TYPE,
    VERITY_TYPE,
    OsBlob,
    OsImageInfo,
)


@dataclass(frozen=True, slots=True)
class ArtifactParts:
    """Files of one image, and its names."""

    name: str
    version: str
    architecture: str
    generation: int
    root_hash: str
    root_uuid: str
    verity_uuid: str
    root: Path
    verity: Path
    signature: Path
    uki: Path


def write_artifact(
    parts: ArtifactParts, bill: Path, out: Path
) -> tuple[BuiltArtifact, OsImageInfo]:
    """Write the artifact into the folder `out`; `bill` is the bill of materials."""
    info = OsImageInfo(
        name=parts.name,
        version=parts.version,
        architecture=parts.architecture,
        root_hash=parts.root_hash,
        root_uuid=parts.root_uuid,
        verity_uuid=parts.verity_uuid,
        root=_blob(parts.root),
        verity=_blob(parts.verity),
        uki=_blob(parts.uki),
        signature=_blob(parts.signature),
        generation=max(1, parts.generation),
    )
    writer = LayoutWriter(out)
    for media_type, path, name in (
        (ROOT_TYPE, parts.root, "root.erofs"),
        (VERITY_TYPE, parts.verity, "root.verity"),
        (SIGNATURE_TYPE, parts.signature, "roothash.p7s"),
        (UKI_TYPE, parts.uki, "uki.efi"),
        (OS_SBOM_TYPE, bill, "sbom.cdx.json"),
    ):
        writer.add_archive(path, media_type=media_type, path=name)
    writer.finish(
        info.encode(),
        config_type=OS_CONFIG_TYPE,
        artifact_type=OS_ARTIFACT_TYPE,
        name=parts.name,
        version=parts.version,
        architecture=parts.architecture,
    )
    return describe(out), info


def bill_of(name: str, version: str, packages: list[Package]) -> bytes:
    """Bill of materials: the Debian packages of root and boot image."""
    once = {(package.name, package.version): package for package in packages}
    return document(
        name=name, version=version, programs={}, packages=[once[key] for key in sorted(once)]
    )


def _blob(path: Path) -> OsBlob:
    digest, size = file_digest(path)
    return OsBlob(digest=digest, size_bytes=size)
