"""What a disk can lose without losing the machine: one bit of a slot, or the whole state."""

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
from skerry.plan.disklayout import BOOT, STATE, data_label, verity_label

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


def wreck_state(disk: Path) -> None:
    """Nothing that a repair could find: every superblock of the state's file system is gone."""
    state = read_table(disk).parts[STATE]
    with disk.open("r+b") as target:
        for at in range(0, state.size, 32 << 20):
            target.seek(state.start + at)
            target.write(b"\xa5" * min(64 << 10, state.size - at))


async def ask_for_reset(machine: Machine, *, keep: bool) -> None:
    """As the engine's `reset` does."""
    text = "true" if keep else "false"
    await machine.sh(
        "systemctl start boot.mount && mount -o remount,rw /boot && mkdir -p /boot/skerry"
        f" && echo '{{\"keepIdentity\":{text}}}' > /boot/skerry/reset"
        " && sync /boot/skerry/reset /boot/skerry && mount -o remount,ro /boot"
    )


async def test_a_state_that_is_lost_is_told_and_not_formatted(pair: Pair) -> None:
    async with pair.machine("lost-state") as machine:
        wreck_state(machine.spec.disks[0].path)

        await machine.start()
        await machine.wait_for_shell(_START_S)

        # The newest slot: another one would have the same state.
        assert await runs(machine) == "1.1.0"
        assert "tmpfs" in (await machine.sh("findmnt -n -o FSTYPE /var")).stdout
        assert "cannot be mounted" in (await machine.sh("cat /run/skerry/site.json")).stdout
        begun = await machine.sh("systemctl is-active skerry-first-boot", check=False)
        assert begun.stdout.strip() == "inactive"
        await machine.quit()
        disk = machine.spec.disks[0].path
        with disk.open("rb") as left:
            left.seek(read_table(disk).parts[STATE].start)
            assert left.read(16) == b"\xa5" * 16


@pytest.mark.parametrize("keep", [True, False], ids=["keeping", "wholly"])
async def test_a_reset_wipes_what_it_should(pair: Pair, *, keep: bool) -> None:
    async with pair.machine(f"reset-{keep}") as machine:
        await machine.start()
        await machine.wait_for_shell(_START_S)
        identity = "/var/lib/skerry/identity/identity.json"
        await machine.sh(
            f"mkdir -p $(dirname {identity}) && echo mine > {identity}"
            " && echo data > /var/lib/workload && sync /var/lib/workload"
        )
        before = (await machine.sh("cat /etc/machine-id")).stdout
        await ask_for_reset(machine, keep=keep)
        await machine.quit()

        await machine.start()
        await machine.wait_for_shell(_START_S)

        assert not (await machine.sh("test -e /var/lib/workload", check=False)).ok
        assert (await machine.sh(f"test -e {identity}", check=False)).ok == keep
        assert ((await machine.sh("cat /etc/machine-id")).stdout == before) == keep
        assert not (await machine.sh("test -e /boot/skerry/reset", check=False)).ok


async def test_a_reset_that_was_cut_while_formatting_goes_on(pair: Pair) -> None:
    async with pair.machine("cut-reset") as machine:
        await machine.start()
        await machine.wait_for_shell(_START_S)
        await ask_for_reset(machine, keep=False)
        await machine.quit()
        wreck_state(machine.spec.disks[0].path)

        await machine.start()
        await machine.wait_for_shell(_START_S)

        assert "ext4" in (await machine.sh("findmnt -n -o FSTYPE /var")).stdout
        assert not (await machine.sh("test -e /boot/skerry/reset", check=False)).ok
