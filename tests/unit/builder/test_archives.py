"""Images that other tools archived: read in both forms, checked blob by blob, named in full."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from skerry.agent.content import ContentStore
from skerry.agent.kube import places
from skerry.agent.kube.api import FakeKubeApi
from skerry.agent.kube.images import import_artifact
from skerry.agent.kube.record import Doors
from skerry.builder.archives import ArchiveInvalid, build_images, full_name
from skerry.builder.cache import Cache
from skerry.builder.images import NAME_KEY
from skerry.builder.layout import BuiltArtifact
from skerry.lib.clock import ManualClock
from skerry.lib.digest import canonical_json, sha256
from skerry.lib.files import DiskRoot
from skerry.lib.oci import Layout
from skerry.lib.proc import FakeRunner
from skerry.model import release as model
from skerry.model.artifact import ArtifactRef

OCI = "application/vnd.oci.image"
DOCKER = "application/vnd.docker"


def a_layer(text: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo("page")
        info.size = len(text)
        archive.addfile(info, io.BytesIO(text.encode()))
    return out.getvalue()


@dataclass
class Image:
    """An image's parts."""

    layers: list[bytes] = field(default_factory=lambda: [a_layer("base"), a_layer("top")])
    architecture: str = "amd64"
    system: str = "linux"

    @property
    def config(self) -> bytes:
        return canonical_json(
            {
                "os": self.system,
                "architecture": self.architecture,
                "rootfs": {"type": "layers", "diff_ids": [sha256(x) for x in self.layers]},
            }
        )


def write(
    place: Path, files: dict[str, bytes | str], *, links: dict[str, str] | None = None
) -> Path:
    with tarfile.open(place, "w") as archive:
        for name, data in files.items():
            raw = data.encode() if isinstance(data, str) else data
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return place


def docker_files(image: Image, *tags: str) -> dict[str, bytes | str]:
    """As `docker save` before version 25 and `podman save` write it."""
    name = f"{sha256(image.config)[7:]}.json"
    layers = {f"{sha256(data)[7:19]}/layer.tar": data for data in image.layers}
    entry = {"Config": name, "RepoTags": list(tags) or None, "Layers": list(layers)}
    return {name: image.config, **layers, "manifest.json": json.dumps([entry])}


def oci_files(
    image: Image, name: str, *, pack: bool = True, words: str = "oci", key: str = ""
) -> dict[str, bytes | str]:
    """As skopeo's oci-archive: and `podman save --format oci-archive` write it."""
    kinds = {
        "oci": (f"{OCI}.manifest.v1+json", f"{OCI}.config.v1+json", f"{OCI}.layer.v1.tar+gzip"),
        "docker": (
            f"{DOCKER}.distribution.manifest.v2+json",
            f"{DOCKER}.container.image.v1+json",
            f"{DOCKER}.image.rootfs.diff.tar.gzip",
        ),
    }[words]
    layers = [gzip.compress(x, mtime=0) if pack else x for x in image.layers]
    layer_kind = kinds[2] if pack else kinds[2].removesuffix("+gzip")
    manifest = canonical_json(
        {
            "schemaVersion": 2,
            "mediaType": kinds[0],
            "config": pointer(image.config, kinds[1]),
            "layers": [pointer(x, layer_kind) for x in layers],
        }
    )
    notes = {key or "org.opencontainers.image.ref.name": name} if name else {}
    index = {
        "schemaVersion": 2,
        "manifests": [{**pointer(manifest, kinds[0]), "annotations": notes}],
    }
    blobs = [manifest, image.config, *layers]
    return {
        "oci-layout": '{"imageLayoutVersion":"1.0.0"}',
        "index.json": json.dumps(index),
        **{blob_name(x): x for x in blobs},
    }


def blob_name(data: bytes) -> str:
    return f"blobs/sha256/{sha256(data)[7:]}"


def pointer(data: bytes, kind: str) -> dict[str, object]:
    return {"mediaType": kind, "digest": sha256(data), "size": len(data)}


