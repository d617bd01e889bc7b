"""The only door to the disk.

A `Root` is a folder that the rest of the code sees as `/`. Every write is atomic and durable:
written under a temporary name, fsynced, renamed, and the directory fsynced. Paths are absolute
inside the root ("/etc/hosts"); a path that would leave the root is refused.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from skerry.lib.errors import SkerryError


class FileMissing(SkerryError):
    """The file or folder is not there."""

    def __init__(self, path: str) -> None:
        super().__init__(f"no such file: {path}")


class DiskFull(SkerryError):
    """A write found no space."""

    def __init__(self, path: str) -> None:
        super().__init__(
            f"no space left on device while writing {path}",
            hint="free some space on the file system that holds it; the work resumes by itself",
            retryable=True,
            reason="DiskFull",
        )


class Root(Protocol):
    """A file system as seen by the product."""

    def read(self, path: str) -> bytes:
        """Whole content. Raises FileMissing."""
        ...

    def write(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        """Replace a file atomically and durably; parent folders are made. Raises DiskFull."""
        ...

    def write_chunks(self, path: str, chunks: Iterable[bytes], *, mode: int = 0o644) -> int:
        """As `write`, for content too large for memory. Answers the bytes written."""
        ...

    def read_chunks(
        self, path: str, *, size: int = 1 << 20, from_disk: bool = False
    ) -> Iterator[bytes]:
        """Content in pieces of at most `size` bytes; `from_disk`: not from memory, to see what
        a disk made of it. Raises FileMissing."""
        ...

    def append(self, path: str, data: bytes) -> None:
        """Append durably. A crash may leave a torn last record. Raises DiskFull."""
        ...

    def exists(self, path: str) -> bool: ...

    def is_dir(self, path: str) -> bool: ...

    def list(self, path: str) -> list[str]:
        """Sorted names in a folder; empty when the folder is not there."""
        ...

    def mkdir(self, path: str, *, mode: int = 0o755) -> None: ...

    def remove(self, path: str) -> None:
        """Remove a file, link or whole tree; nothing happens when it is not there."""
        ...

    def rename(self, old: str, new: str) -> None:
        """Atomic and durable move inside the root. Raises FileMissing."""
        ...

    def link(self, path: str, target: str) -> None:
        """Make or atomically move a symbolic link. `target` is written as given."""
        ...

    def read_link(self, path: str) -> str | None:
        """Target of a symbolic link, or None when there is none."""
        ...

    def size(self, path: str) -> int:
        """Bytes of a file. Raises FileMissing."""
        ...

    def free_bytes(self, path: str) -> int:
        """Bytes free for the product on the file system that holds `path`."""
        ...

    def host_path(self, path: str) -> str:
        """The path as other programs on this machine know it."""
        ...


def text_of(root: Root, path: str) -> str:
    """A small file's text without the white space around it; "" when it cannot be read.

    For procfs and sysfs, where a file may be missing, unreadable or answer with an I/O error.
    """
    try:
        return root.read(path).decode(errors="replace").strip()
    except (FileMissing, OSError):
        return ""


@dataclass(frozen=True, slots=True)
class DiskRoot:
    """A folder on this machine's disk; `DiskRoot("/")` is the machine itself."""

    base: str = "/"

    def host_path(self, path: str) -> str:
        if not path.startswith("/") or ".." in path.split("/"):
            raise SkerryError(f"path is not absolute inside its root: {path!r}")
        return path if self.base == "/" else self.base.rstrip("/") + path

    def read(self, path: str) -> bytes:
        try:
            return Path(self.host_path(path)).read_bytes()
        except (FileNotFoundError, NotADirectoryError) as exc:
            raise FileMissing(path) from exc

    def write(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        self.write_chunks(path, (data,), mode=mode)

    def write_chunks(self, path: str, chunks: Iterable[bytes], *, mode: int = 0o644) -> int:
        written = 0
        target = Path(self.host_path(path))
        temporary = target.with_name(f".{target.name}.new")
        with _disk_errors(path):
            _make_folder(target.parent)
            # O_EXCL is not wanted: a temporary left by a crash is simply overwritten. A link
            # that somebody put in its place is not followed.
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(temporary, flags, mode)
            try:
                os.fchmod(fd, mode)
                for chunk in chunks:
                    _write_all(fd, chunk)
                    written += len(chunk)
                os.fsync(fd)
            except BaseException:
                # On a full disk what was written so far would keep it full.
                temporary.unlink(missing_ok=True)
                raise
            finally:
                os.close(fd)
            os.replace(temporary, target)
            _sync_renamed(target)
        return written

    def read_chunks(
        self, path: str, *, size: int = 1 << 20, from_disk: bool = False
    ) -> Iterator[bytes]:
        try:
            with open(self.host_path(path), "rb") as stream:
                if from_disk:
                    os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                while chunk := stream.read(size):
                    yield chunk
        except (FileNotFoundError, NotADirectoryError) as exc:
            raise FileMissing(path) from exc

    def append(self, path: str, data: bytes) -> None:
        target = Path(self.host_path(path))
        with _disk_errors(path):
            _make_folder(target.parent)
            fresh = not target.exists()
            fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                _write_all(fd, data)
                os.fsync(fd)
            finally:
                os.close(fd)
            if fresh:
                _sync_folder(target.parent)

    def exists(self, path: str) -> bool:
        return os.path.lexists(self.host_path(path))

    def is_dir(self, path: str) -> bool:
        return os.path.isdir(self.host_path(path))

    def list(self, path: str) -> list[str]:
        try:
            return sorted(os.listdir(self.host_path(path)))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def mkdir(self, path: str, *, mode: int = 0o755) -> None:
        target = Path(self.host_path(path))
        with _disk_errors(path):
            _make_folder(target)
            target.chmod(mode)

    def remove(self, path: str) -> None:
        target = self.host_path(path)
        try:
            kind = os.lstat(target).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return
        if stat.S_ISDIR(kind):
            shutil.rmtree(target)
        else:
            os.unlink(target)
        _sync_folder(Path(target).parent)

    def rename(self, old: str, new: str) -> None:
        source, target = Path(self.host_path(old)), Path(self.host_path(new))
        with _disk_errors(new):
            _make_folder(target.parent)
            try:
                os.replace(source, target)
            except FileNotFoundError as exc:
                raise FileMissing(old) from exc
        _sync_renamed(target)
        if source.parent != target.parent:
            _sync_folder(source.parent)

    def link(self, path: str, target: str) -> None:
        place = Path(self.host_path(path))
        temporary = place.with_name(f".{place.name}.new")
        with _disk_errors(path):
            _make_folder(place.parent)
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(target)
            os.replace(temporary, place)
            _sync_folder(place.parent)

    def read_link(self, path: str) -> str | None:
        try:
            return os.readlink(self.host_path(path))
        except OSError:
            return None

    def size(self, path: str) -> int:
        try:
            return os.stat(self.host_path(path)).st_size
        except (FileNotFoundError, NotADirectoryError) as exc:
            raise FileMissing(path) from exc

    def free_bytes(self, path: str) -> int:
        place = Path(self.host_path(path))
        while not place.exists():
            place = place.parent
        info = os.statvfs(place)
        return info.f_bavail * info.f_frsize


@contextlib.contextmanager
def _disk_errors(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(path) from exc
        raise


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _sync_renamed(target: Path) -> None:
    """Make a new name durable. vfat first writes it with size 0 and fills in the rest when the
    file itself is written (Linux, fs/fat/namei_vfat.c): the folder alone would keep an empty
    file."""
    if not target.is_symlink():
        fd = os.open(target, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    _sync_folder(target.parent)


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it; each new name is durable, as the files below are."""
    missing: list[Path] = []
    at = folder
    while not at.exists():
        missing.append(at)
        at = at.parent
    for made in reversed(missing):
        made.mkdir(exist_ok=True)
        _sync_folder(made.parent)
    if not missing and not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
