"""A release's layout: reproducible, described by its metadata, signed beside itself."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from skerry.builder.cache import Cache, default_cache
from skerry.builder.gomodules import Component, Toolchain
from skerry.builder.layout import describe, sign_layout
from skerry.builder.recipes import ImageRecipe, Recipe, ReleaseTable
from skerry.builder.release import Parts, assemble
from skerry.builder.sbom import Module
from skerry.lib.digest import canonical_json, sha256
from skerry.lib.oci import Layout
from skerry.model import release as model
from skerry.wire import envelope

TABLE = ReleaseTable(
    version="1.36.3",
    components={"kubernetes": "1.36.3", "pause": "3.10.2"},
    recipes={"tiny": Recipe(name="tiny", version="1", programs={"kubelet": "x", "pause": "y"})},
    files={"bin/kubelet": ("tiny", "kubelet")},
    images={
        "pause": ImageRecipe(
            name="registry.k8s.io/pause:3.10.2", program=("tiny", "pause"), at="/pause"
        )
    },
    bases={},
)


def _release(folder: Path) -> Path:
    programs, out = folder / "programs", folder / "release"
    programs.mkdir(parents=True)
    out.mkdir()
    for name in ("kubelet", "pause"):
        (programs / name).write_bytes(name.encode() * 1000)
    tiny = Component(recipe=TABLE.recipes["tiny"], content_id="0", folder=programs)
    parts = Parts(
        table=TABLE,
        toolchain=Toolchain(go_version="go1.26.8", architecture="amd64"),
        components={"tiny": tiny},
        bases={},
        modules={"bin/kubelet": [Module("a", "v1")]},
    )
    assemble(parts, out)
    return out


def test_building_twice_gives_the_same_manifest_digest(tmp_path: Path) -> None:
    first, second = (describe(_release(tmp_path / name)) for name in ("a", "b"))

    assert first.digest == second.digest
    assert first.size_bytes == Layout.open(first.path).verify()


def test_metadata_and_layers_describe_the_same_content(tmp_path: Path) -> None:
    layout = Layout.open(_release(tmp_path))

    _, manifest = layout.only_manifest()
    metadata = model.parse_metadata(layout.read(manifest.config, limit=10**6))

    assert manifest.artifact_type == model.ARTIFACT_TYPE
    assert [file.path for file in metadata.files] == ["bin/kubelet", "sbom.cdx.json"]
    assert [file.mode for file in metadata.files] == ["0755", "0644"]
    assert metadata.image("pause") == "registry.k8s.io/pause:3.10.2"
    contents = {entry.path: entry for entry in (*metadata.files, *metadata.images)}
    for layer in manifest.layers:
        entry = contents.pop(layer.annotations[model.PATH_KEY])
        data = gzip.decompress(layout.blob_path(layer.digest).read_bytes())
        assert layer.annotations[model.CONTENT_KEY] == entry.digest == sha256(data)
        assert entry.size_bytes == len(data)
    assert not contents


def test_nothing_but_the_layout_is_left_in_the_folder(tmp_path: Path) -> None:
    release = _release(tmp_path)

    assert {path.name for path in release.iterdir()} == {"blobs", "index.json", "oci-layout"}
    assert {path.name for path in (release / "blobs").iterdir()} == {"sha256"}


def test_the_envelope_is_a_release_signature_over_the_manifest_digest(tmp_path: Path) -> None:
    release = _release(tmp_path)
    key = envelope.SigningKey(
        role=envelope.KeyRole.RELEASE, key=ed25519.Ed25519PrivateKey.generate()
    )

    data = sign_layout(release, key)

    assert (release / "envelope.json").read_bytes() == data
    payload = envelope.verify(
        envelope.decode(data),
        payload_type=envelope.ARTIFACT,
        role=envelope.KeyRole.RELEASE,
        trusted=[key.trusted],
    )
    assert payload == canonical_json(describe(release).statement)
    assert describe(release).digest.encode() in payload


def test_an_interrupted_build_leaves_no_entry(tmp_path: Path) -> None:
    cache = Cache(tmp_path)

    def interrupted() -> None:
        with cache.fill("components", "x") as work:
            (work / "half").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()

    assert cache.find("components", "x") is None
    assert list((tmp_path / "components").iterdir()) == []


def test_the_second_of_two_builders_keeps_the_first_result(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    with cache.fill("components", "x") as slow:
        (slow / "slow").touch()
        with cache.fill("components", "x") as fast:
            (fast / "fast").touch()

    found = cache.find("components", "x")
    assert found is not None
    assert [path.name for path in found.iterdir()] == ["fast"]


@pytest.mark.parametrize(
    ("env", "wanted"),
    [
        ({"SKERRY_CACHE": "/c", "XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/c"),
        ({"XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/x/skerry"),
        ({"HOME": "/h"}, "/h/.cache/skerry"),
    ],
)
def test_the_cache_lies_where_the_environment_says(env: dict[str, str], wanted: str) -> None:
    assert default_cache(env).base == Path(wanted)


@pytest.mark.parametrize("path", ["../etc/passwd", "/bin/x", "bin//x", "bin/.hidden", "", "a/../b"])
def test_a_path_that_leaves_the_release_is_refused(path: str) -> None:
    with pytest.raises(model.ReleaseInvalid):
        model.check_path(path)


@pytest.mark.parametrize("mode", ["4755", "0777", "755", "rwx"])
def test_a_mode_that_is_not_plain_is_refused(mode: str) -> None:
    with pytest.raises(model.ReleaseInvalid):
        model.parse_mode(mode)


def test_metadata_that_cannot_be_read_is_refused() -> None:
    for data in (b"{}", b"[", b" " * (model.MAX_METADATA_BYTES + 1)):
        with pytest.raises(model.ReleaseInvalid):
            model.parse_metadata(data)
