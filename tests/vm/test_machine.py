"""A machine starts, answers, is looked at, and loses its power; a missing flush is caught."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from tests.vm.conftest import Bench
from tests.vm.world import mark_at

from skerry.lab import Lab, list_leftovers, remove_everything
from skerry.lab.blocklog import choose_cut, points, read_log, replay
from skerry.lab.errors import HostFailed
from skerry.lab.qemu import Disk, MachineSpec
from skerry.lib.proc import CommandFailed, SystemRunner

pytestmark = pytest.mark.anyio

_PROMISE_AT = 40 << 20  # past the file system
_WRITE = """\
set -e
mkdir -p /mnt
mount -t vfat /dev/vda /mnt
for number in 1 2 3 4 5 6 7 8; do
  yes $number | head -c 20000 >/mnt/.new
  {sync} /mnt/.new
  mv /mnt/.new /mnt/file$number
  {sync} /mnt/file$number
  {sync} /mnt
  echo "MARK file$number" | dd bs=512 conv=sync of=/tmp/mark 2>/dev/null
  dd if=/tmp/mark of=/dev/vda bs=512 seek=81920 oflag=direct conv=notrunc 2>/dev/null
done
umount /mnt
sync
"""


def empty_disk(folder: Path, name: str, mib: int) -> Path:
    disk = folder / name
    with disk.open("wb") as file:
        file.truncate(mib << 20)
    return disk


async def test_a_machine_starts_answers_and_loses_its_power(bench: Bench) -> None:
    async with bench.guest("first") as machine:
        await machine.start()
        await machine.wait_for("lab guest is up", 60)

        await machine.wait_for_shell(30)
        said = await machine.sh("uname -s; echo wrong >&2; printf 'no newline'")
        assert said.stdout == "Linux\nwrong\nno newline"
        with pytest.raises(CommandFailed) as failed:
            await machine.sh("exit 7")
        assert failed.value.result.code == 7
        long = await machine.sh("seq 1 20000")
        assert long.stdout.splitlines()[-1] == "20000"
        assert await machine.status() == "running"
        await machine.picture(machine.spec.at("screen.png"))
        assert machine.spec.at("screen.png").read_bytes().startswith(b"\x89PNG")

        await machine.reset()
        await machine.wait_for("lab guest is up", 60, times=2)
        await machine.power_cut()
        assert not machine.running
        with pytest.raises(HostFailed, match="does not answer"):
            await machine.sh("true", timeout_s=5)


async def test_a_machine_that_hangs_is_restarted_by_its_watchdog(bench: Bench) -> None:
    async with bench.guest("hangs") as machine:
        await machine.start()
        await machine.wait_for_shell(60)

        # Opened, never fed again, and nobody at home to close it.
        await machine.sh(
            "watchdog -T 2 -t 1 /dev/watchdog && sleep 1 && kill -STOP $(pidof watchdog)"
        )

        await machine.wait_for("lab guest is up", 90, times=2)


async def test_what_a_crash_left_is_removed_by_name_alone(bench: Bench) -> None:
    run = f"gone{os.getpid() % 10000}"

    def equip(spec: MachineSpec) -> MachineSpec:
        kit = bench.kit
        return replace(
            spec, firmware="direct", kernel=kit.kernel, initrd=kit.initrd, cmdline=kit.cmdline
        )

    async with Lab(run, bench.folder / "crash") as lab:
        machine = await lab.add_machine("left", equip, accel=bench.accel)
        await machine.start()
        await machine.wait_for("lab guest is up", 60)
        left = await list_leftovers(run, bench.folder / "crash")
        assert len([line for line in left if line.startswith("process")]) == 2, left

        await remove_everything(run, bench.folder / "crash")

        await machine.wait_off(10)
        assert await list_leftovers(run, bench.folder / "crash") == []


@pytest.mark.parametrize("flushed", [False, True], ids=["careless", "careful"])
async def test_a_missing_flush_is_caught_and_a_made_one_is_not(
    bench: Bench, *, flushed: bool
) -> None:
    """Each file is promised by a mark that is written, but not flushed, after it."""
    folder = bench.folder / f"flush-{flushed}"
    folder.mkdir()
    runner = SystemRunner()
    base, disk, log = empty_disk(folder, "base", 41), folder / "disk", folder / "log"
    kib = str(_PROMISE_AT >> 10)
    await runner.run(["mkfs.vfat", "-F", "32", "-s", "1", str(base), kib], timeout_s=30)
    disk.write_bytes(base.read_bytes())
    log.touch()
    async with bench.guest(f"machine-{flushed}", Disk(disk, log=log)) as machine:
        await machine.start()
        await machine.wait_for_shell(60)
        # Not `sync -f`: on vfat neither that nor an unmount makes the disk flush.
        script = _WRITE.replace("{sync}", "sync" if flushed else ":")
        await machine.sh(script, timeout_s=120)
        await machine.quit()

    entries, lost, cuts = read_log(log), 0, 0
    promised = {
        index: int(mark.name.removeprefix("file"))
        for index, entry in enumerate(entries)
        if (mark := mark_at(log, entry, _PROMISE_AT)) is not None
    }
    # A mark that the kernel wrote late, or once for two, promises less but nothing wrong.
    assert list(promised.values())[-1] == 8
    for upto in points(entries, 40, seed=1):
        for seed in range(3):
            replay(log, entries, base, choose_cut(entries, upto, seed), folder / "cut")
            cuts += 1
            await runner.run(["fsck.vfat", "-a", str(folder / "cut")], timeout_s=30, check=False)
            for number in [one for index, one in promised.items() if index < upto]:
                got = await runner.run(
                    ["mtype", "-i", str(folder / "cut"), f"::/file{number}"],
                    timeout_s=30,
                    check=False,
                )
                lost += got.stdout != f"{number}\n" * 10_000
    print(f"\n{len(entries)} requests, {cuts} cuts, {lost} promises broken, flushed: {flushed}")

    assert (lost == 0) == flushed
