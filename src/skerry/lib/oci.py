"""OCI image layouts on disk: blobs by digest, manifests, an index.

A layout is a folder (https://github.com/opencontainers/image-spec, image-layout.md). Reading
trusts nothing: sizes are limited before anything is decoded, and a blob's bytes are compared
with the digest and size of the descriptor that led to it. Blobs are immutable; adding one that
is already there changes nothing. Writing is for the builder and the manager; a host keeps blobs
in its content store and only uses the parsing here.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TypeVar

import msgspec

from skerry.lib.digest import canonical_json, hex_of, sha256
from skerry.lib.errors import SkerryError

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
REF_KEY = "org.opencontainers.image.ref.name"

LAYOUT_FILE = b'{"imageLayoutVersion":"1.0.0"}'

MAX_MANIFEST_BYTES = 4 * 1024 * 1024
MAX_LAYERS = 1000
_CHUNK = 1024 * 1024
_T = TypeVar("_T")


class LayoutInvalid(SkerryError):
    """A layout, or a document in it, is damaged or not of the expected form."""

    def __init__(self, message: str, *, reason: str = "ArtifactInvalid") -> None:
        super().__init__(message, hint="fetch or build the artifact again", reason=reason)


class DigestMismatch(LayoutInvalid):
    """Bytes are not those that the digest names."""

    def __init__(self, *, wanted: str, found: str, what: str) -> None:
        super().__init__(
            f"{what} has the wrong content: found {found}, wanted {wanted}",
            reason="ArtifactDigestMismatch",
        )


class Descriptor(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A pointer to a blob: what it is, its digest and its size in bytes."""

    media_type: str
    digest: str
    size: int
    artifact_type: str = ""
    annotations: dict[str, str] = {}


