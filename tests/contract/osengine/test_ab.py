"""What is the appliance's own: damage is said, refused or mended, and never spreads."""

from __future__ import annotations

import json
import re
import time

import msgspec
import pytest
from tests.contract.osengine.appliance import Appliance, check_disk
from tests.contract.osengine.conftest import LATER, NEW, OLD
from tests.contract.osengine.made import Image, assemble, make_image

from skerry.agent.osengine.engine import OsEngineFailed, OsReason
from skerry.lib.digest import sha256
from skerry.lib.memory_files import PowerCut
from skerry.lib.proc import Result
from skerry.model.osimage import OsImageInfo
from skerry.plan.bootentries import uki_name
from skerry.plan.osupdate import OsObserved, SlotState

pytestmark = pytest.mark.anyio

ENTRY = "/boot/loader/entries/skerry-000001.conf"


@pytest.fixture
def machine() -> Appliance:
    made = Appliance((OLD, NEW, LATER))
    made.install(OLD)
    made.boot()
    return made


async def armed(machine: Appliance) -> None:
    await machine.engine.stage(NEW.ref)
    await machine.engine.activate(NEW.ref, trial_s=600)


async def updated(machine: Appliance) -> None:
    await armed(machine)
    assert machine.boot() == "b"
    await machine.engine.confirm()


def flip(machine: Appliance, path: str, at: int) -> None:
    data = bytearray(machine.root.files[path])
    data[at] ^= 1
    machine.root.files[path] = bytes(data)


def place_of(slot: str, image: Image) -> str:
    return f"/boot/{uki_name(slot, image.info.root_hash)}"


async def refusal(machine: Appliance, image: Image) -> OsEngineFailed:
    """The failure of staging an image; nothing may have changed by it."""
    before = dict(machine.root.files), {x: bytes(y) for x, y in machine.volumes.kept.items()}
    with pytest.raises(OsEngineFailed) as failed:
        await machine.engine.stage(image.ref)
    after = dict(machine.root.files), {x: bytes(y) for x, y in machine.volumes.kept.items()}
    content = "/var/lib/skerry/content"
    assert {x: y for x, y in before[0].items() if not x.startswith(content)} == {
        x: y for x, y in after[0].items() if not x.startswith(content)
    }
    assert before[1] == after[1]
    return failed.value


async def describe(machine: Appliance) -> OsObserved:
    machine.new_process()
    return await machine.engine.describe()


async def test_an_older_policy_generation_is_refused(machine: Appliance) -> None:
    newer = make_image("2.0.0", generation=2)
    machine.images += (newer,)
    machine.shelf.add(newer)
    await machine.engine.stage(newer.ref)
    await machine.engine.activate(newer.ref, trial_s=600)
    machine.boot()
    await machine.engine.confirm()
    machine.shelf.add(NEW)

    failed = await refusal(machine, NEW)

    assert failed.reason == OsReason.IMAGE_INVALID
    assert "generation 1" in str(failed)
    assert "generation 2" in str(failed)
    assert not failed.retryable


async def test_an_image_that_does_not_fit_is_refused(machine: Appliance) -> None:
    machine.volumes.make("skerry-b", 8192)

    failed = await refusal(machine, NEW)

    assert failed.reason == OsReason.IMAGE_TOO_LARGE
    assert "skerry-b" in str(failed)


async def test_a_full_boot_partition_is_said_before_anything_is_lost(machine: Appliance) -> None:
    machine.root.capacity = sum(map(len, machine.root.files.values())) + 40_000

    failed = await refusal(machine, NEW)

    assert failed.reason == OsReason.BOOT_PARTITION_FULL


def changed(image: Image, **fields: object) -> Image:
    """An artifact whose metadata says something else of the same files."""
    info = msgspec.json.decode(
        msgspec.json.encode({**msgspec.to_builtins(image.info), **fields}), type=OsImageInfo
    )
    return assemble(
        info.version,
        files=(image.root, image.verity, image.uki),
        names=(info.root_hash, info.root_uuid, info.verity_uuid),
        architecture=info.architecture,
    )


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"rootUuid": "11111111-2222-3333-4444-555566667777"}, OsReason.IMAGE_INVALID),
        ({"architecture": "arm64"}, OsReason.ARCHITECTURE_MISMATCH),
    ],
)
async def test_an_image_that_is_not_what_it_says_is_refused(
    machine: Appliance, fields: dict[str, object], reason: OsReason
) -> None:
    odd = changed(NEW, **fields)
    machine.shelf.add(odd)

    assert (await refusal(machine, odd)).reason == reason


