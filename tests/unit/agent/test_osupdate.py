"""An OS update from assignment to verdict, through restarts, over the fake engine's loader."""

from __future__ import annotations

import anyio
import pytest

from skerry.agent import paths
from skerry.agent.content import Content
from skerry.agent.journal import Entry, EventLog, Journal
from skerry.agent.osmemory import OsMemory
from skerry.lib import pki
from skerry.lib.files import Root
from skerry.model.artifact import ArtifactRef
from skerry.plan import steps as do
from skerry.plan.osupdate import STAGE_OS, SlotState
from skerry.wire import envelope as env

from .os_machine import OsMachine, Restarts, live_with_a_cut

pytestmark = pytest.mark.anyio


def events(machine: OsMachine) -> list[str]:
    return [item.reason for item in EventLog(machine.root).waiting(200)]


async def test_an_assigned_image_is_staged_started_confirmed_and_acknowledged() -> None:
    machine = OsMachine()
    await machine.live()
    machine.assign(machine.image("2.0.0"))

    await machine.live()

    observed = await machine.seen()
    assert (observed.running, observed.version, machine.restarts) == ("b", "2.0.0", 1)
    assert [slot.state for slot in observed.slots] == [SlotState.GOOD, SlotState.GOOD]
    assert machine.reason == "Ready"
    assert machine.standing.acknowledged.epoch == 1
    assert machine.standing.os.slot == "b"
    assert events(machine) == ["OsUpdated"]


async def test_nothing_is_acknowledged_before_the_image_is_confirmed() -> None:
    machine = OsMachine()
    machine.assign(machine.image("2.0.0"))
    machine.new_process()
    await machine.os.begin()
    await machine.os.turn()

    with pytest.raises(Restarts):
        await _turns(machine)

    assert machine.standing.acknowledged.epoch == 0
    assert machine.standing.progress is not None
    assert machine.standing.progress.step == "restart"
    assert (await machine.seen()).running == "a"


async def test_an_image_that_fails_its_gate_returns_at_once_and_is_remembered() -> None:
    machine = OsMachine(sick={"2.0.0"})
    bad = machine.image("2.0.0")
    machine.assign(bad)

    await machine.live()

    observed = await machine.seen()
    assert observed.version == "1.0.0"
    assert machine.ran == ["a 1.0.0", "b 2.0.0", "a 1.0.0"]
    assert machine.reason == "OsReturned"
    condition = machine.standing.os_condition
    assert condition is not None
    assert "the kubelet does not start" in condition.message
    assert machine.standing.os.failed == (bad.digest,)
    assert machine.standing.acknowledged.epoch == 0


async def test_a_returned_image_is_not_tried_again_until_a_person_asks() -> None:
    machine = OsMachine(sick={"2.0.0"})
    bad = machine.image("2.0.0")
    machine.assign(bad)
    await machine.live()
    starts = len(machine.ran)

    machine.assign(bad)
    await machine.live()
    assert machine.ran[starts:] == ["a 1.0.0"]

    machine.sick.clear()
    machine.assign(bad, retry_failed=1)
    await machine.live()

    assert (await machine.seen()).version == "2.0.0"
    assert machine.standing.os.failed == ()


async def test_another_image_is_taken_after_one_that_returned() -> None:
    machine = OsMachine(sick={"2.0.0"})
    machine.assign(machine.image("2.0.0"))
    await machine.live()

    machine.assign(machine.image("2.0.1"))
    await machine.live()

    assert (await machine.seen()).version == "2.0.1"
    assert machine.reason == "Ready"


async def test_an_image_that_never_starts_is_tried_twice_and_then_given_up() -> None:
    machine = OsMachine()
    machine.faults.unbootable = frozenset({"2.0.0"})
    bad = machine.image("2.0.0")
    machine.assign(bad)

    await machine.live()

    assert events(machine) == ["OsInterrupted", "OsReturned"]
    assert (await machine.seen()).version == "1.0.0"
    assert machine.standing.os.failed == (bad.digest,)
    assert machine.restarts == 2


