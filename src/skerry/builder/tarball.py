"""Tar archives that depend on nothing but their content: no times, owners or order of a disk.

Equal entries make equal bytes. Parent folders are added by themselves, so that no unpacker has
to invent their permissions.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

# struct vfs_cap_data of linux/capability.h: revision 2 with the effective bit, then permitted and
# inheritable as two little-endian words each. CAP_NET_BIND_SERVICE is bit 10.
_NET_BIND = "\x01\x00\x00\x02\x00\x04\x00\x00" + "\x00" * 12


@dataclass(frozen=True, slots=True)
class TarEntry:
    """A file (`data` or `source`), a folder, or a symbolic link (`target`)."""

    path: str
    mode: int = 0o644
    data: bytes = b""
    source: Path | None = None
    folder: bool = False
    target: str = ""
    net_bind: bool = False


def link_entry(path: str, target: str) -> TarEntry:
    """A symbolic link."""
    return TarEntry(path=path, mode=0o777, target=target)


def write_tar(entries: Iterable[TarEntry], out: IO[bytes]) -> None:
    """Write the entries, sorted by path, later ones winning over earlier ones of one path."""
    wanted = {entry.path: entry for entry in entries}
    for path in list(wanted):
        parent = path
        while "/" in parent:
            parent = parent.rpartition("/")[0]
            wanted.setdefault(parent, TarEntry(path=parent, mode=0o755, folder=True))
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(wanted):
            _add(archive, wanted[path])


def _add(archive: tarfile.TarFile, entry: TarEntry) -> None:
    info = tarfile.TarInfo(entry.path)
    info.mode = entry.mode
    info.mtime = 0
    if entry.net_bind:
        info.pax_headers = {"SCHILY.xattr.security.capability": _NET_BIND}
    if entry.folder:
        info.type = tarfile.DIRTYPE
        archive.addfile(info)
    elif entry.target:
        info.type = tarfile.SYMTYPE
        info.linkname = entry.target
        archive.addfile(info)
    elif entry.source is not None:
        with entry.source.open("rb") as reading:
            info.size = entry.source.stat().st_size
            archive.addfile(info, reading)
    else:
        info.size = len(entry.data)
        archive.addfile(info, io.BytesIO(entry.data))
