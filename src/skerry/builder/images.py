"""Container images of one program each, as OCI layout tars that containerd imports.

The layers inside are not compressed, because the tar as a whole is when it becomes a blob. The
index names the image twice, for containerd (`io.containerd.image.name`, the full reference) and
for other tools (`org.opencontainers.image.ref.name`, the tag).
"""

from __future__ import annotations

import gzip
import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from skerry.builder.cache import Cache, content_id
from skerry.builder.debian import extract_packages, layer_entries
from skerry.builder.recipes import BaseRecipe, ImageRecipe
from skerry.builder.tarball import TarEntry, write_tar
from skerry.lib.digest import canonical_json, hex_of, sha256
from skerry.lib.oci import (
    INDEX_TYPE,
    LAYOUT_FILE,
    MANIFEST_TYPE,
    REF_KEY,
    Descriptor,
    Index,
    file_digest,
    new_manifest,
)
from skerry.lib.proc import Runner

CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
NAME_KEY = "io.containerd.image.name"

# Raised when the layers change in a way that the recipes do not show.
_BASE_FORM = 3

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PASSWD = (
    b"root:x:0:0:root:/root:/sbin/nologin\n"
    b"nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n"
    b"nobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin\n"
)
_GROUP = b"root:x:0:\nnonroot:x:65532:\nnobody:x:65534:\n"


class Package(msgspec.Struct, frozen=True, kw_only=True):
    """A Debian package inside a layer."""

    name: str
    version: str


@dataclass(frozen=True, slots=True)
class Base:
    """A lower layer in the cache and what it is made of."""

    layer: Path
    packages: tuple[Package, ...]


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What a runtime reads from the image. `command` follows the entry point."""

    entrypoint: tuple[str, ...]
    command: tuple[str, ...] = ()
    user: str = ""


def common_entries() -> list[TarEntry]:
    """What every image has besides its program: users, name look-up and a place for scratch."""
    return [
        TarEntry(path="tmp", mode=0o1777, folder=True),
        TarEntry(path="etc/passwd", data=_PASSWD),
        TarEntry(path="etc/group", data=_GROUP),
        TarEntry(path="etc/nsswitch.conf", data=b"hosts: files dns\n"),
    ]


def program_layer(program: Path, at: str, *, net_bind: bool = False) -> list[TarEntry]:
    """Entries of the layer of a program that needs nothing but itself."""
    entry = TarEntry(path=at.lstrip("/"), mode=0o755, source=program, net_bind=net_bind)
    return [*common_entries(), entry]


def write_program_image(
    recipe: ImageRecipe,
    *,
    program: Path,
    base: Path | None,
    architecture: str,
    work: Path,
    out: Path,
) -> None:
    """Write the image of one program to the tar `out`; `work` is a folder for scratch files."""
    layer = work / f"{program.name}.layer.tar"
    with layer.open("wb") as writing:
        write_tar(program_layer(program, recipe.at, net_bind=recipe.net_bind), writing)
    layers = [layer] if base is None else [base, layer]
    config = ImageConfig(entrypoint=(recipe.at,), user=recipe.user)
    write_image(recipe.name, layers=layers, config=config, architecture=architecture, out=out)
    layer.unlink()


def write_image(
    name: str, *, layers: Sequence[Path], config: ImageConfig, architecture: str, out: Path
) -> None:
    """Write an image (`name` is its full reference) made of uncompressed layer tars, lowest first.

    Equal inputs make equal bytes: the image carries no time of creation.
    """
    found = [file_digest(layer) for layer in layers]
    settings: dict[str, object] = {
        "Entrypoint": list(config.entrypoint),
        "Env": [f"PATH={_PATH}"],
        "WorkingDir": "/",
    }
    if config.command:
        settings["Cmd"] = list(config.command)
    if config.user:
        settings["User"] = config.user
    config_bytes = canonical_json(
        {
            "architecture": architecture,
            "os": "linux",
            "config": settings,
            "rootfs": {"type": "layers", "diff_ids": [digest for digest, _ in found]},
        }
    )
    manifest = new_manifest(
        artifact_type="",
        config=_pointer(CONFIG_TYPE, config_bytes),
        layers=tuple(
            Descriptor(media_type=LAYER_TYPE, digest=digest, size=size) for digest, size in found
        ),
    ).encode()
    blobs = [(digest, layer) for layer, (digest, _) in zip(layers, found, strict=True)]
    write_image_tar(name, manifest=manifest, config=config_bytes, layers=blobs, out=out)


def write_image_tar(
    name: str,
    *,
    manifest: bytes,
    config: bytes,
    layers: Sequence[tuple[str, Path]],
    out: Path,
) -> None:
    """Write the layout of one image from its parts; `layers` are (digest, file)."""
    pointer = msgspec.structs.replace(
        _pointer(MANIFEST_TYPE, manifest),
        annotations={NAME_KEY: name, REF_KEY: name.rpartition(":")[2]},
    )
    index = Index(schema_version=2, media_type=INDEX_TYPE, manifests=(pointer,))
    entries = [
        TarEntry(path="oci-layout", data=LAYOUT_FILE),
        TarEntry(path="index.json", data=index.encode()),
        TarEntry(path=_blob(sha256(manifest)), data=manifest),
        TarEntry(path=_blob(sha256(config)), data=config),
    ]
    entries += [TarEntry(path=_blob(digest), source=layer) for digest, layer in layers]
    with out.open("wb") as writing:
        write_tar(entries, writing)


def base_id(recipe: BaseRecipe, architecture: str) -> str:
    """Content id of a base layer. The archive's present state is not part of it."""
    return content_id({"form": _BASE_FORM, "recipe": recipe, "architecture": architecture})


