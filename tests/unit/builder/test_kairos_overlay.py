"""The overlay for Kairos bases, and artifacts of saved images."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from pathlib import Path

import pytest
import yaml
from tests.contract.osengine.kairosmachine import add_file, saved_image

from skerry.builder.kairosimage import KairosImageRefused, pack_kairos_image
from skerry.builder.kairosoverlay import OverlayRefused, write_overlay
from skerry.lib.oci import Layout
from skerry.lib.proc import SystemRunner
from skerry.lib.savedimage import SavedImageInvalid
from skerry.model.kairosimage import KAIROS_IMAGE_TYPE, parse_kairos_image
from skerry.model.osimage import OsImageInvalid

pytestmark = pytest.mark.anyio


def agent_archive(folder: Path) -> Path:
    place = folder / "agent.tar.gz"
    with tarfile.open(place, "w:gz") as archive:
        add_file(archive, "skerry-agent/skerry-agent", b"#!/bin/sh\n")
    return place


async def test_overlay_has_agent_units_and_cloud_config(tmp_path: Path) -> None:
    made = await write_overlay(
        tmp_path / "out", agent=agent_archive(tmp_path), runner=SystemRunner()
    )

    root = tmp_path / "out" / "rootfs"
    assert "Containerfile" in made
    assert (root / "usr/lib/skerry/agent/skerry-agent").is_file()
    wants = root / "usr/lib/systemd/system/multi-user.target.wants"
    assert all((wants / unit).resolve().is_file() for unit in os.listdir(wants))
    for script in ("seed-agent", "kairos-trial", "restore-identity"):
        mode = (root / "usr/lib/skerry" / script).stat().st_mode
        assert stat.S_IMODE(mode) == 0o755
    config = yaml.safe_load((root / "system/oem/50_skerry.yaml").read_text())
    (step,) = config["stages"]["rootfs.after"]
    assert "/var/lib/skerry /etc/skerry" in step["commands"][0]


async def test_overlay_adds_to_the_folders_that_are_kept(tmp_path: Path) -> None:
    await write_overlay(tmp_path / "out", agent=agent_archive(tmp_path), runner=SystemRunner())
    text = (tmp_path / "out/rootfs/system/oem/50_skerry.yaml").read_text()
    (command,) = yaml.safe_load(text)["stages"]["rootfs.after"][0]["commands"]
    layout = tmp_path / "extra-layout.env"
    command = command.replace("/run/cos/extra-layout.env", str(layout))

    await SystemRunner().run(["sh", "-c", command], timeout_s=10)
    alone = layout.read_text()
    layout.write_text('PERSISTENT_STATE_PATHS="/snap /var/snap"\n')
    await SystemRunner().run(["sh", "-c", command], timeout_s=10)

    assert alone == 'PERSISTENT_STATE_PATHS="/var/lib/skerry /etc/skerry"\n'
    assert layout.read_text() == (
        'PERSISTENT_STATE_PATHS="/snap /var/snap /var/lib/skerry /etc/skerry"\n'
    )


async def test_a_folder_in_use_and_a_wrong_archive_are_refused(tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used/file").touch()
    with pytest.raises(OverlayRefused, match="not empty"):
        await write_overlay(tmp_path / "used", agent=agent_archive(tmp_path), runner=SystemRunner())

    with tarfile.open(tmp_path / "wrong.tar.gz", "w:gz") as archive:
        add_file(archive, "other/thing", b"")
    with pytest.raises(OverlayRefused, match="no program"):
        await write_overlay(
            tmp_path / "new", agent=tmp_path / "wrong.tar.gz", runner=SystemRunner()
        )


def test_an_artifact_says_what_its_tar_holds(tmp_path: Path) -> None:
    tar = tmp_path / "image.tar"
    tar.write_bytes(saved_image("v3.4.5"))

    made = pack_kairos_image(
        tar, tmp_path / "out", name="shop", version="1.2.3", architecture="amd64"
    )

    layout = Layout.open(tmp_path / "out")
    _, manifest = layout.only_manifest()
    info = parse_kairos_image(layout.read(manifest.config, limit=1 << 16))
    assert (made.type, made.version) == ("os", "1.2.3")
    assert [layer.media_type for layer in manifest.layers] == [KAIROS_IMAGE_TYPE]
    assert (info.kairos_version, info.image.size_bytes) == ("v3.4.5", tar.stat().st_size)
    assert layout.verify() == made.size_bytes


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (saved_image("v1", without="boot/initrd"), KairosImageRefused, "no initrd"),
        (saved_image("v1", without="boot/vmlinuz-6.1"), KairosImageRefused, "no kernel"),
        (saved_image("v1", without="etc/kairos-release"), KairosImageRefused, "KAIROS_VERSION"),
        (b"no tar at all" * 100, SavedImageInvalid, "cannot be read"),
        (saved_image("v1")[:3000], SavedImageInvalid, r"cannot be read|missing|manifest"),
    ],
)
def test_what_no_host_could_start_is_refused(
    tmp_path: Path, data: bytes, error: type[Exception], words: str
) -> None:
    tar = tmp_path / "image.tar"
    tar.write_bytes(data)

    with pytest.raises(error, match=words):
        pack_kairos_image(tar, tmp_path / "out", name="shop", version="1.2.3", architecture="amd64")


def test_the_layout_of_a_registry_is_not_taken_for_a_saved_image(tmp_path: Path) -> None:
    """kairos-agent would unpack such a tar's own files as the root file system."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        add_file(archive, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        add_file(archive, "index.json", b"{}")
    tar = tmp_path / "image.tar"
    tar.write_bytes(buffer.getvalue())

    with pytest.raises(SavedImageInvalid, match=r"no manifest\.json"):
        pack_kairos_image(tar, tmp_path / "out", name="shop", version="1.2.3", architecture="amd64")


def test_an_odd_version_is_refused(tmp_path: Path) -> None:
    tar = tmp_path / "image.tar"
    tar.write_bytes(saved_image("v1"))

    with pytest.raises(OsImageInvalid):
        pack_kairos_image(
            tar, tmp_path / "out", name="shop", version="latest", architecture="amd64"
        )
