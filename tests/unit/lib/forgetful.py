"""A disk that forgets what was not fsynced: what POSIX lets a power cut leave, and not more.

`watch` records each fsync of the process. `write_out` builds the tree that a machine would find
after losing power now: files with the content of their last fsync, folders with their names then.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

Entry = tuple[str, int | str]


class ForgetfulDisk:
    """The durable state of one folder tree."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._content: dict[int, bytes] = {}
        self._names: dict[int, dict[str, Entry]] = {}
        self._fsync = os.fsync
        for folder, _, files in os.walk(base):
            self._sync_folder(folder)
            for name in files:
                path = os.path.join(folder, name)
                if not os.path.islink(path):
                    self._content[os.stat(path).st_ino] = Path(path).read_bytes()

    def watch(self) -> None:
        """From now on see every fsync of this process. It is not undone: the process dies."""
        os.fsync = self._seen

    def write_out(self, target: Path) -> None:
        """The tree after a power cut now."""
        self._folder(os.stat(self._base).st_ino, target)

    def _seen(self, fd: int) -> None:
        self._fsync(fd)
        path = os.readlink(f"/proc/self/fd/{fd}")
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            self._sync_folder(path)
        else:
            # The name may have moved since; the open file is what counts.
            self._content[os.fstat(fd).st_ino] = Path(f"/proc/self/fd/{fd}").read_bytes()

    def _sync_folder(self, path: str) -> None:
        names: dict[str, Entry] = {}
        for entry in os.scandir(path):
            if entry.is_symlink():
                names[entry.name] = ("link", os.readlink(entry.path))
            else:
                kind = "folder" if entry.is_dir() else "file"
                names[entry.name] = (kind, entry.stat(follow_symlinks=False).st_ino)
        self._names[os.stat(path).st_ino] = names

    def _folder(self, number: int, target: Path) -> None:
        target.mkdir()
        for name, (kind, what) in self._names.get(number, {}).items():
            if kind == "link":
                (target / name).symlink_to(str(what))
            elif kind == "folder":
                self._folder(int(what), target / name)
            else:
                (target / name).write_bytes(self._content.get(int(what), b""))