async def test_a_manifest_that_is_no_os_image_is_refused(machine: Appliance) -> None:
    manifest = json.loads(machine.shelf.blobs[NEW.ref.digest])
    manifest["artifactType"] = "application/vnd.skerry.agent.v1"
    data = json.dumps(manifest).encode()
    machine.shelf.blobs[sha256(data)] = data
    odd = msgspec.structs.replace(NEW.ref, digest=sha256(data))

    failed = await refusal(machine, Image(odd, NEW.info, NEW.blobs))

    assert failed.reason == OsReason.IMAGE_INVALID


async def test_a_manifest_damaged_on_the_disk_is_fetched_again(machine: Appliance) -> None:
    path = await machine.shelf.ensure(NEW.ref.digest)
    machine.root.files[path] += b" "

    assert (await refusal(machine, NEW)).retryable
    await machine.engine.stage(NEW.ref)


async def test_a_cut_write_goes_on_where_it_was(machine: Appliance) -> None:
    machine.volumes.cut_power_at(5)
    with pytest.raises(PowerCut):
        await machine.engine.stage(NEW.ref)
    machine.volumes.lose(machine.root.chance, kept=1.0)
    machine.volumes.power_on()
    seen = (await describe(machine)).slot("b")
    assert seen is not None
    assert (seen.state, seen.version) == (SlotState.PARTIAL, "1.1.0")

    machine.volumes.written.clear()
    await machine.engine.stage(NEW.ref)

    assert machine.volumes.written.count("skerry-b") == 3, machine.volumes.written
    assert machine.holds("b", NEW)


async def test_what_was_resumed_is_verified(machine: Appliance) -> None:
    machine.volumes.cut_power_at(5)
    with pytest.raises(PowerCut):
        await machine.engine.stage(NEW.ref)
    machine.volumes.lose(machine.root.chance, kept=1.0)
    machine.volumes.power_on()
    machine.volumes.kept["skerry-b"][100] ^= 1

    await machine.engine.stage(NEW.ref)

    assert machine.holds("b", NEW)


async def test_a_slot_that_rotted_is_written_again(machine: Appliance) -> None:
    await machine.engine.stage(NEW.ref)
    machine.volumes.kept["skerry-b"][9000] ^= 1

    await machine.engine.stage(NEW.ref)

    assert machine.holds("b", NEW)
    await machine.engine.activate(NEW.ref, trial_s=600)
    assert machine.boot() == "b"


async def test_staging_again_needs_no_line(machine: Appliance) -> None:
    await machine.engine.stage(NEW.ref)
    machine.shelf.given.clear()

    await machine.engine.stage(NEW.ref)

    assert machine.shelf.given == []


async def test_a_disk_that_lies_is_not_believed(machine: Appliance) -> None:
    keep = machine.volumes.kept["skerry-b"]

    class Stuck(bytearray):
        def __setitem__(self, key: object, value: object) -> None:
            if isinstance(key, slice) and key.start == 4096:
                return
            bytearray.__setitem__(self, key, value)  # type: ignore[index, assignment]

    machine.volumes.kept["skerry-b"] = Stuck(keep)

    with pytest.raises(OsEngineFailed) as failed:
        await machine.engine.stage(NEW.ref)

    assert failed.value.reason == OsReason.SLOT_UNREADABLE
    check_disk(machine)
    slot = (await describe(machine)).slot("b")
    assert slot is not None
    assert slot.state is SlotState.PARTIAL


@pytest.mark.parametrize("slot", ["a", "b"])
async def test_a_flipped_bit_in_a_boot_image_is_said(machine: Appliance, slot: str) -> None:
    await updated(machine)
    await machine.engine.stage(OLD.ref)
    await machine.engine.activate(OLD.ref, trial_s=600)
    flip(machine, place_of(slot, OLD if slot == "a" else NEW), 700)

    seen = await describe(machine)

    assert any(f"slot {slot}" in text and "damaged" in text for text in seen.problems), seen


