"""A simulated host's disk in memory, and the one file in which a whole fleet's disks are kept.

What every machine of a shape has is shared and cannot be changed; equal content is held once for
all hosts. The file is an append-only log that is packed at each start and when it grew much. It is
written a few times a second for all hosts together, so a killed simulation can lose the last moment
of its hosts' lives.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import msgspec

from skerry.agent import paths
from skerry.lib.errors import SkerryError
from skerry.lib.files import FileMissing, Root

_LOG = "/fleet.log"
# Shown to people on the host, made again at each start.
_NOT_KEPT = frozenset({paths.STATUS})
_PACK_BYTES = 16 * 1024**2
_PACK_TIMES = 4
_FREE_BYTES = 200 * 1024**3


class _Entry(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """One change. `same` means: the content that the pool has for this path."""

    host: str
    path: str
    data: bytes | None = None
    same: bool = False


@dataclass
class FleetDisk:
    """All disks of a fleet. `root` is the folder that keeps them, None keeps nothing."""

    root: Root | None = None
    _pool: dict[str, bytes] = field(default_factory=dict)
    _hosts: dict[str, dict[str, bytes]] = field(default_factory=dict)
    _waiting: list[bytes] = field(default_factory=list)
    _logged: set[str] = field(default_factory=set)
    _packed_bytes: int = 0
    _added_bytes: int = 0

    def load(self) -> None:
        """Read what an earlier simulation left, and pack it."""
        if self.root is None or not self.root.exists(_LOG):
            return
        for line in self.root.read(_LOG).splitlines():
            try:
                entry = msgspec.json.decode(line, type=_Entry)
            except msgspec.DecodeError:
                continue  # The last line of a killed simulation.
            self._apply(entry)
        self._pack()

    def file(self, host: str, path: str) -> bytes | None:
        """What a host wrote there, or None."""
        return self._hosts.get(host, {}).get(path)

    def mount(self, host: str, base: Mapping[str, bytes], own: Mapping[str, bytes]) -> HostRoot:
        """The disk of a host with its machine's files below it."""
        kept = self._hosts.setdefault(host, {})
        return HostRoot(
            base=base,
            own=dict(own),
            files=kept,
            changed=lambda path, data: self._note(host, path, data),
            pool=self._pool,
        )

    def flush(self) -> None:
        """Write what changed since the last time."""
        if self.root is not None and self._waiting:
            waiting, self._waiting = self._waiting, []
            data = b"".join(waiting)
            self._added_bytes += len(data)
            if self._added_bytes > max(_PACK_BYTES, _PACK_TIMES * self._packed_bytes):
                self._pack()
            else:
                self.root.append(_LOG, data)

    def _note(self, host: str, path: str, data: bytes | None) -> None:
        if self.root is None or path in _NOT_KEPT:
            return
        self._waiting.append(self._line(host, path, data))

    def _line(self, host: str, path: str, data: bytes | None) -> bytes:
        shared = data is not None and path in self._pool
        same = shared and path in self._logged
        if shared:
            self._logged.add(path)
        entry = _Entry(host, path, None if same else data, same)
        return msgspec.json.encode(entry) + b"\n"

    def _apply(self, entry: _Entry) -> None:
        files = self._hosts.setdefault(entry.host, {})
        path = sys.intern(entry.path)
        if entry.same:
            files[path] = self._pool[path]
        elif entry.data is None:
            files.pop(path, None)
        else:
            shared = path.startswith(paths.CONTENT)
            files[path] = self._pool.setdefault(path, entry.data) if shared else entry.data

    def _pack(self) -> None:
        assert self.root is not None
        self._logged.clear()
        self._added_bytes = 0
        self._packed_bytes = self.root.write_chunks(
            _LOG,
            (
                self._line(host, path, data)
                for host, files in self._hosts.items()
                for path, data in files.items()
                if path not in _NOT_KEPT
            ),
            mode=0o600,
        )


@dataclass(slots=True)
class HostRoot:
    """One host's `Root`: the machine's files, and over them what the agent wrote."""

    base: Mapping[str, bytes]
    own: dict[str, bytes]
    files: dict[str, bytes]
    changed: Callable[[str, bytes | None], None]
    pool: dict[str, bytes]

    def host_path(self, path: str) -> str:
        return path

    def read(self, path: str) -> bytes:
        for layer in (self.files, self.own, self.base):
            if path in layer:
                return layer[path]
        raise FileMissing(path)

    def write(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        _check(path)
        if path.startswith(paths.CONTENT):
            data = self.pool.setdefault(path, data)
        self.files[sys.intern(path)] = data
        self.changed(path, data)

    def write_chunks(self, path: str, chunks: Iterable[bytes], *, mode: int = 0o644) -> int:
        data = b"".join(chunks)
        self.write(path, data, mode=mode)
        return len(data)

    def read_chunks(
        self, path: str, *, size: int = 1 << 20, from_disk: bool = False
    ) -> Iterator[bytes]:
        data = self.read(path)
        for start in range(0, len(data), size):
            yield data[start : start + size]

    def append(self, path: str, data: bytes) -> None:
        before = self.read(path) if path in self.files else b""
        self.write(path, before + data)

    def exists(self, path: str) -> bool:
        layers = (self.files, self.own, self.base)
        return any(path in layer for layer in layers) or self.is_dir(path)

    def is_dir(self, path: str) -> bool:
        return next(self._below(path), None) is not None

    def list(self, path: str) -> list[str]:
        return sorted({rest.split("/")[0] for rest in self._below(path)})

    def mkdir(self, path: str, *, mode: int = 0o755) -> None:
        """Folders come with their files."""

    def remove(self, path: str) -> None:
        gone = [name for name in self.files if name == path or name.startswith(path + "/")]
        for name in gone:
            del self.files[name]
            self.changed(name, None)

    def rename(self, old: str, new: str) -> None:
        if old not in self.files:
            raise FileMissing(old)
        self.write(new, self.files[old])
        del self.files[old]
        self.changed(old, None)

    def link(self, path: str, target: str) -> None:
        raise SkerryError("a simulated disk has no links")

    def read_link(self, path: str) -> str | None:
        return None

    def size(self, path: str) -> int:
        return len(self.read(path))

    def free_bytes(self, path: str) -> int:
        return _FREE_BYTES

    def _below(self, path: str) -> Iterator[str]:
        prefix = path.rstrip("/") + "/"
        for layer in (self.files, self.own, self.base):
            for name in layer:
                if name.startswith(prefix):
                    yield name[len(prefix) :]


def _check(path: str) -> None:
    if not path.startswith("/") or ".." in path.split("/"):
        raise SkerryError(f"path is not absolute inside its root: {path!r}")
