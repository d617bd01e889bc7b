"""What an OS image artifact for Kairos hosts is: one image tar, and metadata as its config blob.

The tar is of the form that `docker save` writes (`manifest.json` at its top), because that is what
`kairos-agent upgrade --source ocifile:` reads; of any other tar it would unpack the tar's own files
as the root file system. `boot` says for which kind of Kairos it is: an image with kernel and initrd
for GRUB hosts, a tree for the EFI partition for hosts with trusted boot.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from skerry.model.osimage import MAX_OS_METADATA_BYTES, Bytes, OsBlob, OsImageInvalid

KAIROS_ARTIFACT_TYPE = "application/vnd.skerry.kairos.image.v1"
KAIROS_CONFIG_TYPE = "application/vnd.skerry.kairos.image.config.v1+json"
KAIROS_IMAGE_TYPE = "application/vnd.skerry.kairos.image.v1.tar"


class KairosBoot(StrEnum):
    """How a Kairos host starts. `uki`: trusted boot, the whole system is one signed file."""

    GRUB = "grub"
    UKI = "uki"


class KairosImageInfo(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """All that a host has to know before it writes a byte. `kairos_version` is KAIROS_VERSION of
    the image's `/etc/kairos-release`; `unpacked_bytes` is the sum of its files, each rounded up to
    whole blocks of 4 KiB."""

    name: str
    version: str
    architecture: str
    kairos_version: Annotated[str, Meta(min_length=1, max_length=128)]
    boot: KairosBoot = KairosBoot.GRUB
    image: OsBlob
    unpacked_bytes: Bytes

    def encode(self) -> bytes:
        """Canonical JSON."""
        return msgspec.json.encode(self, order="sorted")


_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_VERSION = re.compile(r"\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?")


def parse_kairos_image(data: bytes) -> KairosImageInfo:
    """Decode a config blob. Raises OsImageInvalid."""
    if len(data) > MAX_OS_METADATA_BYTES:
        raise OsImageInvalid(
            f"metadata of the Kairos image is {len(data)} bytes, at most {MAX_OS_METADATA_BYTES}"
        )
    try:
        info = msgspec.json.decode(data, type=KairosImageInfo)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise OsImageInvalid(f"metadata of the Kairos image cannot be read: {exc}") from exc
    if not _NAME.fullmatch(info.name) or not _VERSION.fullmatch(info.version):
        raise OsImageInvalid(f"name or version of the Kairos image is odd: {info.name[:40]!r}")
    return info
