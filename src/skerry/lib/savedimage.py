"""What is in a saved container image, found in one pass and without unpacking it.

The form is that of `docker save`: `manifest.json` names the layers, each a tar that may be
compressed with gzip. Everything is bounded: the tar comes from outside.
"""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from posixpath import dirname, join, normpath
from typing import IO

import msgspec

from skerry.lib.errors import SkerryError

_BLOCK = 4096
_MAX_LAYERS = 128
_MAX_ENTRIES = 2_000_000
_MAX_JSON = 4 * 1024 * 1024
_MAX_UNPACKED = 64 * 1024**3
_MAX_LINKS = 8
_MAX_KEPT = 20_000
_MAX_HEAD = 1024 * 1024


class SavedImageInvalid(SkerryError):
    """The tar is not a saved image, is damaged, or passes a limit."""

    def __init__(self, message: str) -> None:
        super().__init__(
            message,
            hint="save the image with `docker save` or `podman save --format docker-archive`",
            reason="ImageInvalid",
        )


@dataclass(frozen=True, slots=True)
class SavedFile:
    """A file, or a symbolic link when `target` is set. `head` are as many of its first bytes as
    were asked for."""

    size: int
    target: str = ""
    head: bytes = b""


@dataclass(frozen=True, slots=True)
class SavedImage:
    """The files that were asked for, by path without a leading slash, and the sum of all files in
    bytes, each rounded up to whole blocks. What a later layer replaces counts twice."""

    files: dict[str, SavedFile]
    unpacked_bytes: int

    def file(self, path: str) -> SavedFile | None:
        """The regular file that the path leads to."""
        found = self.files.get(path)
        for _ in range(_MAX_LINKS):
            if found is None or not found.target:
                return found
            path = normpath(join("/", dirname(path), found.target)).lstrip("/")
            found = self.files.get(path)
        return None


@dataclass(slots=True)
class _Layer:
    files: dict[str, SavedFile] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)


class _Chunks(io.RawIOBase):
    """A readable stream over pieces of bytes."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # narrower
        while not self._rest:
            piece = next(self._chunks, None)
            if piece is None:
                return 0
            self._rest = piece
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def scan(chunks: Iterable[bytes], wanted: Callable[[str], int | None]) -> SavedImage:
    """Read a saved image. `wanted` says of a path ("etc/os-release") how many of its first bytes
    are kept, None when the file is of no interest. Raises SavedImageInvalid."""
    layers: dict[str, _Layer] = {}
    unpacked = 0
    order: list[str] | None = None
    # Layers may be known by a second name that is a link to the first.
    aliases: dict[str, str] = {}
    try:
        with tarfile.open(fileobj=io.BufferedReader(_Chunks(chunks)), mode="r|") as outer:
            for member in _bounded(outer):
                if member.issym():
                    aliases[member.name] = normpath(join(dirname(member.name), member.linkname))
                stream = outer.extractfile(member) if member.isreg() else None
                if stream is None:
                    continue
                if member.name == "manifest.json":
                    order = _layer_names(stream.read(_MAX_JSON + 1))
                elif not member.name.endswith(".json"):
                    layer, size = _layer(stream, wanted, _MAX_UNPACKED - unpacked)
                    unpacked += size
                    if layer is not None:
                        layers[member.name] = layer
    except (tarfile.TarError, EOFError, zlib.error, OSError) as exc:
        raise SavedImageInvalid(f"the image's tar cannot be read: {exc}") from exc
    if order is None:
        raise SavedImageInvalid("the image's tar has no manifest.json")
    missing = [name for name in order if aliases.get(name, name) not in layers]
    if missing:
        raise SavedImageInvalid(f"layer {missing[0][:80]!r} of the image is missing or unreadable")
    return SavedImage(
        files=_joined([layers[aliases.get(name, name)] for name in order]),
        unpacked_bytes=unpacked,
    )


def _bounded(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for count, member in enumerate(archive):
        if count > _MAX_ENTRIES:
            raise SavedImageInvalid(f"the image has more than {_MAX_ENTRIES} files")
        # The list of members would grow with the image.
        archive.members = []  # type: ignore[attr-defined]  # not in the stubs
        yield member


def _layer_names(text: bytes) -> list[str]:
    try:
        (entry,) = msgspec.json.decode(text[: _MAX_JSON + 1])
        names = entry["Layers"]
    except (msgspec.DecodeError, ValueError, TypeError, KeyError, RecursionError) as exc:
        raise SavedImageInvalid("manifest.json of the image does not describe one image") from exc
    if not isinstance(names, list) or not 0 < len(names) <= _MAX_LAYERS:
        raise SavedImageInvalid(
            f"manifest.json of the image names no layers, or over {_MAX_LAYERS}"
        )
    return [str(name) for name in names]


def _layer(
    stream: IO[bytes], wanted: Callable[[str], int | None], limit: int
) -> tuple[_Layer | None, int]:
    """A layer's files and their bytes; None for what is no tar."""
    found = _Layer()
    size = 0
    try:
        inner = tarfile.open(fileobj=stream, mode="r|*")  # noqa: SIM115  # closed below
    except (tarfile.TarError, EOFError, zlib.error):
        return None, 0
    with inner:
        for member in _bounded(inner):
            path = normpath(member.name).lstrip("/")
            size += -(-member.size // _BLOCK) * _BLOCK if member.isreg() else 0
            size += _BLOCK if member.isdir() or member.issym() else 0
            if size > limit:
                raise SavedImageInvalid(f"the image unpacks to more than {_MAX_UNPACKED} bytes")
            folder, name = path.rpartition("/")[::2]
            if name.startswith(".wh."):
                gone = folder if name == ".wh..wh..opq" else join(folder, name[len(".wh.") :])
                found.gone.add(gone)
            elif (head := wanted(path)) is not None:
                if len(found.files) >= _MAX_KEPT:
                    raise SavedImageInvalid(f"more than {_MAX_KEPT} files of interest in one layer")
                found.files[path] = _saved(inner, member, min(head, _MAX_HEAD))
    return found, size


def _saved(archive: tarfile.TarFile, member: tarfile.TarInfo, head: int) -> SavedFile:
    stream = archive.extractfile(member) if member.isreg() and head else None
    return SavedFile(
        size=member.size if member.isreg() else 0,
        target=member.linkname if member.issym() else "",
        head=stream.read(head) if stream is not None else b"",
    )


def _joined(layers: list[_Layer]) -> dict[str, SavedFile]:
    files: dict[str, SavedFile] = {}
    for layer in layers:
        for path in list(files):
            if any(path == gone or path.startswith(f"{gone}/") for gone in layer.gone):
                del files[path]
        files.update(layer.files)
    return files
