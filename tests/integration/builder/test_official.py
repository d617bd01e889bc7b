"""`--from official` against upstream's recorded shapes: every address is the product's own, every
byte behind it is fake and comes from loopback."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from skerry.builder.cache import Cache
from skerry.builder.fetching import Fetcher, FetchFailed
from skerry.builder.layout import BuiltArtifact
from skerry.builder.official import (
    ArchiveInvalid,
    DigestChanged,
    build_official,
    lock_release,
)
from skerry.builder.recipes import release_table
from skerry.builder.release import silent
from skerry.builder.upstream import Lock, Locked, NotLocked, needs_of, parse_lock
from skerry.lib.digest import sha256
from skerry.lib.oci import Layout
from skerry.model.release import CONTENT_KEY, PATH_KEY, parse_metadata

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

VERSION = "1.36.3"
TABLE = release_table(VERSION)
# Files and images of one release.
COUNT = len(needs_of(TABLE, "amd64").files) + len(TABLE.images)
KUBEADM = f"https://dl.k8s.io/release/v{VERSION}/bin/linux/amd64/kubeadm"
PAUSE = "registry.k8s.io/pause:3.10.2"
FAKE = b"fake kubeadm, not a program. " * 400


# -- what upstream has --------------------------------------------------------------------------


def tarball(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o755
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def hex_digest(data: bytes) -> str:
    return sha256(data).removeprefix("sha256:")


def content(name: str, architecture: str) -> bytes:
    """What upstream's file of this name holds."""
    if name == "etcd":
        folder = f"etcd-v{TABLE.components['etcd']}-linux-{architecture}"
        return tarball({f"{folder}/{item}": fake(item) for item in ("etcd", "etcdctl", "etcdutl")})
    if name == "containerd":
        programs = ("containerd", "containerd-shim-runc-v2", "ctr", "containerd-stress")
        return tarball({f"bin/{item}": fake(item) for item in programs})
    if name == "cni":
        plugins = ("bridge", "host-local", "loopback", "portmap", "ptp", "vlan")
        return tarball({f"./{item}": fake(item) for item in plugins})
    if name == "helm":
        return tarball({f"linux-{architecture}/helm": fake("helm")})
    return FAKE if name == "kubeadm" else fake(f"{name} {architecture}")


def fake(name: str) -> bytes:
    return f"fake {name}, not a program".encode()


@pytest.fixture
def everything(upstream: Any) -> Any:
    """Upstream with all of one release, in the shapes of its servers: dl.k8s.io redirects to a
    CDN, GitHub to another host, the registry wants an anonymous token for one repository."""
    sums: dict[str, list[str]] = {}
    for architecture in ("amd64", "arm64"):
        for need in needs_of(TABLE, architecture).files.values():
            data = content(need.name, need.architecture)
            path = need.url.partition("//")[2].partition("/")[2]
            host = (
                "cdn.dl.k8s.io"
                if "dl.k8s.io" in need.url
                else "release-assets.githubusercontent.com"
            )
            upstream.give(f"https://{host}/{path}", data)
            upstream.redirect(need.url, f"https://{host}/{path}")
            if need.checksums:
                name = need.url.rpartition("/")[2]
                bare = need.name in ("kubeadm", "kubelet", "kubectl")
                line = hex_digest(data) if bare else f"{hex_digest(data)}  {name}"
                sums.setdefault(need.checksums, []).append(line)
    for url, lines in sums.items():
        text = "\n".join(lines)
        if "runc" in url:
            text = f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n{text}\n-----BEGIN PGP SIG"
        upstream.give(url, f"{text}\n".encode())
    for name in needs_of(TABLE, "amd64").images.values():
        upstream.image(name)
    upstream.secret["coredns/coredns"] = "anonymous-1"
    token = (
        "https://auth.registry.k8s.io/token?service=registry.k8s.io"
        "&scope=repository%3Acoredns%2Fcoredns%3Apull"
    )
    upstream.give(token, b'{"token": "anonymous-1", "expires_in": 60}')
    return upstream


