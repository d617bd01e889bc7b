"""A host's desired state as one file, for a site without a line.

The bundle holds what sync would bring: the newest assignment, signed for this one host, and every
blob that it leads to. It is written as a stream, so its size never meets the manager's memory.
"""

from __future__ import annotations

import tarfile
from collections.abc import AsyncIterator
from dataclasses import dataclass

import anyio
import msgspec

from skerry.lib.digest import hex_of
from skerry.lib.errors import SkerryError
from skerry.manager.services import assignments
from skerry.manager.services.centre import Caller, Centre, require
from skerry.wire.bundle import BLOBS, DESCRIPTION, ENVELOPE, FORMAT, BundleDescription

_CHUNK = 1 << 20
_BLOCK = tarfile.BLOCKSIZE


class NothingAssigned(SkerryError):
    """The host has no assignment yet, so there is nothing to carry to it."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A tar as chunks; `size_bytes` is its exact length."""

    chunks: AsyncIterator[bytes]
    size_bytes: int


async def export(centre: Centre, caller: Caller, project: str, name: str) -> Bundle:
    """Raises NotFound, NotPermitted, NothingAssigned."""
    require(caller, "update", "Host", project)
    host = await centre.store.get("Host", project, name)
    issued = await assignments.current(centre, host.uid)
    if issued is None:
        raise NothingAssigned(
            f"host {name} has no assignment yet", hint=f"approve it with 'skerry approve {name}'"
        )
    documents = {
        DESCRIPTION: msgspec.json.encode(
            BundleDescription(format=FORMAT, host_uid=host.uid, host_name=name, epoch=issued.epoch)
        ),
        ENVELOPE: issued.envelope.encode(),
    }
    digests = dict.fromkeys((*issued.direct, *issued.manifests))
    for manifest in issued.manifests:
        digests.update(dict.fromkeys(sorted(centre.blobs.members(manifest))))
    sizes = {digest: centre.blobs.size(digest) for digest in digests}
    lengths = [len(data) for data in documents.values()] + list(sizes.values())
    total = sum(_BLOCK + _padded(length) for length in lengths) + 2 * _BLOCK
    return Bundle(_write(centre, documents, sizes), total)


async def _write(
    centre: Centre, documents: dict[str, bytes], sizes: dict[str, int]
) -> AsyncIterator[bytes]:
    for name, data in documents.items():
        yield _header(name, len(data)) + data + _padding(len(data))
    for digest, size in sizes.items():
        yield _header(f"{BLOBS}{hex_of(digest)}", size)
        async with await anyio.open_file(centre.blobs.host_path(digest), "rb") as stream:
            while chunk := await stream.read(_CHUNK):
                yield chunk
        yield _padding(size)
    yield b"\0" * (2 * _BLOCK)


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = 0o600
    return info.tobuf(format=tarfile.USTAR_FORMAT)


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _padding(size: int) -> bytes:
    return b"\0" * (_padded(size) - size)
