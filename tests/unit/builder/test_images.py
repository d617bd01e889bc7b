"""Image tars: deterministic, named for containerd, and free of what the machine added."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from skerry.builder.debian import layer_entries, sources_for
from skerry.builder.images import NAME_KEY, packages_in, write_program_image
from skerry.builder.recipes import ImageRecipe, release_table
from skerry.builder.tarball import TarEntry, link_entry, write_tar
from skerry.lib.digest import sha256


def _image(folder: Path, recipe: ImageRecipe, content: bytes = b"program") -> bytes:
    folder.mkdir()
    program = folder / "program"
    program.write_bytes(content)
    out = folder / "image.tar"
    write_program_image(
        recipe, program=program, base=None, architecture="amd64", work=folder, out=out
    )
    return out.read_bytes()


def _open(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        files = [member for member in archive if member.isfile()]
        return {member.name: archive.extractfile(member).read() for member in files}


def _parts(data: bytes) -> tuple[dict, dict, list[bytes]]:
    """Index entry, image configuration and layers of an image tar."""
    files = _open(data)
    (pointer,) = json.loads(files["index.json"])["manifests"]
    manifest = json.loads(files[f"blobs/sha256/{pointer['digest'][7:]}"])
    blobs = [
        files[f"blobs/sha256/{part['digest'][7:]}"]
        for part in (manifest["config"], *manifest["layers"])
    ]
    return pointer, json.loads(blobs[0]), blobs[1:]


def test_equal_programs_make_equal_images_whatever_their_age(tmp_path: Path) -> None:
    recipe = release_table("1.36.3").images["pause"]
    first = _image(tmp_path / "a", recipe)
    os.utime(tmp_path / "a" / "program", (1, 1))

    assert _image(tmp_path / "b", recipe) == first
    assert _image(tmp_path / "c", recipe, b"other") != first


def test_containerd_finds_the_official_name_and_a_matching_configuration(tmp_path: Path) -> None:
    recipe = release_table("1.36.3").images["kube-apiserver"]

    pointer, config, layers = _parts(_image(tmp_path / "a", recipe))

    assert pointer["annotations"][NAME_KEY] == "registry.k8s.io/kube-apiserver:v1.36.3"
    assert config["rootfs"]["diff_ids"] == [sha256(layer) for layer in layers]
    assert config["architecture"] == "amd64"
    # kubeadm's static pods name only the program, so its folder must be in the path.
    assert os.path.dirname(recipe.at) in config["config"]["Env"][0].split("=")[1].split(":")


def test_coredns_may_bind_port_53_without_being_root(tmp_path: Path) -> None:
    recipe = release_table("1.36.3").images["coredns"]

    _, config, layers = _parts(_image(tmp_path / "a", recipe))

    with tarfile.open(fileobj=io.BytesIO(layers[0])) as archive:
        member = archive.getmember("coredns")
    capability = member.pax_headers["SCHILY.xattr.security.capability"].encode()
    assert config["config"]["User"] == "65532:65532"
    # Revision 2, effective, permitted = 1 << CAP_NET_BIND_SERVICE (10).
    assert capability == bytes.fromhex("0100000200040000" + "00" * 12)
    assert member.mode == 0o755


def test_a_tar_has_parents_sorted_names_and_no_trace_of_the_builder() -> None:
    out = io.BytesIO()

    write_tar([TarEntry(path="b/c/d", data=b"x"), link_entry("a", "b")], out)

    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as archive:
        members = archive.getmembers()
    assert [member.name for member in members] == ["a", "b", "b/c", "b/c/d"]
    assert {(member.uid, member.gid, member.mtime, member.uname) for member in members} == {
        (0, 0, 0, "")
    }


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What an extracted package tree looks like."""
    path = tmp_path / "tree.tar"
    with tarfile.open(path, "w") as archive:
        for name, data in {
            "./usr/sbin/nft": b"nft",
            "./usr/share/doc/nftables/changelog.Debian.gz": _gzip(
                "nftables (1.1.3-1) unstable; urgency=medium\n"
            ),
            "./usr/share/doc/libzstd1/changelog.gz": _gzip("v1.5.7 (Feb 2025)\n"),
            "./etc/apt/sources.list.d/0.sources": b"URIs: http://mirror.internal/",
            "./etc/hostname": b"builder",
            "./etc/resolv.conf": b"nameserver 192.0.2.1",
            "./etc/protocols": b"tcp 6",
            "./var/lib/dpkg/status": b"x",
        }.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def _gzip(text: str) -> bytes:
    return gzip.compress(text.encode())


def test_a_layer_carries_nothing_of_the_building_machine(tree: Path) -> None:
    entries = {entry.path: entry for entry in layer_entries(tree, {"usr/sbin/x": "nft"})}

    assert {path for path in entries if not entries[path].folder} == {
        "bin",
        "etc/protocols",
        "lib",
        "lib64",
        "sbin",
        "usr/sbin/nft",
        "usr/sbin/x",
    }
    assert entries["lib64"].target == "usr/lib64"


def test_packages_are_read_from_debian_changelogs_only(tree: Path) -> None:
    assert [(found.name, found.version) for found in packages_in(tree)] == [("nftables", "1.1.3-1")]


def test_sources_of_another_suite_keep_this_machines_servers(tmp_path: Path) -> None:
    folder = tmp_path / "sources.list.d"
    folder.mkdir()
    (folder / "debian.sources").write_text(
        "Types: deb\n# note: x\nURIs: http://one.example/debian\n"
        "Suites: bookworm bookworm-updates\nComponents: main\n\n"
        "Types: deb\nURIs: http://two.example/security\nSuites: bookworm-security\n"
        "Components: main\n\n"
        "Types: deb\nURIs: http://vendor.example\nSuites: stable\nComponents: main\n"
        "Signed-By: /usr/share/keyrings/vendor.gpg\n"
    )
    (folder / "old.list").write_text(
        "deb [signed-by=/k.gpg] http://three.example/debian bookworm main contrib\n"
        "deb-src http://three.example/debian bookworm main\n"
    )

    text = sources_for("trixie", etc_apt=tmp_path)

    assert "URIs: http://one.example/debian\nSuites: trixie trixie-updates\n" in text
    assert "URIs: http://two.example/security\nSuites: trixie-security\n" in text
    assert "URIs: http://three.example/debian\nSuites: trixie\n" in text
    assert "vendor" not in text
    assert text.count("Types: deb") == 3


def test_a_machine_without_debian_sources_uses_the_public_archive(tmp_path: Path) -> None:
    assert "Suites: trixie-security" in sources_for("trixie", etc_apt=tmp_path)
