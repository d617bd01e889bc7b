"""Blobs by digest on the host, fetched on demand and verified before anyone sees them.

A download that was cut goes on where it stopped. A blob appears under its digest only after its
whole content was hashed, so that what is there needs no second look.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Protocol

from skerry.agent import paths
from skerry.agent.channel import Channel
from skerry.lib.digest import hex_of
from skerry.lib.errors import SkerryError
from skerry.lib.files import DiskFull, Root

_MARGIN_BYTES = 64 * 1024 * 1024
_MAX_BYTES = 16 * 1024**3  # larger than any layer of a release or an image


class DigestMismatch(SkerryError):
    """Downloaded bytes are not what their name says; they were thrown away."""

    def __init__(self, digest: str, found: str) -> None:
        super().__init__(
            f"content {digest[:19]}… arrived as {found[:30]}",
            hint="the download starts again by itself; check the line if this repeats",
            reason="DigestMismatch",
            retryable=True,
        )


class Content(Protocol):
    """Verified blobs by digest."""

    async def ensure(self, digest: str, *, size: int = 0) -> str:
        """Path inside the Root of the verified blob. Raises SkerryError with a reason."""
        ...

    def drop(self, digest: str) -> None: ...


class ContentStore:
    """Blobs under the state folder, downloaded through the channel."""

    def __init__(self, root: Root, channel: Channel | None) -> None:
        self._root = root
        self._channel = channel

    def has(self, digest: str) -> bool:
        return self._root.exists(_place(digest))

    def path(self, digest: str) -> str:
        return _place(digest)

    def put(self, digest: str, data: bytes) -> None:
        """Keep bytes that came another way (a bundle). Raises DigestMismatch."""
        self.put_chunks(digest, (data,))

    def put_chunks(self, digest: str, chunks: Iterable[bytes]) -> None:
        """As `put`, for content too large for memory."""
        partial = f"{paths.PARTIAL}/{hex_of(digest)}"
        # A revision may hold a password that somebody wrote into it.
        self._root.write_chunks(partial, chunks, mode=0o600)
        self._accept(digest, partial, _place(digest))

    async def ensure(self, digest: str, *, size: int = 0) -> str:
        place = _place(digest)
        if self._root.exists(place):
            return place
        if self._channel is None:
            raise SkerryError(
                f"content {digest[:19]}… is not on this host",
                reason="ArtifactMissing",
                hint="import a bundle that holds it",
                retryable=True,
            )
        if size and self._root.free_bytes(paths.CONTENT) < size + _MARGIN_BYTES:
            raise DiskFull(place)
        partial = f"{paths.PARTIAL}/{hex_of(digest)}"
        have = self._root.size(partial) if self._root.exists(partial) else 0
        async for chunk in self._channel.content(digest, start=have):
            have += len(chunk)
            if have > (size or _MAX_BYTES):
                # Whoever sends more than there is must not fill the disk.
                self._root.remove(partial)
                raise DigestMismatch(digest, f"more than {size or _MAX_BYTES} bytes")
            self._root.append(partial, chunk)
        if size and have < size:
            raise SkerryError(
                f"download of {digest[:19]}… ended after {have} of {size} bytes",
                hint="it goes on there by itself",
                reason="DownloadInterrupted",
                retryable=True,
            )
        return self._accept(digest, partial, place)

    def _accept(self, digest: str, partial: str, place: str) -> str:
        hasher = hashlib.sha256()
        if self._root.exists(partial):
            for chunk in self._root.read_chunks(partial):
                hasher.update(chunk)
        found = f"sha256:{hasher.hexdigest()}"
        if found != digest:
            self._root.remove(partial)
            raise DigestMismatch(digest, found)
        if not self._root.exists(partial):  # the empty blob
            self._root.write(partial, b"", mode=0o600)
        self._root.rename(partial, place)
        return place

    def drop(self, digest: str) -> None:
        self._root.remove(_place(digest))


def _place(digest: str) -> str:
    return f"{paths.CONTENT}/{hex_of(digest)}"
