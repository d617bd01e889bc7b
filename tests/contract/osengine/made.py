"""Small images that are built like real ones: an erofs, its hashes, a signed boot image."""

from __future__ import annotations

import json
import random
import uuid
from dataclasses import dataclass

from skerry.lib.digest import sha256
from skerry.lib.files import Root
from skerry.lib.oci import Descriptor, new_manifest
from skerry.model.artifact import ArtifactRef
from skerry.model.osimage import (
    OS_ARTIFACT_TYPE,
    OS_CONFIG_TYPE,
    ROOT_TYPE,
    UKI_TYPE,
    VERITY_TYPE,
    OsBlob,
    OsImageInfo,
)

ROOT_BYTES = 12 * 1024
VERITY_BYTES = 4 * 1024


@dataclass(frozen=True)
class Image:
    """One image as its builder left it."""

    ref: ArtifactRef
    info: OsImageInfo
    blobs: dict[str, bytes]

    @property
    def root(self) -> bytes:
        return self.blobs[self.info.root.digest]

    @property
    def verity(self) -> bytes:
        return self.blobs[self.info.verity.digest]

    @property
    def uki(self) -> bytes:
        return self.blobs[self.info.uki.digest]


def make_image(version: str, *, generation: int = 1, architecture: str = "amd64") -> Image:
    """An image whose every byte comes from its version."""
    chance = random.Random(version)
    root_uuid, verity_uuid = (uuid.UUID(bytes=chance.randbytes(16)) for _ in range(2))
    root = bytearray(chance.randbytes(ROOT_BYTES))
    root[1024:1536] = b"\xe2\xe1\xf5\xe0".ljust(0x30, b"\1") + root_uuid.bytes + bytes(448)
    verity = bytearray(chance.randbytes(VERITY_BYTES))
    verity[:512] = b"verity\0\0".ljust(16, b"\1") + verity_uuid.bytes + bytes(480)
    root_hash = sha256(bytes(root)).removeprefix("sha256:")
    line = (
        f"roothash={root_hash} systemd.verity_root_data=/dev/disk/by-uuid/{root_uuid}"
        f" systemd.verity_root_hash=/dev/disk/by-uuid/{verity_uuid} quiet"
    )
    uki = b"MZ" + json.dumps({"cmdline": line, "version": version}).encode().ljust(2000)
    return assemble(
        version,
        generation=generation,
        architecture=architecture,
        files=(bytes(root), bytes(verity), uki),
        names=(root_hash, str(root_uuid), str(verity_uuid)),
    )


def assemble(
    version: str,
    *,
    files: tuple[bytes, bytes, bytes],
    names: tuple[str, str, str],
    generation: int = 1,
    architecture: str = "amd64",
) -> Image:
    """The artifact of root, hashes and boot image; `names` are root hash and the two UUIDs."""
    blobs = {sha256(data): data for data in files}
    kept = [OsBlob(digest=sha256(data), size_bytes=len(data)) for data in files]
    info = OsImageInfo(
        name="edge",
        version=version,
        architecture=architecture,
        root_hash=names[0],
        root_uuid=names[1],
        verity_uuid=names[2],
        root=kept[0],
        verity=kept[1],
        uki=kept[2],
        generation=generation,
    )
    blobs[sha256(info.encode())] = info.encode()
    manifest = new_manifest(
        artifact_type=OS_ARTIFACT_TYPE,
        config=Descriptor(
            media_type=OS_CONFIG_TYPE, digest=sha256(info.encode()), size=len(info.encode())
        ),
        layers=tuple(
            Descriptor(media_type=kind, digest=blob.digest, size=blob.size_bytes)
            for kind, blob in zip((ROOT_TYPE, VERITY_TYPE, UKI_TYPE), kept, strict=True)
        ),
    ).encode()
    blobs[sha256(manifest)] = manifest
    ref = ArtifactRef(
        name="edge",
        type=OS_ARTIFACT_TYPE,
        version=version,
        architecture=architecture,
        digest=sha256(manifest),
        envelope_digest="",
    )
    return Image(ref, info, blobs)


class Shelf:
    """A content store that has every image at once; what it gives out is counted."""

    def __init__(self, root: Root, *images: Image) -> None:
        self._root = root
        self.blobs = {digest: data for image in images for digest, data in image.blobs.items()}
        self.given: list[str] = []

    def add(self, image: Image) -> None:
        self.blobs.update(image.blobs)

    async def ensure(self, digest: str, *, size: int = 0) -> str:
        self.given.append(digest)
        path = f"/var/lib/skerry/content/sha256/{digest.removeprefix('sha256:')}"
        if not self._root.exists(path):
            self.put(path, self.blobs[digest])
        return path

    def put(self, path: str, data: bytes) -> None:
        # Past the count of changes: a download is not what these tests interrupt.
        files = getattr(self._root, "files", None)
        if files is None:
            self._root.write(path, data)
        else:
            files[path] = data

    def drop(self, digest: str) -> None:
        files = getattr(self._root, "files", None)
        path = f"/var/lib/skerry/content/sha256/{digest.removeprefix('sha256:')}"
        if files is None:
            self._root.remove(path)
        else:
            files.pop(path, None)