async def locked(fetcher: Fetcher, *architectures: str) -> Lock:
    lock, _ = await lock_release(
        [needs_of(TABLE, name) for name in architectures or ("amd64",)],
        known=Lock(),
        into=Lock(),
        fetcher=fetcher,
        now=datetime(2026, 11, 25, tzinfo=UTC),
        tell=silent,
    )
    return lock


async def build(fetcher: Fetcher, tmp_path: Path, lock: Lock, **more: Any) -> BuiltArtifact:
    options = {"architecture": "amd64", "cache": Cache(tmp_path / "cache"), **more}
    return await build_official(VERSION, fetcher=fetcher, lock=lock, **options)


# -- the whole release --------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["amd64", "arm64"])
async def test_a_release_has_the_layout_of_a_built_one_and_upstreams_bytes(
    everything: Any, fetcher: Fetcher, tmp_path: Path, architecture: str
) -> None:
    lock = await locked(fetcher, architecture)

    built = await build(fetcher, tmp_path, lock, architecture=architecture)

    layout = Layout.open(built.path)
    assert layout.verify() == built.size_bytes
    assert (built.type, built.name, built.version) == ("kubernetes", "kubernetes", VERSION)
    _, manifest = layout.only_manifest()
    metadata = parse_metadata(layout.read(manifest.config, limit=10**6))
    assert metadata.source == "official"
    assert metadata.architecture == architecture
    assert metadata.components == TABLE.components
    contents = {
        layer.annotations[PATH_KEY]: gzip.decompress(layout.blob_path(layer.digest).read_bytes())
        for layer in manifest.layers
    }
    assert {layer.annotations[CONTENT_KEY] for layer in manifest.layers} == {
        sha256(data) for data in contents.values()
    }
    programs = {path: data for path, data in contents.items() if path[:4] in ("bin/", "cni/")}
    assert programs.keys() == TABLE.files.keys()
    assert programs["bin/kubeadm"] == FAKE
    assert programs["bin/etcdctl"] == fake("etcdctl")
    assert programs["cni/host-local"] == fake("host-local")
    assert programs["bin/runc"] == fake(f"runc {architecture}")
    assert contents["sbom/kubernetes.spdx"] == fake("kubernetes-sbom any")
    assert {image.name for image in metadata.images} == {
        image.name for image in TABLE.images.values()
    }


async def test_an_image_keeps_upstreams_manifest_and_only_its_architecture(
    everything: Any, fetcher: Fetcher, tmp_path: Path
) -> None:
    built = await build(fetcher, tmp_path, await locked(fetcher))

    layout = Layout.open(built.path)
    _, manifest = layout.only_manifest()
    (packed,) = (
        layer for layer in manifest.layers if layer.annotations[PATH_KEY] == "images/pause.tar"
    )
    data = gzip.decompress(layout.blob_path(packed.digest).read_bytes())
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        files = {item.name: archive.extractfile(item) for item in archive if item.isfile()}
        read = {name: stream.read() for name, stream in files.items() if stream}
    (pointer,) = json.loads(read["index.json"])["manifests"]
    own = read[f"blobs/sha256/{pointer['digest'][7:]}"]
    assert sha256(own) == pointer["digest"]
    assert everything.answers[f"https://registry.k8s.io/v2/pause/manifests/{pointer['digest']}"]
    assert pointer["annotations"]["io.containerd.image.name"] == PAUSE
    blobs = [part["digest"] for part in (json.loads(own)["config"], *json.loads(own)["layers"])]
    assert {f"blobs/sha256/{digest[7:]}" for digest in blobs} <= read.keys()
    assert b"fake layer of registry.k8s.io/pause:3.10.2 amd64" in gzip.decompress(
        read[f"blobs/sha256/{blobs[1][7:]}"]
    )


