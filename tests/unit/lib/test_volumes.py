"""The door to block devices, and its double in memory."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from skerry.lib.memory_files import PowerCut
from skerry.lib.memory_volumes import MemoryVolumes
from skerry.lib.volumes import DiskVolumes, VolumeFailed, Volumes


@pytest.fixture(params=["disk", "memory"])
def volumes(request: pytest.FixtureRequest, tmp_path: Path) -> Volumes:
    if request.param == "memory":
        made = MemoryVolumes()
        made.make("one", 4096)
        return made
    (tmp_path / "one").write_bytes(bytes(4096))
    return DiskVolumes(folder=str(tmp_path))


def test_what_was_written_is_read_before_and_after_the_flush(volumes: Volumes) -> None:
    volumes.write("one", 510, b"four")
    assert volumes.read("one", 509, 6) == b"\0four\0"

    volumes.flush("one")

    assert volumes.read("one", 510, 4) == b"four"
    assert b"".join(volumes.read_back("one", 514, chunk=100))[510:] == b"four"


def test_a_partition_has_a_size_and_bounds(volumes: Volumes) -> None:
    assert volumes.exists("one")
    assert volumes.size("one") == 4096
    with pytest.raises(VolumeFailed, match="partition one does not reach"):
        volumes.write("one", 4090, b"too long")
    with pytest.raises(VolumeFailed):
        volumes.read("one", 4090, 7)


def test_a_missing_partition_is_said(volumes: Volumes) -> None:
    assert not volumes.exists("two")
    for call in (
        lambda: volumes.size("two"),
        lambda: volumes.disk("two"),
        lambda: volumes.read("two", 0, 1),
        lambda: volumes.write("two", 0, b"x"),
    ):
        with pytest.raises(VolumeFailed, match="partition two is not on this machine"):
            call()


@pytest.mark.parametrize("label", ["", "../one", ".", "a/b"])
def test_a_label_is_no_path(tmp_path: Path, label: str) -> None:
    with pytest.raises(VolumeFailed):
        DiskVolumes(folder=str(tmp_path / "x")).read(label, 0, 1)


def test_the_disk_of_a_partition_is_what_the_kernel_puts_it_under(tmp_path: Path) -> None:
    (tmp_path / "devices/vda/vda3").mkdir(parents=True)
    for folder in ("labels", "blocks", "dev"):
        (tmp_path / folder).mkdir()
    (tmp_path / "dev/vda3").touch()
    (tmp_path / "labels/one").symlink_to("../dev/vda3")
    (tmp_path / "blocks/vda3").symlink_to("../devices/vda/vda3")

    volumes = DiskVolumes(folder=str(tmp_path / "labels"), blocks=str(tmp_path / "blocks"))

    assert volumes.disk("one") == "vda"


def test_a_cut_keeps_sectors_that_were_flushed_and_a_part_of_the_others() -> None:
    volumes = MemoryVolumes()
    volumes.make("one", 64 * 512)
    volumes.write("one", 0, b"f" * 1024)
    volumes.flush("one")
    volumes.write("one", 1024, b"w" * 62 * 512)
    volumes.cut_power_at(1)
    with pytest.raises(PowerCut):
        volumes.flush("one")

    volumes.lose(random.Random(1), kept=0.5)

    kept = [bytes(volumes.kept["one"][at : at + 512]) for at in range(0, 64 * 512, 512)]
    assert kept[:2] == [b"f" * 512] * 2
    assert set(kept[2:]) == {b"w" * 512, bytes(512)}
