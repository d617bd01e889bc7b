"""One flipped bit in what a confirmed slot starts from: the machine starts from the other slot."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.vm.appliance import Works
from tests.vm.conftest import Bench

from skerry.lab.gpt import read_table
from skerry.lab.machine import Machine
from skerry.lab.qemu import Disk, MachineSpec, shell_credentials
from skerry.lab.tamper import Spot, flip
from skerry.lib.proc import SystemRunner
from skerry.model.osimage import parse_os_image
from skerry.plan.bootentries import FOLDER, BootEntry, EntryName, render, uki_name
from skerry.plan.disklayout import BOOT, data_label, verity_label

pytestmark = [pytest.mark.anyio, pytest.mark.long, pytest.mark.timeout(1800)]

_START_S = 600.0
# In the first block of the root: nothing can be mounted without it.
_FIRST_BLOCK = 1100


@dataclass(frozen=True)
class Pair:
    """A disk with 1.0.0 in slot a and 1.1.0 in slot b, both confirmed, and the variables of a
    firmware that has started it once."""

    disk: Path
    variables: Path
    folder: Path
    accel: tuple[str, ...]

    def machine(self, name: str) -> Machine:
        """A machine with a copy of both, off."""
        folder = self.folder / name
        folder.mkdir()
        copy_sparse(self.disk, folder / "disk")
        if self.variables.exists():
            shutil.copyfile(self.variables, folder / "vars.fd")
        spec = MachineSpec(
            run=f"vm{os.getpid()}",
            name=name,
            folder=folder,
            firmware="secure",
            memory_mib=1536,
            disks=(Disk(folder / "disk"),),
            credentials=shell_credentials(),
        )
        return Machine(spec, accel=self.accel)


def copy_sparse(source: Path, target: Path) -> None:
    with source.open("rb") as old, target.open("wb") as new:
        new.truncate(source.stat().st_size)
        at = 0
        while True:
            try:
                at = os.lseek(old.fileno(), at, os.SEEK_DATA)
            except OSError:
                return
            end = os.lseek(old.fileno(), at, os.SEEK_HOLE)
            while at < end:
                piece = os.pread(old.fileno(), min(1 << 20, end - at), at)
                at += os.pwrite(new.fileno(), piece, at)


async def fill_slot_b(disk: Path, made: Path, scratch: Path) -> None:
    """What stage, activate and confirm leave behind."""
    runner = SystemRunner()
    info = parse_os_image((made / "image.json").read_bytes())
    parts = read_table(disk).parts
    with disk.open("r+b") as target:
        for label, name in ((data_label("b"), "root.erofs"), (verity_label("b"), "root.verity")):
            target.seek(parts[label].start)
            target.write((made / name).read_bytes())
    entry = BootEntry(
        generation=2,
        slot="b",
        name=info.name,
        version=info.version,
        root_hash=info.root_hash,
        root_uuid=info.root_uuid,
        verity_uuid=info.verity_uuid,
        uki=uki_name("b", info.root_hash),
        uki_digest=info.uki.digest,
    )
    text = scratch / "entry"
    text.write_text(render(entry))
    boot = f"{disk}@@{parts[BOOT].start}"
    for source, place in (
        (made / "uki.efi", entry.uki),
        (text, f"{FOLDER}/{EntryName(generation=2).file}"),
    ):
        await runner.run(["mcopy", "-o", "-i", boot, str(source), f"::/{place}"], timeout_s=60)


@pytest.fixture(scope="module")
async def pair(bench: Bench, place: Path) -> Pair:
    works = Works(place / "fault-works")
    works.folder.mkdir()
    first, second = await works.image("1.0.0"), await works.image("1.1.0")
    folder = place / "faults"
    folder.mkdir()
    disk = folder / "disk"
    copy_sparse(first.disk, disk)
    await fill_slot_b(disk, second.folder, folder)
    made = Pair(disk, folder / "vars.fd", folder, bench.accel)
    async with made.machine("whole") as machine:
        await machine.start()
        await machine.wait_for_shell(_START_S)
        assert await runs(machine) == "1.1.0"
        # The firmware learns of the recovery system in the first start.
        await machine.sh(
            "for i in $(seq 120); do systemctl is-active -q skerry-firmware && exit; sleep 2; done;"
            " exit 1",
            timeout_s=300,
        )
        await machine.quit()
        shutil.copyfile(machine.spec.at("vars.fd"), made.variables)
    return made


async def runs(machine: Machine) -> str:
    """The version of the image that runs."""
    said = await machine.sh(". /usr/lib/os-release; echo $IMAGE_VERSION")
    return said.stdout.strip()


@pytest.mark.parametrize(
    ("spot", "at"),
    [(Spot.ROOT, _FIRST_BLOCK), (Spot.VERITY, 0), (Spot.UKI, 0)],
    ids=["root", "verity", "uki"],
)
async def test_a_confirmed_slot_with_a_flipped_bit_gives_way(
    pair: Pair, spot: Spot, at: int
) -> None:
    async with pair.machine(spot.value.replace(" ", "-")) as machine:
        disk = machine.spec.disks[0].path
        hit = await flip(disk, spot, runner=SystemRunner(), slot="b", at=at)

        await machine.start()
        took = await machine.wait_for_shell(_START_S)

        print(f"\n{hit}: the other slot after {took:.0f} s")
        assert await runs(machine) == "1.0.0"
