"""Where file systems are mounted on this host."""

from __future__ import annotations

from skerry.lib.files import FileMissing, Root


def mount_points(root: Root) -> list[str]:
    """Mount points in the order in which they were mounted. The fifth word of a line of
    /proc/self/mountinfo, with a space written as \\040 (proc_pid_mountinfo(5))."""
    try:
        text = root.read("/proc/self/mountinfo").decode()
    except FileMissing:
        return []
    return [line.split()[4].replace("\\040", " ") for line in text.splitlines()]


def remove_folder(root: Root, path: str, mounts: frozenset[str]) -> None:
    """Remove a folder; one that is a disk of its own stays, empty."""
    if path not in mounts:
        root.remove(path)
        return
    for name in root.list(path):
        remove_folder(root, f"{path}/{name}", mounts)