async def test_the_bill_lists_every_file_and_image_and_says_that_it_is_not_complete(
    everything: Any, fetcher: Fetcher, tmp_path: Path
) -> None:
    lock = await locked(fetcher)
    built = await build(fetcher, tmp_path, lock)

    layout = Layout.open(built.path)
    _, manifest = layout.only_manifest()
    (bill,) = (item for item in manifest.layers if item.annotations[PATH_KEY] == "sbom.cdx.json")
    document = json.loads(gzip.decompress(layout.blob_path(bill.digest).read_bytes()))
    listed = {item["name"]: item for item in document["components"]}
    assert TABLE.files.keys() <= listed.keys()
    assert {f"images/{name}.tar" for name in TABLE.images} <= listed.keys()
    assert listed["bin/kubeadm"]["hashes"] == [{"alg": "SHA-256", "content": hex_digest(FAKE)}]
    assert listed["bin/kubeadm"]["externalReferences"][0]["url"] == KUBEADM
    assert document["compositions"][0]["aggregate"] == "incomplete"
    assert "sbom/kubernetes.spdx" in document["metadata"]["properties"][0]["value"]


async def test_what_was_fetched_is_not_fetched_again(
    everything: Any, fetcher: Fetcher, tmp_path: Path
) -> None:
    lock = await locked(fetcher)
    first = await build(fetcher, tmp_path, lock)
    before = len(everything.asked)

    again = await build(fetcher, tmp_path, lock)

    assert again == first
    assert len(everything.asked) == before
    assert list((tmp_path / "cache/downloads/partial").iterdir()) == []


async def test_every_request_went_through_the_proxy_of_the_environment(
    everything: Any, fetcher: Fetcher, tmp_path: Path
) -> None:
    await build(fetcher, tmp_path, await locked(fetcher))

    hosts = {item.url.split("/")[2] for item in everything.asked}
    assert {target.removesuffix(":443") for target in everything.tunnels} == hosts
    assert {"dl.k8s.io", "github.com", "registry.k8s.io", "sbom.k8s.io"} <= hosts


# -- the lock -----------------------------------------------------------------------------------


async def test_a_release_without_locked_digests_is_refused_by_every_name(
    upstream: Any, fetcher: Fetcher, tmp_path: Path
) -> None:
    known = Lock().with_file("kubeadm", VERSION, "amd64", Locked(digest=sha256(FAKE), origin="x"))

    with pytest.raises(NotLocked) as caught:
        await build(fetcher, tmp_path, known)

    assert caught.value.message.splitlines()[0] == (
        f"{COUNT - 1} of {COUNT} files of Kubernetes 1.36.3 for amd64 have no locked digest;"
        " nothing was fetched"
    )
    assert "kubelet 1.36.3 (amd64)" in caught.value.message
    assert "runc 1.3.6 (amd64)" in caught.value.message
    assert "image registry.k8s.io/coredns/coredns:v1.14.2" in caught.value.message
    assert "kubeadm" not in caught.value.message
    assert caught.value.hint == "skerry release lock 1.36.3 --architecture amd64"
    assert upstream.asked == []


async def test_a_digest_that_upstream_changed_is_refused_with_both(
    everything: Any, fetcher: Fetcher
) -> None:
    old = Locked(digest=sha256(b"old"), origin="an earlier day")
    known = Lock().with_file("kubeadm", VERSION, "amd64", old).with_image(PAUSE, old)

    with pytest.raises(DigestChanged) as caught:
        await lock_release(
            [needs_of(TABLE, "amd64")],
            known=known,
            into=Lock(),
            fetcher=fetcher,
            now=datetime(2026, 11, 25, tzinfo=UTC),
            tell=silent,
        )

    lines = caught.value.message.splitlines()
    assert lines[0] == "upstream names other digests than the lock; nothing was written"
    assert lines[1] == (
        f"kubeadm 1.36.3 (amd64): upstream {sha256(FAKE)}, locked {old.digest} (an earlier day)"
    )
    assert lines[2].startswith(f"image {PAUSE}: upstream sha256:")


async def test_a_checksum_file_without_the_files_name_is_refused(
    everything: Any, fetcher: Fetcher
) -> None:
    url = needs_of(TABLE, "amd64").files["runc"].checksums
    everything.give(url, f"{hex_digest(b'x')}  runc.riscv64\n{hex_digest(b'y')}  z\n".encode())

    with pytest.raises(FetchFailed, match=r"runc\.sha256sum has no SHA-256 of runc\.amd64"):
        await locked(fetcher)


