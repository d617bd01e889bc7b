"""The appliance's engine on a real vfat under power cuts: recorded once, cut everywhere.

The engine runs in the lab's guest (this computer's kernel may have no vfat) through two updates:
one confirmed, one rolled back. Every write and flush of its disk is recorded; the recording is cut
at some hundred places, each leaving a random part of what no flush followed. What the disk would
do then is found without a start, and the engine must say the truth about it and get there.
`SKERRY_CUTS` and `SKERRY_CUT_SEED` change how many, and which.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.contract.osengine.made import Image, Shelf
from tests.vm.conftest import Bench
from tests.vm.inside import MARK_AT
from tests.vm.told import Told
from tests.vm.world import CHECKOUT, Phase, build_image, make_disk, mark_at, write_job

from skerry.agent.osengine.ab import AbEngine
from skerry.lab.blocklog import Cut, Entry, choose_cut, points, read_log, replay
from skerry.lab.diskcheck import DiskLook, look, remove_scratch
from skerry.lab.gpt import Table
from skerry.lab.qemu import Disk
from skerry.lib.clock import SystemClock
from skerry.lib.files import DiskRoot
from skerry.lib.proc import SystemRunner
from skerry.plan.bootentries import FOLDER, counted, first_to_start, parse, parse_name
from skerry.plan.osupdate import SlotState

pytestmark = pytest.mark.anyio

CUTS = int(os.environ.get("SKERRY_CUTS", "220"))
SEED = int(os.environ.get("SKERRY_CUT_SEED", "1"))

# What may run after a cut in a phase: `SLOT VERSION`; the first where nothing else is said.
OLD, NEW, LATER = "a 1.0.0", "b 1.1.0", "a 1.2.0"
ALLOWED = {
    Phase("stage", 0): {OLD},
    Phase("staged", 0): {OLD, NEW},
    Phase("confirm", 0): {NEW},
    Phase("confirm-done", 0): {NEW},
    Phase("stage", 1): {NEW},
    Phase("staged", 1): {NEW, LATER},
    Phase("roll_back", 1): {NEW, LATER},
    Phase("roll_back-done", 1): {NEW},
    Phase("end", 0): {NEW},
}


@dataclass(frozen=True)
class Recording:
    """The base disk, and what was done to it. `phases[i]` is where the first i requests lead."""

    base: Path
    log: Path
    entries: tuple[Entry, ...]
    phases: tuple[Phase | None, ...]
    images: tuple[Image, ...]
    said: str

    def cuts(self, count: int, seed: int) -> list[Cut]:
        """Cuts in each phase as often as in any other, but for those where the loader writes:
        firmware is not under test. A place that had its turn comes again with another loss."""
        places: dict[Phase, list[int]] = {phase: [] for phase in ALLOWED}
        for at in points(self.entries, len(self.entries), seed):
            phase = self.phases[at]
            if phase in places:
                places[phase].append(at)
        turns = [
            found[turn % len(found)] for turn in range(count) for found in places.values() if found
        ]
        return [choose_cut(self.entries, at, seed + n) for n, at in enumerate(turns[:count])]


@pytest.fixture(scope="module")
async def recording(bench: Bench) -> Recording:
    folder = bench.folder / "engine"
    folder.mkdir()
    images = tuple(build_image(folder, version) for version in ("1.0.0", "1.1.0", "1.2.0"))
    base, disk, log = folder / "base", folder / "disk", folder / "log"
    make_disk(base, images[0], folder / "scratch")
    disk.write_bytes(base.read_bytes())
    log.touch()
    write_job(folder / "job", list(images))
    async with bench.guest("machine", Disk(disk, log=log), share=True) as machine:
        await machine.start()
        await machine.wait_for_shell(60)
        program = CHECKOUT / "tests/vm/inside.py"
        done = await machine.sh(
            "chroot /host /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/run"
            f" PYTHONDONTWRITEBYTECODE=1 PYTHONPATH={CHECKOUT} TMPDIR=/run"
            f" {sys.executable} {program} {folder / 'job'}",
            timeout_s=240,
        )
        await machine.quit()
    entries = read_log(log)
    return Recording(base, log, entries, _phases(log, entries), images, done.stdout)


def _phases(log: Path, entries: tuple[Entry, ...]) -> tuple[Phase | None, ...]:
    found: list[Phase | None] = [None]
    for entry in entries:
        found.append(mark_at(log, entry, MARK_AT) or found[-1])
    return tuple(found)


async def test_the_story_itself_ends_as_it_should(recording: Recording, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    cut = Cut(len(recording.entries), 1)
    replay(recording.log, recording.entries, recording.base, cut, whole)

    seen = await look(whole, runner=SystemRunner(), scratch=tmp_path / "scratch")

    assert seen.problems == ()
    assert seen.boots == NEW
    good, given_up = seen.entries
    assert good.file == "skerry-000002.conf"
    assert (given_up.name.generation, given_up.name.rolled_back) == (3, True)
    assert '"running":"b"' in recording.said


async def test_a_cut_anywhere_leaves_a_disk_that_starts_the_right_system(
    recording: Recording, tmp_path: Path
) -> None:
    runner, disk = SystemRunner(), tmp_path / "disk"
    counts: Counter[str] = Counter()
    wrong = []
    for cut in recording.cuts(CUTS, SEED):
        phase = recording.phases[cut.upto]
        assert phase is not None
        replay(recording.log, recording.entries, recording.base, cut, disk)
        seen = await look(disk, runner=runner, scratch=tmp_path / "scratch")
        counts[f"{phase.name} {phase.number}"] += 1
        wrong += [f"{phase} {cut}: {text}" for text in _wrong(seen, ALLOWED[phase])]
        remove_scratch(tmp_path / "scratch")

    print(f"\n{len(recording.entries)} requests, {sum(counts.values())} cuts, seed {SEED}")
    print(", ".join(f"{name}: {count}" for name, count in counts.items()))
    assert not wrong, "\n".join([f"{len(wrong)} of {CUTS}:", *wrong[:10]])
    assert len(counts) == len(ALLOWED), counts


async def test_after_a_cut_the_engine_says_the_truth_and_gets_there(
    recording: Recording, tmp_path: Path
) -> None:
    images = {image.info.version: image for image in recording.images}
    runner, tried = SystemRunner(), 0
    for number, cut in enumerate(recording.cuts(CUTS // 4, SEED + 1)):
        folder = tmp_path / str(number)
        folder.mkdir()
        replay(recording.log, recording.entries, recording.base, cut, folder / "disk")
        seen = await look(folder / "disk", runner=runner, scratch=folder / "look")
        host = CutHost(folder, seen, recording.images)
        await host.keep_state(runner)
        slot, version = seen.boots.split()
        host.told.runs(slot, images[version].info)

        found = await host.engine().describe()
        where = f"{recording.phases[cut.upto]} {cut}: {found}"
        assert (found.running, found.version) == (slot, version), where
        for item in found.slots:
            starts = [one for one in seen.entries if one.slot == item.name and one.starts]
            about = [text for text in found.problems if f"slot {item.name}" in text]
            if item.state in (SlotState.GOOD, SlotState.TRIAL):
                assert starts or about, where
            if item.state is SlotState.EMPTY:
                assert not starts, where

        await host.finish(images["1.1.0"])
        found = await host.engine().describe()
        here = found.slot(found.running)
        assert here is not None
        assert (here.state, here.version, found.problems) == (SlotState.GOOD, "1.1.0", ()), where
        tried += 1
        shutil.rmtree(folder)
    print(f"\n{tried} cuts said the truth and got there, seed {SEED + 1}")


@dataclass
class CutHost:
    """A machine that was cut and starts again: boot files in a folder, slots in the disk's file."""

    folder: Path
    seen: DiskLook
    images: tuple[Image, ...]

    def __post_init__(self) -> None:
        base = self.folder / "machine"
        base.mkdir()
        self.seen.boot.rename(base / "boot")
        slots = [f"skerry-{slot}{part}" for slot in "ab" for part in ("", "-verity")]
        self.told = Told(base, {label: f"vda{n}" for n, label in enumerate(slots, 3)})
        self.volumes = FileVolumes(self.folder / "disk", self.seen.table)
        self.shelf = Shelf(DiskRoot(str(base)), *self.images)

    async def keep_state(self, runner: SystemRunner) -> None:
        """What the state partition holds, from its repaired copy (debugfs(8), rdump)."""
        place = self.told.base / "var/lib/skerry"
        place.mkdir(parents=True)
        copy = self.seen.boot.parent / "skerry-state"
        await runner.run(["debugfs", "-R", f"rdump / {place}", str(copy)], timeout_s=30)

    def engine(self) -> AbEngine:
        return AbEngine(
            root=DiskRoot(str(self.told.base)),
            runner=self.told.runner(),
            volumes=self.volumes,
            content=self.shelf,
            clock=SystemClock(),
            architecture="amd64",
        )

    async def finish(self, image: Image) -> None:
        """What the operation does after a cut: from the start, each act again."""
        for _ in range(2):
            found = await self.engine().describe()
            slot = found.slot(found.running)
            if slot is not None and slot.state in (SlotState.TRIAL, SlotState.STAGED):
                await self.engine().confirm()
            await self.engine().stage(image.ref)
            await self.engine().activate(image.ref, trial_s=600)
            self.start()
        await self.engine().confirm()

    def start(self) -> None:
        """What the loader does, and what it starts."""
        entries = self.told.base / "boot" / FOLDER
        names = [name for name in map(parse_name, os.listdir(entries)) if name is not None]
        first = first_to_start(tuple(names))
        assert first is not None
        (entries / first.file).rename(entries / counted(first).file)
        entry = parse((entries / counted(first).file).read_text())
        assert entry is not None
        info = next(x.info for x in self.images if x.info.root_hash == entry.root_hash)
        self.told.runs(entry.slot, info)


