"""What an OS image artifact is: its blobs, and the metadata that travels as its config blob.

Shared by builder, manager and agent. Blobs are stored as they are written to a slot: the erofs is
compressed in itself. `root_uuid` and `verity_uuid` are those of the superblocks and made from the
content, so that a boot image finds its slot by what is in it (docs/adr/0004-appliance-slots.md).
"""

from __future__ import annotations

import re
from typing import Annotated

import msgspec
from msgspec import Meta

from skerry.lib.errors import SkerryError

OS_ARTIFACT_TYPE = "application/vnd.skerry.os.image.v1"
OS_CONFIG_TYPE = "application/vnd.skerry.os.image.config.v1+json"
ROOT_TYPE = "application/vnd.skerry.os.root.v1.erofs"
VERITY_TYPE = "application/vnd.skerry.os.verity.v1"
SIGNATURE_TYPE = "application/vnd.skerry.os.root.signature.v1"
UKI_TYPE = "application/vnd.skerry.os.uki.v1"
OS_SBOM_TYPE = "application/vnd.cyclonedx+json"

MAX_OS_METADATA_BYTES = 64 * 1024

Hex64 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
Uuid = Annotated[str, Meta(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
Digest = Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}$")]
Bytes = Annotated[int, Meta(gt=0, le=16 * 1024**3)]


class OsBlob(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One file of the image: digest and size of its bytes as they lie in slot or boot partition."""

    digest: Digest
    size_bytes: Bytes


class OsImageInfo(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """All that a host has to know before it writes a byte. `generation` is the one of the policy
    key that may unseal the state partition; it never goes down on a host."""

    name: str
    version: str
    architecture: str
    root_hash: Hex64
    root_uuid: Uuid
    verity_uuid: Uuid
    root: OsBlob
    verity: OsBlob
    uki: OsBlob
    signature: OsBlob | None = None
    generation: int = 1

    def encode(self) -> bytes:
        """Canonical JSON."""
        return msgspec.json.encode(self, order="sorted")


class OsImageInvalid(SkerryError):
    """An OS image artifact is not of the form that skerry makes."""

    def __init__(self, message: str) -> None:
        super().__init__(message, hint="build and push the image again", reason="ImageInvalid")


_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_VERSION = re.compile(r"\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?")


def parse_os_image(data: bytes) -> OsImageInfo:
    """Decode a config blob. Raises OsImageInvalid."""
    if len(data) > MAX_OS_METADATA_BYTES:
        raise OsImageInvalid(
            f"metadata of the OS image is {len(data)} bytes, at most {MAX_OS_METADATA_BYTES}"
        )
    try:
        info = msgspec.json.decode(data, type=OsImageInfo)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise OsImageInvalid(f"metadata of the OS image cannot be read: {exc}") from exc
    if not _NAME.fullmatch(info.name) or not _VERSION.fullmatch(info.version):
        raise OsImageInvalid(f"name or version of the OS image is odd: {info.name[:40]!r}")
    return info