async def test_damage_is_found_within_six_hours(machine: Appliance) -> None:
    await updated(machine)
    assert (await machine.engine.describe()).problems == ()
    flip(machine, place_of("b", NEW), 700)

    machine.clock.advance(6 * 3600 + 1)

    assert (await machine.engine.describe()).problems


@pytest.mark.parametrize("content", [None, b"", b"\0" * 2000])
async def test_a_wrecked_boot_image_is_said_at_once(
    machine: Appliance, content: bytes | None
) -> None:
    await machine.engine.describe()
    machine.root.files.pop(place_of("a", OLD))
    if content is not None:
        machine.root.files[place_of("a", OLD)] = content

    seen = await machine.engine.describe()

    assert any("boot image of slot a" in text for text in seen.problems)


async def test_nothing_is_staged_while_the_running_slot_could_not_start(machine: Appliance) -> None:
    text = machine.root.files[ENTRY].decode()
    machine.root.files[ENTRY] = text.replace(f'"image":"{OLD.ref.digest}",', "").encode()
    machine.root.files[place_of("a", OLD)] = b"rotten"
    machine.new_process()

    failed = await refusal(machine, LATER)

    assert failed.reason == OsReason.BOOT_PARTITION_BROKEN


@pytest.mark.parametrize("fresh", [True, False])
async def test_a_rotten_boot_image_is_mended_before_the_other_slot_is_touched(
    machine: Appliance, fresh: bool
) -> None:
    running, image = ("a", OLD) if fresh else ("b", NEW)
    if not fresh:
        await updated(machine)
    machine.root.files[place_of(running, image)] = b"rotten"
    machine.new_process()

    await machine.engine.stage(LATER.ref)

    assert machine.root.files[place_of(running, image)] == image.uki
    assert (await describe(machine)).problems == ()


async def test_a_given_up_slot_that_runs_alone_can_be_left_by_another_update(
    machine: Appliance,
) -> None:
    await armed(machine)
    machine.boot()
    await machine.engine.roll_back()
    machine.volumes.kept["skerry-a"][9000] ^= 1
    assert machine.boot() == "b"
    slot = (await describe(machine)).slot("b")
    assert slot is not None
    assert slot.state is SlotState.BAD
    machine.hang = frozenset({"1.2.0"})

    await machine.engine.stage(LATER.ref)
    await machine.engine.activate(LATER.ref, trial_s=600)

    check_disk(machine)
    assert machine.boot() == "b"
    slot = (await describe(machine)).slot("b")
    assert slot is not None
    assert slot.state is SlotState.GOOD


async def test_a_slot_given_up_in_this_boot_is_not_blessed_by_another_update(
    machine: Appliance,
) -> None:
    await armed(machine)
    machine.boot(lost=2)
    await machine.engine.roll_back()

    assert (await refusal(machine, LATER)).reason == OsReason.OS_BUSY
    assert machine.boot() == "a"


async def test_the_running_boot_image_is_mended_by_its_own_image(machine: Appliance) -> None:
    await updated(machine)
    flip(machine, place_of("b", NEW), 700)
    machine.new_process()

    await machine.engine.stage(NEW.ref)

    assert (await describe(machine)).problems == ()
    assert machine.boot() == "b"


async def test_another_boot_image_with_the_same_root_is_refused(machine: Appliance) -> None:
    odd = assemble(
        "1.0.0",
        files=(OLD.root, OLD.verity, OLD.uki + b" "),
        names=(OLD.info.root_hash, OLD.info.root_uuid, OLD.info.verity_uuid),
    )
    machine.shelf.add(odd)

    failed = await refusal(machine, odd)

    assert "new version" in str(failed)


async def test_the_image_that_the_disk_was_made_with_gets_its_name(machine: Appliance) -> None:
    text = machine.root.files[ENTRY].decode()
    machine.root.files[ENTRY] = text.replace(f'"image":"{OLD.ref.digest}",', "").encode()
    assert (await describe(machine)).image == ""

    await machine.engine.stage(OLD.ref)

    assert (await describe(machine)).image == OLD.ref.digest
    assert machine.volumes.written == []


async def test_a_flipped_bit_in_the_idle_slots_name_is_said(machine: Appliance) -> None:
    await updated(machine)
    machine.volumes.kept["skerry-a-verity"][20] ^= 1

    seen = await describe(machine)

    slot = seen.slot("a")
    assert slot is not None
    assert slot.state is SlotState.EMPTY
    assert any("slot a" in text for text in seen.problems)


