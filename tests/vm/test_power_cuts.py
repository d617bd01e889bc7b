"""Power cuts on the real appliance: one life recorded, cut everywhere, checked and started.

The life: first start, joining, an update that is confirmed, one that dies and is returned.
`SKERRY_CUTS`, `SKERRY_CUT_STARTS` and `SKERRY_CUT_SEED` change how many disks are checked, how many
of them are started, and which.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import anyio
import pytest
from tests.vm.appliance import PANICS, Works, site_data
from tests.vm.conftest import Bench
from tests.vm.test_appliance import Shop, runs

from skerry.lab import Lab, onboarding
from skerry.lab.blocklog import Cut, Entry, choose_cut, points, read_log, replay
from skerry.lab.diskcheck import DiskLook, look, remove_scratch
from skerry.lab.errors import HostFailed
from skerry.lab.inprocess import running_manager
from skerry.lab.machine import Machine
from skerry.lab.qemu import Disk, MachineSpec, shell_credentials
from skerry.lib.proc import CommandFailed, SystemRunner
from skerry.manager.settings import Settings

pytestmark = [pytest.mark.anyio, pytest.mark.long, pytest.mark.timeout(6 * 3600)]

CUTS = int(os.environ.get("SKERRY_CUTS", "240"))
STARTS = int(os.environ.get("SKERRY_CUT_STARTS", "20"))
SEED = int(os.environ.get("SKERRY_CUT_SEED", "1"))
FIRST, SECOND, BAD = "1.0.0", "1.1.0", "1.2.0"
A, B = f"a {FIRST}", f"b {SECOND}"
LIMIT_S = 900.0


@dataclass(frozen=True)
class Life:
    """What was recorded over `base`. `reached` are stages of the life, with the number of requests
    that were made when the manager heard of it."""

    base: Path
    log: Path
    entries: tuple[Entry, ...]
    reached: dict[str, int]

    def stage(self, cut: Cut) -> str:
        """The last stage that a cut did not take."""
        return [name for name, at in self.reached.items() if at <= cut.upto][-1]

    def wrong(self, cut: Cut, seen: DiskLook) -> str:
        """Why a cut disk is not as it must be; empty when it is. Once the manager heard that a
        slot is confirmed, nothing before it may start."""
        allowed = {"new": {A}, "joined": {A, B}}.get(self.stage(cut), {B})
        trial = seen.chosen is not None and not seen.chosen.name.confirmed
        # The image that dies is whole, and has its tries.
        if self.stage(cut) == "updated" and trial:
            allowed = {*allowed, f"a {BAD}"}
        if seen.problems or seen.boots not in allowed:
            return f"{self.stage(cut)} {cut}: {seen.boots or 'nothing'} {seen.problems}"
        return ""

    def cuts(self, count: int) -> list[Cut]:
        """Cuts in each stage as often as in any other."""
        places: dict[str, list[Cut]] = {name: [] for name in self.reached}
        for number, at in enumerate(points(self.entries, len(self.entries), SEED)):
            cut = choose_cut(self.entries, at, SEED + number)
            places[self.stage(cut)].append(cut)
        turns = (
            found[turn] for turn in range(count) for found in places.values() if turn < len(found)
        )
        return [cut for _, cut in zip(range(count), turns, strict=False)]


@pytest.fixture
async def shop(bench: Bench, tmp_path: Path, place: Path) -> AsyncIterator[Shop]:
    """As the shop of `test_appliance`, with a disk that is recorded."""
    works = Works(place / "works-of-cuts")
    works.folder.mkdir()
    base = (await works.image(FIRST)).disk
    async with Lab(f"cut{os.getpid() % 10000}", place / "cut-lab") as lab:
        disk, log = lab.folder / "shop.qcow2", lab.folder / "shop.log"
        overlay = ["-f", "qcow2", "-F", "raw", "-b", str(base), str(disk)]
        await SystemRunner().run(["qemu-img", "create", "-q", *overlay], timeout_s=60)
        log.touch()
        settings = Settings(
            data=str(lab.folder / "data"),
            host=str(lab.gateway),
            port=9443,
            names=(str(lab.gateway),),
            sync_interval_s=5,
            os_trial_s=300,
        )
        async with running_manager(settings, lab.folder / "key") as running:
            token = await onboarding.new_token(running.api, "shops", {"autoApprove": True})
            told = site_data(
                manager=running.info.url,
                trust=Path(running.info.ca_file).read_text(),
                token=str(token["secret"]),
                name="shop-1",
            )

            def equip(spec: MachineSpec) -> MachineSpec:
                return replace(
                    spec,
                    disks=(Disk(disk, form="qcow2", log=log),),
                    firmware="secure",
                    memory_mib=2048,
                    credentials={**shell_credentials(), "skerry.site": told},
                )

            machine = await lab.add_machine("shop", equip, accel=bench.accel)
            yield Shop(lab, running, works, machine)


async def live(shop: Shop) -> Life:
    """One life of the machine, and its recording."""
    log = shop.machine.spec.disks[0].log
    assert log is not None
    reached = {"new": 0}
    await shop.machine.start()
    await shop.until("registered", runs(FIRST), limit_s=LIMIT_S)
    reached["joined"] = len(read_log(log))
    await shop.want(SECOND)
    await shop.until("updated", runs(SECOND), limit_s=LIMIT_S)
    reached["updated"] = len(read_log(log))
    await shop.works.image(BAD, PANICS)
    await shop.want(BAD)
    await shop.until(
        "returned",
        lambda status: any(
            item["reason"] in ("OsInterrupted", "OsReturned") for item in status["conditions"]
        ),
        limit_s=LIMIT_S,
    )
    await shop.want(SECOND)
    await shop.until("in sync again", runs(SECOND), limit_s=LIMIT_S)
    reached["returned"] = len(read_log(log))
    await shop.machine.quit()
    return Life(shop.works.made[FIRST].disk, log, read_log(log), reached)


async def test_every_cut_of_a_life_leaves_a_machine_that_starts_and_gets_there(
    bench: Bench, shop: Shop, tmp_path: Path
) -> None:
    life = await live(shop)
    cuts = life.cuts(CUTS)
    counts, wrong, disk = Counter[str](), [], shop.lab.folder / "cut.raw"
    for cut in cuts:
        replay(life.log, life.entries, life.base, cut, disk)
        seen = await look(disk, runner=SystemRunner(), scratch=tmp_path / "look")
        counts[f"{life.stage(cut)}: {seen.boots or 'nothing'}"] += 1
        wrong += [text for text in [life.wrong(cut, seen)] if text]
        remove_scratch(tmp_path / "look")
    print(f"\n{len(life.entries)} requests, {len(cuts)} cuts, seed {SEED}: {dict(counts)}")
    assert not wrong, "\n".join([f"{len(wrong)} of {len(cuts)}", *wrong[:10]])

    spec = replace(shop.machine.spec, disks=(Disk(disk),))
    for number, cut in enumerate(cuts[:: max(1, len(cuts) // STARTS)][:STARTS]):
        replay(life.log, life.entries, life.base, cut, disk)
        async with Machine(spec, accel=bench.accel) as machine:
            await machine.start()
            goal = FIRST if life.stage(cut) == "new" else SECOND
            seconds = await gets_to(machine, goal)
        print(f"\nstart {number}, {life.stage(cut)}: {goal} after {seconds:.0f} s", end="")


async def gets_to(machine: Machine, goal: str) -> float:
    """Seconds until the machine itself runs an image, confirmed. A disk from before it joined is
    nobody at this manager any more, and stays with its first image."""
    seen = ""
    begun = anyio.current_time()
    while anyio.current_time() - begun < LIMIT_S:
        try:
            said = await machine.sh(
                ". /etc/os-release; echo $IMAGE_VERSION; ls /boot/loader/entries", timeout_s=30
            )
            seen = said.stdout
            version, *entries = seen.split()
            if version == goal and not any("+3" in one or "+2" in one for one in entries):
                return anyio.current_time() - begun
        except (HostFailed, CommandFailed, ValueError) as exc:
            seen = str(exc)[:200]
        await anyio.sleep(2)
    raise AssertionError(f"{goal} did not run within {LIMIT_S:g} s: {seen}")
