"""Import of a bundle file: the same envelope and content as over the line, through the same door.

A bundle is a tar: `bundle.json` (format and addressee), `assignment.json` (the envelope), then
`blobs/sha256/<hex>` each. Order matters and is checked, because the file is read once, as a
stream: the assignment is verified before a single blob is written. Importing twice is harmless.
"""

from __future__ import annotations

import lzma
import tarfile
import zlib
from collections.abc import Iterator
from typing import IO

import msgspec

from skerry.agent import accept
from skerry.agent.content import ContentStore
from skerry.agent.identity import Identity
from skerry.lib.digest import hex_of
from skerry.lib.errors import SkerryError
from skerry.lib.files import Root
from skerry.wire import envelope as env
from skerry.wire.bundle import BLOBS, DESCRIPTION, ENVELOPE, FORMAT, BundleDescription
from skerry.wire.messages import MessageInvalid

_MAX_BLOB = 4 * 1024 * 1024 * 1024
_CHUNK = 1 << 20
# What tarfile lets through of the decompressors behind it.
_UNREADABLE = (
    tarfile.TarError,
    EOFError,
    ValueError,
    zlib.error,
    lzma.LZMAError,
    msgspec.DecodeError,
    MessageInvalid,
)


class BundleInvalid(SkerryError):
    """The file is not a bundle, is cut short, or is for another host."""

    def __init__(self, message: str) -> None:
        super().__init__(
            message,
            hint="export the bundle again with 'skerry bundle export'",
            reason="BundleInvalid",
        )


def import_bundle(root: Root, identity: Identity, stream: IO[bytes]) -> accept.Stored:
    """Verify and take over a bundle; the running agent sees it on its next turn.

    Raises BundleInvalid, EnvelopeRefused, AssignmentRefused, DigestMismatch, DiskFull. Content
    is stored before the assignment, so a half-imported bundle changes nothing.
    """
    store = ContentStore(root, None)
    try:
        with tarfile.open(fileobj=stream, mode="r|*") as tar:
            members = iter(tar)
            description = _document(tar, members, DESCRIPTION)
            _check(msgspec.json.decode(description, type=BundleDescription), identity)
            envelope = env.decode(_document(tar, members, ENVELOPE))
            accept.open_assignment(envelope, identity)
            for member in members:
                _blob(tar, member, store)
    except (*_UNREADABLE, OSError) as exc:
        raise BundleInvalid(f"cannot read the bundle: {exc}") from exc
    return accept.accept(root, envelope, identity)


def _check(description: BundleDescription, identity: Identity) -> None:
    if description.format != FORMAT:
        raise BundleInvalid(
            f"bundle has format {description.format}, this agent reads format {FORMAT}"
        )
    if description.host_uid != identity.host_uid:
        raise BundleInvalid(
            f"bundle is for host {description.host_name!r}, this host is {identity.host_name!r}"
        )


def _document(tar: tarfile.TarFile, members: Iterator[tarfile.TarInfo], name: str) -> bytes:
    member = next(members, None)
    if member is None or member.name != name or not member.isfile():
        raise BundleInvalid(f"bundle lacks {name} in its place")
    if member.size > env.MAX_ENVELOPE_BYTES:
        raise BundleInvalid(f"{name} is {member.size} bytes")
    source = tar.extractfile(member)
    assert source is not None  # isfile() above
    return source.read()


def _blob(tar: tarfile.TarFile, member: tarfile.TarInfo, store: ContentStore) -> None:
    if not member.name.startswith(BLOBS) or not member.isfile() or member.size > _MAX_BLOB:
        raise BundleInvalid(f"unexpected entry in bundle: {member.name[:100]!r}")
    digest = f"sha256:{member.name.removeprefix(BLOBS)}"
    hex_of(digest)
    if store.has(digest):
        return
    source = tar.extractfile(member)
    assert source is not None  # isfile() above
    store.put_chunks(digest, iter(lambda: source.read(_CHUNK), b""))
