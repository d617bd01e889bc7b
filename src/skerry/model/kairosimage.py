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

from skerry.lib.savedimage import SavedImage
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


_RELEASE = "etc/kairos-release"
_KERNEL, _INITRD = "boot/vmlinuz", "boot/initrd"
_UKI = "efi/kairos/norole.efi"
_RELEASE_HEAD = 64 * 1024
# The release's text is in one of the first sections of a UKI.
UKI_HEAD = 1024 * 1024
VERSION_IN_RELEASE = re.compile(rb"KAIROS_(?:VERSION|RELEASE)=\"?([^\"\n\0]{1,128})")
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


def wanted_of_tar(path: str) -> int | None:
    """How much is kept of the files that an image needs to start, and of what they may link to."""
    if path.lower() == _UKI:
        return UKI_HEAD
    if path == _RELEASE:
        return _RELEASE_HEAD
    return 0 if path.startswith("boot/") else None


def kairos_version(found: SavedImage) -> tuple[KairosBoot, str]:
    """For which kind of host the tar is, and which version it says. Empty when it says none."""
    uki = next((item for path, item in found.files.items() if path.lower() == _UKI), None)
    holder = uki or found.file(_RELEASE)
    version = VERSION_IN_RELEASE.search(holder.head) if holder else None
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