def build(tmp_path: Path, *places: Path, **more: str) -> BuiltArtifact:
    more.setdefault("architecture", "amd64")
    return build_images(places, cache=Cache(tmp_path / "cache"), **more)


def images(built: BuiltArtifact) -> list[tuple[str, dict[str, bytes]]]:
    """(name in the artifact, files of its tar) of each image."""
    layout = Layout.open(built.path)
    _, manifest = layout.only_manifest()
    found = []
    for layer in manifest.layers:
        data = gzip.decompress(layout.blob_path(layer.digest).read_bytes())
        assert layer.annotations[model.CONTENT_KEY] == sha256(data)
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            files = {x.name: archive.extractfile(x).read() for x in archive if x.isfile()}
        found.append((layer.annotations[model.IMAGE_KEY], files))
    return found


def parts(files: dict[str, bytes]) -> tuple[str, dict, list[bytes]]:
    """Name for containerd, manifest, and layers of an image tar."""
    (entry,) = json.loads(files["index.json"])["manifests"]
    manifest = json.loads(files[f"blobs/sha256/{entry['digest'][7:]}"])
    layers = [files[f"blobs/sha256/{x['digest'][7:]}"] for x in manifest["layers"]]
    return entry["annotations"][NAME_KEY], manifest, layers


def test_a_docker_archive_becomes_an_artifact_under_the_images_full_name(tmp_path: Path) -> None:
    image = Image()
    place = write(tmp_path / "x.tar", docker_files(image, "harbour/web:1.4"))

    built = build(tmp_path, place)

    assert (built.type, built.name, built.version) == ("images", "web", "1.4")
    assert built.architecture == "amd64"
    ((name, files),) = images(built)
    inner, manifest, layers = parts(files)
    assert name == inner == "docker.io/harbour/web:1.4"
    assert layers == image.layers
    assert manifest["config"]["digest"] == sha256(image.config)
    assert Layout.open(built.path).verify() == built.size_bytes


@pytest.mark.anyio
async def test_the_agent_imports_and_pins_what_was_built(tmp_path: Path) -> None:
    image = Image()
    built = build(tmp_path, write(tmp_path / "x.tar", docker_files(image, "harbour/web:1.4")))
    root = DiskRoot(str(tmp_path / "host"))
    content, seen = ContentStore(root, None), []
    layout = Layout.open(built.path)
    pointer, manifest = layout.only_manifest()
    for part in (pointer, *manifest.layers):
        content.put(part.digest, layout.blob_path(part.digest).read_bytes())
    runner = FakeRunner()
    ctr = f"{places.LINKS}/ctr"
    runner.answer_with(
        ctr,
        answer=lambda argv: seen.append(Path(argv[-1]).read_bytes()) if "import" in argv else None,
    )
    doors = Doors(runner=runner, root=root, clock=ManualClock(), content=content, api=FakeKubeApi())
    artifact = ArtifactRef(
        name="web-1-4-amd64",
        type=built.type,
        version=built.version,
        architecture=built.architecture,
        digest=built.digest,
        envelope_digest=built.digest,
    )

    await import_artifact(doors, artifact)

    with tarfile.open(fileobj=io.BytesIO(seen[0])) as archive:
        files = {x.name: archive.extractfile(x).read() for x in archive if x.isfile()}
    assert parts(files)[0] == "docker.io/harbour/web:1.4"
    labelled = [call for call in runner.calls if "label" in call]
    assert labelled[0][-2:] == ("docker.io/harbour/web:1.4", "io.cri-containerd.pinned=pinned")
    assert doors.record().content == {built.digest: ("docker.io/harbour/web:1.4",)}


@pytest.mark.parametrize("pack", [True, False])
def test_an_oci_archive_keeps_its_manifest_byte_for_byte(tmp_path: Path, pack: bool) -> None:
    source = oci_files(Image(), "registry.example:5000/a/web:2", pack=pack)
    place = write(tmp_path / "x.tar", source)

    ((name, files),) = images(build(tmp_path, place))

    assert name == "registry.example:5000/a/web:2"
    digest = json.loads(source["index.json"])["manifests"][0]["digest"]
    assert files[f"blobs/sha256/{digest[7:]}"] == source[f"blobs/sha256/{digest[7:]}"]


