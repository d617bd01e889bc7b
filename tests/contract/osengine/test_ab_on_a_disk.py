"""The appliance's engine on a real disk: the installer's table, a vfat, block devices, real images.

The disk is a file behind a loop device. What cannot be had without a machine is told by files: the
kernel's command line, and that the root lies on slot a.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.contract.osengine.made import Image, Shelf, assemble

from skerry.agent.osengine.ab import AbEngine
from skerry.lib.clock import SystemClock
from skerry.lib.files import DiskRoot
from skerry.lib.proc import FakeRunner, Result
from skerry.lib.volumes import DiskVolumes, VolumeFailed
from skerry.plan.bootentries import BootEntry, EntryName, render, uki_name
from skerry.plan.disklayout import MIB, Sizes, partitions, sfdisk_script, smallest_disk
from skerry.plan.osupdate import OsObserved, SlotState

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for loop devices and mounts"),
]

SIZES = Sizes(esp=4 * MIB, boot=48 * MIB, root=24 * MIB, verity=2 * MIB)
STATE_BYTES = 8 * MIB
# A kernel without vfat still shows all but what is peculiar to it; machines boot with the real one.
VFAT = "vfat" in Path("/proc/filesystems").read_text().split()
BOOT_KIND = ("vfat", "umask=0077") if VFAT else ("ext2", "nodev")


def run(*argv: str, stdin: str = "", check: bool = True) -> str:
    done = subprocess.run(
        argv, input=stdin, capture_output=True, text=True, check=False, timeout=60
    )
    assert not check or done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
    return done.stdout


def build(folder: Path, version: str) -> Image:
    """An image from a small tree, by the tools that the builder uses."""
    tree = folder / version
    (tree / "usr/bin").mkdir(parents=True)
    (tree / "usr/bin/program").write_bytes(os.urandom(5 * MIB))
    (tree / "version").write_text(version)
    root, hashes = folder / f"{version}.erofs", folder / f"{version}.verity"
    run("mkfs.erofs", "-zlz4", str(root), str(tree))
    said = run("veritysetup", "format", str(root), str(hashes))
    root_hash = re.search(r"Root hash:\s*([0-9a-f]{64})", said)
    verity_uuid = re.search(r"UUID:\s*([0-9a-f-]{36})", said)
    assert root_hash is not None
    assert verity_uuid is not None
    root_uuid = run("blkid", "-p", "-o", "value", "-s", "UUID", str(root)).strip()
    return assemble(
        version,
        files=(root.read_bytes(), hashes.read_bytes(), b"MZ" + os.urandom(3 * MIB)),
        names=(root_hash[1], root_uuid, verity_uuid[1]),
    )


@dataclass
class Disk:
    """The disk as a machine sees it; `base` is the machine's root folder."""

    base: Path
    device: str
    labels: Path
    old: Image
    new: Image
    runner: FakeRunner = field(default_factory=FakeRunner)

    def __post_init__(self) -> None:
        self.runner.answer_with("mount", answer=self._mount)
        self.volumes = DiskVolumes(folder=str(self.labels))
        self.shelf = Shelf(DiskRoot(str(self.base)), self.old, self.new)

    @property
    def engine(self) -> AbEngine:
        return AbEngine(
            root=DiskRoot(str(self.base)),
            runner=self.runner,
            volumes=self.volumes,
            content=self.shelf,
            clock=SystemClock(),
            architecture="amd64",
        )

    def part(self, label: str) -> str:
        return os.path.realpath(self.labels / label)

    def say(self, path: str, text: str) -> None:
        place = self.base / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    def runs(self, slot: str, image: Image) -> None:
        """The machine was started from a slot."""
        shutil.rmtree(self.base / "sys", ignore_errors=True)
        for label in (f"skerry-{slot}", f"skerry-{slot}-verity"):
            name = os.path.basename(self.part(label))
            self.say(f"/sys/dev/block/253:0/slaves/{name}/dev", "")
            self.say(f"/sys/class/block/{name}/uevent", f"PARTNAME={label}\n")
        self.say("/proc/self/mountinfo", "20 1 253:0 / / ro - erofs /dev/mapper/root ro\n")
        self.say(
            "/proc/cmdline",
            f"roothash={image.info.root_hash}"
            f" systemd.verity_root_data=/dev/disk/by-uuid/{image.info.root_uuid}"
            f" systemd.verity_root_hash=/dev/disk/by-uuid/{image.info.verity_uuid}\n",
        )
        self.say("/proc/sys/kernel/random/boot_id", f"{slot}\n")
        self.remount("ro")

    def remount(self, how: str) -> None:
        run("mount", "-o", f"remount,{how}", str(self.base / "boot"))
        self.say("/proc/mounts", f"/dev/x /boot vfat {how},nodev 0 0\n")

    def _mount(self, argv: Sequence[str]) -> Result:
        assert argv[-1] == "/boot"
        self.remount(argv[2].removeprefix("remount,"))
        return Result(tuple(argv), 0, "", "")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Image, Image]:
    folder = tmp_path_factory.mktemp("images")
    return build(folder, "1.0.0"), build(folder, "1.1.0")


def show_partitions(device: str) -> None:
    """Others on this machine give loop devices back while this one is taken."""
    for _ in range(30):
        run("partx", "--update", device, check=False)
        if Path(f"{device}p{len(partitions(SIZES))}").exists():
            return
        time.sleep(0.2)
    raise AssertionError(f"{device} shows no partitions")


