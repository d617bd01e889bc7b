"""The entry that the initrd's scripts ask the loader for, by the very functions they use."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from skerry.plan.bootentries import EntryName

COMMON = (
    Path(__file__).parents[3] / "src/skerry/builder/data/appliance/initrd/usr/lib/skerry/common"
)
ALL = (
    EntryName(generation=1),
    EntryName(generation=2, left=0, done=3).returned(),
    EntryName(generation=3, left=2, done=1),
)


def chosen(folder: Path, not_these: str) -> str:
    text = COMMON.read_text().replace("/run/skerry-boot", str(folder))
    (folder / "common").write_text(text)
    script = f'. {folder}/common; newest_entry "{not_these}"'
    done = subprocess.run(
        ["sh", "-c", script], capture_output=True, text=True, timeout=20, check=False
    )
    assert done.stderr == ""
    return done.stdout.strip()


@pytest.fixture
def boot(tmp_path: Path) -> Path:
    entries = tmp_path / "loader/entries"
    entries.mkdir(parents=True)
    (tmp_path / "uki").write_text("MZ")
    for name in ALL:
        (entries / name.file).write_text("efi /uki\n")
    (entries / "skerry-000004.conf").write_text("efi /gone\n")
    (entries / "skerry-000005.conf").write_text("")
    return tmp_path


def test_the_newest_that_has_its_boot_image_comes_first(boot: Path) -> None:
    assert chosen(boot, "") == ALL[2].file


def test_those_that_were_tried_are_left_out(boot: Path) -> None:
    assert chosen(boot, "skerry-000003") == ALL[0].file


def test_one_that_was_given_up_is_better_than_none(boot: Path) -> None:
    assert chosen(boot, "skerry-000003 skerry-000001") == ALL[1].file
    assert chosen(boot, "skerry-000003 skerry-000001 skerry-000002") == ""
