"""Content by digest on the manager's disk: uploads that resume, nothing visible before its hash.

A partial upload lies under its digest in another folder; its length is where the client goes on.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import anyio
from anyio import to_thread

from skerry.lib.digest import hex_of, sha256
from skerry.lib.errors import SkerryError
from skerry.lib.files import DiskFull, Root
from skerry.lib.oci import MAX_MANIFEST_BYTES, LayoutInvalid, parse_manifest

_CHUNK = 4 << 20
_MARGIN = 256 << 20


class BlobMissing(SkerryError):
    """No such content here."""

    def __init__(self, digest: str) -> None:
        super().__init__(f"no content {digest[:100]}", reason="ArtifactMissing")


class BlobRefused(SkerryError):
    """An upload was refused. `offset` is where the client has to go on."""

    def __init__(self, message: str, *, offset: int = 0, reason: str = "UploadRefused") -> None:
        super().__init__(message, reason=reason, hint="upload again from the offset that is named")
        self.offset = offset


@dataclass
class Blobs:
    """The blob folder."""

    root: Root
    max_bytes: int = 8 * 1024**3
    _locks: dict[str, anyio.Lock] = field(default_factory=dict)
    _manifests: OrderedDict[str, frozenset[str]] = field(default_factory=OrderedDict)

    def path(self, digest: str) -> str:
        return f"/blobs/sha256/{hex_of(digest)}"

    def has(self, digest: str) -> bool:
        return self.root.exists(self.path(digest))

    def size(self, digest: str) -> int:
        """Raises FileMissing."""
        return self.root.size(self.path(digest))

    def host_path(self, digest: str) -> str:
        return self.root.host_path(self.path(digest))

    def offset(self, digest: str) -> int:
        """Bytes of an unfinished upload."""
        partial = self._partial(digest)
        return self.root.size(partial) if self.root.exists(partial) else 0

    def read_small(self, digest: str, *, limit: int = MAX_MANIFEST_BYTES) -> bytes:
        """Raises BlobMissing."""
        if not self.has(digest):
            raise BlobMissing(digest)
        if self.size(digest) > limit:
            raise SkerryError(f"content {digest} is larger than {limit} bytes")
        return self.root.read(self.path(digest))

    async def put(self, data: bytes) -> str:
        """Store small content; its digest."""
        digest = sha256(data)
        if not self.has(digest):
            await to_thread.run_sync(lambda: self.root.write(self.path(digest), data))
        return digest

    async def upload(
        self, digest: str, chunks: AsyncIterator[bytes], *, start: int = 0, total: int | None = None
    ) -> bool:
        """Append to an upload; True when the content is complete and verified.

        `total` is the whole size, None when this request brings all the rest. Raises BlobRefused
        (wrong offset, wrong digest, too large) and DiskFull; what came so far is kept.
        """
        hex_of(digest)
        lock = self._locks.setdefault(digest, anyio.Lock())
        async with lock:
            if self.has(digest):
                async for _ in chunks:
                    pass
                return True
            there = self.offset(digest)
            if start == 0 and there:
                self.root.remove(self._partial(digest))
            elif start != there:
                raise BlobRefused(f"upload goes on at byte {there}, not {start}", offset=there)
            if total is not None:
                self._check_room(digest, total, start)
            size = await self._append(digest, chunks, start)
            if total is not None and size < total:
                return False
            await self._finish(digest)
        self._locks.pop(digest, None)
        return True

    def members(self, manifest: str) -> frozenset[str]:
        """Digests that a manifest leads to, itself included; cached. Raises BlobMissing."""
        if manifest not in self._manifests:
            parsed = parse_manifest(self.read_small(manifest))
            found = {manifest, parsed.config.digest, *(item.digest for item in parsed.layers)}
            self._manifests[manifest] = frozenset(found)
            if len(self._manifests) > 256:
                self._manifests.popitem(last=False)
        return self._manifests[manifest]

    def missing(self, manifest: str) -> tuple[str, ...]:
        """What of an artifact is not here yet. Raises LayoutInvalid for a bad manifest."""
        if not self.has(manifest):
            return (manifest,)
        try:
            return tuple(sorted(item for item in self.members(manifest) if not self.has(item)))
        except SkerryError as exc:
            raise LayoutInvalid(f"manifest {manifest} cannot be used: {exc.message}") from exc

    def _check_room(self, digest: str, total: int, start: int) -> None:
        if total > self.max_bytes:
            raise BlobRefused(
                f"content of {total} bytes is too large, at most {self.max_bytes}",
                reason="TooLarge",
            )
        if self.root.free_bytes("/blobs") < total - start + _MARGIN:
            raise DiskFull(self.path(digest))

    async def _append(self, digest: str, chunks: AsyncIterator[bytes], start: int) -> int:
        partial = self._partial(digest)
        size = start
        waiting = bytearray()
        async for chunk in chunks:
            size += len(chunk)
            if size > self.max_bytes:
                await to_thread.run_sync(self.root.remove, partial)
                raise BlobRefused(f"content is larger than {self.max_bytes}", reason="TooLarge")
            waiting += chunk
            if len(waiting) >= _CHUNK:
                await to_thread.run_sync(self.root.append, partial, bytes(waiting))
                waiting.clear()
        if waiting or size == 0:
            await to_thread.run_sync(self.root.append, partial, bytes(waiting))
        return size

    async def _finish(self, digest: str) -> None:
        partial = self._partial(digest)

        def digest_of() -> str:
            hashing = hashlib.sha256()
            for chunk in self.root.read_chunks(partial):
                hashing.update(chunk)
            return f"sha256:{hashing.hexdigest()}"

        found = await to_thread.run_sync(digest_of)
        if found != digest:
            await to_thread.run_sync(self.root.remove, partial)
            raise BlobRefused(
                f"content has digest {found}, its name says {digest}", reason="DigestMismatch"
            )
        await to_thread.run_sync(self.root.rename, partial, self.path(digest))

    def _partial(self, digest: str) -> str:
        return f"/uploads/{hex_of(digest)}"
