"""A disk is judged without starting it: what would run, and what is broken beyond repair."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.contract.osengine.made import Image
from tests.vm.world import build_image, make_disk

from skerry.lab.diskcheck import DiskLook, look, pe_section
from skerry.lab.gpt import read_table
from skerry.lab.tamper import Spot, flip
from skerry.lib.proc import SystemRunner

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return build_image(tmp_path_factory.mktemp("image"), "1.0.0")


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory, image: Image) -> Path:
    folder = tmp_path_factory.mktemp("disk")
    make_disk(folder / "disk", image, folder / "scratch")
    return folder / "disk"


@pytest.fixture
def disk(tmp_path: Path, fresh: Path) -> Path:
    shutil.copyfile(fresh, tmp_path / "disk")
    return tmp_path / "disk"


async def seen(disk: Path) -> DiskLook:
    return await look(disk, runner=SystemRunner(), scratch=disk.parent / "look")


async def test_a_fresh_disk_starts_its_image(disk: Path) -> None:
    found = await seen(disk)

    assert found.problems == ()
    assert found.boots == "a 1.0.0"
    assert found.chosen is not None
    assert found.chosen.file == "skerry-000001.conf"


@pytest.mark.parametrize(
    ("spot", "why"),
    [
        (Spot.ROOT, "does not verify"),
        (Spot.VERITY, "does not verify"),
        (Spot.UKI, "is not the one that the entry names"),
        (Spot.ENTRY, "is missing"),
    ],
)
async def test_a_flipped_bit_is_found(disk: Path, spot: Spot, why: str) -> None:
    hit = await flip(disk, spot, runner=SystemRunner())

    found = await seen(disk)

    assert found.boots == "", hit
    assert found.chosen is not None
    assert why in found.chosen.why_not


async def test_a_state_partition_without_its_header_is_a_problem(disk: Path) -> None:
    table = read_table(disk)
    await flip(disk, Spot.STATE, runner=SystemRunner())
    with disk.open("r+b") as file:  # and the copies of the superblock, which fsck would take
        file.seek(table.parts["skerry-state"].start + 4096)
        file.write(bytes(table.parts["skerry-state"].size - 4096))

    found = await seen(disk)

    assert any("skerry-state is damaged" in text for text in found.problems)
    assert found.boots == "a 1.0.0"


@pytest.mark.parametrize(("at", "which"), [(512 + 40, "first"), (-512 + 40, "second")])
async def test_each_copy_of_the_partition_table_is_judged(disk: Path, at: int, which: str) -> None:
    with disk.open("r+b") as file:
        file.seek(at, 2 if at < 0 else 0)
        file.write(b"\xff")

    found = read_table(disk)

    assert len(found.parts) == 7
    assert (found.first_trouble, found.second_trouble) == (
        ("its header is damaged", "") if which == "first" else ("", "its header is damaged")
    )


async def test_a_disk_without_a_table_is_said_not_raised(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(1 << 20))

    found = await seen(tmp_path / "disk")

    assert found.problems[0].startswith("partitions are missing: skerry-esp")
    assert found.boots == ""


@pytest.mark.parametrize("data", [b"", b"MZ", b"MZ" + bytes(58) + b"\xff\xff\xff\x7f", b"MZ" * 99])
def test_what_is_no_pe_file_has_no_sections(data: bytes) -> None:
    assert pe_section(data, b".cmdline") == b""