async def test_three_power_cuts_on_trial_are_no_verdict() -> None:
    machine = OsMachine()
    machine.faults.lost_starts = 3
    machine.assign(machine.image("2.0.0"))

    await machine.live()

    assert events(machine) == ["OsInterrupted", "OsUpdated"]
    assert (await machine.seen()).version == "2.0.0"
    assert machine.os.memory().failed == {}
    assert machine.os.memory().interrupted == {}


async def test_a_network_that_the_new_image_lost_is_not_confirmed() -> None:
    machine = OsMachine(deaf={"2.0.0"})
    machine.assign(machine.image("2.0.0"))

    await machine.live()

    assert (await machine.seen()).version == "1.0.0"
    assert events(machine) == ["OsInterrupted", "OsReturned"]


async def test_a_host_without_a_line_confirms_after_half_of_the_gates_time() -> None:
    machine = OsMachine(online=False)
    machine.assign(machine.image("2.0.0"))
    before = machine.clock.monotonic()

    await machine.live()

    assert (await machine.seen()).version == "2.0.0"
    assert machine.clock.monotonic() - before > 200


async def test_what_was_not_healthy_before_is_not_asked_for_afterwards() -> None:
    machine = OsMachine(sick={"1.0.0", "2.0.0"})
    machine.assign(machine.image("2.0.0"))

    await machine.live()

    assert (await machine.seen()).version == "2.0.0"


async def test_an_image_for_another_machine_is_refused_by_name() -> None:
    machine = OsMachine()
    machine.assign(machine.image("2.0.0", arch="riscv64"))

    await machine.live()

    assert (machine.reason, machine.restarts) == ("ArchitectureMismatch", 0)
    assert machine.standing.acknowledged.epoch == 0


async def test_an_image_without_a_release_keys_word_is_not_written() -> None:
    machine = OsMachine()
    stranger = env.SigningKey(role=env.KeyRole.RELEASE, key=pki.new_signing_key())
    machine.assign(machine.image("2.0.0", signer=stranger))

    await machine.live()

    assert machine.reason == "SignatureInvalid"
    slot = (await machine.seen()).slot("b")
    assert slot is not None
    assert slot.state is SlotState.EMPTY


async def test_staging_is_given_up_when_another_image_is_wanted() -> None:
    machine = OsMachine()
    machine.faults.failing["stage"] = 1
    first = machine.image("2.0.0")
    machine.assign(first)
    machine.new_process()
    await machine.os.begin()
    await machine.os.turn()
    operation = await machine.os.move(())
    assert operation is not None
    assert operation.name == STAGE_OS
    machine.assign(machine.image("3.0.0"))
    await machine.os.turn()

    entry = Entry(operation=operation, started_at=machine.clock.now())
    machine.worker.journal.save(entry)
    await machine.live()

    assert (await machine.seen()).version == "3.0.0"
    assert machine.ran == ["a 1.0.0", "b 3.0.0"]


async def test_a_download_is_given_up_when_another_image_is_wanted() -> None:
    machine = OsMachine()
    first, second = machine.image("2.0.0"), machine.image("3.0.0")
    machine.assign(first)
    machine.new_process()
    fetched: list[str] = []
    began, ready = anyio.Event(), anyio.Event()

    async def fetch(root: Root, content: Content, ref: ArtifactRef) -> None:
        fetched.append(ref.version)
        if ref == first:
            began.set()
            await anyio.sleep_forever()

    machine.os.fetch, machine.os.on_ready = fetch, ready.set
    await machine.os.begin()
    async with anyio.create_task_group() as tg:
        tg.start_soon(machine.os.run)
        with anyio.fail_after(5):
            await began.wait()
            machine.assign(second)
            machine.os.nudge()
            await ready.wait()
        tg.cancel_scope.cancel()

    assert fetched == ["2.0.0", "3.0.0"]
    move = await machine.os.move(())
    assert move is not None
    assert move.desired_digest == second.digest


async def test_a_lost_journal_on_trial_confirms_what_is_wanted_and_healthy() -> None:
    machine = OsMachine()
    machine.assign(machine.image("2.0.0"))
    await _live_until_started(machine, "2.0.0")
    Journal(machine.root).clear()

    await machine.live()

    observed = await machine.seen()
    assert (observed.version, observed.on_trial) == ("2.0.0", False)
    assert machine.standing.acknowledged.epoch == 1


