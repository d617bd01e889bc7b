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
from collections.abc import Sequence
from pathlib import Path

import anyio
import msgspec

from skerry.agent.osengine.ab import AbEngine
from skerry.lib.clock import SystemClock
from skerry.lib.files import DiskRoot
from skerry.lib.proc import FakeRunner, Result
from skerry.lib.volumes import DiskVolumes
from skerry.model.artifact import ArtifactRef
from skerry.model.osimage import OsImageInfo, parse_os_image
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


def mount(argv: Sequence[str]) -> Result:
    how = argv[2].removeprefix("remount,")
    command("mount", "-o", f"remount,{how}", str(BASE / "boot"))
    say("/proc/mounts", f"/dev/vda2 /boot vfat {how},nodev 0 0\n")
    return Result(tuple(argv), 0, "", "")


def say(path: str, text: str) -> None:
    place = BASE / path[1:]
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)


def set_up() -> None:
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
    say("/proc/mounts", "/dev/vda2 /boot vfat ro,nodev 0 0\n")


def runs(slot: str, info: OsImageInfo) -> None:
    """The machine was started from a slot."""
    for name in ("a", "b"):
        for label in (f"skerry-{name}", f"skerry-{name}-verity"):
            device = os.path.basename(os.path.realpath(LABELS / label))
            say(f"/sys/class/block/{device}/uevent", f"PARTNAME={label}\n")
            slave = BASE / f"sys/dev/block/253:0/slaves/{device}"
            if name == slot:
                slave.mkdir(parents=True)
            elif slave.exists():
                slave.rmdir()
    say("/proc/self/mountinfo", "20 1 253:0 / / ro - erofs /dev/mapper/root ro\n")
    say(
        "/proc/cmdline",
        f"roothash={info.root_hash} systemd.verity_root_data=/dev/disk/by-uuid/{info.root_uuid}"
        f" systemd.verity_root_hash=/dev/disk/by-uuid/{info.verity_uuid}\n",
    )
    say("/proc/sys/kernel/random/boot_id", f"{slot}{info.version}\n")


def count_down() -> None:
    """What the loader does at a start; firmware writes through, so a flush ends it."""
    command("mount", "-o", "remount,rw", str(BASE / "boot"))
    names = [name for name in map(parse_name, os.listdir(ENTRIES)) if name is not None]
    first = first_to_start(tuple(names))
    assert first is not None
    os.rename(ENTRIES / first.file, ENTRIES / counted(first).file)
    os.sync()
    command("mount", "-o", "remount,ro", str(BASE / "boot"))


def engine(job: Path) -> AbEngine:
    runner = FakeRunner()
    runner.answer_with("mount", answer=mount)
    return AbEngine(
        root=DiskRoot(str(BASE)),
        runner=runner,
        volumes=DiskVolumes(folder=str(LABELS)),
        content=Store(job),
        clock=SystemClock(),
        architecture="amd64",
    )


async def acts(job: Path) -> None:
    refs = msgspec.json.decode((job / "refs.json").read_bytes(), type=list[ArtifactRef])
    infos = [parse_os_image((job / name).read_bytes()) for name in json.loads(
        (job / "infos.json").read_text())]  # fmt: skip
    set_up()
    runs("a", infos[0])
    for number, (here, there, last) in enumerate((("a", "b", "confirm"), ("b", "a", "roll_back"))):
        ref, info = refs[number + 1], infos[number + 1]
        mark(f"stage {number}")
        await engine(job).stage(ref)
        mark(f"staged {number}")
        await engine(job).activate(ref, trial_s=600)
        mark(f"activated {number}")
        count_down()
        runs(there, info)
        mark(f"{last} {number}")
        await getattr(engine(job), last)()
        mark(f"{last}-done {number}")
        if last == "roll_back":
            runs(here, infos[number])
    seen = await engine(job).describe()
    mark("end")
    print(msgspec.json.encode(seen).decode())
    for folder in ("boot", "var/lib/skerry"):
        command("umount", str(BASE / folder))


if __name__ == "__main__":
    anyio.run(acts, Path(sys.argv[1]))
