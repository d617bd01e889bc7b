"""The appliance loses its power at every write of every act, and once more at random.

Each cut keeps a random part of what was not flushed; the machine is then started by the simulated
loader, must run some slot, must say the truth about itself, and must get where it was going when
the act is done again. `SKERRY_OS_SEED` names another seed.
"""

from __future__ import annotations

import os
import random
from collections.abc import Awaitable, Callable

import pytest
from tests.contract.osengine.appliance import Appliance, check_disk, check_truth
from tests.contract.osengine.made import make_image

from skerry.agent.osengine.engine import OsEngineFailed
from skerry.lib.memory_files import PowerCut
from skerry.plan.osupdate import SlotState

pytestmark = pytest.mark.anyio

SEED = int(os.environ.get("SKERRY_OS_SEED", "1"))
OLD, NEW, LATER = make_image("1.0.0"), make_image("1.1.0"), make_image("1.2.0")

Act = Callable[[Appliance], Awaitable[None]]


async def stage(machine: Appliance) -> None:
    await machine.engine.stage(NEW.ref)


async def activate(machine: Appliance) -> None:
    await machine.engine.activate(NEW.ref, trial_s=600)


async def confirm(machine: Appliance) -> None:
    await machine.engine.confirm()


async def roll_back(machine: Appliance) -> None:
    await machine.engine.roll_back()


def installed() -> Appliance:
    machine = Appliance((OLD, NEW, LATER), seed=SEED)
    machine.install(OLD)
    assert machine.boot() == "a"
    return machine


async def staged() -> Appliance:
    machine = installed()
    await stage(machine)
    return machine


async def armed() -> Appliance:
    machine = await staged()
    await activate(machine)
    return machine


async def on_trial() -> Appliance:
    machine = await armed()
    assert machine.boot() == "b"
    return machine


async def updated() -> Appliance:
    machine = await on_trial()
    await confirm(machine)
    return machine


async def one_back() -> Appliance:
    """Running the second image, with a third one staged over the first."""
    machine = await updated()
    await machine.engine.stage(LATER.ref)
    await machine.engine.activate(LATER.ref, trial_s=600)
    assert machine.boot() == "a"
    await machine.engine.confirm()
    return machine


async def given_up() -> Appliance:
    """The new image was on trial and is rolled back; it is wanted again."""
    machine = await on_trial()
    await roll_back(machine)
    assert machine.boot() == "a"
    return machine


async def finish(machine: Appliance) -> None:
    """What the operation does after a cut: from the start, each act again."""
    for _ in range(2):
        seen = await machine.engine.describe()
        slot = seen.slot(seen.running)
        assert slot is not None
        if slot.state is SlotState.TRIAL or slot.state is SlotState.STAGED:
            await confirm(machine)
        await stage(machine)
        await activate(machine)
        machine.boot()
    await confirm(machine)


async def cuts(start: Appliance, act: Act) -> list[Appliance]:
    """The machine after a cut at each change of the act, started again."""
    whole = start.copy(seed=SEED)
    before = whole.root.changes, whole.volumes.changes
    await act(whole)
    counts = whole.root.changes - before[0], whole.volumes.changes - before[1]
    assert sum(counts), "an act that writes nothing proves nothing"
    found: list[Appliance] = []
    for where, count in zip(("root", "volumes"), counts, strict=True):
        for at in range(1, count + 1):
            for halfway, tries in ((False, 1), (True, 6)):
                for number in range(tries):
                    machine = start.copy(seed=SEED * 1000 + at * 10 + number)
                    door = machine.root if where == "root" else machine.volumes
                    door.cut_power_at(at, halfway=halfway)
                    with pytest.raises(PowerCut):
                        await act(machine)
                    assert not set(machine.volumes.written) & machine.volumes.refused
                    machine.lose_power()
                    found.append(machine)
    return found


@pytest.mark.parametrize("act", [stage, activate, confirm, roll_back], ids=lambda x: x.__name__)
async def test_a_cut_anywhere_leaves_a_machine_that_starts_and_gets_there(act: Act) -> None:
    starts: dict[Act, list[Callable[[], Awaitable[Appliance]]]] = {
        stage: [staged_from_nothing, one_back],
        activate: [staged, given_up],
        confirm: [on_trial],
        roll_back: [on_trial, armed],
    }
    tried = 0
    for start in starts[act]:
        for machine in await cuts(await start(), act):
            tried += 1
            check_disk(machine)
            slot = machine.boot()
            assert slot, f"nothing starts: {machine.root.list('/boot/loader/entries')}"
            assert slot == "b" or act is not confirm, "a cut confirmation lost the trial"
            check_truth(machine, await machine.engine.describe())

            if act is roll_back:
                await machine.engine.roll_back()
                check_truth(machine, await machine.engine.describe())
                assert machine.boot() == "a"
                return_state = (await machine.engine.describe()).slot("b")
                assert return_state is not None
                assert return_state.state in (SlotState.BAD, SlotState.EMPTY)
            await finish(machine)

            seen = await machine.engine.describe()
            check_truth(machine, seen)
            here = seen.slot(seen.running)
            assert here is not None
            assert (here.state, seen.version) == (SlotState.GOOD, "1.1.0"), seen
            assert seen.problems == ()
    print(f"\n{act.__name__}: {tried} cuts, seed {SEED}")


async def staged_from_nothing() -> Appliance:
    return installed()


async def test_the_machine_survives_a_random_life() -> None:
    walks = int(os.environ.get("SKERRY_OS_WALKS", "40"))
    cut_count = starts = 0
    for walk in range(walks):
        seed = SEED * 10_000 + walk
        chance = random.Random(seed)
        machine = installed()
        machine.root.chance = random.Random(seed)
        machine.hang = frozenset({"1.2.0"} if chance.random() < 0.3 else ())
        for _ in range(25):
            image = chance.choice((OLD, NEW, LATER))
            if chance.random() < 0.5:
                door = chance.choice((machine.root, machine.volumes))
                door.cut_power_at(chance.randint(1, 6), halfway=chance.random() < 0.7)
            try:
                match chance.choice(("stage", "activate", "confirm", "roll_back", "boot")):
                    case "stage":
                        await machine.engine.stage(image.ref)
                    case "activate":
                        await machine.engine.activate(image.ref, trial_s=600)
                    case "confirm":
                        await machine.engine.confirm()
                    case "roll_back":
                        await machine.engine.roll_back()
                    case _:
                        machine.lose_power()
                        machine.boot(lost=chance.choice((0, 0, 1, 3)))
                        starts += 1
            except PowerCut:
                cut_count += 1
                machine.lose_power()
                machine.boot()
            except OsEngineFailed:
                pass
            machine.root.power_on()
            machine.volumes.power_on()
            where = f"seed {seed}: {machine.root.list('/boot/loader/entries')}"
            assert machine.running, where
            check_disk(machine)
            check_truth(machine, await machine.engine.describe())
            assert not set(machine.volumes.written) & machine.volumes.refused, where
    print(f"\n{walks} lives, {cut_count} cuts, {starts} starts, seed {SEED}")
