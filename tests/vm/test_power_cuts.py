"""Power cuts on the real appliance: one life recorded, cut everywhere, checked and started.

The life: first start, joining, an update that is confirmed, one that does not start and is
returned. `SKERRY_CUTS`, `SKERRY_CUT_STARTS` and `SKERRY_CUT_SEED` change how many disks are
checked, how many of them are started, and which.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.vm.appliance import BAD, FIRST, SECOND, START_S, Story, build_images, telling, until
from tests.vm.conftest import Bench

from skerry.lab.blocklog import Cut, Entry, choose_cut, points, read_log, replay
from skerry.lab.diskcheck import look, remove_scratch
from skerry.lib.proc import SystemRunner

pytestmark = [pytest.mark.anyio, pytest.mark.long, pytest.mark.timeout(4 * 3600)]

CUTS = int(os.environ.get("SKERRY_CUTS", "240"))
STARTS = int(os.environ.get("SKERRY_CUT_STARTS", "20"))
SEED = int(os.environ.get("SKERRY_CUT_SEED", "1"))
A, B = f"a {FIRST}", f"b {SECOND}"


@dataclass
class Life:
    """What was recorded. `reached` are stages of the life, with the number of requests that were
    made when the manager heard of it."""

    log: Path
    entries: tuple[Entry, ...]
    reached: dict[str, int]

    def stage(self, cut: Cut) -> str:
        """The last stage that a cut did not take."""
        return [name for name, at in self.reached.items() if at <= cut.upto][-1]

    def allowed(self, cut: Cut) -> set[str]:
        """What may start: once a slot is confirmed at the manager, nothing before it."""
        return {"new": {A}, "joined": {A, B}}.get(self.stage(cut), {B})


async def live(story: Story) -> Life:
    """One life of the machine."""
    assert story.log is not None
    log, reached = story.log, {"new": 0}
    await story.machine.start()
    await until("the host", lambda: story.runs(FIRST, "a"), limit_s=2 * START_S)
    await story.push_images()
    reached["joined"] = len(read_log(log))
    await story.wants(SECOND)
    await until("the second image", lambda: story.runs(SECOND, "b"), limit_s=4 * START_S)
    reached["updated"] = len(read_log(log))
    await story.wants(BAD)
    await until("the verdict", lambda: story.refused(BAD), limit_s=6 * START_S)
    reached["returned"] = len(read_log(log))
    await story.machine.quit()
    return Life(log, read_log(log), reached)


def cuts_of(life: Life, count: int) -> list[Cut]:
    """Cuts in each stage as often as in any other."""
    places: dict[str, list[Cut]] = {name: [] for name in life.reached}
    for number, at in enumerate(points(life.entries, len(life.entries), SEED)):
        cut = choose_cut(life.entries, at, SEED + number)
        places[life.stage(cut)].append(cut)
    turns = (found[turn] for turn in range(count) for found in places.values() if turn < len(found))
    return [cut for _, cut in zip(range(count), turns, strict=False)]


async def test_every_cut_of_a_life_leaves_a_machine_that_starts_and_gets_there(
    bench: Bench, place: Path, tmp_path: Path
) -> None:
    images = build_images(place)
    async with telling(bench, place, images, record=True) as story:
        life = await live(story)
        await story.wants(SECOND)
        cuts = cuts_of(life, CUTS)
        wrong, counts, disk = [], Counter[str](), tmp_path / "cut"
        for cut in cuts:
            replay(life.log, life.entries, story.base, cut, disk)
            seen = await look(disk, runner=SystemRunner(), scratch=tmp_path / "look")
            counts[f"{life.stage(cut)}: {seen.boots or 'nothing'}"] += 1
            if seen.problems or seen.boots not in life.allowed(cut):
                wrong.append(f"{life.stage(cut)} {cut}: {seen.boots or 'nothing'} {seen.problems}")
            remove_scratch(tmp_path / "look")
        print(f"\n{len(life.entries)} requests, {len(cuts)} cuts, seed {SEED}: {dict(counts)}")
        assert not wrong, "\n".join(wrong[:10])
        every = max(1, len(cuts) // STARTS)
        for number, cut in enumerate(cuts[::every][:STARTS]):
            replay(life.log, life.entries, story.base, cut, story.machine.spec.disks[0].path)
            async with story.chapter(f"start {number} after a cut, {life.stage(cut)}"):
                await gets_there(story, life.stage(cut))
        print(f"\n{STARTS} of them were started and got to {SECOND}")


async def gets_there(story: Story, stage: str) -> None:
    """The disk starts, and whatever it was doing ends in the image that is wanted. A disk from
    before it joined has no name at this manager any more: it must start."""
    await story.machine.start()
    await story.machine.wait_for_shell(START_S)
    if stage == "new":
        assert await story.release() == FIRST
    else:
        await until("the second image", lambda: running_now(story), limit_s=6 * START_S)
    await story.machine.power_cut()


async def running_now(story: Story) -> bool:
    """Whether the machine itself, not an old report of it, runs the second image confirmed."""
    entries = await story.machine.sh("ls /boot/loader/entries", timeout_s=30)
    assert await story.release() == SECOND
    return any("+" not in name for name in entries.stdout.split())