@pytest.fixture
def disk(tmp_path: Path, images: tuple[Image, Image]) -> Iterator[Disk]:
    file = tmp_path / "disk"
    with file.open("wb") as making:
        making.truncate(smallest_disk(SIZES, state_bytes=STATE_BYTES))
    run("sfdisk", "--quiet", str(file), stdin=sfdisk_script(SIZES))
    device = run("losetup", "--show", "--find", str(file)).strip()
    base, labels = tmp_path / "machine", tmp_path / "labels"
    (base / "boot").mkdir(parents=True)
    labels.mkdir()
    try:
        # The kernel's loop driver may be built without partitions of its own (max_part=0).
        show_partitions(device)
        for number, part in enumerate(partitions(SIZES), 1):
            (labels / part.label).symlink_to(f"{device}p{number}")
        made = Disk(base, device, labels, *images)
        kind, options = BOOT_KIND
        run(f"mkfs.{kind}", made.part("skerry-boot"))
        run("mount", "-t", kind, "-o", options, made.part("skerry-boot"), str(base / "boot"))
        install(made)
        yield made
    finally:
        run("umount", str(base / "boot"), check=False)
        run("partx", "--delete", device, check=False)
        run("losetup", "--detach", device, check=False)


def install(disk: Disk) -> None:
    info = disk.old.info
    Path(disk.part("skerry-a")).write_bytes(disk.old.root)
    Path(disk.part("skerry-a-verity")).write_bytes(disk.old.verity)
    entry = BootEntry(
        generation=1,
        slot="a",
        name="edge",
        version="1.0.0",
        root_hash=info.root_hash,
        root_uuid=info.root_uuid,
        verity_uuid=info.verity_uuid,
        uki=uki_name("a", info.root_hash),
        image=disk.old.ref.digest,
        uki_digest=info.uki.digest,
    )
    root = DiskRoot(str(disk.base))
    root.write(f"/boot/{entry.uki}", disk.old.uki)
    root.write(f"/boot/loader/entries/{EntryName(generation=1).file}", render(entry).encode())
    disk.runs("a", disk.old)


def states(seen: OsObserved) -> dict[str, SlotState]:
    return {slot.name: slot.state for slot in seen.slots}


async def test_an_update_on_a_real_disk(disk: Disk) -> None:
    seen = await disk.engine.describe()
    assert states(seen) == {"a": SlotState.GOOD, "b": SlotState.EMPTY}
    assert seen.problems == ()

    await disk.engine.stage(disk.new.ref)

    run(
        "veritysetup",
        "verify",
        disk.part("skerry-b"),
        disk.part("skerry-b-verity"),
        disk.new.info.root_hash,
    )
    run("fsck.erofs", disk.part("skerry-b"))
    assert states(await disk.engine.describe())["b"] is SlotState.STAGED

    await disk.engine.activate(disk.new.ref, trial_s=600)
    disk.runs("b", disk.new)
    await disk.engine.confirm()

    seen = await disk.engine.describe()
    assert (seen.running, seen.version, seen.image) == ("b", "1.1.0", disk.new.ref.digest)
    assert states(seen) == {"a": SlotState.GOOD, "b": SlotState.GOOD}
    assert seen.problems == ()
    run("umount", str(disk.base / "boot"))
    run(f"fsck.{BOOT_KIND[0]}", "-n", disk.part("skerry-boot"))
    table = run("sfdisk", "--verify", disk.device)
    assert "No errors detected" in table, table


async def test_the_running_slot_cannot_be_written_even_by_mistake(disk: Disk) -> None:
    place = disk.base / "sysroot"
    place.mkdir()
    run("mount", "-t", "erofs", "-o", "ro", disk.part("skerry-a"), str(place))
    try:
        with pytest.raises(VolumeFailed, match="skerry-a"):
            disk.volumes.write("skerry-a", 0, b"x")
    finally:
        run("umount", str(place))


async def test_what_is_read_back_comes_from_the_disk(disk: Disk) -> None:
    await disk.engine.stage(disk.new.ref)
    fd = os.open(disk.part("skerry-b"), os.O_WRONLY)
    os.pwrite(fd, b"rotten", 2 * MIB)
    os.close(fd)

    assert b"".join(disk.volumes.read_back("skerry-b", 3 * MIB))[2 * MIB :][:6] == b"rotten"
    await disk.engine.stage(disk.new.ref)

    run(
        "veritysetup",
        "verify",
        disk.part("skerry-b"),
        disk.part("skerry-b-verity"),
        disk.new.info.root_hash,
    )


async def test_a_partition_has_its_bounds(disk: Disk) -> None:
    size = disk.volumes.size("skerry-b-verity")
    assert size == 2 * MIB
    with pytest.raises(VolumeFailed, match="does not reach"):
        disk.volumes.write("skerry-b-verity", size - 10, bytes(11))
    with pytest.raises(VolumeFailed, match="ends before"):
        disk.volumes.read("skerry-b-verity", size - 10, 11)
    with pytest.raises(VolumeFailed, match="not on this machine"):
        disk.volumes.read("skerry-c", 0, 1)


async def test_describing_a_real_disk_costs_little(disk: Disk) -> None:
    engine = disk.engine
    await engine.describe()
    taken = []
    for _ in range(20):
        start = time.perf_counter()
        await engine.describe()
        taken.append(time.perf_counter() - start)

    print(f"\ndescribe: {sorted(taken)[10] * 1000:.1f} ms")
    assert sorted(taken)[10] < 0.02, taken
