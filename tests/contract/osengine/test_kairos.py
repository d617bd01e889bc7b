"""What is Kairos' own: power cuts, torn upgrades, and the simulated agent against the real one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.contract.osengine.kairosgrub import block
from tests.contract.osengine.kairosmachine import (
    ASSESSMENT,
    FOLDER,
    GRUBENV,
    KairosMachine,
    Slot,
    saved_image,
)
from tests.contract.osengine.made import make_image

from skerry.agent.osengine.engine import OsEngineFailed, OsReason
from skerry.agent.osengine.kairos_state import parse_env
from skerry.lib.memory_files import PowerCut
from skerry.plan.osupdate import SlotState

pytestmark = pytest.mark.anyio

OLD, NEW, LATER = make_image("1.0.0"), make_image("1.1.0"), make_image("1.2.0")
TRACE = Path(__file__).with_name("kairos_trace.json")


def machine_on(running: str) -> KairosMachine:
    """A host that runs its active or its passive image, both of them whole and different."""
    machine = KairosMachine(OLD, NEW, LATER)
    older = Slot("older", "COS_PASSIVE", "v0.9.0")
    machine.root.put_slot("passive", older)
    if running == "passive":
        machine.root.write(GRUBENV, block({"saved_entry": "fallback"}).encode())
        machine.boot()
    return machine


async def cut_update(running: str, change: int) -> tuple[KairosMachine, bool]:
    """An update whose power is cut at a change; whether it was."""
    machine = machine_on(running)
    await machine.engine.stage(NEW.ref)
    machine.root.cut_power_at(change)
    try:
        await machine.engine.activate(NEW.ref, trial_s=600)
        machine.boot()
        await machine.engine.confirm()
    except PowerCut:
        return machine, True
    return machine, False


@pytest.mark.parametrize("running", ["active", "passive"])
async def test_after_any_power_cut_a_slot_starts_and_says_what_it_is(running: str) -> None:
    for change in range(1, 200):
        machine, was_cut = await cut_update(running, change)
        name = machine.boot()

        assert name in ("active", "passive"), f"change {change}: the recovery system started"
        seen = await machine.engine.describe()
        slot = machine.root.slot(name)
        assert slot is not None
        assert seen.running
        assert slot.version.removeprefix("v") == seen.version.removeprefix("v")
        if not was_cut:
            assert seen.image == NEW.ref.digest
            return
        # Doing it again is right, whatever was reached.
        await machine.engine.stage(NEW.ref)
        await machine.engine.activate(NEW.ref, trial_s=600)
        if seen.image != NEW.ref.digest:
            machine.boot()
        await machine.engine.confirm()
        machine.boot()
        seen = await machine.engine.describe()
        assert (seen.image, seen.slots[0].state) == (NEW.ref.digest, SlotState.GOOD), change
        assert seen.problems == (), change
    raise AssertionError("the update never came to its end")


async def test_after_any_power_cut_while_rolling_back_the_old_image_or_the_trial_runs() -> None:
    for change in range(1, 50):
        machine = machine_on("active")
        await machine.engine.stage(NEW.ref)
        await machine.engine.activate(NEW.ref, trial_s=600)
        machine.boot()
        machine.root.cut_power_at(change)
        try:
            await machine.engine.roll_back()
        except PowerCut:
            machine.boot()
            assert (await machine.engine.describe()).version == "1.0.0"
            await machine.engine.roll_back()
            machine.boot()
            seen = await machine.engine.describe()
            assert (seen.version, seen.slots[0].state) == ("1.0.0", SlotState.BAD)
            continue
        return
    raise AssertionError("rolling back never came to its end")


async def test_a_stale_mark_of_the_boot_assessment_does_not_eat_the_trial() -> None:
    machine = machine_on("active")
    marks = {"enable_boot_assessment": "yes", "boot_assessment_tentative": "yes"}
    machine.root.write(ASSESSMENT, block(marks).encode())
    await machine.engine.stage(NEW.ref)

    await machine.engine.activate(NEW.ref, trial_s=600)

    found = parse_env(machine.root.files[ASSESSMENT].decode())
    assert found == {"enable_boot_assessment": "yes"}


async def test_a_busy_transition_image_stops_the_upgrade() -> None:
    machine = machine_on("active")
    await machine.engine.stage(NEW.ref)
    machine.agent.mounts["/run/cos/transition"] = "/dev/loop1"
    machine.agent.busy = frozenset({"/run/cos/transition"})

    with pytest.raises(OsEngineFailed) as failed:
        await machine.engine.activate(NEW.ref, trial_s=600)

    assert failed.value.reason == OsReason.OS_BUSY
    assert not any("upgrade" in call for call in machine.agent.calls)


async def test_another_kairos_agent_at_work_stops_the_upgrade() -> None:
    machine = machine_on("active")
    await machine.engine.stage(NEW.ref)
    machine.root.write("/proc/77/cmdline", b"/usr/bin/kairos-agent\0upgrade\0--source\0oci:x\0")

    with pytest.raises(OsEngineFailed) as failed:
        await machine.engine.activate(NEW.ref, trial_s=600)

    assert failed.value.reason == OsReason.OS_BUSY


async def test_an_image_that_lacks_what_it_needs_is_refused_when_staged() -> None:
    for missing in ("boot/initrd", "boot/vmlinuz-6.1", "etc/kairos-release"):
        machine = machine_on("active")
        blob = next(
            digest
            for digest, data in machine.shelf.blobs.items()
            if data == saved_image(f"v{NEW.ref.version}")
        )
        machine.shelf.blobs[blob] = saved_image(f"v{NEW.ref.version}", without=missing)

        with pytest.raises(OsEngineFailed) as failed:
            await machine.engine.stage(NEW.ref)

        assert failed.value.reason == OsReason.IMAGE_INVALID
        assert not failed.value.retryable


async def test_an_upgrade_that_left_another_image_is_not_armed() -> None:
    machine = machine_on("active")
    await machine.engine.stage(NEW.ref)
    machine.agent.spoil = "v9.9.9"

    with pytest.raises(OsEngineFailed, match=r"v9\.9\.9"):
        await machine.engine.activate(NEW.ref, trial_s=600)

    assert parse_env(machine.root.files[GRUBENV].decode()).get("next_entry") != "cos"


def state_of(machine: KairosMachine) -> dict[str, Any]:
    """What a step of the trace says of the host: images by label, version and letter."""
    letters: dict[str, str] = {}
    images = {}
    for name in ("active", "passive", "transition"):
        if (slot := machine.root.slot(name)) is not None:
            letter = letters.setdefault(slot.uuid, slot.uuid)
            images[name] = {"label": slot.label, "version": slot.version, "identity": letter}
    env = parse_env(machine.root.files.get(GRUBENV, b"").decode())
    return {"images": images, "grubenv": {key: value for key, value in env.items() if value}}


def replayed(step: dict[str, Any]) -> dict[str, Any]:
    """What the simulated agent makes of a step's beginning."""
    machine = machine_on("active")
    for name in ("active", "passive"):
        machine.root.remove(f"{FOLDER}/{name}.img")
    for name, image in step["before"]["images"].items():
        machine.root.put_slot(name, Slot(image["identity"], image["label"], image["version"]))
    machine.root.write(GRUBENV, block(step["before"]["grubenv"]).encode())
    machine.root.write("/proc/cmdline", step["cmdline"].encode())
    for name, text in step["config"].items():
        machine.root.write(name, text.encode())
    machine.root.write("/image.tar", saved_image(step["version"]))
    words = tuple(word.replace("SOURCE", "ocifile:/image.tar") for word in step["argv"])
    code, _ = machine.agent.act(words)
    return {"code": code, "after": state_of(machine)}


def unnamed(state: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """The state with the identity of what was not there before told as `new`."""
    known = {image["identity"] for image in before["images"].values()}
    copy = msgspec.json.decode(msgspec.json.encode(state))
    for image in copy["images"].values():
        image["identity"] = image["identity"] if image["identity"] in known else "new"
    return copy  # type: ignore[no-any-return]  # JSON


def test_the_simulated_agent_does_what_the_real_one_did() -> None:
    steps = json.loads(TRACE.read_text())

    assert len(steps) >= 5
    for step in steps:
        found = replayed(step)
        wanted = unnamed(step["after"], step["before"])
        assert unnamed(found["after"], step["before"]) == wanted, step["argv"]
        assert (found["code"] == 0) == (step["code"] == 0), step["argv"]
