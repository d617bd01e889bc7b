"""The fleet's one file brings the same hosts back."""

from __future__ import annotations

from pathlib import Path

import pytest

from skerry.agent import paths
from skerry.lib.errors import SkerryError
from skerry.lib.files import DiskRoot, FileMissing
from skerry.sim.disk import FleetDisk

BLOB = f"{paths.CONTENT}/{'a' * 64}"


def _disk(folder: Path) -> FleetDisk:
    disk = FleetDisk(DiskRoot(str(folder)))
    disk.load()
    return disk


def test_what_a_host_wrote_is_there_after_a_restart(tmp_path: Path) -> None:
    first = _disk(tmp_path)
    root = first.mount("cork-1", {}, {})
    root.write("/var/lib/skerry/a", b"\x00\xff")
    root.write("/var/lib/skerry/b", b"old")
    root.write("/var/lib/skerry/b", b"new")
    root.write("/var/lib/skerry/gone", b"x")
    root.remove("/var/lib/skerry/gone")
    first.flush()

    again = _disk(tmp_path).mount("cork-1", {}, {})

    assert again.read("/var/lib/skerry/a") == b"\x00\xff"
    assert again.read("/var/lib/skerry/b") == b"new"
    assert again.list("/var/lib/skerry") == ["a", "b"]


def test_a_torn_last_record_loses_only_itself(tmp_path: Path) -> None:
    first = _disk(tmp_path)
    root = first.mount("cork-1", {}, {})
    root.write("/a", b"kept")
    root.write("/b", b"torn")
    first.flush()
    log = tmp_path / "fleet.log"
    log.write_bytes(log.read_bytes()[:-9])

    again = _disk(tmp_path).mount("cork-1", {}, {})

    assert again.read("/a") == b"kept"
    assert not again.exists("/b")


def test_equal_content_is_held_and_kept_once(tmp_path: Path) -> None:
    disk = _disk(tmp_path)
    one, two = disk.mount("cork-1", {}, {}), disk.mount("cork-2", {}, {})
    one.write(BLOB, b"x" * 10_000)
    two.append("/part", b"x" * 10_000)
    two.rename("/part", BLOB)
    disk.flush()

    again = _disk(tmp_path)

    assert one.read(BLOB) is two.read(BLOB)
    hosts = [again.mount(name, {}, {}) for name in ("cork-1", "cork-2")]
    assert hosts[0].read(BLOB) is hosts[1].read(BLOB)
    packed = (tmp_path / "fleet.log").read_bytes()
    assert len(packed) < 15_000


def test_status_for_people_is_not_kept(tmp_path: Path) -> None:
    first = _disk(tmp_path)
    first.mount("cork-1", {}, {}).write(paths.STATUS, b"{}")
    first.flush()

    assert not _disk(tmp_path).mount("cork-1", {}, {}).exists(paths.STATUS)


def test_machine_files_lie_below_what_the_agent_wrote() -> None:
    root = FleetDisk().mount("cork-1", {"/etc/os": b"shape", "/sys/x/y": b"1"}, {"/etc/id": b"me"})
    root.write("/etc/os", b"mine")

    assert (root.read("/etc/os"), root.read("/etc/id")) == (b"mine", b"me")
    assert root.list("/sys") == ["x"]
    assert root.is_dir("/sys/x")
    with pytest.raises(FileMissing):
        root.read("/nothing")
    with pytest.raises(SkerryError, match="not absolute"):
        root.write("/a/../../etc", b"")


def test_a_log_that_grew_much_is_packed_and_loses_nothing(tmp_path: Path) -> None:
    disk = _disk(tmp_path)
    root = disk.mount("cork-1", {}, {})
    for number in range(40):
        root.write("/big", bytes([number]) * 1_000_000)
        disk.flush()

    assert (tmp_path / "fleet.log").stat().st_size < 25_000_000
    assert _disk(tmp_path).mount("cork-1", {}, {}).read("/big") == bytes([39]) * 1_000_000
