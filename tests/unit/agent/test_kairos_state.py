"""What a Kairos host says of itself, recorded, and the guards that follow from it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from skerry.agent.osengine import kairos_guards as guards
from skerry.agent.osengine import kairos_state as words
from skerry.agent.osengine.engine import OsEngineFailed, OsReason
from skerry.agent.osengine.kairos import KairosEngine
from skerry.agent.osengine.kairos_state import (
    BootState,
    Device,
    ImageFacts,
    KairosFacts,
    KairosRecord,
    Known,
    Mount,
    Staged,
    Verdict,
)
from skerry.lib.errors import SkerryError
from skerry.lib.memory_files import MemoryRoot
from skerry.lib.proc import FakeRunner
from skerry.model.kairosimage import KairosBoot
from skerry.plan.osupdate import SlotState

pytestmark = pytest.mark.anyio

STAGED = Staged(
    image="sha256:new",
    version="2.0.0",
    kairos_version="v2.0.0",
    blob="sha256:tar",
    size_bytes=9,
    unpacked_bytes=100 << 20,
)
HEALTHY = KairosFacts(
    booted=BootState.ACTIVE,
    boot_id="b1",
    architecture="amd64",
    release={"KAIROS_VERSION": "v1.0.0"},
    mounts=(
        Mount("/", "/dev/loop0"),
        Mount("/run/initramfs/cos-state", "/dev/vda4"),
        Mount("/oem", "/dev/vda2", frozenset({"rw"})),
        Mount("/usr/local", "/dev/vda5", frozenset({"rw"})),
    ),
    devices=(
        Device("/dev/vda2", "COS_OEM", "1", "ext4"),
        Device("/dev/vda4", "COS_STATE", "2", "ext4"),
        Device("/dev/vda5", "COS_PERSISTENT", "3", "ext4"),
        Device("/dev/loop0", "COS_ACTIVE", "4", "ext2"),
    ),
    root_image="/cOS/active.img",
    state="/run/initramfs/cos-state",
    state_free=8 << 30,
    images={
        "active": ImageFacts("COS_ACTIVE", "one", "v1.0.0"),
        "passive": ImageFacts("COS_PASSIVE", "one", "v1.0.0"),
    },
)


def refused(facts: KairosFacts, record: KairosRecord | None = None) -> list[OsReason]:
    found = guards.activate_refusals(facts, record or KairosRecord(staged=STAGED), STAGED)
    return [item.reason for item in found]


def test_a_healthy_host_is_not_refused_and_has_no_problems() -> None:
    assert refused(HEALTHY) == []
    assert words.problems(HEALTHY, KairosRecord()) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"booted": BootState.RECOVERY}, OsReason.OS_NOT_MANAGED),
        ({"booted": BootState.LIVE}, OsReason.OS_NOT_MANAGED),
        ({"sentinels": frozenset({"in_ram_mode"})}, OsReason.OS_NOT_MANAGED),
        ({"state": ""}, OsReason.SLOT_UNREADABLE),
        ({"upgrading": True}, OsReason.OS_BUSY),
        ({"root_image": "/cOS/passive.img"}, OsReason.OS_BUSY),
        ({"on_battery_percent": 12}, OsReason.OS_BUSY),
        ({"state_free": 50 << 20}, OsReason.IMAGE_TOO_LARGE),
        ({"mounts": HEALTHY.mounts[:2]}, OsReason.OS_ENGINE_FAILED),
        (
            {"images": {**HEALTHY.images, "active": ImageFacts("COS_ACTIVE", "one", "v1", False)}},
            OsReason.SLOT_UNREADABLE,
        ),
    ],
)
def test_each_guard_stops_an_upgrade(change: dict[str, object], reason: OsReason) -> None:
    assert reason in refused(replace(HEALTHY, **change))  # type: ignore[arg-type]  # by name


def test_the_last_confirmed_image_is_not_overwritten_during_a_trial() -> None:
    record = KairosRecord(staged=STAGED, known={"one": Known(image="sha256:x", version="1.0.0")})

    assert refused(HEALTHY, record) == [OsReason.OS_BUSY]


def test_an_image_that_was_given_up_does_not_become_the_way_back() -> None:
    known = Known(image="sha256:x", version="1.0.0", verdict=Verdict.BAD)

    assert refused(HEALTHY, KairosRecord(staged=STAGED, known={"one": known})) == [OsReason.OS_BUSY]


def test_two_devices_of_one_label_are_told() -> None:
    twin = Device("/dev/sdb1", "COS_PERSISTENT", "9", "ext4")
    facts = replace(HEALTHY, devices=(*HEALTHY.devices, twin))

    assert "/dev/sdb1 and /dev/vda5 both have the label COS_PERSISTENT" in words.problems(
        facts, KairosRecord()
    )


def test_a_mount_is_believed_by_the_label_of_its_device_not_by_its_path() -> None:
    mounts = (*HEALTHY.mounts[:3], Mount("/usr/local", "tmpfs", frozenset({"rw"})))

    (problem,) = words.mount_problems(replace(HEALTHY, mounts=mounts))

    assert problem == "/usr/local is tmpfs, which does not have the label COS_PERSISTENT"


def test_a_reset_of_an_encrypted_host_is_refused() -> None:
    luks = Device("/dev/vda5", "COS_PERSISTENT", "3", "crypto_LUKS")
    facts = replace(HEALTHY, devices=(luks,))

    assert [item.lasting for item in guards.reset_refusals(facts)] == [True]


@pytest.mark.parametrize(
    ("cmdline", "selected", "state"),
    [
        ("root=LABEL=COS_ACTIVE cos-img/filename=/cOS/active.img", "", BootState.ACTIVE),
        ("root=LABEL=COS_PASSIVE upgrade_failure", "", BootState.PASSIVE),
        ("root=LABEL=COS_SYSTEM cos-img/filename=/cOS/recovery.img", "", BootState.RECOVERY),
        ("root=LABEL=COS_SYSTEM kairos.reset", "", BootState.RESET),
        ("root=live:CDLABEL=COS_LIVE rd.live.dir=/", "", BootState.LIVE),
        ("rd.immucore.uki console=tty1", "active+3.conf", BootState.ACTIVE),
        ("rd.immucore.uki console=tty1", "passive.conf", BootState.PASSIVE),
        ("quiet", "", BootState.UNKNOWN),
    ],
)
def test_boot_state(cmdline: str, selected: str, state: BootState) -> None:
    assert words.boot_state(cmdline, selected) is state


def test_a_damaged_answer_of_a_tool_is_no_answer() -> None:
    assert words.parse_findmnt("{") == words.parse_findmnt("[]") == ()
    assert words.parse_blkid("garbage") == ()
    assert words.parse_dumpe2fs("Bad magic number") == ("", "")


def test_an_upgrade_that_nobody_saw_end_is_recognised() -> None:
    begun = words.Activating(staged=STAGED, before=("one",))
    images = {
        "active": ImageFacts("COS_ACTIVE", "two", "v2.0.0"),
        "passive": HEALTHY.images["active"],
    }
    facts = replace(HEALTHY, images=images)

    known = words.known_of(facts, KairosRecord(activating=begun), "active")

    assert known == Known(image="sha256:new", version="2.0.0")
    other = replace(facts, images={"active": ImageFacts("COS_ACTIVE", "two", "v9")})
    assert words.known_of(other, KairosRecord(activating=begun), "active") is None


@pytest.mark.parametrize("text", ["stages: {}\n", "#cloud-config\n[", "#cloud-config\n- a\n"])
def test_what_is_no_cloud_config_is_refused(text: str) -> None:
    with pytest.raises(OsEngineFailed):
        guards.config_to_check(text)


class NoContent:
    async def ensure(self, digest: str, *, size: int = 0) -> str:
        raise SkerryError(f"no content {digest}")

    def drop(self, digest: str) -> None:
        raise SkerryError(f"no content {digest}")


def uki_host(entries: list[str], *, booted: str = "active.conf") -> tuple[MemoryRoot, KairosEngine]:
    """A host with trusted boot as far as its files tell."""
    root = MemoryRoot()
    root.write("/proc/cmdline", b"rd.immucore.uki console=tty1")
    variable = "LoaderEntrySelected-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
    root.write(
        f"/sys/firmware/efi/efivars/{variable}",
        b"\x06\0\0\0" + f"{booted}\0".encode("utf-16-le"),
    )
    root.write("/etc/kairos-release", b'KAIROS_VERSION="v2.0.0"\n')
    for name in entries:
        root.write(f"/efi/loader/entries/{name}", b"title x\n")
    for role, version in (("active", "v2.0.0"), ("passive", "v1.0.0")):
        text = b'MZ\0\0KAIROS_VERSION="' + version.encode() + b'"\n'
        root.write(f"/efi/EFI/kairos/{role}.efi", text)
    runner = FakeRunner()
    mounts = '{"target": "/efi", "source": "/dev/vda1", "options": "ro"}'
    runner.answer("findmnt", stdout=f'{{"filesystems": [{mounts}]}}')
    return root, KairosEngine(root, runner, content=NoContent(), architecture="amd64")


async def test_trusted_boot_counts_in_the_names_of_entries() -> None:
    root, engine = uki_host(["active+2-1.conf", "passive.conf", "recovery.conf"])
    facts = await engine._measure()  # the engine's own look
    known = {facts.images["active"].identity: Known(image="sha256:a", version="2.0.0")}
    engine._keep(KairosRecord(known=known))  # as activate leaves it

    trial = await engine.describe()
    await engine.confirm()
    good = await engine.describe()

    assert (trial.running, trial.slot("a").state, trial.slot("a").tries_left) == (  # type: ignore[union-attr]  # slots are fixed
        "a",
        SlotState.TRIAL,
        2,
    )
    assert good.slot("a").state is SlotState.GOOD  # type: ignore[union-attr]  # slots are fixed
    assert root.list("/efi/loader/entries") == ["active.conf", "passive.conf", "recovery.conf"]


async def test_trusted_boot_returns_by_an_entry_without_tries() -> None:
    root, engine = uki_host(["active+2-1.conf", "passive.conf"])
    facts = await engine._measure()  # the engine's own look
    known = {facts.images["active"].identity: Known(image="sha256:a", version="2.0.0")}
    engine._keep(KairosRecord(known=known))  # as activate leaves it

    await engine.roll_back()

    assert root.list("/efi/loader/entries") == ["active+0.conf", "passive.conf"]
    assert (await engine.describe()).slot("a").state is SlotState.BAD  # type: ignore[union-attr]  # slots are fixed


def test_trusted_boot_needs_room_for_two_more_images() -> None:
    facts = replace(HEALTHY, boot=KairosBoot.UKI, state_free=150 << 20)

    assert OsReason.IMAGE_TOO_LARGE in refused(facts)


def test_every_guard_of_the_page_has_its_code_and_its_test() -> None:
    checkout = Path(__file__).parents[3]
    page = (checkout / "docs/how-to/use-kairos-hosts.md").read_text()
    rows = re.findall(r"^\| [^|]+ \| [^|]+ \| `(\w+)` \| `(\w+)` \|$", page, re.MULTILINE)
    code = "".join(
        path.read_text() for path in (checkout / "src/skerry/agent/osengine").glob("kairos*.py")
    )
    tests = "".join(path.read_text() for path in (checkout / "tests").rglob("test_kairos*.py"))

    assert len(rows) >= 15
    for function, test in rows:
        assert re.search(rf"def {function}\b", code), function
        assert re.search(rf"def {test}\b", tests), test
