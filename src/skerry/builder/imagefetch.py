"""Images from a registry, by the OCI distribution API, with every byte checked by digest.

https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md; anonymous tokens as in
https://distribution.github.io/distribution/spec/auth/token/. A locked digest names what the tag
pointed to, usually an index over all architectures: it is fetched by that digest, the manifest of
one architecture by the digest in the index, configuration and layers by those in the manifest.
The image keeps upstream's own manifest, so its digest stays upstream's.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import msgspec

from skerry.builder.fetching import Fetcher, FetchFailed, Small, WrongDigest
from skerry.builder.images import NAME_KEY
from skerry.builder.tarball import TarEntry, write_tar
from skerry.lib.digest import hex_of, is_digest, sha256
from skerry.lib.errors import SkerryError
from skerry.lib.oci import (
    INDEX_TYPE,
    LAYOUT_FILE,
    MANIFEST_TYPE,
    MAX_LAYERS,
    MAX_MANIFEST_BYTES,
    REF_KEY,
    Descriptor,
    Index,
)

# Docker's own types before the specification; registries still hold images with them.
_DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
_DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_INDEXES = (INDEX_TYPE, _DOCKER_INDEX)
_MANIFESTS = (MANIFEST_TYPE, _DOCKER_MANIFEST)
_ACCEPT = ", ".join((*_INDEXES, *_MANIFESTS))
_MAX_TOKEN_BYTES = 64 * 1024
_MAX_CONFIG_BYTES = 8 << 20
_PARAMETER = re.compile(r'([a-zA-Z_]+)="([^"]*)"')
_REFERENCE = re.compile(
    r"([a-z0-9][a-z0-9.-]*(?::\d+)?)/([a-z0-9._/-]+):([A-Za-z0-9_][A-Za-z0-9._-]{0,127})"
)


class ImageInvalid(SkerryError):
    """A registry's answer is no image of the wanted kind."""

    def __init__(self, message: str) -> None:
        super().__init__(message, hint="check the registry, and any proxy that answers for it")


class _Platform(msgspec.Struct, frozen=True, kw_only=True):
    architecture: str = ""
    os: str = ""


