"""Image archives that other tools wrote, made into an artifact of images.

Read are docker-archives (`docker save`, `podman save`) and OCI layouts in a tar (`podman save
--format oci-archive`, `skopeo copy … oci-archive:FILE`). Each image is written anew as a tar of the
one form that hosts import, under its full name, after every blob was compared with its digest; so
equal images make equal artifacts whoever archived them.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec

from skerry.builder.cache import Cache, content_id
from skerry.builder.images import CONFIG_TYPE, LAYER_TYPE, NAME_KEY, write_image_tar
from skerry.builder.layout import BuiltArtifact, LayoutWriter, describe, sign_layout
from skerry.lib.digest import hex_of, sha256
from skerry.lib.errors import SkerryError
from skerry.lib.oci import (
    INDEX_TYPE,
    MAX_MANIFEST_BYTES,
    REF_KEY,
    Descriptor,
    Manifest,
    new_manifest,
)
from skerry.model.release import IMAGES_ARTIFACT_TYPE, IMAGES_CONFIG_TYPE, ImagesMetadata
from skerry.wire.envelope import SigningKey

_KIND = "releases/images"
_FORM = 1
_CHUNK = 1 << 20
_T = TypeVar("_T")
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
# Media types of Docker's registry API, version 2 schema 2, and what OCI calls the same content.
_OCI_NAMES = {
    "application/vnd.docker.container.image.v1+json": CONFIG_TYPE,
    "application/vnd.docker.image.rootfs.diff.tar": LAYER_TYPE,
    "application/vnd.docker.image.rootfs.diff.tar.gzip": f"{LAYER_TYPE}+gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd": f"{LAYER_TYPE}+zstd",
}
_INDEXES = (INDEX_TYPE, "application/vnd.docker.distribution.manifest.list.v2+json")
_HOST = r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::\d+)?"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
# github.com/distribution/reference, without digests.
_REFERENCE = re.compile(rf"{_HOST}(?:/{_PART})+:[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}}")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9._]{0,61}[a-z0-9])?")
_VERSION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}")


class ArchiveInvalid(SkerryError):
    """An image archive that cannot be used."""

    def __init__(self, place: Path, message: str, *, hint: str = "") -> None:
        super().__init__(
            f"image archive {place}: {message}",
            hint=hint or "save the image again with 'docker save', 'podman save' or skopeo",
            reason="ArchiveInvalid",
        )


@dataclass(frozen=True, slots=True)
class _Image:
    """An image in an archive. `layers` are digests with the name of the member that holds them."""

    names: tuple[str, ...]
    manifest: bytes
    config: bytes
    layers: tuple[tuple[str, str], ...]
    architecture: str


def build_images(
    places: Sequence[Path],
    *,
    cache: Cache,
    architecture: str,
    name: str = "",
    version: str = "",
    image: str = "",
    signer: SigningKey | None = None,
) -> BuiltArtifact:
    """Build an artifact of the images in some archives into the cache, or find it there.

    `name` and `version` are the artifact's; one image gives both by its own name. `image` names
    the only image of an archive that names none. Raises ArchiveInvalid.
    """
    with tempfile.TemporaryDirectory(prefix=".images.", dir=cache.folder(_KIND)) as scratch:
        found: list[tuple[Path, _Image]] = []
        for index, place in enumerate(places):
            plain = _plain(place, Path(scratch) / f"{index}.tar")
            read = [(plain, item) for item in _read(plain, place, architecture, image)]
            found += read
        named = {full: (plain, item) for plain, item in found for full in item.names}
        name, version = _called(places[0], list(named), name, version)
        identity = content_id(
            {
                "form": _FORM,
                "images": {full: sha256(item.manifest) for full, (_, item) in named.items()},
            }
        )
        entry = f"{name}-{version}-{architecture}-{identity}"
        there = cache.find(_KIND, entry)
        if there is None:
            with cache.fill(_KIND, entry) as work:
                _assemble(named, work, name=name, version=version, architecture=architecture)
            there = cache.base / _KIND / entry
    if signer is not None:
        sign_layout(there, signer)
    return describe(there)


def full_name(text: str) -> str:
    """An image's name as the kubelet's runtime spells it; empty when it is none.

    "busybox" alone is docker.io/library/busybox:latest (github.com/distribution/reference,
    ParseNormalizedNamed and TagNameOnly).
    """
    first, slash, rest = text.partition("/")
    if not slash:
        text = f"docker.io/library/{text}"
    elif not ("." in first or ":" in first or first == "localhost"):
        text = f"docker.io/{text}"
    elif first == "docker.io" and "/" not in rest:
        text = f"docker.io/library/{rest}"
    if ":" not in text.rpartition("/")[2]:
        text += ":latest"
    return text if _REFERENCE.fullmatch(text) else ""


def _called(place: Path, images: Sequence[str], name: str, version: str) -> tuple[str, str]:
    """Name and version of the artifact."""
    if len(images) != 1 and not (name and version):
        raise ArchiveInvalid(
            place,
            f"there are {len(images)} images, which give no name to the whole",
            hint="give --name and --version",
        )
    repository, _, tag = images[0].rpartition(":")
    name, version = name or repository.rpartition("/")[2], version or tag
    if _NAME.fullmatch(name) is None or _VERSION.fullmatch(version) is None:
        raise ArchiveInvalid(
            place,
            f"{name[:80]!r} {version[:80]!r} cannot name an artifact",
            hint="give --name and --version of letters, digits, '.' and '-'",
        )
    return name, version


def _assemble(
    named: Mapping[str, tuple[Path, _Image]],
    into: Path,
    *,
    name: str,
    version: str,
    architecture: str,
) -> None:
    scratch = Path(tempfile.mkdtemp(prefix=".work.", dir=into))
    writer = LayoutWriter(into)
    for index, (full, (place, image)) in enumerate(sorted(named.items())):
        layers = []
        with tarfile.open(place) as archive:
            for digest, member in image.layers:
                layer = scratch / hex_of(digest)
                with _member(archive, member) as reading, layer.open("wb") as writing:
                    shutil.copyfileobj(reading, writing, _CHUNK)
                layers.append((digest, layer))
        tar = scratch / "image.tar"
        write_image_tar(full, manifest=image.manifest, config=image.config, layers=layers, out=tar)
        for _, layer in layers:
            layer.unlink(missing_ok=True)
        writer.add_image(tar, path=f"images/{index}.tar", name=full)
    shutil.rmtree(scratch)
    metadata = ImagesMetadata(
        name=name, version=version, architecture=architecture, images=tuple(writer.images)
    )
    writer.finish(
        metadata.encode(),
        config_type=IMAGES_CONFIG_TYPE,
        artifact_type=IMAGES_ARTIFACT_TYPE,
        name=name,
        version=version,
        architecture=architecture,
    )


# -- reading -----------------------------------------------------------------------------------


def _plain(place: Path, scratch: Path) -> Path:
    """The archive without gzip around it; layers are read out of order, which needs that."""
    with place.open("rb") as reading:
        magic = reading.read(4)
    if magic == _ZSTD:
        raise ArchiveInvalid(place, "is packed with zstd", hint="unpack it first")
    if not magic.startswith(_GZIP):
        return place
    try:
        with gzip.open(place) as packed, scratch.open("wb") as writing:
            shutil.copyfileobj(packed, writing, _CHUNK)
    except (OSError, EOFError, zlib.error) as exc:
        raise ArchiveInvalid(place, f"cannot be unpacked: {exc}") from exc
    return scratch


def _read(plain: Path, place: Path, architecture: str, image: str) -> list[_Image]:
    """Every image of the archive, each blob checked. `place` is what people called it."""
    try:
        with tarfile.open(plain, mode="r:") as archive:
            found = _images(archive, architecture)
    except (tarfile.TarError, EOFError, OSError, zlib.error, SkerryError) as exc:
        told = exc.message if isinstance(exc, SkerryError) else str(exc)
        raise ArchiveInvalid(place, f"cannot be used: {told}") from exc
    for item in found:
        if item.architecture != architecture:
            raise ArchiveInvalid(
                place,
                f"its image is for {item.architecture}, wanted {architecture}",
                hint="give --architecture, or save the image for the other one",
            )
    return [_named(item, place, image, alone=len(found) == 1) for item in found]


def _images(archive: tarfile.TarFile, architecture: str) -> list[_Image]:
    names = set(archive.getnames())
    if "manifest.json" in names:
        return _docker(archive)
    if "index.json" in names:
        return _layout(archive, architecture)
    raise _Wrong("it holds neither manifest.json nor index.json")


def _named(item: _Image, place: Path, image: str, *, alone: bool) -> _Image:
    if image and not alone:
        raise ArchiveInvalid(place, "holds several images; --image names one", hint="leave it out")
    wanted = (image,) if image else item.names
    names = tuple(dict.fromkeys(full_name(text) for text in wanted))
    if not names or "" in names:
        told = ", ".join(text for text in wanted if not full_name(text))[:200]
        raise ArchiveInvalid(
            place,
            f"its image is called {told!r}" if told else "its image has no name",
            hint="give --image REGISTRY/NAME:TAG, or save the image by its name",
        )
    return replace(item, names=names)


class _Wrong(SkerryError):
    """Why an archive is refused; becomes an ArchiveInvalid that names the file."""


class _DockerEntry(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """One image of manifest.json (github.com/moby/docker-image-spec, v1.2)."""

    config: str
    layers: tuple[str, ...]
    repo_tags: tuple[str, ...] | None = None


def _docker(archive: tarfile.TarFile) -> list[_Image]:
    entries = _decode(_small(archive, "manifest.json"), tuple[_DockerEntry, ...], "manifest.json")
    if not entries:
        raise _Wrong("manifest.json names no image")
    found = []
    for entry in entries:
        config = _small(archive, entry.config)
        architecture, wanted = _config(config)
        if len(entry.layers) != len(wanted):
            raise _Wrong(f"{len(entry.layers)} layers, its configuration says {len(wanted)}")
        layers, descriptors = [], []
        for member, diff in zip(entry.layers, wanted, strict=True):
            digest, size, packed = _measure(archive, member, diff)
            kind = f"{LAYER_TYPE}+gzip" if packed else LAYER_TYPE
            layers.append((digest, member))
            descriptors.append(Descriptor(media_type=kind, digest=digest, size=size))
        manifest = new_manifest(
            artifact_type="",
            config=Descriptor(media_type=CONFIG_TYPE, digest=sha256(config), size=len(config)),
            layers=tuple(descriptors),
        ).encode()
        names = entry.repo_tags or ()
        found.append(_Image(names, manifest, config, tuple(layers), architecture))
    return found


class _Platform(msgspec.Struct, frozen=True, kw_only=True):
    architecture: str = ""
    os: str = ""


class _Pointer(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A descriptor in an index. Docker's own media types pass here."""

    media_type: str
    digest: str
    size: int
    platform: _Platform | None = None
    annotations: dict[str, str] = {}