async def base_layer(
    name: str, recipe: BaseRecipe, *, architecture: str, cache: Cache, runner: Runner
) -> Base:
    """Make a lower layer of Debian packages, or find it in the cache. Needs root."""
    entry = f"base-{name}-{base_id(recipe, architecture)}"
    found = cache.find("components", entry)
    if found is None:
        with cache.fill("components", entry) as work:
            tree = work / "tree.tar"
            await extract_packages(
                recipe.packages,
                suite=recipe.suite,
                architecture=architecture,
                into=tree,
                runner=runner,
            )
            with (work / "layer.tar").open("wb") as writing:
                write_tar(layer_entries(tree, recipe.links), writing)
            (work / "packages.json").write_bytes(canonical_json(packages_in(tree)))
            tree.unlink()
        found = cache.base / "components" / entry
    packages = msgspec.json.decode((found / "packages.json").read_bytes(), type=tuple[Package, ...])
    return Base(layer=found / "layer.tar", packages=packages)


def packages_in(tree: Path) -> list[Package]:
    """Packages of an extracted tree, read from their changelogs; nothing is installed there."""
    found = {}
    with tarfile.open(tree) as archive:
        for member in archive:
            place = re.fullmatch(r"\./usr/share/doc/([^/]+)/changelog(\.Debian)?\.gz", member.name)
            reading = archive.extractfile(member) if place and member.isreg() else None
            if place is None or reading is None:
                continue
            first = gzip.decompress(reading.read()).decode(errors="replace").splitlines()[0]
            # An upstream changelog of the same name looks different.
            version = re.match(r"[a-z0-9][a-z0-9.+-]+ \((\d[^)]*)\) [^;]+; urgency=", first)
            if version is not None:
                found[place[1]] = Package(name=place[1], version=version[1])
    return [found[name] for name in sorted(found)]


def _pointer(media_type: str, data: bytes) -> Descriptor:
    return Descriptor(media_type=media_type, digest=sha256(data), size=len(data))


def _blob(digest: str) -> str:
    return f"blobs/sha256/{hex_of(digest)}"
