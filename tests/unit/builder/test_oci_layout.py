"""OCI layouts: what is written can be read back, and nothing damaged passes."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from skerry.lib import oci
from skerry.lib.digest import sha256


def _layout(folder: Path, content: bytes = b"kubelet" * 1000) -> tuple[oci.Layout, oci.Descriptor]:
    layout = oci.Layout.create(folder / "layout")
    source = folder / "kubelet"
    source.write_bytes(content)
    layer, _ = layout.add_file(source, "application/x", compress=True)
    config = layout.add_bytes(b"{}", "application/json")
    manifest = oci.new_manifest(artifact_type="application/t", config=config, layers=(layer,))
    layout.write_index((layout.add_manifest(manifest),))
    return layout, layer


def test_a_written_layout_reads_back_and_verifies(tmp_path: Path) -> None:
    layout, layer = _layout(tmp_path)

    pointer, manifest = oci.Layout.open(layout.path).only_manifest()

    assert pointer.artifact_type == "application/t"
    assert manifest.layers == (layer,)
    assert layout.verify() == pointer.size + manifest.config.size + layer.size


def test_a_compressed_blob_keeps_the_digest_of_its_content(tmp_path: Path) -> None:
    source = tmp_path / "file"
    source.write_bytes(b"content")
    layout = oci.Layout.create(tmp_path / "layout")

    stored, content = layout.add_file(source, "application/x", compress=True)

    assert content == sha256(b"content")
    assert gzip.decompress(layout.blob_path(stored.digest).read_bytes()) == b"content"


def test_equal_files_make_equal_blobs_whatever_their_name_and_age(tmp_path: Path) -> None:
    layout = oci.Layout.create(tmp_path / "layout")
    digests = set()
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"same" * 5000)
        digests.add(layout.add_file(tmp_path / name, "x/y", compress=True)[0].digest)

    assert len(digests) == 1


@pytest.mark.parametrize("damage", ["changed", "cut", "missing"])
def test_a_damaged_blob_is_refused(tmp_path: Path, damage: str) -> None:
    layout, layer = _layout(tmp_path)
    place = layout.blob_path(layer.digest)
    data = place.read_bytes()
    if damage == "missing":
        place.unlink()
    else:
        place.write_bytes(data[:-1] if damage == "cut" else b"\x00" + data[1:])

    with pytest.raises(oci.LayoutInvalid):
        layout.verify()


def test_a_changed_manifest_is_refused_by_its_digest(tmp_path: Path) -> None:
    layout, _ = _layout(tmp_path)
    place = layout.blob_path(layout.index().manifests[0].digest)
    place.write_bytes(place.read_bytes().replace(b"application/t", b"application/u"))

    with pytest.raises(oci.DigestMismatch):
        layout.only_manifest()


def test_an_oversize_manifest_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(oci.LayoutInvalid, match="at most"):
        oci.parse_manifest(b" " * (oci.MAX_MANIFEST_BYTES + 1))


@pytest.mark.parametrize(
    "change",
    [
        {"schemaVersion": 1},
        {"mediaType": "application/vnd.oci.image.index.v1+json"},
        {"config": {"mediaType": "a", "digest": "sha256:../../etc/passwd", "size": 1}},
        {"config": {"mediaType": "a", "digest": "sha256:" + "0" * 64, "size": -1}},
        {"layers": "none"},
    ],
)
def test_a_malformed_manifest_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    layout, _ = _layout(tmp_path)
    pointer = layout.index().manifests[0]
    good = layout.read(pointer, limit=oci.MAX_MANIFEST_BYTES)
    oci.parse_manifest(good)

    with pytest.raises(oci.SkerryError):
        oci.parse_manifest(json.dumps({**json.loads(good), **change}).encode())


def test_unknown_fields_of_a_manifest_pass(tmp_path: Path) -> None:
    layout, layer = _layout(tmp_path)
    pointer = layout.index().manifests[0]
    good = json.loads(layout.read(pointer, limit=oci.MAX_MANIFEST_BYTES))

    manifest = oci.parse_manifest(json.dumps({**good, "subject": {"x": 1}}).encode())

    assert manifest.layers == (layer,)
