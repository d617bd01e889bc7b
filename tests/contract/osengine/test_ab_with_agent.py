"""The agent's own planner, journal and gate over the appliance's engine: assigned, staged, started,
judged, whatever is cut on the way.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field

import pytest
from tests.contract.osengine.appliance import Appliance, check_disk, check_truth
from tests.contract.osengine.made import Image, make_image
from tests.unit.agent.os_machine import ARCH, RELEASE, OsMachine

from skerry.agent.journal import EventLog
from skerry.agent.osengine.ab import AbEngine
from skerry.lib.digest import canonical_json, sha256
from skerry.lib.memory_files import PowerCut
from skerry.model.artifact import ArtifactRef
from skerry.plan.osupdate import SlotState
from skerry.wire import envelope as env
from skerry.wire.messages import ArtifactStatement

pytestmark = pytest.mark.anyio

SEED = int(os.environ.get("SKERRY_OS_SEED", "1"))
IMAGES = {
    version: make_image(version, architecture=ARCH) for version in ("1.0.0", "2.0.0", "2.0.1")
}


@dataclass
class AbMachine(OsMachine):
    """The agent on an appliance; its restart is that of the simulated loader and initrd."""

    seed: int = SEED
    box: Appliance = field(init=False)

    def __post_init__(self) -> None:
        self.box = Appliance(tuple(IMAGES.values()), seed=self.seed, architecture=ARCH)
        self.box.install(IMAGES["1.0.0"])
        assert self.box.boot() == "a"
        self.root = self.box.root
        OsMachine.__post_init__(self)
        self.runner.answer_with("mount", answer=self.box._mount)

    def new_process(self) -> None:
        OsMachine.new_process(self)
        self.engine = AbEngine(  # type: ignore[assignment]
            root=self.box.root,
            runner=self.runner,
            volumes=self.box.volumes,
            content=self.os.content,
            clock=self.clock,
            architecture=ARCH,
            chunk=2048,
        )
        self.os.engine = self.engine

    def image(self, version: str, **more: object) -> ArtifactRef:
        made: Image = IMAGES[version]
        statement = ArtifactStatement(
            name="edge",
            type="os",
            version=version,
            architecture=ARCH,
            digest=made.ref.digest,
        )
        signed = env.sign(env.ARTIFACT, canonical_json(statement), [RELEASE]).encode()
        for data in (*made.blobs.values(), signed):
            self.content.put(sha256(data), data)
        return ArtifactRef(
            name="edge",
            type="os",
            version=version,
            architecture=ARCH,
            digest=made.ref.digest,
            envelope_digest=sha256(signed),
        )

    def start(self) -> None:
        self.box.hang = frozenset(self.faults.unbootable)
        lost, self.faults.lost_starts = self.faults.lost_starts, 0
        self.box.lose_power()
        check_disk(self.box)
        assert self.box.boot(lost=lost), "nothing starts"

    def put_back(self) -> None:
        """Blobs that a cut left unknown come again by the line."""
        for version in IMAGES:
            self.image(version)


def events(machine: AbMachine) -> list[str]:
    return [item.reason for item in EventLog(machine.root).waiting(200)]


async def test_an_assigned_image_ends_confirmed() -> None:
    machine = AbMachine()
    machine.assign(machine.image("2.0.0"))

    await machine.live()

    seen = await machine.seen()
    assert (seen.running, seen.version, machine.restarts) == ("b", "2.0.0", 1)
    assert [slot.state for slot in seen.slots] == [SlotState.GOOD, SlotState.GOOD]
    assert (machine.reason, events(machine)) == ("Ready", ["OsUpdated"])


async def test_an_image_that_fails_its_gate_ends_in_the_old_slot() -> None:
    machine = AbMachine(sick={"2.0.0"})
    machine.assign(machine.image("2.0.0"))

    await machine.live()

    seen = await machine.seen()
    assert (seen.running, machine.reason) == ("a", "OsReturned")
    slot = seen.slot("b")
    assert slot is not None
    assert slot.state is SlotState.BAD


async def test_three_cuts_on_trial_are_tried_again() -> None:
    machine = AbMachine()
    machine.faults.lost_starts = 3
    machine.assign(machine.image("2.0.0"))

    await machine.live()

    assert events(machine) == ["OsInterrupted", "OsUpdated"]
    assert (await machine.seen()).version == "2.0.0"


async def test_an_image_that_never_answers_is_given_up() -> None:
    machine = AbMachine()
    machine.faults.unbootable = frozenset({"2.0.0"})
    machine.assign(machine.image("2.0.0"))

    await machine.live()

    assert events(machine) == ["OsInterrupted", "OsReturned"]
    assert (await machine.seen()).version == "1.0.0"


async def test_an_entry_that_was_lost_comes_back_by_itself() -> None:
    machine = AbMachine()
    machine.assign(machine.image("2.0.0"))
    await machine.live()
    for file in machine.box.entries("b"):
        del machine.root.files[f"/boot/loader/entries/{file}"]
    assert (await machine.seen()).problems

    await machine.live()

    assert (await machine.seen()).problems == ()
    machine.start()
    assert machine.box.running == "b"


@pytest.mark.parametrize("sick", [False, True], ids=["good", "bad"])
async def test_whatever_is_cut_the_end_is_the_same(sick: bool) -> None:
    chance = random.Random(SEED)
    whole = await _life(sick, None)
    tried = 0
    for _ in range(int(os.environ.get("SKERRY_OS_WALKS", "40"))):
        where = chance.choice(("root", "volumes"))
        at = chance.randint(1, 90 if where == "root" else 22)
        seed = chance.randrange(1 << 30)
        machine = await _life(sick, (where, at, chance.random() < 0.7), seed=seed)
        tried += 1
        seen = await machine.seen()
        said = f"{where} {at}, seed {seed}: {machine.ran} {events(machine)} {seen}"
        assert (await machine.end())[:5] == (await whole.end())[:5], said
        check_disk(machine.box)
        check_truth(machine.box, seen)
    print(f"\n{'bad' if sick else 'good'} image: {tried} lives with a cut, seed {SEED}")


async def _life(sick: bool, cut: tuple[str, int, bool] | None, *, seed: int = SEED) -> AbMachine:
    machine = AbMachine(sick={"2.0.0"} if sick else set(), seed=seed)
    machine.assign(machine.image("2.0.0"))
    if cut is not None:
        door = machine.box.root if cut[0] == "root" else machine.box.volumes
        door.cut_power_at(cut[1], halfway=cut[2])
    try:
        await machine.live()
    except PowerCut:
        machine.box.root.power_on()
        machine.put_back()
        await machine.after_power_cut()
    machine.box.root.power_on()
    machine.box.volumes.power_on()
    return machine