async def test_a_changed_running_slot_is_said_and_still_the_running_one(machine: Appliance) -> None:
    machine.volumes.kept["skerry-a"][1024 + 0x30] ^= 1

    seen = await describe(machine)

    assert (seen.running, seen.idle) == ("a", "b")
    assert any("slot a, which runs, was changed" in text for text in seen.problems)
    with pytest.raises(OsEngineFailed):
        await machine.engine.stage(NEW.ref)


async def test_a_trial_is_not_given_up_for_a_slot_that_cannot_start(machine: Appliance) -> None:
    await armed(machine)
    machine.boot()
    machine.root.files.pop(place_of("a", OLD))

    with pytest.raises(OsEngineFailed) as failed:
        await machine.engine.roll_back()

    assert failed.value.reason == OsReason.SLOT_UNREADABLE
    assert machine.boot() == "b"


async def test_a_lost_entry_of_the_running_slot_is_said_and_made_again(machine: Appliance) -> None:
    await updated(machine)
    for file in machine.entries("b"):
        del machine.root.files[f"/boot/loader/entries/{file}"]
    seen = await describe(machine)
    assert any("no boot entry" in text for text in seen.problems)

    await machine.engine.confirm()

    seen = await describe(machine)
    slot = seen.slot("b")
    assert slot is not None
    assert (slot.state, slot.image, slot.version) == (SlotState.GOOD, NEW.ref.digest, "1.1.0")
    assert seen.problems == ()
    assert machine.boot() == "b"


@pytest.mark.parametrize("damage", [b"", b"efi /EFI/skerry/x\n", b"\xff" * 20_000])
async def test_a_torn_entry_is_said_and_swept_away(machine: Appliance, damage: bytes) -> None:
    await updated(machine)
    machine.root.files["/boot/loader/entries/skerry-000009+3.conf"] = damage
    assert any("000009" in text for text in (await describe(machine)).problems)

    await machine.engine.stage(LATER.ref)
    await machine.engine.activate(LATER.ref, trial_s=600)

    assert (await describe(machine)).problems == ()
    assert machine.boot() == "a"


async def test_the_slot_that_was_passed_over_is_said_and_outranked(machine: Appliance) -> None:
    await updated(machine)
    machine.volumes.kept["skerry-b"][9000] ^= 1
    assert machine.boot() == "a"
    seen = await describe(machine)
    assert any("slot b is confirmed and newer" in text for text in seen.problems)

    await machine.engine.confirm()

    assert (await describe(machine)).problems == ()
    assert machine._choose() == machine.entries("a")[0]


async def test_two_disks_with_the_same_labels_are_not_written(machine: Appliance) -> None:
    machine.volumes.on_disk = {"skerry-b": "vdb", "skerry-b-verity": "vdb"}

    failed = await refusal(machine, NEW)

    assert "more than one disk" in str(failed)
    assert any("more than one disk" in text for text in (await describe(machine)).problems)


async def test_a_running_root_on_another_disk_than_the_labels_is_seen(machine: Appliance) -> None:
    for label in machine.volumes.kept:
        machine.volumes.on_disk[label] = "sda"

    assert "more than one disk" in str(await refusal(machine, NEW))


async def test_which_slot_runs_can_be_known_by_content_alone(machine: Appliance) -> None:
    for path in [path for path in machine.root.files if path.startswith("/sys/")]:
        del machine.root.files[path]

    assert (await describe(machine)).running == "a"


async def test_nothing_is_touched_when_the_running_slot_is_unknown(machine: Appliance) -> None:
    for path in [path for path in machine.root.files if path.startswith("/sys/")]:
        del machine.root.files[path]
    machine.root.files["/proc/cmdline"] = b"quiet"
    machine.new_process()

    seen = await machine.engine.describe()

    assert (seen.running, seen.idle) == ("", "")
    assert any("not known" in text for text in seen.problems)
    assert (await refusal(machine, NEW)).reason == OsReason.OS_ENGINE_FAILED
    for call in (machine.engine.confirm(), machine.engine.activate(NEW.ref, trial_s=60)):
        with pytest.raises(OsEngineFailed):
            await call