@dataclass
class FileVolumes:
    """The slots in the file of a disk."""

    path: Path
    table: Table

    def exists(self, label: str) -> bool:
        return label in self.table.parts

    def size(self, label: str) -> int:
        return self.table.parts[label].size

    def disk(self, label: str) -> str:
        return "vda"

    def read(self, label: str, offset: int, size: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.table.parts[label].start + offset)
            return file.read(size)

    def read_back(self, label: str, size: int, *, chunk: int = 1 << 20) -> Iterator[bytes]:
        yield self.read(label, 0, size)

    def write(self, label: str, offset: int, data: bytes) -> None:
        assert offset + len(data) <= self.size(label)
        with self.path.open("r+b") as file:
            file.seek(self.table.parts[label].start + offset)
            file.write(data)

    def flush(self, label: str) -> None:
        pass


def _wrong(seen: DiskLook, allowed: set[str]) -> list[str]:
    found = list(seen.problems)
    if seen.boots not in allowed:
        found.append(f"{seen.boots or 'nothing'} starts, not {allowed}; {_said(seen)}")
    if not any(item.starts and item.name.confirmed for item in seen.entries):
        found.append(f"nothing confirmed starts: {_said(seen)}")
    return found


def _said(seen: DiskLook) -> str:
    return "; ".join(f"{item.file}: {item.why_not or 'starts'}" for item in seen.entries)