def test_dockers_media_types_become_those_that_hosts_import(tmp_path: Path) -> None:
    place = write(tmp_path / "x.tar", oci_files(Image(), "a.example/web:1", words="docker"))

    ((_, files),) = images(build(tmp_path, place))

    _, manifest, _ = parts(files)
    kinds = {manifest["mediaType"], manifest["config"]["mediaType"]}
    kinds |= {layer["mediaType"] for layer in manifest["layers"]}
    assert not any("docker" in kind for kind in kinds)


def test_equal_images_make_equal_artifacts_whatever_is_around_them(tmp_path: Path) -> None:
    files = docker_files(Image(), "a.example/web:1")
    plain = write(tmp_path / "a.tar", files)
    other = write(tmp_path / "b.tar", {**dict(reversed(files.items())), "repositories": "{}"})
    packed = tmp_path / "c.tar.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))

    digests = {
        build_images(
            [place], cache=Cache(tmp_path / f"cache {place.name}"), architecture="amd64"
        ).digest
        for place in (plain, other, packed)
    }

    assert len(digests) == 1


def test_older_docker_links_layers_that_images_share(tmp_path: Path) -> None:
    image = Image()
    files = docker_files(image, "a.example/web:1")
    first, second = (name for name in files if name.endswith("layer.tar"))
    shared = files.pop(first)
    files["shared/layer.tar"] = shared
    place = write(tmp_path / "x.tar", files, links={first: "../shared/layer.tar"})

    ((_, found),) = images(build(tmp_path, place))

    assert parts(found)[2] == image.layers
    assert second in files


def test_several_archives_and_tags_need_a_name_for_the_whole(tmp_path: Path) -> None:
    one = write(tmp_path / "1.tar", docker_files(Image(), "a.example/web:1", "a.example/web:one"))
    two = write(tmp_path / "2.tar", oci_files(Image([a_layer("z")]), "a.example/db:3"))
    with pytest.raises(ArchiveInvalid) as caught:
        build(tmp_path, one, two)
    assert "--name and --version" in caught.value.hint

    built = build(tmp_path, one, two, name="shop", version="7")

    names = [name for name, _ in images(built)]
    assert names == ["a.example/db:3", "a.example/web:1", "a.example/web:one"]
    assert (built.name, built.version) == ("shop", "7")


def test_an_image_without_a_name_can_be_given_one(tmp_path: Path) -> None:
    place = write(tmp_path / "x.tar", oci_files(Image(), "latest"))
    with pytest.raises(ArchiveInvalid, match="has no name") as caught:
        build(tmp_path, place)
    assert "--image" in caught.value.hint

    ((name, _),) = images(build(tmp_path, place, image="a.example/web:1"))
    assert name == "a.example/web:1"


def test_of_several_platforms_the_wanted_one_is_taken(tmp_path: Path) -> None:
    arm, amd = Image([a_layer("arm")], architecture="arm64"), Image([a_layer("amd")])
    both = {"amd64": oci_files(amd, ""), "arm64": oci_files(arm, "")}
    pointers = [
        {
            **json.loads(files["index.json"])["manifests"][0],
            "platform": {"os": "linux", "architecture": name},
        }
        for name, files in both.items()
    ]
    inner = canonical_json({"schemaVersion": 2, "manifests": pointers})
    outer = {
        **pointer(inner, f"{OCI}.index.v1+json"),
        "annotations": {NAME_KEY: "a.example/web:1"},
    }
    index = json.dumps({"schemaVersion": 2, "manifests": [outer]})
    place = write(
        tmp_path / "x.tar",
        {**both["amd64"], **both["arm64"], blob_name(inner): inner, "index.json": index},
    )

    found = [images(build(tmp_path, place, architecture=name)) for name in ("amd64", "arm64")]

    assert [gzip.decompress(parts(x[0][1])[2][0]) for x in found] == [*amd.layers, *arm.layers]
    with pytest.raises(ArchiveInvalid, match="no image for linux s390x, only for amd64, arm64"):
        build(tmp_path, place, architecture="s390x")


