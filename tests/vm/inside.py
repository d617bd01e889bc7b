"""Runs in the lab's guest: skerry's own engine on a real vfat and real block devices.

The disk is one that a recorder watches. Between acts a mark is written past every file system,
without a flush, so that the recording can be cut by acts. Arguments: the job's folder.
"""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
from pathlib import Path

import anyio
import msgspec
from tests.vm.told import Told

from skerry.agent.osengine.ab import AbEngine
from skerry.lib.clock import SystemClock
from skerry.lib.files import DiskRoot
from skerry.lib.volumes import DiskVolumes
from skerry.model.artifact import ArtifactRef
from skerry.model.osimage import parse_os_image
from skerry.plan.bootentries import counted, first_to_start, parse_name

MARK_AT = 512 * 1024
BASE, LABELS = Path("/run/machine"), Path("/run/labels")
ENTRIES = BASE / "boot/loader/entries"


class Store:
    """A content store that has the job's blobs at once, on the state partition as a host has."""

    def __init__(self, job: Path) -> None:
        self._job = job

    async def ensure(self, digest: str, *, size: int = 0) -> str:
        name = digest.removeprefix("sha256:")
        path = f"/var/lib/skerry/content/sha256/{name}"
        if not (BASE / path[1:]).exists():
            DiskRoot(str(BASE)).write(path, (self._job / name).read_bytes())
        return path

    def drop(self, digest: str) -> None:
        name = digest.removeprefix("sha256:")
        DiskRoot(str(BASE)).remove(f"/var/lib/skerry/content/sha256/{name}")


def command(*argv: str) -> None:
    subprocess.run(argv, check=True, timeout=60)


def mark(text: str) -> None:
    """Write a sector where no partition is; it is recorded in its place and flushes nothing."""
    page = mmap.mmap(-1, 4096)
    page.write(f"MARK {text}".encode().ljust(512, b"\0"))
    disk = os.open("/dev/vda", os.O_WRONLY | os.O_DIRECT)
    try:
        os.pwrite(disk, memoryview(page)[:512], MARK_AT)
    finally:
        os.close(disk)


def remount(how: str) -> None:
    command("mount", "-o", f"remount,{how}", str(BASE / "boot"))


def set_up() -> Told:
    for folder in (LABELS, BASE / "boot", BASE / "var/lib/skerry"):
        folder.mkdir(parents=True)
    for place in Path("/sys/class/block").iterdir():
        for line in (place / "uevent").read_text().splitlines():
            if line.startswith("PARTNAME="):
                (LABELS / line.partition("=")[2]).symlink_to(f"/dev/{place.name}")
    command("mount", "-t", "vfat", "-o", "ro,nodev,nosuid,noexec,umask=0077",
            str(LABELS / "skerry-boot"), str(BASE / "boot"))  # fmt: skip
    command("mount", "-t", "ext4", "-o", "noatime", str(LABELS / "skerry-state"),
            str(BASE / "var/lib/skerry"))  # fmt: skip
    slots = [f"skerry-{slot}{part}" for slot in "ab" for part in ("", "-verity")]
    devices = {label: os.path.basename(os.path.realpath(LABELS / label)) for label in slots}
    return Told(BASE, devices, remount)


def count_down() -> None:
    """What the loader does at a start; firmware writes through, so a flush ends it."""
    command("mount", "-o", "remount,rw", str(BASE / "boot"))
    names = [name for name in map(parse_name, os.listdir(ENTRIES)) if name is not None]
    first = first_to_start(tuple(names))
    assert first is not None
    os.rename(ENTRIES / first.file, ENTRIES / counted(first).file)
    os.sync()
    command("mount", "-o", "remount,ro", str(BASE / "boot"))


def engine(job: Path, told: Told) -> AbEngine:
    return AbEngine(
        root=DiskRoot(str(BASE)),
        runner=told.runner(),
        volumes=DiskVolumes(folder=str(LABELS)),
        content=Store(job),
        clock=SystemClock(),
        architecture="amd64",
    )


async def acts(job: Path) -> None:
    refs = msgspec.json.decode((job / "refs.json").read_bytes(), type=list[ArtifactRef])
    infos = [parse_os_image((job / name).read_bytes()) for name in json.loads(
        (job / "infos.json").read_text())]  # fmt: skip
    told = set_up()
    told.runs("a", infos[0])
    for number, (here, there, last) in enumerate((("a", "b", "confirm"), ("b", "a", "roll_back"))):
        ref, info = refs[number + 1], infos[number + 1]
        mark(f"stage {number}")
        await engine(job, told).stage(ref)
        mark(f"staged {number}")
        await engine(job, told).activate(ref, trial_s=600)
        mark(f"activated {number}")
        count_down()
        told.runs(there, info)
        mark(f"{last} {number}")
        await getattr(engine(job, told), last)()
        mark(f"{last}-done {number}")
        if last == "roll_back":
            told.runs(here, infos[number])
    seen = await engine(job, told).describe()
    mark("end")
    print(msgspec.json.encode(seen).decode())
    for folder in ("boot", "var/lib/skerry"):
        command("umount", str(BASE / folder))


if __name__ == "__main__":
    anyio.run(acts, Path(sys.argv[1]))
