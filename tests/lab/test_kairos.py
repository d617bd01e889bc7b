"""The Kairos engine with the real kairos-agent on a real disk."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.lab.kairoshost import KairosHost, save_image, write_source

from skerry.agent.content import ContentStore
from skerry.agent.osengine.kairos import KairosEngine
from skerry.builder.cache import default_cache
from skerry.builder.kairos import AGENT, kairos_program
from skerry.builder.kairosimage import pack_kairos_image
from skerry.lib.oci import Layout
from skerry.lib.proc import SystemRunner
from skerry.model.artifact import ArtifactRef
from skerry.plan.osupdate import SlotState

pytestmark = [
    pytest.mark.lab,
    pytest.mark.anyio,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="loop devices need root"),
]


@pytest.fixture(scope="module")
async def host(lab_base: Path, anyio_backend: str) -> AsyncIterator[KairosHost]:
    """An installed host that runs v1.0.0."""
    agent = await kairos_program(
        AGENT, cache=default_cache(os.environ), runner=SystemRunner(), env=os.environ
    )
    async with KairosHost(lab_base / f"kairos-{os.getpid()}", agent) as made:
        source = write_source(made.folder / "one", "v1.0.0")
        assert (await made.install(source))[-1] == "done"
        await made.boot()
        yield made


def engine_of(host: KairosHost) -> KairosEngine:
    return KairosEngine(host.root, host.runner, ContentStore(host.root, None))


def deliver(host: KairosHost, version: str) -> ArtifactRef:
    """Build an image and put its blobs into the running host's content store."""
    folder = host.folder / f"image-{version}"
    source = write_source(folder / "tree", f"v{version}")
    tar = save_image(source, folder / "image.tar")
    built = pack_kairos_image(
        tar, folder / "layout", name="shop", version=version, architecture="amd64"
    )
    store = ContentStore(host.root, None)
    layout = Layout.open(built.path)
    pointer, manifest = layout.only_manifest()
    for part in (pointer, manifest.config, *manifest.layers):
        store.put(part.digest, layout.blob_path(part.digest).read_bytes())
    return ArtifactRef(
        name="shop",
        type="os",
        version=version,
        architecture="amd64",
        digest=built.digest,
        envelope_digest=built.digest,
        size_bytes=built.size_bytes,
    )


async def test_installed_host_describes_itself(host: KairosHost) -> None:
    seen = await engine_of(host).describe()

    assert (seen.running, seen.version, seen.recovery) == ("active", "v1.0.0", False)
    assert [(slot.name, slot.state) for slot in seen.slots] == [
        ("next", SlotState.EMPTY),
        ("active", SlotState.GOOD),
        ("passive", SlotState.GOOD),
    ]
    assert seen.problems == ()


async def test_upgrade_trial_confirm(host: KairosHost) -> None:
    image = deliver(host, "2.0.0")

    await engine_of(host).stage(image)
    staged = await engine_of(host).describe()
    await engine_of(host).activate(image, trial_s=600)
    activated = await engine_of(host).describe()
    entry = await host.boot()
    trial = await engine_of(host).describe()
    await engine_of(host).confirm()
    confirmed = await engine_of(host).describe()

    print(staged, activated, entry, trial, confirmed, sep="\n")
    assert staged.slots[0].state is SlotState.STAGED