async def test_the_recovery_system_lies_in_no_slot(machine: Appliance) -> None:
    machine.root.files["/proc/cmdline"] = b"quiet skerry.recovery"

    seen = await describe(machine)

    assert (seen.recovery, seen.running, seen.idle) == (True, "", "")
    slot = seen.slot("a")
    assert slot is not None
    assert slot.state is SlotState.GOOD


async def test_a_partition_that_does_not_answer_is_said(machine: Appliance) -> None:
    machine.volumes.broken = {"skerry-b", "skerry-b-verity"}

    seen = await describe(machine)

    assert any("slot b" in text and "Input/output error" in text for text in seen.problems)
    assert (await refusal(machine, NEW)).reason == OsReason.SLOT_UNREADABLE


async def test_an_unmounted_boot_partition_is_said(machine: Appliance) -> None:
    machine.root.files["/proc/mounts"] = b""
    machine.runner.fail("systemctl", "start", "boot.mount", stderr="bad superblock")

    seen = await describe(machine)

    assert seen.running == "a"
    assert any("not mounted" in text for text in seen.problems)
    with pytest.raises(OsEngineFailed) as failed:
        await machine.engine.reset(keep_identity=False)
    assert failed.value.reason == OsReason.BOOT_PARTITION_BROKEN


async def test_a_boot_partition_that_came_late_is_mounted_by_the_next_act(
    machine: Appliance,
) -> None:
    files = machine.root.files
    hidden = {path: files.pop(path) for path in list(files) if path.startswith("/boot/")}
    files["/proc/mounts"] = b""

    def mount(argv: tuple[str, ...]) -> Result:
        files.update(hidden)
        files["/proc/mounts"] = b"/dev/vda2 /boot vfat ro,nosuid 0 0\n"
        return Result(argv, 0, "", "")

    machine.runner.answer_with("systemctl", "start", "boot.mount", answer=mount)

    await machine.engine.stage(NEW.ref)

    assert machine.holds("b", NEW)


async def test_the_boot_partition_is_read_only_after_every_act(machine: Appliance) -> None:
    for act in (
        lambda: machine.engine.stage(NEW.ref),
        lambda: machine.engine.activate(NEW.ref, trial_s=600),
        lambda: machine.engine.reset(keep_identity=True),
    ):
        await act()
        assert b"vfat ro" in machine.root.files["/proc/mounts"]
    machine.root.files[ENTRY + "x"] = b""
    machine.root.capacity = 10
    with pytest.raises(OsEngineFailed):
        await machine.engine.reset(keep_identity=False)
    assert b"vfat ro" in machine.root.files["/proc/mounts"]


@pytest.mark.parametrize("keep", [True, False])
async def test_the_request_for_a_reset_is_the_one_that_the_initrd_reads(
    machine: Appliance, keep: bool
) -> None:
    await machine.engine.reset(keep_identity=keep)

    text = machine.root.files["/boot/skerry/reset"].decode()
    assert json.loads(text) == {"keepIdentity": keep}
    assert bool(re.search(r'"keepIdentity": *true', text)) == keep


async def test_the_trials_limit_is_in_the_entry_for_the_watch(machine: Appliance) -> None:
    await machine.engine.stage(NEW.ref)
    await machine.engine.activate(NEW.ref, trial_s=1234)

    text = machine.root.files["/boot/loader/entries/skerry-000002+3.conf"].decode()
    found = re.search(r'"trialS":([0-9]{1,6})[,}]', text)
    assert found is not None
    assert found[1] == "1234"


async def test_only_two_boot_images_stay_on_the_boot_partition(machine: Appliance) -> None:
    machine.root.files["/boot/EFI/skerry/.b-0123.efi.unread"] = b"torn"
    machine.root.files["/boot/EFI/skerry/b-0123.efi"] = b"MZ older"

    await updated(machine)

    assert sorted(f"/boot/EFI/skerry/{x}" for x in machine.root.list("/boot/EFI/skerry")) == sorted(
        [place_of("a", OLD), place_of("b", NEW)]
    )


async def test_describing_costs_little(machine: Appliance) -> None:
    await updated(machine)
    await machine.engine.describe()
    taken = []
    for _ in range(20):
        start = time.perf_counter()
        await machine.engine.describe()
        taken.append(time.perf_counter() - start)

    assert sorted(taken)[10] < 0.02, taken