async def test_a_lost_journal_on_trial_returns_from_what_is_not_wanted() -> None:
    machine = OsMachine()
    machine.assign(machine.image("2.0.0"))
    await _live_until_started(machine, "2.0.0")
    Journal(machine.root).clear()
    machine.assign(None)

    await machine.live()

    assert (await machine.seen()).version == "1.0.0"


async def test_on_trial_nothing_of_kubernetes_begins() -> None:
    machine = OsMachine()
    machine.assign(machine.image("2.0.0"))
    await _live_until_started(machine, "2.0.0")
    Journal(machine.root).clear()
    machine.new_process()
    await machine.os.begin()

    await machine.worker.turn()

    assert machine.standing.acknowledged.epoch == 0
    assert machine.worker.journal.load() is None


async def test_an_activation_that_fails_is_taken_back_and_not_held_against_the_image() -> None:
    machine = OsMachine()
    machine.faults.failing["activate"] = 3
    machine.assign(machine.image("2.0.0"))

    await machine.live()

    assert machine.os.memory().failed == {}
    await machine.live()
    assert (await machine.seen()).version == "2.0.0"


async def test_a_restart_before_arming_is_not_taken_for_the_one_after_it() -> None:
    machine = OsMachine()
    ref = machine.image("2.0.0")
    machine.assign(ref)
    machine.new_process()
    await machine.os.begin()
    await machine.os.turn()
    await machine.worker.turn()  # staged
    await machine.os.turn()
    operation = await machine.os.move(())
    assert operation is not None
    assert isinstance(operation.steps[2], do.Restart)
    Journal(machine.root).save(Entry(operation=operation, started_at=machine.clock.now()))
    machine.start()  # the power fails before anything of the operation was done

    await machine.live()

    assert (await machine.seen()).version == "2.0.0"
    assert events(machine) == ["OsUpdated"]


async def test_two_equal_memories_of_a_verdict_are_one() -> None:
    machine = OsMachine()
    machine.root.write(paths.OS_MEMORY, b'{"interrupted":{"sha256:x":1},"unknown":1}')

    assert machine.os.memory() == OsMemory(interrupted={"sha256:x": 1})


@pytest.mark.parametrize("halfway", [False, True])
async def test_a_power_cut_at_any_write_of_a_good_update_ends_the_same(halfway: bool) -> None:
    wanted = None
    cut = 0
    while True:
        cut += 1
        machine = OsMachine()
        await machine.live()
        machine.assign(machine.image("2.0.0"))
        came = await live_with_a_cut(machine, cut, halfway=halfway)
        await machine.live()
        end = await machine.end()
        wanted = wanted or end
        assert end == wanted, f"cut at write {cut}: {machine.ran}"
        if not came:
            break
    assert cut > 10
    assert wanted[0] == "2.0.0"


@pytest.mark.parametrize("halfway", [False, True])
async def test_a_power_cut_at_any_write_of_a_bad_update_ends_in_the_old_system(
    halfway: bool,
) -> None:
    cut = 0
    while True:
        cut += 1
        machine = OsMachine(sick={"2.0.0"})
        machine.faults.unbootable = frozenset()
        await machine.live()
        bad = machine.image("2.0.0")
        machine.assign(bad)
        came = await live_with_a_cut(machine, cut, halfway=halfway)
        await machine.live()
        version, _, on_trial, failed, reason, journal, acknowledged = await machine.end()
        assert (version, on_trial, journal, acknowledged) == ("1.0.0", False, None, 0), cut
        assert (failed, reason) == ((bad.digest,), "OsReturned"), f"cut at write {cut}"
        if not came:
            break
    assert cut > 15


async def _turns(machine: OsMachine) -> None:
    for _ in range(8):
        await machine.os.turn()
        await machine.worker.turn()


async def _live_until_started(machine: OsMachine, version: str) -> None:
    """Until the new system was started once, before its agent did anything."""
    machine.new_process()
    machine.standing.synced = True
    await machine.os.begin()
    try:
        await _turns(machine)
    except Restarts:
        machine.start()
    assert (await machine.seen()).version == version