class _Entry(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    media_type: str
    digest: str
    size: int
    platform: _Platform = _Platform()


class _Document(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An index or a manifest; which, says its media type."""

    schema_version: int
    media_type: str = ""
    manifests: tuple[_Entry, ...] = ()
    config: _Entry | None = None
    layers: tuple[_Entry, ...] = ()


class _Token(msgspec.Struct, frozen=True, kw_only=True):
    token: str = ""
    access_token: str = ""


@dataclass(frozen=True, slots=True)
class Reference:
    """A full image name, taken apart."""

    registry: str
    repository: str
    tag: str

    def __str__(self) -> str:
        return f"{self.registry}/{self.repository}:{self.tag}"

    def url(self, kind: str, what: str) -> str:
        """Address of a manifest or blob."""
        return f"https://{self.registry}/v2/{self.repository}/{kind}/{what}"


@dataclass(frozen=True, slots=True)
class FetchedImage:
    """One architecture of an image, complete in the cache. `blobs` maps digests to files."""

    reference: Reference
    manifest: bytes
    media_type: str
    blobs: dict[str, Path]

    @property
    def digest(self) -> str:
        """Of the architecture's own manifest."""
        return sha256(self.manifest)


def parse_reference(text: str) -> Reference:
    """Raises ImageInvalid."""
    found = _REFERENCE.fullmatch(text)
    if found is None:
        raise ImageInvalid(f"not a full image name with a tag: {text[:100]!r}")
    return Reference(found[1], found[2], found[3])


class Registry:
    """Reads images, remembering the anonymous token of each repository."""

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher
        self._tokens: dict[tuple[str, str], str] = {}
        self._challenges: dict[tuple[str, str], str] = {}

    async def resolve(self, name: str) -> str:
        """The digest that a tag points to now. Raises FetchFailed, WrongDigest."""
        reference = parse_reference(name)
        return sha256(await self._manifest(reference, reference.tag))

    async def image(
        self, name: str, digest: str, *, architecture: str, limit_bytes: int
    ) -> FetchedImage:
        """One architecture of what `digest` names. Raises FetchFailed, WrongDigest,
        ImageInvalid."""
        reference = parse_reference(name)
        body = await self._manifest(reference, digest)
        document = _decode(body, reference)
        if document.manifests:
            wanted = _choose(document, reference, architecture)
            body = await self._manifest(reference, wanted)
            document = _decode(body, reference)
        if document.config is None or document.media_type not in _MANIFESTS:
            raise ImageInvalid(
                f"image {name}: {document.media_type or 'no media type'} is no image"
            )
        if len(document.layers) > MAX_LAYERS:
            raise ImageInvalid(f"image {name} has {len(document.layers)} layers")
        total = sum(layer.size for layer in document.layers)
        if total > limit_bytes or document.config.size > _MAX_CONFIG_BYTES:
            raise ImageInvalid(f"image {name} is larger than {limit_bytes} bytes: {total}")
        blobs = {}
        for part in (document.config, *document.layers):
            blobs[part.digest] = await self._blob(reference, part)
        _check_platform(blobs[document.config.digest], reference, architecture)
        return FetchedImage(reference, body, document.media_type, blobs)

    async def _manifest(self, reference: Reference, what: str) -> bytes:
        """A manifest or index by tag or digest; one asked for by digest is compared with it."""
        title = f"image {reference}"
        url = reference.url("manifests", what)
        answer = await self._authorised(
            reference,
            lambda headers: self._fetcher.small(
                url,
                what=title,
                limit_bytes=MAX_MANIFEST_BYTES,
                headers={**headers, "accept": _ACCEPT},
                accepts=(401,),
            ),
        )
        wanted = what if is_digest(what) else answer.headers.get("docker-content-digest", "")
        found = sha256(answer.body)
        if wanted and wanted != found:
            raise WrongDigest(
                f"{title} from {url} has the wrong content: found {found}, wanted {wanted}",
                hint="do not use it: compare with upstream's release page before you change a lock",
            )
        return answer.body

    async def _blob(self, reference: Reference, part: _Entry) -> Path:
        async def ask() -> Path:
            return await self._fetcher.file(
                reference.url("blobs", part.digest),
                part.digest,
                what=f"image {reference}",
                limit_bytes=part.size,
                headers=self._header(reference),
            )

        try:
            place = await ask()
        except FetchFailed as exc:
            challenge = self._challenges.get((reference.registry, reference.repository))
            if exc.status != 401 or challenge is None:
                raise
            # A token lives for minutes only; a large image can take longer.
            await self._new_token(reference, challenge)
            place = await ask()
        if place.stat().st_size != part.size:
            raise ImageInvalid(f"image {reference}: blob {part.digest} is not {part.size} bytes")
        return place

    async def _authorised(
        self, reference: Reference, ask: Callable[[Mapping[str, str]], Awaitable[Small]]
    ) -> Small:
        answer = await ask(self._header(reference))
        if answer.status != 401:
            return answer
        await self._new_token(reference, answer.headers.get("www-authenticate", ""))
        answer = await ask(self._header(reference))
        if answer.status == 401:
            raise FetchFailed(
                f"image {reference}: {reference.registry} refuses the anonymous token it gave",
                hint="the image is not public there; check its name",
            )
        return answer

    async def _new_token(self, reference: Reference, challenge: str) -> None:
        parameters = dict(_PARAMETER.findall(challenge))
        realm = parameters.pop("realm", "")
        if not challenge.lower().startswith("bearer ") or urlsplit(realm).scheme != "https":
            raise FetchFailed(
                f"image {reference}: {reference.registry} wants a sign-in that is not anonymous",
                hint="the image is not public there; check its name",
            )
        asked = {name: parameters[name] for name in ("service", "scope") if name in parameters}
        separator = "&" if urlsplit(realm).query else "?"
        answer = await self._fetcher.small(
            f"{realm}{separator}{urlencode(asked)}",
            what=f"token for image {reference}",
            limit_bytes=_MAX_TOKEN_BYTES,
        )
        try:
            given = msgspec.json.decode(answer.body, type=_Token)
        except msgspec.DecodeError as exc:
            raise ImageInvalid(f"{realm} answers with no token: {exc}") from exc
        key = (reference.registry, reference.repository)
        self._tokens[key] = given.token or given.access_token
        self._challenges[key] = challenge

    def _header(self, reference: Reference) -> dict[str, str]:
        token = self._tokens.get((reference.registry, reference.repository))
        return {"authorization": f"Bearer {token}"} if token else {}


def write_fetched_image(image: FetchedImage, out: Path) -> None:
    """Write an image as a layout tar that containerd imports under its name."""
    pointer = Descriptor(
        media_type=image.media_type,
        digest=image.digest,
        size=len(image.manifest),
        annotations={NAME_KEY: str(image.reference), REF_KEY: image.reference.tag},
    )
    index = Index(schema_version=2, media_type=INDEX_TYPE, manifests=(pointer,))
    files = [
        TarEntry(path="oci-layout", data=LAYOUT_FILE),
        TarEntry(path="index.json", data=index.encode()),
        TarEntry(path=f"blobs/sha256/{hex_of(image.digest)}", data=image.manifest),
    ]
    files += [
        TarEntry(path=f"blobs/sha256/{hex_of(digest)}", source=place)
        for digest, place in image.blobs.items()
    ]
    with out.open("wb") as writing:
        write_tar(files, writing)


def _decode(body: bytes, reference: Reference) -> _Document:
    try:
        document = msgspec.json.decode(body, type=_Document)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise ImageInvalid(f"image {reference}: its manifest cannot be read: {exc}") from exc
    parts = [
        *document.manifests,
        *document.layers,
        *((document.config,) if document.config else ()),
    ]
    for part in parts:
        if not is_digest(part.digest) or part.size < 0:
            raise ImageInvalid(f"image {reference}: its manifest names {part.digest[:80]!r}")
    return document


def _choose(document: _Document, reference: Reference, architecture: str) -> str:
    """The manifest of an architecture in an index; the first one, when it has variants."""
    have = [entry.platform for entry in document.manifests]
    for entry in document.manifests:
        if entry.platform.os == "linux" and entry.platform.architecture == architecture:
            return entry.digest
    told = ", ".join(sorted({f"{item.os}/{item.architecture}" for item in have}))
    raise ImageInvalid(f"image {reference} is not for linux/{architecture}, only for {told}")


def _check_platform(config: Path, reference: Reference, architecture: str) -> None:
    try:
        platform = msgspec.json.decode(config.read_bytes(), type=_Platform)
    except msgspec.DecodeError as exc:
        raise ImageInvalid(f"image {reference}: its configuration cannot be read: {exc}") from exc
    if (platform.os, platform.architecture) != ("linux", architecture):
        raise ImageInvalid(
            f"image {reference} is for {platform.os}/{platform.architecture},"
            f" wanted linux/{architecture}"
        )