def test_an_image_for_another_machine_is_refused(tmp_path: Path) -> None:
    arm = Image(architecture="arm64")
    place = write(tmp_path / "x.tar", docker_files(arm, "a.example/web:1"))

    with pytest.raises(ArchiveInvalid, match="is for arm64, wanted amd64"):
        build(tmp_path, place)


def spoiled(files: dict[str, bytes | str], change: str) -> dict[str, bytes | str]:
    """An archive with one fault."""
    if change == "config":
        name = next(x for x in files if x.endswith(".json") and x != "manifest.json")
        return {**files, name: b'{"os": "linux"}'}
    layer = next(x for x in files if x.endswith("layer.tar"))
    match change:
        case "layer":
            return {**files, layer: a_layer("other")}
        case "gone":
            return {name: data for name, data in files.items() if name != layer}
        case "empty":
            return {**files, "manifest.json": "[]"}
        case "text":
            return {**files, "manifest.json": "{"}
        case "deep":
            return {**files, "manifest.json": "[" * 100_000}
        case "large":
            return {**files, "manifest.json": b" " * (4 * 1024 * 1024 + 1)}
        case "fewer":
            entry = json.loads(files["manifest.json"])
            entry[0]["Layers"].pop()
            return {**files, "manifest.json": json.dumps(entry)}
    raise AssertionError(change)


@pytest.mark.parametrize(
    "change", ["config", "layer", "gone", "empty", "text", "deep", "large", "fewer"]
)
def test_a_damaged_docker_archive_is_refused_by_name(tmp_path: Path, change: str) -> None:
    files = spoiled(docker_files(Image(), "a.example/web:1"), change)
    place = write(tmp_path / "bad.tar", files)

    with pytest.raises(ArchiveInvalid, match=r"bad\.tar"):
        build(tmp_path, place)

    assert not list((tmp_path / "cache").rglob("index.json"))


def test_a_damaged_blob_of_an_oci_archive_is_refused(tmp_path: Path) -> None:
    files = oci_files(Image(), "a.example/web:1")
    for number, name in enumerate(x for x in files if x.startswith("blobs/")):
        data = files[name]
        changed = data[:-1] + bytes([data[-1] ^ 1])
        place = write(tmp_path / f"{number}.tar", {**files, name: changed})
        with pytest.raises(ArchiveInvalid):
            build(tmp_path, place)


def test_files_that_are_no_archives_are_refused(tmp_path: Path) -> None:
    good = write(tmp_path / "good", docker_files(Image(), "a.example/web:1")).read_bytes()
    cases = {
        "empty": b"",
        "text": b"hello",
        "cut": good[:1000],
        "cut.gz": gzip.compress(good)[:200],
        "zstd": b"\x28\xb5\x2f\xfdxxxx",
        "other": write(tmp_path / "other", {"file": "x"}).read_bytes(),
    }
    for name, data in cases.items():
        place = tmp_path / f"{name}.tar"
        place.write_bytes(data)
        with pytest.raises(ArchiveInvalid):
            build(tmp_path, place)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1", "docker.io/library/busybox:1"),
        ("docker.io/busybox:1", "docker.io/library/busybox:1"),
        ("a/web:1", "docker.io/a/web:1"),
        ("localhost/web", "localhost/web:latest"),
        ("reg.example:5000/web:1", "reg.example:5000/web:1"),
        ("reg.example:5000/web", "reg.example:5000/web:latest"),
        ("a.example/Web:1", ""),
        ("a.example/web@sha256:12", ""),
        ("a.example/web:1 --all", ""),
        ("", ""),
    ],
)
def test_names_are_spelled_as_the_runtime_does(text: str, wanted: str) -> None:
    assert full_name(text) == wanted
