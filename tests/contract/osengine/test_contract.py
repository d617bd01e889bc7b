"""What every engine with slots promises."""

from __future__ import annotations

import msgspec
import pytest
from tests.contract.osengine.conftest import LATER, NEW, OLD, Machine

from skerry.agent.osengine.engine import OsEngineFailed, OsReason
from skerry.plan.osupdate import OsObserved, OsSlot, SlotState

pytestmark = pytest.mark.anyio


async def idle_of(machine: Machine) -> OsSlot:
    seen = await machine.engine.describe()
    slot = seen.slot(seen.idle)
    assert slot is not None
    return slot


async def running_of(machine: Machine) -> tuple[OsObserved, OsSlot]:
    seen = await machine.engine.describe()
    slot = seen.slot(seen.running)
    assert slot is not None
    return seen, slot


async def update(machine: Machine) -> None:
    await machine.engine.stage(NEW.ref)
    await machine.engine.activate(NEW.ref, trial_s=600)
    machine.boot()


async def test_a_fresh_machine_runs_its_only_image_confirmed(machine: Machine) -> None:
    seen, slot = await running_of(machine)

    assert (seen.image, seen.version, slot.state) == (OLD.ref.digest, "1.0.0", SlotState.GOOD)
    # Kairos' installer fills both of its slots.
    assert (await idle_of(machine)).image in ("", OLD.ref.digest)
    assert seen.problems == ()


async def test_an_image_goes_through_staged_trial_and_good(machine: Machine) -> None:
    await machine.engine.stage(NEW.ref)
    slot = await idle_of(machine)
    assert (slot.state, slot.image, slot.version) == (SlotState.STAGED, NEW.ref.digest, "1.1.0")

    await machine.engine.activate(NEW.ref, trial_s=600)
    slot = await idle_of(machine)
    assert (slot.state, slot.tries_left) == (SlotState.TRIAL, machine.tries)

    machine.boot()
    seen, slot = await running_of(machine)
    wanted = (NEW.ref.digest, SlotState.TRIAL, machine.tries - 1)
    assert (seen.image, slot.state, slot.tries_left) == wanted

    await machine.engine.confirm()
    seen, slot = await running_of(machine)
    assert (seen.image, slot.state) == (NEW.ref.digest, SlotState.GOOD)
    assert (await idle_of(machine)).state is SlotState.GOOD
    assert seen.problems == ()


async def test_each_start_has_its_own_boot_id(machine: Machine) -> None:
    before = (await machine.engine.describe()).boot_id

    machine.boot()

    assert (await machine.engine.describe()).boot_id != before


async def test_an_image_that_never_starts_ends_in_the_old_slot(machine: Machine) -> None:
    await machine.engine.stage(NEW.ref)
    await machine.engine.activate(NEW.ref, trial_s=600)
    machine.never_starts(NEW)

    machine.boot()

    seen, slot = await running_of(machine)
    assert (seen.image, slot.state) == (OLD.ref.digest, SlotState.GOOD)
    assert (await idle_of(machine)).state is SlotState.BAD


async def test_the_last_try_is_still_a_trial_while_it_runs(machine: Machine) -> None:
    await machine.engine.stage(NEW.ref)
    await machine.engine.activate(NEW.ref, trial_s=600)

    machine.boot(lost=machine.tries - 1)

    seen, slot = await running_of(machine)
    assert (seen.image, slot.state, slot.tries_left) == (NEW.ref.digest, SlotState.TRIAL, 0)
    await machine.engine.confirm()
    machine.boot()
    seen, slot = await running_of(machine)
    assert (seen.image, slot.state) == (NEW.ref.digest, SlotState.GOOD)


async def test_a_rolled_back_image_does_not_start_again(machine: Machine) -> None:
    await update(machine)

    await machine.engine.roll_back()
    _, slot = await running_of(machine)
    assert slot.state is SlotState.BAD
    machine.boot()
    machine.boot()

    seen, slot = await running_of(machine)
    assert (seen.image, slot.state) == (OLD.ref.digest, SlotState.GOOD)
    assert (await idle_of(machine)).state is SlotState.BAD


