"""Releases on the host: whole or nothing, checked, and never fetched twice."""

from __future__ import annotations

import pytest

from skerry.agent.kube import places, releases
from skerry.agent.kube.engine import EngineFailed
from skerry.lib.digest import sha256
from skerry.lib.files import DiskFull
from skerry.lib.proc import Result
from skerry.plan import steps as do

pytestmark = pytest.mark.anyio


async def bring(host, version: str, **how: object):
    ref = host.release(version, **how)
    await host.engine.perform(do.FetchRelease(version=version, release=ref), None)
    await host.engine.perform(do.UnpackRelease(version=version, release=ref), None)
    return ref


async def test_a_release_is_there_with_its_modes_and_its_blobs_space_is_given_back(host) -> None:
    ref = await bring(host, "1.36.3")

    assert host.root.read(places.program("1.36.3", "kubelet")) == b"kubelet 1.36.3"
    import os

    assert os.access(host.root.host_path(places.program("1.36.3", "kubelet")), os.X_OK)
    assert releases.installed(host.doors)["1.36.3"].digest == ref.digest
    left = host.root.list(f"{places.STATE}/content/sha256")
    manifest_and_config = 2
    assert len(left) <= manifest_and_config


async def test_a_file_that_is_not_what_the_release_says_leaves_no_release(host) -> None:
    with pytest.raises(EngineFailed, match="bin/kubelet") as caught:
        await bring(host, "1.36.3", spoil="bin/kubelet")

    assert caught.value.reason == "ReleaseInvalid"
    assert releases.installed(host.doors) == {}
    assert not host.root.exists(places.program("1.36.3", "kubelet"))


async def test_a_cut_blob_leaves_no_release(host) -> None:
    ref = host.release("1.36.3")
    for digest, data in list(host.content.blobs.items()):
        if data.startswith(b"\x1f\x8b"):
            host.content.blobs[digest] = data[: len(data) // 2]

    with pytest.raises(EngineFailed, match="is not what the release says"):
        await host.engine.perform(do.UnpackRelease(version="1.36.3", release=ref), None)

    assert releases.installed(host.doors) == {}


async def test_files_that_another_release_has_are_not_fetched_again(host) -> None:
    await bring(host, "1.36.1")
    host.content.asked.clear()

    ref = await bring(host, "1.36.3")

    bridge = releases.release_of(host.doors, "1.36.3").files["cni/bridge"]
    assert bridge == sha256(b"the same in every release")
    blobs = set(host.content.asked) - {ref.digest}
    assert len(blobs) == 3  # config, kubelet, kubeadm; bridge and pause were here already
    assert host.root.read(f"{places.release('1.36.3')}/cni/bridge").startswith(b"the same")


async def test_a_full_disk_is_said_before_anything_is_written(host, monkeypatch) -> None:
    ref = host.release("1.36.3")

    class Full(type(host.root)):
        def free_bytes(self, path: str) -> int:
            return 1000

    from skerry.agent.kube.kubeadm import KubeadmEngine

    engine = KubeadmEngine(host.runner, Full(host.root.base), host.clock, host.content)
    with pytest.raises(DiskFull) as caught:
        await engine.perform(do.UnpackRelease(version="1.36.3", release=ref), None)

    assert caught.value.reason == "DiskFull"
    assert not host.root.exists(places.release("1.36.3"))


async def test_only_images_that_the_runtime_lacks_are_imported_and_all_are_pinned(host) -> None:
    await bring(host, "1.36.3")
    step = do.ImportImages(version="1.36.3")

    await host.engine.perform(step, None)
    first = [call for call in host.runner.calls if "import" in call]
    host.runner.answer_with(
        places.program("1.36.3", "ctr"),
        answer=lambda argv: (
            Result(argv, 0, "registry.k8s.io/pause:3.10\n", "") if "ls" in argv else None
        ),
    )
    await host.engine.perform(step, None)

    assert len(first) == 1
    assert "io.cri-containerd.pinned=pinned" in first[0]
    assert [call for call in host.runner.calls if "import" in call] == first


async def test_the_same_image_name_from_another_build_is_imported_again(host) -> None:
    await bring(host, "1.36.3")
    host.remember(images={"registry.k8s.io/pause:3.10": "sha256:" + "0" * 64})
    host.runner.answer(places.program("1.36.3", "ctr"), stdout="registry.k8s.io/pause:3.10\n")

    await host.engine.perform(do.ImportImages(version="1.36.3"), None)

    assert any("import" in call for call in host.runner.calls)


async def test_a_release_in_use_is_never_removed(host) -> None:
    await bring(host, "1.36.3")
    host.root.link(f"{places.LINKS}/kubelet", places.program("1.36.3", "kubelet"))

    with pytest.raises(EngineFailed, match="in use"):
        await host.engine.perform(do.RemoveRelease(version="1.36.3"), None)

    assert "1.36.3" in releases.installed(host.doors)


async def test_no_room_while_importing_is_disk_full(host) -> None:
    await bring(host, "1.36.3")
    host.runner.answer_with(
        places.program("1.36.3", "ctr"),
        answer=lambda argv: (
            Result(argv, 1, "", "write: no space left on device") if "import" in argv else None
        ),
    )

    with pytest.raises(EngineFailed) as caught:
        await host.engine.perform(do.ImportImages(version="1.36.3"), None)

    assert caught.value.reason == "DiskFull"
