"""The installer takes one disk, by rule, and can say of each why or why not."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.plan.diskchoice import (
    Choice,
    TargetDisk,
    choose,
    line,
    read_lsblk,
    size_text,
)
from skerry.plan.sitedata import DiskRule, Prefer

GIB = 1 << 30
LEAST = 5 * GIB


def disk(name: str, size_gib: int = 20, **fields: Any) -> TargetDisk:
    return TargetDisk(path=f"/dev/{name}", size_bytes=size_gib * GIB, **fields)


STICK = disk("sdb", 8, removable=True, transport="usb", medium=True, contents=("vfat on sdb1",))
FULL = disk("sda", 100, serial="WD-7", model="WD Blue", contents=("ext4 on sda1",))


def chosen(
    *disks: TargetDisk, wipe: bool | tuple[str, ...] = False, **rule: Any
) -> tuple[str, Choice]:
    choice = choose(disks, DiskRule(**rule), wipe=wipe, least_bytes=LEAST)
    return choice.path, choice


def test_the_only_empty_disk_is_taken_and_every_disk_has_its_reason() -> None:
    path, choice = chosen(disk("vda"), STICK, FULL, disk("vdb", 2))

    assert path == "/dev/vda"
    assert choice.lines() == [
        "vda: 20 GiB, empty - chosen",
        "sdb: the medium this system was started from",
        "sda: 100 GiB WD Blue, holds ext4 on sda1",
        "vdb: 2 GiB, too small, 5 GiB are needed",
    ]


def test_of_several_disks_none_is_taken_without_a_preference() -> None:
    path, choice = chosen(disk("vda"), disk("vdb", 40))

    assert path == ""
    assert choice.problem == "2 disks fit: vda, vdb"
    assert "install.disk" in choice.hint
    assert chosen(disk("vda"), disk("vdb", 40), prefer=Prefer.SMALLEST)[0] == "/dev/vda"
    assert chosen(disk("vda"), disk("vdb", 40), prefer=Prefer.LARGEST)[0] == "/dev/vdb"


def test_equal_disks_give_the_same_choice_in_any_order() -> None:
    disks = [disk("vdb"), disk("vda"), disk("vdc")]

    for prefer in Prefer:
        assert chosen(*disks, prefer=prefer)[0] == "/dev/vda"
        assert chosen(*reversed(disks), prefer=prefer)[0] == "/dev/vda"


@pytest.mark.parametrize(
    "rule",
    [
        {"path": "/dev/vdb"},
        {"path": "/dev/disk/by-id/virtio-B"},
        {"serial": "B"},
        {"model": "fast*"},
        {"min_bytes": 30 * GIB},
    ],
)
def test_a_disk_is_found_by_each_rule(rule: dict[str, Any]) -> None:
    names = ("/dev/disk/by-id/virtio-B",)
    other = disk("vdb", 40, serial="B", model="Fast Disk 9", names=names)

    assert chosen(disk("vda"), other, **rule)[0] == "/dev/vdb"


def test_all_parts_of_a_rule_must_hold() -> None:
    path, choice = chosen(disk("vda", serial="A"), path="/dev/vda", serial="B")

    assert path == ""
    assert choice.verdicts[0].reason == "not the disk that is named"


def test_data_is_overwritten_only_where_the_permission_names_the_disk() -> None:
    assert chosen(FULL)[0] == ""
    assert "install.wipe" in chosen(FULL)[1].hint
    # A permission without a named disk could hit any disk that somebody plugs in.
    assert chosen(FULL, wipe=True)[0] == ""
    assert chosen(FULL, wipe=True, prefer=Prefer.LARGEST)[0] == ""
    assert chosen(FULL, wipe=True, serial="WD-7")[0] == "/dev/sda"
    assert chosen(FULL, wipe=True, path="/dev/sda")[0] == "/dev/sda"
    assert chosen(FULL, wipe=("WD-7",))[0] == "/dev/sda"
    assert chosen(FULL, wipe=("sda",))[0] == "/dev/sda"
    assert chosen(FULL, wipe=("sdz",))[0] == ""


def test_the_medium_is_never_written_not_even_when_it_is_named() -> None:
    path, choice = chosen(STICK, path="/dev/sdb", wipe=True)

    assert path == ""
    assert choice.lines() == ["sdb: the medium this system was started from"]


def test_a_removable_disk_must_be_named() -> None:
    usb = disk("sdc", transport="usb")

    assert chosen(usb)[0] == ""
    assert chosen(disk("sdc", removable=True))[0] == ""
    assert chosen(usb, path="/dev/sdc")[0] == "/dev/sdc"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"used": ("mounted at /",)}, "in use (mounted at /)"),
        ({"read_only": True}, "read-only"),
    ],
)
def test_what_cannot_be_written_is_refused_even_when_named(
    fields: dict[str, Any], reason: str
) -> None:
    path, choice = chosen(disk("vda", **fields), path="/dev/vda", wipe=True)

    assert (path, choice.verdicts[0].reason) == ("", reason)


def test_an_installation_that_was_not_finished_is_done_again_without_permission() -> None:
    half = disk("vda", contents=("a gpt partition table",), unfinished=True)

    path, choice = chosen(half)

    assert path == "/dev/vda"
    assert choice.lines() == ["vda: 20 GiB, an installation that was not finished - chosen"]


def test_no_disk_at_all_is_said() -> None:
    assert chosen()[1].problem == "no disk to install on"


DISKS = st.lists(
    st.builds(
        TargetDisk,
        path=st.sampled_from(["/dev/vda", "/dev/vdb", "/dev/sda", "/dev/nvme0n1"]),
        size_bytes=st.sampled_from([1, 4 * GIB, 5 * GIB, 20 * GIB]),
        serial=st.sampled_from(["", "A", "B"]),
        model=st.sampled_from(["", "Fast"]),
        transport=st.sampled_from(["", "usb", "nvme"]),
        removable=st.booleans(),
        read_only=st.booleans(),
        medium=st.booleans(),
        used=st.sampled_from([(), ("mounted at /",)]),
        contents=st.sampled_from([(), ("ext4",)]),
        unfinished=st.booleans(),
    ),
    max_size=4,
    unique_by=lambda item: item.path,
)
RULES = st.builds(
    DiskRule,
    path=st.sampled_from(["", "/dev/vda", "/dev/sda"]),
    serial=st.sampled_from(["", "A"]),
    model=st.sampled_from(["", "fast", "*"]),
    min_bytes=st.sampled_from([0, 10 * GIB]),
    prefer=st.sampled_from([None, *Prefer]),
)
WIPES = st.sampled_from([False, True, ("vda",), ("A", "/dev/sda"), ("",)])


@given(DISKS, RULES, WIPES)
def test_no_rule_leads_to_a_disk_that_must_not_be_written(
    disks: list[TargetDisk], rule: DiskRule, wipe: bool | tuple[str, ...]
) -> None:
    choice = choose(disks, rule, wipe=wipe, least_bytes=LEAST)

    assert [item.disk for item in choice.verdicts] == disks
    assert all(line(item, chosen=False) for item in choice.verdicts)
    if not choice.path:
        assert choice.problem
        assert choice.hint
        return
    taken = next(item for item in disks if item.path == choice.path)
    assert not any((taken.medium, taken.used, taken.read_only))
    assert taken.size_bytes >= max(LEAST, rule.min_bytes)
    if taken.removable or taken.transport == "usb":
        assert rule.names
    if taken.contents and not taken.unfinished:
        assert wipe
        assert rule.names if wipe is True else any(taken.called(item) for item in wipe)


def block(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "path": f"/dev/{name}", "type": "disk", "size": 20 * GIB, **fields}


def test_disks_are_read_from_lsblk() -> None:
    part = {"type": "part", "size": GIB, "mountpoints": [None]}
    printed = {
        "blockdevices": [
            block("zram0", size=0),
            block("sr0", type="rom"),
            block("vda", model="  QEMU   DISK ", serial=None, pttype=None, mountpoints=[None]),
            block("sda", pttype="gpt", children=[block("sda1", **part, fstype="ext4")]),
            block(
                "sdb", rm=True, children=[block("sdb2", **part, partlabel="skerry-install-root")]
            ),
            block(
                "sdc",
                children=[
                    block(
                        "sdc1",
                        **{**part, "fstype": "LVM2_member"},
                        children=[block("vg-home", type="lvm", mountpoints=["/home"])],
                    )
                ],
            ),
        ]
    }

    found = read_lsblk(json.dumps(printed))

    assert [item.name for item in found] == ["vda", "sda", "sdb", "sdc"]
    vda, sda, sdb, sdc = found
    assert (vda.model, vda.contents, vda.used) == ("QEMU DISK", (), ())
    assert sda.contents == ("a gpt partition table", "ext4 on sda1")
    assert sda.partitions == ("/dev/sda1",)
    assert sdb.medium
    assert sdc.used == ("mounted at /home", "vg-home lies on it")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"blockdevices": [{"path": 1}]}', "[" * 9999])
def test_another_answer_of_lsblk_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="lsblk"):
        read_lsblk(text)


@given(st.text(max_size=40))
def test_any_text_is_disks_or_an_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        read_lsblk(text)


def test_sizes_are_readable() -> None:
    assert [size_text(n) for n in (512, 20 * GIB, 1_900_000_000_000, 1536 << 20)] == [
        "512 B",
        "20 GiB",
        "1.7 TiB",
        "1.5 GiB",
    ]
