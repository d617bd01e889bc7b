"""The example web application as an artifact of container images.

It exists so that a new cluster has something to run without any registry. Each version is its own
artifact of the type that also carries a profile's images.
"""

from __future__ import annotations

import shutil
import tempfile
from functools import cache as once
from importlib.resources import files
from pathlib import Path

import msgspec
import yaml

from skerry.builder.cache import Cache, content_id
from skerry.builder.gomodules import machine_architecture
from skerry.builder.images import ImageConfig, base_id, base_layer, common_entries, write_image
from skerry.builder.layout import BuiltArtifact, LayoutWriter, describe, sign_layout
from skerry.builder.recipes import BaseRecipe
from skerry.builder.tarball import TarEntry, write_tar
from skerry.lib.errors import SkerryError
from skerry.lib.proc import Runner
from skerry.model.release import IMAGES_ARTIFACT_TYPE, IMAGES_CONFIG_TYPE, ImagesMetadata
from skerry.wire.envelope import SigningKey

_KIND = "releases/images"


class UnknownExample(SkerryError):
    """The example application has no such version."""


class _Example(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    schema: int
    name: str
    image: str
    versions: tuple[str, ...]
    port: int
    base: BaseRecipe
    page: str


def example_versions() -> tuple[str, ...]:
    """Versions of the example application, oldest first."""
    return _data().versions


def example_image(version: str) -> str:
    """Full reference of the example's image. Raises UnknownExample."""
    data = _data()
    if version not in data.versions:
        raise UnknownExample(
            f"the example application has no version {version[:40]!r}",
            hint=f"known versions: {', '.join(data.versions)}",
        )
    return data.image.format(version=version)


async def build_example(
    version: str, *, cache: Cache, runner: Runner, signer: SigningKey | None = None
) -> BuiltArtifact:
    """Build the example's artifact into the cache, or find it there. Needs root."""
    image = example_image(version)
    data = _data()
    architecture = machine_architecture()
    identity = content_id({"example": data, "base": base_id(data.base, architecture)})
    entry = f"{data.name}-{version}-{architecture}-{identity}"
    place = cache.find(_KIND, entry)
    if place is None:
        base = await base_layer(
            "busybox", data.base, architecture=architecture, cache=cache, runner=runner
        )
        with cache.fill(_KIND, entry) as work:
            _assemble(data, version, image, base.layer, architecture, work)
        place = cache.base / _KIND / entry
    if signer is not None:
        sign_layout(place, signer)
    return describe(place)


def _assemble(
    data: _Example, version: str, image: str, base: Path, architecture: str, into: Path
) -> None:
    scratch = Path(tempfile.mkdtemp(prefix=".work.", dir=into))
    layer, tar = scratch / "layer.tar", scratch / "web.tar"
    page = data.page.format(version=version).encode()
    with layer.open("wb") as writing:
        write_tar([*common_entries(), TarEntry(path="www/index.html", data=page)], writing)
    config = ImageConfig(entrypoint=("httpd", "-f", "-p", str(data.port), "-h", "/www"))
    write_image(image, layers=[base, layer], config=config, architecture=architecture, out=tar)
    writer = LayoutWriter(into)
    writer.add_image(tar, path="images/web.tar", name=image)
    shutil.rmtree(scratch)
    metadata = ImagesMetadata(
        name=data.name, version=version, architecture=architecture, images=tuple(writer.images)
    )
    writer.finish(
        metadata.encode(),
        config_type=IMAGES_CONFIG_TYPE,
        artifact_type=IMAGES_ARTIFACT_TYPE,
        name=data.name,
        version=version,
        architecture=architecture,
    )


@once
def _data() -> _Example:
    text = (files("skerry.builder") / "data" / "example.yaml").read_text(encoding="utf-8")
    loaded = yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506  # makes only text
    return msgspec.convert(loaded, type=_Example, strict=False)
