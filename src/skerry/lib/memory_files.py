"""A Root in memory: for simulated hosts, and for tests that cut the power.

It keeps the promise of `files.Root`: what a call wrote is durable when the call returned. With
`cut_power_at(n)` the n-th changing call raises `PowerCut`, either before it did anything, after
it did everything, or, for an append, in its middle. It is stricter than the real Root in one thing:
a folder that is empty when the power is cut is forgotten, so nothing may rely on one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from skerry.lib.errors import SkerryError
from skerry.lib.files import DiskFull, FileMissing

_Value = TypeVar("_Value")


class PowerCut(BaseException):
    """The machine lost power; nothing may catch this but the test that asked for it."""


@dataclass(slots=True)
class MemoryRoot:
    """Files by path. `capacity` bounds the sum of their sizes in bytes."""

    files: dict[str, bytes] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    capacity: int = 1 << 40
    changes: int = 0
    _cut_at: int = 0
    _cut_half: bool = False

    def cut_power_at(self, change: int, *, halfway: bool = False) -> None:
        """Let the `change`-th changing call from now fail: before it, or halfway through."""
        self._cut_at = self.changes + change
        self._cut_half = halfway

    def power_on(self) -> None:
        """After a cut: fail no more."""
        self._cut_at = 0

    def host_path(self, path: str) -> str:
        return path

    def read(self, path: str) -> bytes:
        _check(path)
        if path not in self.files:
            raise FileMissing(path)
        return self.files[path]

    def write(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        self.write_chunks(path, (data,), mode=mode)

    def write_chunks(self, path: str, chunks: Iterable[bytes], *, mode: int = 0o644) -> int:
        _check(path)
        data = b"".join(chunks)
        if self._used() - len(self.files.get(path, b"")) + len(data) > self.capacity:
            raise DiskFull(path)
        self._begin()
        self.files[path] = data
        self.links.pop(path, None)
        self._end()
        return len(data)

    def read_chunks(
        self, path: str, *, size: int = 1 << 20, from_disk: bool = False
    ) -> Iterator[bytes]:
        data = self.read(path)
        for start in range(0, len(data), size):
            yield data[start : start + size]

    def append(self, path: str, data: bytes) -> None:
        _check(path)
        if self._used() + len(data) > self.capacity:
            raise DiskFull(path)
        before = self.files.get(path, b"")
        self._begin()
        if self._cutting() and self._cut_half:
            self.files[path] = before + data[: len(data) // 2]
        else:
            self.files[path] = before + data
        self._end()

    def exists(self, path: str) -> bool:
        _check(path)
        return path in self.files or path in self.links or self.is_dir(path)

    def is_dir(self, path: str) -> bool:
        prefix = path.rstrip("/") + "/"
        return path in self.folders or any(
            name.startswith(prefix) for name in (*self.files, *self.links, *self.folders)
        )

    def list(self, path: str) -> list[str]:
        _check(path)
        prefix = path.rstrip("/") + "/"
        return sorted(
            {
                name[len(prefix) :].split("/")[0]
                for name in (*self.files, *self.links, *self.folders)
                if name.startswith(prefix)
            }
        )

    def mkdir(self, path: str, *, mode: int = 0o755) -> None:
        _check(path)
        self.folders.add(path.rstrip("/"))

    def remove(self, path: str) -> None:
        _check(path)
        prefix = path.rstrip("/") + "/"
        self._begin()
        for table in (self.files, self.links):
            for name in [name for name in table if name == path or name.startswith(prefix)]:
                del table[name]
        self.folders = {
            name for name in self.folders if name != path and not name.startswith(prefix)
        }
        self._end()

    def rename(self, old: str, new: str) -> None:
        _check(old)
        _check(new)
        if not self.exists(old):
            raise FileMissing(old)
        self._begin()
        _move(self.files, old, new)
        _move(self.links, old, new)
        self._end()

    def link(self, path: str, target: str) -> None:
        _check(path)
        self._begin()
        self.links[path] = target
        self.files.pop(path, None)
        self._end()

    def read_link(self, path: str) -> str | None:
        return self.links.get(path)

    def size(self, path: str) -> int:
        return len(self.read(path))

    def free_bytes(self, path: str) -> int:
        return self.capacity - self._used()

    def _used(self) -> int:
        return sum(len(data) for data in self.files.values())

    def _cutting(self) -> bool:
        return self._cut_at != 0 and self.changes >= self._cut_at

    def _begin(self) -> None:
        self.changes += 1
        if self._cutting() and not self._cut_half:
            raise PowerCut

    def _end(self) -> None:
        if self._cutting():
            raise PowerCut


def _move(table: dict[str, _Value], old: str, new: str) -> None:
    names = [name for name in table if name == old or name.startswith(old + "/")]
    table.update({new + name[len(old) :]: table.pop(name) for name in names})


def _check(path: str) -> None:
    if not path.startswith("/") or ".." in path.split("/"):
        raise SkerryError(f"path is not absolute inside its root: {path!r}")
