"""One suite for both Roots, and what the real one does for durability."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.unit.lib.forgetful import ForgetfulDisk

from skerry.lib.errors import SkerryError
from skerry.lib.files import DiskFull, DiskRoot, FileMissing, Root
from skerry.lib.memory_files import MemoryRoot, PowerCut


@pytest.fixture(params=["disk", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Root:
    return DiskRoot(str(tmp_path)) if request.param == "disk" else MemoryRoot()


def test_what_was_written_is_read(root: Root) -> None:
    root.write("/a/b", b"one")
    root.write("/a/b", b"two")
    root.append("/a/log", b"x")
    root.append("/a/log", b"y")

    assert root.read("/a/b") == b"two"
    assert root.read("/a/log") == b"xy"
    assert root.list("/a") == ["b", "log"]
    assert root.size("/a/log") == 2
    assert b"".join(root.read_chunks("/a/b", size=1)) == b"two"


def test_missing_things_are_quiet_or_named(root: Root) -> None:
    assert not root.exists("/nothing")
    assert root.list("/nothing") == []
    assert root.read_link("/nothing") is None
    root.remove("/nothing")
    with pytest.raises(FileMissing, match="/nothing"):
        root.read("/nothing")
    with pytest.raises(FileMissing):
        root.rename("/nothing", "/other")


def test_trees_move_and_go(root: Root) -> None:
    root.write("/t/x/1", b"1")
    root.write("/t/x/2", b"2")

    root.rename("/t/x", "/t/y")
    assert root.list("/t") == ["y"]
    assert root.read("/t/y/2") == b"2"

    root.remove("/t/y")
    assert not root.exists("/t/y/1")


def test_links_move(root: Root) -> None:
    root.link("/l/current", "/r/1")
    root.link("/l/current", "/r/2")

    assert root.read_link("/l/current") == "/r/2"


@pytest.mark.parametrize("path", ["relative", "/a/../b", ""])
def test_paths_that_leave_the_root_are_refused(root: Root, path: str) -> None:
    with pytest.raises(SkerryError, match="not absolute"):
        root.read(path)


def test_every_durable_write_syncs_file_and_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fsync

    def record(fd: int) -> None:
        synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
        real(fd)

    monkeypatch.setattr(os, "fsync", record)
    root = DiskRoot(str(tmp_path))

    root.write("/d/file", b"x")
    assert synced == [tmp_path.name, ".file.new", "file", "d"], "a new folder's own name too"

    synced.clear()
    root.append("/d/log", b"x")
    assert synced == ["log", "d"]

    synced.clear()
    root.rename("/d/file", "/e/file")
    assert synced == [tmp_path.name, "file", "e", "d"], "vfat keeps an empty file otherwise"

    synced.clear()
    root.mkdir("/f/g")
    assert synced == [tmp_path.name, "f"]


def test_a_write_that_failed_leaves_no_part_behind(tmp_path: Path) -> None:
    root = DiskRoot(str(tmp_path))
    root.write("/d/file", b"old")

    def chunks() -> Iterator[bytes]:
        yield b"x" * 100_000
        raise DiskFull("/d/file")

    with pytest.raises(DiskFull):
        root.write_chunks("/d/file", chunks())

    assert os.listdir(tmp_path / "d") == ["file"]
    assert root.read("/d/file") == b"old"


def test_a_link_in_the_place_of_the_temporary_file_is_not_followed(tmp_path: Path) -> None:
    root = DiskRoot(str(tmp_path))
    (tmp_path / "victim").write_bytes(b"theirs")
    (tmp_path / ".file.new").symlink_to(tmp_path / "victim")

    with pytest.raises(OSError, match="symbolic link"):
        root.write("/file", b"mine")

    assert (tmp_path / "victim").read_bytes() == b"theirs"


def test_full_disk_is_told_by_path_and_leaves_the_old_content() -> None:
    root = MemoryRoot(capacity=10)
    root.write("/a", b"12345")

    with pytest.raises(DiskFull, match="/a") as caught:
        root.write("/a", b"x" * 11)

    assert caught.value.retryable
    assert root.read("/a") == b"12345"


def test_power_cut_leaves_old_or_new_content_and_may_tear_an_append() -> None:
    root = MemoryRoot()
    root.write("/a", b"old")
    root.cut_power_at(1)
    with pytest.raises(PowerCut):
        root.write("/a", b"new")
    assert root.read("/a") == b"old"

    root.power_on()
    root.cut_power_at(1, halfway=True)
    with pytest.raises(PowerCut):
        root.append("/log", b"abcd")
    assert root.read("/log") == b"ab"


def test_what_a_call_made_survives_a_disk_that_forgets_what_was_not_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "disk"
    base.mkdir()
    (base / "old").write_bytes(b"stays")
    disk = ForgetfulDisk(base)
    monkeypatch.setattr(os, "fsync", os.fsync)  # put back at the end
    disk.watch()
    root = DiskRoot(str(base))
    changes: list[tuple[Callable[[], object], str, bytes | None]] = [
        (lambda: root.write("/a/b/c/file", b"1"), "/a/b/c/file", b"1"),
        (lambda: root.write("/a/b/c/file", b"2"), "/a/b/c/file", b"2"),
        (lambda: root.append("/log/lines", b"x"), "/log/lines", b"x"),
        (lambda: root.append("/log/lines", b"y"), "/log/lines", b"xy"),
        (lambda: root.rename("/a/b", "/new/place"), "/new/place/c/file", b"2"),
        (lambda: root.remove("/log/lines"), "/log/lines", None),
        (lambda: root.write_chunks("/big/blob", (b"a", b"b")), "/big/blob", b"ab"),
        (lambda: root.link("/links/current", "/big/blob"), "/links/current", None),
        (lambda: root.mkdir("/empty/folder"), "/empty/folder", None),
    ]

    for number, (change, path, wanted) in enumerate(changes):
        change()
        left = tmp_path / f"left-{number}"
        disk.write_out(left)

        found = DiskRoot(str(left))
        assert found.read("/old") == b"stays"
        if wanted is not None:
            assert found.read(path) == wanted
        else:
            assert found.exists(path) == (path != "/log/lines")


def test_the_forgetful_disk_does_forget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tmp_path / "disk"
    base.mkdir()
    disk = ForgetfulDisk(base)
    monkeypatch.setattr(os, "fsync", os.fsync)
    disk.watch()
    (base / "named").write_bytes(b"never synced")
    fd = os.open(base, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    (base / "unnamed").write_bytes(b"neither")

    disk.write_out(tmp_path / "left")

    assert (tmp_path / "left" / "named").read_bytes() == b""
    assert not (tmp_path / "left" / "unnamed").exists()