class Manifest(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """An image manifest. `schema_version` is always 2."""

    schema_version: int
    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    artifact_type: str = ""
    annotations: dict[str, str] = {}

    def encode(self) -> bytes:
        """The bytes that are stored and named by digest."""
        return canonical_json(self)


class Index(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """An image index, `index.json` of a layout."""

    schema_version: int
    media_type: str
    manifests: tuple[Descriptor, ...]
    annotations: dict[str, str] = {}

    def encode(self) -> bytes:
        """The bytes that are stored."""
        return canonical_json(self)


def new_manifest(
    *,
    artifact_type: str,
    config: Descriptor,
    layers: tuple[Descriptor, ...],
    annotations: dict[str, str] | None = None,
) -> Manifest:
    """A manifest in the present version of the format."""
    return Manifest(
        schema_version=2,
        media_type=MANIFEST_TYPE,
        artifact_type=artifact_type,
        config=config,
        layers=layers,
        annotations=annotations or {},
    )


def parse_manifest(data: bytes) -> Manifest:
    """Raises LayoutInvalid for anything that is not an image manifest of bearable size."""
    manifest = _decode(data, Manifest, "manifest")
    if manifest.schema_version != 2 or manifest.media_type != MANIFEST_TYPE:
        raise LayoutInvalid(f"not an image manifest: media type {manifest.media_type[:100]!r}")
    if len(manifest.layers) > MAX_LAYERS:
        raise LayoutInvalid(f"manifest names {len(manifest.layers)} layers, at most {MAX_LAYERS}")
    _check_descriptors((manifest.config, *manifest.layers))
    return manifest


def parse_index(data: bytes) -> Index:
    """Raises LayoutInvalid for anything that is not an index of bearable size."""
    index = _decode(data, Index, "index")
    if index.schema_version != 2:
        raise LayoutInvalid(f"not an image index: schema version {index.schema_version}")
    _check_descriptors(index.manifests)
    return index


class Layout:
    """One layout folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path) -> Layout:
        """An empty layout; an existing one is kept as it is."""
        (path / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
        (path / "oci-layout").write_bytes(LAYOUT_FILE)
        layout = cls(path)
        if not (path / "index.json").exists():
            layout.write_index(())
        return layout

    @classmethod
    def open(cls, path: Path) -> Layout:
        """Raises LayoutInvalid when there is no layout."""
        if not (path / "oci-layout").is_file() or not (path / "index.json").is_file():
            raise LayoutInvalid(f"no OCI layout in {path}")
        return cls(path)

    def blob_path(self, digest: str) -> Path:
        """Where the blob is or would be."""
        return self.path / "blobs" / "sha256" / hex_of(digest)

    def add_bytes(
        self, data: bytes, media_type: str, *, annotations: dict[str, str] | None = None
    ) -> Descriptor:
        """Store some bytes as a blob."""
        digest = sha256(data)
        place = self.blob_path(digest)
        if not place.exists():
            temporary = place.with_name(f".{place.name}.new")
            temporary.write_bytes(data)
            os.replace(temporary, place)
        return Descriptor(
            media_type=media_type, digest=digest, size=len(data), annotations=annotations or {}
        )

    def add_file(
        self,
        source: Path,
        media_type: str,
        *,
        annotations: dict[str, str] | None = None,
        compress: bool = False,
    ) -> tuple[Descriptor, str]:
        """Store a file as a blob, streaming. Returns its descriptor and its own digest.

        The second value is the digest of the uncompressed content. Compression is gzip at level
        6 without name and time, so that equal files make equal blobs on one machine.
        """
        temporary = self.path / "blobs" / f".{os.getpid()}.{source.name}.new"
        with source.open("rb") as reading, temporary.open("wb") as writing:
            content, blob, size = _copy(reading, writing, compress=compress)
        os.replace(temporary, self.blob_path(blob))
        descriptor = Descriptor(
            media_type=media_type, digest=blob, size=size, annotations=annotations or {}
        )
        return descriptor, content

    def add_manifest(self, manifest: Manifest) -> Descriptor:
        """Store a manifest; the descriptor carries its artifact type for the index."""
        stored = self.add_bytes(manifest.encode(), MANIFEST_TYPE)
        return msgspec.structs.replace(stored, artifact_type=manifest.artifact_type)

    def write_index(self, manifests: tuple[Descriptor, ...]) -> None:
        """Replace `index.json`."""
        index = Index(schema_version=2, media_type=INDEX_TYPE, manifests=manifests)
        temporary = self.path / ".index.json.new"
        temporary.write_bytes(index.encode())
        os.replace(temporary, self.path / "index.json")

    def index(self) -> Index:
        """Raises LayoutInvalid."""
        return parse_index(_read_limited(self.path / "index.json", MAX_MANIFEST_BYTES))

    def only_manifest(self) -> tuple[Descriptor, Manifest]:
        """The manifest of a layout that holds exactly one. Raises LayoutInvalid."""
        manifests = self.index().manifests
        if len(manifests) != 1:
            raise LayoutInvalid(f"{self.path} holds {len(manifests)} manifests, wanted one")
        return manifests[0], parse_manifest(self.read(manifests[0], limit=MAX_MANIFEST_BYTES))

    def read(self, descriptor: Descriptor, *, limit: int) -> bytes:
        """A small blob, checked against its descriptor. Raises LayoutInvalid, DigestMismatch."""
        if descriptor.size > limit:
            raise LayoutInvalid(f"blob is {descriptor.size} bytes, at most {limit} are accepted")
        data = _read_limited(self.blob_path(descriptor.digest), limit)
        found = sha256(data)
        if found != descriptor.digest or len(data) != descriptor.size:
            raise DigestMismatch(
                wanted=descriptor.digest, found=found, what=f"blob in {self.path.name}"
            )
        return data

    def verify(self) -> int:
        """Read everything the index leads to; returns the bytes read.

        Raises LayoutInvalid (something is missing) or DigestMismatch (something was changed).
        """
        total = 0
        for pointer in self.index().manifests:
            manifest = parse_manifest(self.read(pointer, limit=MAX_MANIFEST_BYTES))
            total += pointer.size
            for descriptor in (manifest.config, *manifest.layers):
                verify_file(self.blob_path(descriptor.digest), descriptor)
                total += descriptor.size
        return total


def file_digest(path: Path) -> tuple[str, int]:
    """Digest and size in bytes of a file. Raises LayoutInvalid when it is missing."""
    hashing = hashlib.sha256()
    size = 0
    try:
        with path.open("rb") as reading:
            for chunk in _chunks(reading):
                hashing.update(chunk)
                size += len(chunk)
    except FileNotFoundError as exc:
        raise LayoutInvalid(f"{path.name} is missing in {path.parent}") from exc
    return f"sha256:{hashing.hexdigest()}", size


def verify_file(path: Path, descriptor: Descriptor) -> None:
    """Compare a file with a descriptor. Raises LayoutInvalid, DigestMismatch."""
    found, size = file_digest(path)
    if found != descriptor.digest or size != descriptor.size:
        raise DigestMismatch(wanted=descriptor.digest, found=found, what=str(path))


class _Hashing:
    """A write-only stream that hashes and counts what passes through to another."""

    def __init__(self, inner: IO[bytes]) -> None:
        self._inner = inner
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        self.size += len(data)
        return self._inner.write(data)

    def flush(self) -> None:
        self._inner.flush()

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"


def _copy(reading: IO[bytes], writing: IO[bytes], *, compress: bool) -> tuple[str, str, int]:
    out = _Hashing(writing)
    if not compress:
        shutil.copyfileobj(reading, out, _CHUNK)
        return out.digest, out.digest, out.size
    content = hashlib.sha256()
    with gzip.GzipFile(
        filename="",
        mode="wb",
        compresslevel=6,
        fileobj=out,
        mtime=0,
    ) as packed:
        for chunk in _chunks(reading):
            content.update(chunk)
            packed.write(chunk)
    return f"sha256:{content.hexdigest()}", out.digest, out.size


def _chunks(reading: IO[bytes]) -> Iterator[bytes]:
    while chunk := reading.read(_CHUNK):
        yield chunk


def _read_limited(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as reading:
            data = reading.read(limit + 1)
    except FileNotFoundError as exc:
        raise LayoutInvalid(f"{path.name} is missing in {path.parent}") from exc
    if len(data) > limit:
        raise LayoutInvalid(f"{path.name} is larger than {limit} bytes")
    return data


def _decode(data: bytes, kind: type[_T], what: str) -> _T:
    if len(data) > MAX_MANIFEST_BYTES:
        raise LayoutInvalid(f"{what} is {len(data)} bytes, at most {MAX_MANIFEST_BYTES}")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise LayoutInvalid(f"{what} cannot be read: {exc}") from exc


def _check_descriptors(descriptors: tuple[Descriptor, ...]) -> None:
    for descriptor in descriptors:
        hex_of(descriptor.digest)
        if descriptor.size < 0:
            raise LayoutInvalid(f"descriptor of {descriptor.digest} has a negative size")