class _Index(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    manifests: tuple[_Pointer, ...]


def _layout(archive: tarfile.TarFile, architecture: str) -> list[_Image]:
    index = _decode(_small(archive, "index.json"), _Index, "index.json")
    if not index.manifests:
        raise _Wrong("index.json names no image")
    fitting = [
        pointer
        for pointer in index.manifests
        if pointer.platform is None or pointer.platform.architecture in ("", architecture)
    ]
    if not fitting:
        raise _Wrong(f"it has no image for {architecture}")
    return [
        _oci_image(archive, pointer, _for_machine(archive, pointer, architecture))
        for pointer in fitting
    ]


def _for_machine(archive: tarfile.TarFile, pointer: _Pointer, architecture: str) -> _Pointer:
    """The manifest itself, or the one for the architecture when it is an index of several."""
    if pointer.media_type not in _INDEXES:
        return pointer
    inner = _decode(_blob(archive, pointer), _Index, "an inner index")
    for item in inner.manifests:
        if item.platform and (item.platform.os, item.platform.architecture) == (
            "linux",
            architecture,
        ):
            return item
    there = {item.platform.architecture for item in inner.manifests if item.platform}
    raise _Wrong(f"it has no image for linux {architecture}, only for {', '.join(sorted(there))}")


def _oci_image(archive: tarfile.TarFile, named: _Pointer, pointer: _Pointer) -> _Image:
    raw = _blob(archive, pointer)
    manifest = _decode(raw, Manifest, "an image's manifest")
    config = _blob(archive, manifest.config)
    architecture, wanted = _config(config)
    if len(manifest.layers) != len(wanted):
        raise _Wrong(f"{len(manifest.layers)} layers, its configuration says {len(wanted)}")
    layers = []
    for layer, diff in zip(manifest.layers, wanted, strict=True):
        member = f"blobs/sha256/{hex_of(layer.digest)}"
        digest, size, _ = _measure(archive, member, diff)
        if (digest, size) != (layer.digest, layer.size):
            raise _Wrong(f"layer {layer.digest[:19]} has other content")
        layers.append((digest, member))
    name = named.annotations.get(NAME_KEY) or named.annotations.get(REF_KEY, "")
    # A plain tag is what some tools write for an image without a name.
    names = (name,) if "/" in name or ":" in name else ()
    return _Image(names, _in_oci_words(raw, manifest), config, tuple(layers), architecture)


def _in_oci_words(raw: bytes, manifest: Manifest) -> bytes:
    """The manifest's own bytes, unless it speaks Docker's media types."""
    if "docker" not in f"{manifest.media_type}{manifest.config.media_type}":
        return raw

    def renamed(item: Descriptor) -> Descriptor:
        kind = _OCI_NAMES.get(item.media_type, item.media_type)
        return msgspec.structs.replace(item, media_type=kind)

    layers = tuple(renamed(item) for item in manifest.layers)
    return new_manifest(artifact_type="", config=renamed(manifest.config), layers=layers).encode()


def _config(data: bytes) -> tuple[str, list[str]]:
    """Architecture and the digests of the unpacked layers, lowest first."""
    try:
        found: Any = json.loads(data)
        system, architecture = found["os"], found["architecture"]
        diffs = list(found["rootfs"]["diff_ids"])
        for digest in diffs:
            hex_of(digest)
    except (ValueError, KeyError, TypeError, RecursionError, SkerryError) as exc:
        raise _Wrong(f"its configuration is not an image's: {exc}") from exc
    if system != "linux" or not isinstance(architecture, str):
        raise _Wrong(f"its image is for {system}, wanted linux")
    return architecture, diffs


def _measure(archive: tarfile.TarFile, member: str, diff: str) -> tuple[str, int, bool]:
    """Digest, size and whether it is gzip, after its content was compared with `diff`."""
    hashing, size = hashlib.sha256(), 0
    with _member(archive, member) as reading:
        magic = reading.read(4)
        reading.seek(0)
        while chunk := reading.read(_CHUNK):
            hashing.update(chunk)
            size += len(chunk)
        digest = f"sha256:{hashing.hexdigest()}"
        packed, content = magic.startswith(_GZIP), digest
        if packed:
            reading.seek(0)
            inner = hashlib.sha256()
            with gzip.GzipFile(fileobj=reading) as unpacked:
                while chunk := unpacked.read(_CHUNK):
                    inner.update(chunk)
            content = f"sha256:{inner.hexdigest()}"
    # The content of zstd is compared by the host's runtime, which can unpack it.
    if content != diff and magic != _ZSTD:
        raise _Wrong(f"layer {member[:80]} is not the one that its configuration names")
    return digest, size, packed


def _member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    """A plain file; older `docker save` links to a layer that two images share."""
    try:
        reading = archive.extractfile(name)
    except (KeyError, RecursionError) as exc:
        raise _Wrong(f"{name[:100]} is missing in it") from exc
    if reading is None:
        raise _Wrong(f"{name[:100]} is not a file")
    return reading


def _small(archive: tarfile.TarFile, name: str) -> bytes:
    with _member(archive, name) as reading:
        data = reading.read(MAX_MANIFEST_BYTES + 1)
    if len(data) > MAX_MANIFEST_BYTES:
        raise _Wrong(f"{name[:100]} is larger than {MAX_MANIFEST_BYTES} bytes")
    return data


def _blob(archive: tarfile.TarFile, pointer: _Pointer | Descriptor) -> bytes:
    data = _small(archive, f"blobs/sha256/{hex_of(pointer.digest)}")
    if sha256(data) != pointer.digest or len(data) != pointer.size:
        raise _Wrong(f"blob {pointer.digest[:19]} has other content")
    return data


def _decode(data: bytes, kind: type[_T], what: str) -> _T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise _Wrong(f"{what} cannot be read: {exc}") from exc
