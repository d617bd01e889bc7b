"""The appliance's engine on a real vfat under power cuts: recorded once, cut everywhere.

The engine runs in the lab's guest (this computer's kernel may have no vfat) through two updates:
one confirmed, one rolled back. Every write and flush of its disk is recorded; the recording is cut
at some hundred places, each leaving a random part of what no flush followed. What the disk would
do then is found without a start, and the engine must say the truth about it and get there.
`SKERRY_CUTS` and `SKERRY_CUT_SEED` change how many, and which.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.contract.osengine.made import Image
from tests.vm.conftest import Bench
from tests.vm.inside import MARK_AT
from tests.vm.world import CHECKOUT, Phase, build_image, make_disk, mark_at, write_job

from skerry.lab.blocklog import Cut, Entry, choose_cut, points, read_log, replay
from skerry.lab.diskcheck import DiskLook, look, remove_scratch
from skerry.lab.qemu import Disk
from skerry.lib.proc import SystemRunner

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
    assert {item.file for item in seen.entries} == {"skerry-000002.conf", "skerry-000003+0-5.conf"}
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


def _wrong(seen: DiskLook, allowed: set[str]) -> list[str]:
    found = list(seen.problems)
    if seen.boots not in allowed:
        found.append(f"{seen.boots or 'nothing'} starts, not {allowed}; {_said(seen)}")
    if not any(item.starts and item.name.confirmed for item in seen.entries):
        found.append(f"nothing confirmed starts: {_said(seen)}")
    return found


def _said(seen: DiskLook) -> str:
    return "; ".join(f"{item.file}: {item.why_not or 'starts'}" for item in seen.entries)