async def test_a_slot_keeps_its_name_with_its_image(machine: Machine) -> None:
    old = (await machine.engine.describe()).running

    await machine.engine.stage(NEW.ref)
    await machine.engine.activate(NEW.ref, trial_s=600)
    armed = (await machine.engine.describe()).running
    machine.boot()
    new = (await machine.engine.describe()).running
    await machine.engine.roll_back()
    machine.boot()
    back = (await machine.engine.describe()).running

    assert (armed, back) == (old, old)
    assert new != old


async def test_the_last_try_can_be_rolled_back_too(machine: Machine) -> None:
    await machine.engine.stage(NEW.ref)
    await machine.engine.activate(NEW.ref, trial_s=600)
    machine.boot(lost=machine.tries - 1)

    await machine.engine.roll_back()

    assert (await running_of(machine))[1].state is SlotState.BAD
    machine.boot()
    assert (await machine.engine.describe()).image == OLD.ref.digest


async def test_an_interrupted_trial_can_be_armed_again(machine: Machine) -> None:
    await machine.engine.stage(NEW.ref)
    await machine.engine.activate(NEW.ref, trial_s=600)
    machine.boot(lost=machine.tries)
    assert (await machine.engine.describe()).image == OLD.ref.digest

    await machine.engine.activate(NEW.ref, trial_s=600)
    assert (await idle_of(machine)).tries_left == machine.tries
    machine.boot()

    assert (await machine.engine.describe()).image == NEW.ref.digest


async def test_the_older_image_is_reached_in_the_same_way(machine: Machine) -> None:
    await update(machine)
    await machine.engine.confirm()

    await machine.engine.stage(OLD.ref)
    await machine.engine.activate(OLD.ref, trial_s=600)
    machine.boot()
    await machine.engine.confirm()
    machine.boot()

    seen, slot = await running_of(machine)
    assert (seen.image, slot.state) == (OLD.ref.digest, SlotState.GOOD)


async def test_every_act_done_twice_changes_nothing_more(machine: Machine) -> None:
    await machine.engine.stage(NEW.ref)
    await machine.engine.stage(NEW.ref)
    await machine.engine.activate(NEW.ref, trial_s=600)
    once = await machine.engine.describe()
    await machine.engine.activate(NEW.ref, trial_s=600)
    assert await machine.engine.describe() == once
    await machine.engine.stage(NEW.ref)
    assert await machine.engine.describe() == once

    machine.boot()
    await machine.engine.confirm()
    once = await machine.engine.describe()
    await machine.engine.confirm()
    await machine.engine.roll_back()
    await machine.engine.stage(NEW.ref)
    await machine.engine.activate(NEW.ref, trial_s=600)
    assert await machine.engine.describe() == once


async def test_the_slot_to_return_to_is_not_written_while_a_trial_runs(machine: Machine) -> None:
    await update(machine)

    with pytest.raises(OsEngineFailed) as failed:
        await machine.engine.stage(LATER.ref)

    assert failed.value.reason == OsReason.OS_BUSY
    assert (await idle_of(machine)).state is SlotState.GOOD


async def test_what_is_not_staged_is_not_armed(machine: Machine) -> None:
    await machine.engine.stage(NEW.ref)

    with pytest.raises(OsEngineFailed) as failed:
        await machine.engine.activate(LATER.ref, trial_s=600)

    assert not failed.value.retryable
    assert (await idle_of(machine)).state is SlotState.STAGED


async def test_an_image_for_other_hardware_is_refused(machine: Machine) -> None:
    foreign = msgspec.structs.replace(NEW.ref, architecture="arm64")
    before = await machine.engine.describe()

    with pytest.raises(OsEngineFailed) as failed:
        await machine.engine.stage(foreign)

    assert failed.value.reason in (OsReason.ARCHITECTURE_MISMATCH, OsReason.IMAGE_INVALID)
    assert await machine.engine.describe() == before


async def test_staging_over_a_staged_image_leaves_only_the_new_one(machine: Machine) -> None:
    await machine.engine.stage(NEW.ref)

    await machine.engine.stage(LATER.ref)

    slot = await idle_of(machine)
    assert (slot.state, slot.image) == (SlotState.STAGED, LATER.ref.digest)
    with pytest.raises(OsEngineFailed):
        await machine.engine.activate(NEW.ref, trial_s=600)


async def test_reset_can_be_asked_for(machine: Machine) -> None:
    before = await machine.engine.describe()

    await machine.engine.reset(keep_identity=True)

    assert await machine.engine.describe() == before
