"""Where built things lie: one folder, entries named by what went into them.

An entry appears by a single rename when it is complete, so a build that was interrupted leaves
nothing that could be taken for a result. Two builds of the same entry at once are harmless: the
second finds the first's result and drops its own. What was used least recently goes when the folder
grows over its limit.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from skerry.lib.digest import canonical_json, sha256

# LAB and CI machines are small: this holds some five releases with all their parts.
LIMIT_BYTES = 15 * 10**9
_KEPT_S = 86_400.0
_ENTRIES = ("agent/*", "components/*", "images/*/*", "releases/*/*", "trees/*")
# Entries that are files.
_FILES = ("downloads/*/*",)


def content_id(inputs: Any) -> str:
    """Sixteen hex digits that name what is built from these inputs."""
    return sha256(canonical_json(inputs))[len("sha256:") :][:16]


def default_cache(env: Mapping[str, str]) -> Cache:
    """SKERRY_CACHE, else `skerry` in the user's cache folder."""
    if chosen := env.get("SKERRY_CACHE"):
        return Cache(Path(chosen))
    home = env.get("XDG_CACHE_HOME") or os.path.join(env.get("HOME") or "/root", ".cache")
    return Cache(Path(home) / "skerry")


@dataclass(frozen=True, slots=True)
class Cache:
    """The cache folder. `kind` is a sub-folder such as "components"."""

    base: Path

    def folder(self, *parts: str) -> Path:
        """A folder inside the cache, made when missing."""
        place = self.base.joinpath(*parts)
        place.mkdir(parents=True, exist_ok=True)
        return place

    def find(self, kind: str, name: str) -> Path | None:
        """A complete entry, marked as used now, or None."""
        place = self.base / kind / name
        if not place.is_dir():
            return None
        os.utime(place)
        return place

    @contextlib.contextmanager
    def fill(self, kind: str, name: str) -> Iterator[Path]:
        """A folder to build in; it becomes the entry when the block ends without an error."""
        parent = self.folder(kind)
        work = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=parent))
        try:
            yield work
            work.chmod(0o755)
            # A rename onto a folder that is not empty fails, which means someone else was first.
            with contextlib.suppress(OSError):
                work.rename(parent / name)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def trim(self, now: datetime, *, limit_bytes: int = LIMIT_BYTES) -> list[Path]:
        """Remove what was used least recently until the rest fits; what was removed.

        Entries used within the last day stay whatever the size: somebody may be using them now.
        Work folders of builds that ended a day ago or more without tidying up go too.
        """
        day_ago = now.timestamp() - _KEPT_S
        found = [
            (place.stat().st_mtime, place)
            for pattern in _ENTRIES
            for place in self.base.glob(pattern)
            if place.is_dir() and not place.is_symlink()
        ]
        found += [
            (place.stat().st_mtime, place)
            for pattern in _FILES
            for place in self.base.glob(pattern)
            if place.is_file()
        ]
        gone = [place for used, place in found if place.name.startswith(".") and used < day_ago]
        left = [item for item in sorted(found) if not item[1].name.startswith(".")]
        sizes = {place: _size(place) for _, place in left}
        total = sum(sizes.values())
        for used, place in left:
            if total <= limit_bytes or used >= day_ago:
                break
            total -= sizes[place]
            gone.append(place)
        for place in gone:
            if place.is_dir():
                shutil.rmtree(place, ignore_errors=True)
            else:
                place.unlink(missing_ok=True)
        return gone

    def replace(self, kind: str, name: str, work: Path) -> Path:
        """Put a finished folder in the place of an entry that may exist."""
        place = self.folder(kind) / name
        if place.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{name}.old.", dir=place.parent))
            place.rename(old / "entry")
            work.rename(place)
            shutil.rmtree(old, ignore_errors=True)
        else:
            work.rename(place)
        return place


def _size(folder: Path) -> int:
    """Bytes of a file, or of all files below."""
    if folder.is_file():
        return folder.stat().st_size
    return sum(place.lstat().st_size for place in folder.rglob("*") if not place.is_dir())
