"""Folders that are disks of their own are emptied, never removed."""

from __future__ import annotations

from skerry.agent.mounts import mount_points, remove_folder
from skerry.lib.memory_files import MemoryRoot


def _root() -> MemoryRoot:
    root = MemoryRoot()
    root.mkdir("/s")
    for path in ("/s/a/x", "/s/a/disk/y", "/s/b"):
        root.write(path, b"")
    return root


def test_mount_points_are_read_with_their_spaces() -> None:
    root = MemoryRoot()
    root.write(
        "/proc/self/mountinfo",
        b"1 0 8:1 / / rw - ext4 /dev/sda rw\n2 1 8:2 / /my\\040disk rw - ext4 /dev/sdb rw\n",
    )

    assert mount_points(root) == ["/", "/my disk"]
    assert mount_points(MemoryRoot()) == []


def test_a_folder_that_is_a_disk_stays_empty() -> None:
    root = _root()
    remove_folder(root, "/s", frozenset({"/s"}))

    assert root.is_dir("/s")
    assert root.list("/s") == []


def test_a_folder_goes_with_all_that_is_in_it() -> None:
    root = _root()
    remove_folder(root, "/s", frozenset())

    assert not root.exists("/s")
