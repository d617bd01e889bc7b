"""Writing skerry's own artifacts as OCI layouts, and signing them.

One blob per file or image, so that two releases share what did not change. What is signed is a
statement about the manifest's digest; the signed envelope lies beside the layout in
`envelope.json` and is not part of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from skerry.lib.digest import canonical_json
from skerry.lib.oci import Descriptor, Layout, LayoutInvalid, new_manifest
from skerry.model.agentrelease import AGENT_ARTIFACT_TYPE
from skerry.model.kairosimage import KAIROS_ARTIFACT_TYPE
from skerry.model.osimage import OS_ARTIFACT_TYPE
from skerry.model.release import (
    ARTIFACT_TYPE,
    CHART_ARTIFACT_TYPE,
    CHART_LAYER_TYPE,
    CONTENT_KEY,
    FILE_TYPE,
    IMAGE_KEY,
    IMAGE_TYPE,
    IMAGES_ARTIFACT_TYPE,
    MODE_KEY,
    PATH_KEY,
    ReleaseFile,
    ReleaseImage,
)
from skerry.wire.envelope import ARTIFACT, SigningKey, sign
from skerry.wire.messages import ArtifactStatement

ENVELOPE_FILE = "envelope.json"

_NAME_KEY = "dev.skerry.name"
_VERSION_KEY = "org.opencontainers.image.version"
_ARCHITECTURE_KEY = "dev.skerry.architecture"

# What Artifact objects and signed statements call the media types of layouts.
_TYPES = {
    ARTIFACT_TYPE: "kubernetes",
    IMAGES_ARTIFACT_TYPE: "images",
    CHART_ARTIFACT_TYPE: "chart",
    AGENT_ARTIFACT_TYPE: "agent",
    OS_ARTIFACT_TYPE: "os",
    KAIROS_ARTIFACT_TYPE: "os",
}


@dataclass(frozen=True, slots=True)
class BuiltArtifact:
    """A finished layout. `type` is the word of an Artifact object ("kubernetes"), `digest` the
    manifest's, `size_bytes` what a host fetches at most."""

    path: Path
    type: str
    name: str
    version: str
    architecture: str
    digest: str
    size_bytes: int

    @property
    def statement(self) -> ArtifactStatement:
        """What a release key signs about it."""
        return ArtifactStatement(
            name=self.name,
            type=self.type,
            version=self.version,
            architecture=self.architecture,
            digest=self.digest,
        )


class LayoutWriter:
    """Collects the layers of one artifact, in the order they are added."""

    def __init__(self, path: Path) -> None:
        self._layout = Layout.create(path)
        self._layers: list[Descriptor] = []
        self.files: list[ReleaseFile] = []
        self.images: list[ReleaseImage] = []

    def add_file(self, source: Path, *, path: str, executable: bool = True) -> None:
        """Add a file under its path in the artifact ("bin/kubelet")."""
        mode = "0755" if executable else "0644"
        content = self._add(source, FILE_TYPE, {PATH_KEY: path, MODE_KEY: mode})
        size = source.stat().st_size
        self.files.append(ReleaseFile(path=path, mode=mode, digest=content, size_bytes=size))

    def add_image(self, tar: Path, *, path: str, name: str) -> None:
        """Add an image tar; `name` is the image's full reference."""
        content = self._add(tar, IMAGE_TYPE, {PATH_KEY: path, IMAGE_KEY: name})
        size = tar.stat().st_size
        self.images.append(ReleaseImage(name=name, path=path, digest=content, size_bytes=size))

    def add_archive(self, source: Path, *, media_type: str, path: str) -> None:
        """Add a file that is compressed already, byte for byte."""
        stored, content = self._layout.add_file(source, media_type)
        annotations = {PATH_KEY: path, CONTENT_KEY: content}
        self._layers.append(msgspec.structs.replace(stored, annotations=annotations))

    def add_chart(self, package: Path, *, path: str) -> None:
        """Add a packaged chart."""
        self.add_archive(package, media_type=CHART_LAYER_TYPE, path=path)

    def finish(
        self,
        config: bytes,
        *,
        config_type: str,
        artifact_type: str,
        name: str,
        version: str,
        architecture: str,
    ) -> None:
        """Write config, manifest and index."""
        manifest = new_manifest(
            artifact_type=artifact_type,
            config=self._layout.add_bytes(config, config_type),
            layers=tuple(self._layers),
            annotations={
                _NAME_KEY: name,
                _VERSION_KEY: version,
                _ARCHITECTURE_KEY: architecture,
            },
        )
        self._layout.write_index((self._layout.add_manifest(manifest),))

    def _add(self, source: Path, media_type: str, annotations: dict[str, str]) -> str:
        stored, content = self._layout.add_file(source, media_type, compress=True)
        self._layers.append(
            Descriptor(
                media_type=media_type,
                digest=stored.digest,
                size=stored.size,
                annotations={**annotations, CONTENT_KEY: content},
            )
        )
        return content


def describe(path: Path) -> BuiltArtifact:
    """Read what the layout in a folder is. Raises LayoutInvalid."""
    pointer, manifest = Layout.open(path).only_manifest()
    try:
        name, version, architecture = (
            manifest.annotations[key] for key in (_NAME_KEY, _VERSION_KEY, _ARCHITECTURE_KEY)
        )
    except KeyError as exc:
        raise LayoutInvalid(f"{path} is not an artifact of skerry: no annotation {exc}") from exc
    parts = (manifest.config, *manifest.layers)
    return BuiltArtifact(
        path=path,
        type=_TYPES.get(manifest.artifact_type, manifest.artifact_type),
        name=name,
        version=version,
        architecture=architecture,
        digest=pointer.digest,
        size_bytes=pointer.size + sum(part.size for part in parts),
    )


def sign_layout(path: Path, key: SigningKey) -> bytes:
    """Sign the layout's statement; writes and returns `envelope.json`. Raises LayoutInvalid."""
    data = sign(ARTIFACT, canonical_json(describe(path).statement), [key]).encode()
    (path / ENVELOPE_FILE).write_bytes(data)
    return data
