"""The real containerd takes an image as it was fetched: Docker's media types, packed layers."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import tarfile
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from skerry.builder.cache import default_cache
from skerry.builder.gomodules import build_component, probe_toolchain
from skerry.builder.imagefetch import FetchedImage, parse_reference, write_fetched_image
from skerry.builder.recipes import release_table
from skerry.builder.tarball import TarEntry, write_tar
from skerry.lib.digest import canonical_json, sha256
from skerry.lib.proc import SystemRunner

pytestmark = [pytest.mark.lab, pytest.mark.anyio, pytest.mark.timeout(600)]

NAME = "registry.k8s.io/fake:1.0"
DOCKER = "application/vnd.docker"

CONFIG = """
version = 3
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
  address = "{folder}/sock"
[ttrpc]
  address = "{folder}/sock.ttrpc"
"""


@pytest.fixture(scope="module")
async def ctr(lab_base: Path, anyio_backend: str) -> AsyncIterator[list[str]]:
    """A containerd of this test's own; the beginning of its client's command line."""
    if os.geteuid() != 0:
        pytest.skip("containerd needs root")
    runner = SystemRunner()
    component = await build_component(
        release_table("1.36.3").recipes["containerd"],
        toolchain=await probe_toolchain(runner),
        cache=default_cache(os.environ),
        runner=runner,
        env=os.environ,
    )
    lab_base.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=lab_base) as folder:
        config = Path(folder) / "config.toml"
        config.write_text(CONFIG.format(folder=folder))
        argv = [str(component.program("containerd")), "--config", str(config)]
        client = [str(component.program("ctr")), "--address", f"{folder}/sock", "-n", "k8s.io"]
        async with await anyio.open_process(
            argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            with anyio.fail_after(30):
                await _answers(runner, client)
            yield client
            process.terminate()
            await process.wait()


async def _answers(runner: SystemRunner, client: list[str]) -> None:
    while not (await runner.run([*client, "version"], timeout_s=10, check=False)).ok:  # noqa: ASYNC110  # nothing to wait on
        await anyio.sleep(0.2)


def fetched(folder: Path) -> Path:
    """The tar of an image such as registry.k8s.io serves."""
    plain = io.BytesIO()
    write_tar([TarEntry(path="hello", data=b"fake" * 1000)], plain)
    layer = gzip.compress(plain.getvalue())
    config = canonical_json(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [sha256(plain.getvalue())]},
        }
    )
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": f"{DOCKER}.distribution.manifest.v2+json",
            "config": {
                "mediaType": f"{DOCKER}.container.image.v1+json",
                "digest": sha256(config),
                "size": len(config),
            },
            "layers": [
                {
                    "mediaType": f"{DOCKER}.image.rootfs.diff.tar.gzip",
                    "digest": sha256(layer),
                    "size": len(layer),
                }
            ],
        }
    ).encode()
    blobs = {}
    for data in (config, layer):
        place = folder / sha256(data)[7:]
        place.write_bytes(data)
        blobs[sha256(data)] = place
    image = FetchedImage(
        parse_reference(NAME), manifest, f"{DOCKER}.distribution.manifest.v2+json", blobs
    )
    write_fetched_image(image, folder / "image.tar")
    return folder / "image.tar"


async def test_a_fetched_image_is_imported_under_its_name_and_upstreams_digest(
    ctr: list[str], tmp_path: Path
) -> None:
    runner = SystemRunner()
    how = ["images", "import", "--local", "--all-platforms"]

    await runner.run([*ctr, *how, str(fetched(tmp_path))], timeout_s=60)

    listed = (await runner.run([*ctr, "images", "ls"], timeout_s=10)).stdout
    (line,) = (row for row in listed.splitlines() if row.startswith(NAME))
    with tarfile.open(tmp_path / "image.tar") as archive:
        index = archive.extractfile("index.json")
        assert index is not None
        (pointer,) = json.loads(index.read())["manifests"]
    assert f"{DOCKER}.distribution.manifest.v2+json" in line
    assert pointer["digest"] in line
    assert "linux/amd64" in line
