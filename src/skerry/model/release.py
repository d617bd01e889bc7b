"""What is in a Kubernetes release: the metadata that travels as the artifact's config blob.

Pure values, shared by builder, manager and agent. Digests here are of the *uncompressed* file,
which is what a host can check again after it was unpacked; the layer's own digest is of the
compressed blob.
"""

from __future__ import annotations

import re

import msgspec

from skerry.lib.errors import SkerryError

ARTIFACT_TYPE = "application/vnd.skerry.kubernetes.release.v1"
IMAGES_ARTIFACT_TYPE = "application/vnd.skerry.images.v1"
CHART_ARTIFACT_TYPE = "application/vnd.skerry.chart.v1"
CONFIG_TYPE = "application/vnd.skerry.kubernetes.release.config.v1+json"
IMAGES_CONFIG_TYPE = "application/vnd.skerry.images.config.v1+json"
CHART_CONFIG_TYPE = "application/vnd.skerry.chart.config.v1+json"
# A packaged chart as Helm's registries call it (helm.sh/docs/topics/registries).
CHART_LAYER_TYPE = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
FILE_TYPE = "application/vnd.skerry.file.v1+gzip"
IMAGE_TYPE = "application/vnd.skerry.image.v1.tar+gzip"

PATH_KEY = "dev.skerry.path"
MODE_KEY = "dev.skerry.mode"
CONTENT_KEY = "dev.skerry.sha256"
IMAGE_KEY = "dev.skerry.image"

SBOM_PATH = "sbom.cdx.json"
MAX_METADATA_BYTES = 1024 * 1024

_VERSION = re.compile(r"v?(\d{1,4})\.(\d{1,4})\.(\d{1,4})")
_SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class ReleaseInvalid(SkerryError):
    """A release, or what describes it, is not of the form that skerry makes."""

    def __init__(self, message: str, *, hint: str = "build or fetch the release again") -> None:
        super().__init__(message, hint=hint, reason="ReleaseInvalid")


class ReleaseFile(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One file of the release. `path` is relative ("bin/kubelet"), `mode` octal text ("0755")."""

    path: str
    mode: str
    digest: str
    size_bytes: int


class ReleaseImage(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One container image as an OCI layout tar. `name` is the full reference with its tag."""

    name: str
    path: str
    digest: str
    size_bytes: int


class ReleaseMetadata(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Everything a host needs to know about a release before it fetches a layer.

    `version` and `components` are without a leading "v". `source` is "modules" or "official".
    """

    distribution: str
    version: str
    architecture: str
    source: str
    toolchain: str
    components: dict[str, str]
    files: tuple[ReleaseFile, ...]
    images: tuple[ReleaseImage, ...]

    def image(self, component: str) -> str:
        """Full name of the image of a component ("pause"). Raises ReleaseInvalid."""
        for image in self.images:
            if image.path == f"images/{component}.tar":
                return image.name
        raise ReleaseInvalid(f"release {self.version} has no image of {component}")

    def encode(self) -> bytes:
        """Canonical JSON."""
        return msgspec.json.encode(self, order="sorted")


class ImagesMetadata(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Config blob of an artifact that carries only container images."""

    name: str
    version: str
    architecture: str
    images: tuple[ReleaseImage, ...]

    def encode(self) -> bytes:
        """Canonical JSON."""
        return msgspec.json.encode(self, order="sorted")


class ChartMetadata(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Config blob of an artifact that carries one Helm chart, in the words of its Chart.yaml."""

    name: str
    version: str
    app_version: str = ""
    description: str = ""

    def encode(self) -> bytes:
        """Canonical JSON."""
        return msgspec.json.encode(self, order="sorted")


def parse_metadata(data: bytes) -> ReleaseMetadata:
    """Decode a config blob and check every path in it. Raises ReleaseInvalid."""
    if len(data) > MAX_METADATA_BYTES:
        raise ReleaseInvalid(
            f"release metadata is {len(data)} bytes, at most {MAX_METADATA_BYTES} are accepted"
        )
    try:
        metadata = msgspec.json.decode(data, type=ReleaseMetadata)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise ReleaseInvalid(f"release metadata cannot be read: {exc}") from exc
    parse_version(metadata.version)
    for file in metadata.files:
        check_path(file.path)
        parse_mode(file.mode)
    for image in metadata.images:
        check_path(image.path)
    return metadata


def parse_version(text: str) -> tuple[int, int, int]:
    """(major, minor, patch) of "1.36.3" or "v1.36.3". Raises ReleaseInvalid."""
    found = _VERSION.fullmatch(text)
    if found is None:
        raise ReleaseInvalid(f"not a Kubernetes version: {text[:40]!r}", hint="write it as 1.36.3")
    return int(found[1]), int(found[2]), int(found[3])


def check_path(path: str) -> str:
    """The path, if it stays inside the release's folder. Raises ReleaseInvalid."""
    if len(path) > 400 or not all(_SEGMENT.fullmatch(part) for part in path.split("/")):
        raise ReleaseInvalid(f"path in a release is not allowed: {path[:100]!r}")
    return path


def parse_mode(text: str) -> int:
    """Permission bits of "0755"; only plain ones pass. Raises ReleaseInvalid."""
    if text not in {"0755", "0644"}:
        raise ReleaseInvalid(f"file mode in a release is not allowed: {text[:20]!r}")
    return int(text, 8)