async def test_an_archive_without_its_member_is_refused_by_name(
    everything: Any, fetcher: Fetcher, tmp_path: Path
) -> None:
    need = needs_of(TABLE, "amd64").files["cni"]
    other = tarball({"./bridge": b"x"})
    everything.give(need.checksums, f"{hex_digest(other)}  {need.url.rpartition('/')[2]}".encode())
    everything.give(need.url, other)

    with pytest.raises(ArchiveInvalid, match="has no plain file host-local"):
        await build(fetcher, tmp_path, await locked(fetcher))


# -- the command --------------------------------------------------------------------------------


SHIPPED = "from skerry.cli.main import cli; cli(prog_name='skerry')"
# What upstream serves here is fake, so the digests that skerry ships would refuse it, rightly.
EMPTY = """
from skerry.builder.upstream import Lock
from skerry.cli.main import cli
from skerry.cli.session import Surroundings
cli(prog_name="skerry", obj=Surroundings(own_lock=Lock()))
"""


def skerry(
    tmp_path: Path, *arguments: str, program: str = EMPTY, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    env = {
        **os.environ,
        "SKERRY_CACHE": str(tmp_path / "cache"),
        "SKERRY_CONFIG": str(tmp_path / "config.yaml"),
    }
    argv = [sys.executable, "-c", program, *arguments]
    return subprocess.run(
        argv, env=env, capture_output=True, text=True, input=stdin, timeout=60, check=False
    )


def test_lock_then_build_from_the_command_line(everything: Any, tmp_path: Path) -> None:
    build_it = ("release", "build", "kubernetes", VERSION, "--from", "official")
    machine = ("--architecture", "arm64")

    refused = skerry(tmp_path, *build_it, *machine)
    said_no = skerry(tmp_path, "release", "lock", VERSION, *machine, stdin="n\n")
    assert not (tmp_path / "official.lock.yaml").exists()
    written = skerry(tmp_path, "release", "lock", VERSION, *machine, "--yes")
    again = skerry(tmp_path, "release", "lock", VERSION, *machine)
    built = skerry(tmp_path, *build_it, *machine)

    assert refused.returncode == 1
    assert "have no locked digest; nothing was fetched" in refused.stderr
    assert "next: skerry release lock 1.36.3 --architecture arm64" in refused.stderr
    assert said_no.returncode == 130
    assert written.returncode == 0, written.stderr
    assert "trusted because upstream says so now; no signature was checked" in written.stderr
    assert sum("  sha256:" in line for line in written.stdout.splitlines()) == COUNT
    lock = parse_lock((tmp_path / "official.lock.yaml").read_text(), where="there")
    assert lock.files["runc"]["1.3.6"].keys() == {"arm64"}
    assert f"nothing new: all {COUNT} digests are locked already" in again.stderr
    assert built.returncode == 0, built.stderr
    assert "signatures not checked yet, cosign (keyless): kubeadm, kubelet" in built.stderr
    assert "signatures not checked yet, OpenPGP: runc" in built.stderr
    place = Path(built.stdout.strip())
    assert place.name == "1.36.3-arm64"
    assert Layout.open(place).verify() > 0


def test_files_other_than_those_that_skerrys_own_lock_names_are_refused(
    everything: Any, tmp_path: Path
) -> None:
    said = skerry(tmp_path, "release", "lock", VERSION, "--yes", program=SHIPPED)

    assert said.returncode == 5
    assert "upstream names other digests than the lock; nothing was written" in said.stderr
    assert "cni 1.9.1 (arm64): upstream sha256:" in said.stderr
    assert not (tmp_path / "official.lock.yaml").exists()


def test_options_of_official_are_refused_elsewhere(tmp_path: Path) -> None:
    said = skerry(tmp_path, "release", "build", "kubernetes", VERSION, "--architecture", "arm64")

    assert said.returncode == 2
    assert "--architecture and --lock go with --from official" in said.stderr
