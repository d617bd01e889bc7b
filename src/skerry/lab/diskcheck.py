"""What an appliance's disk would do if it were switched on now, found without starting it.

Does what firmware, loader and initrd do, in their order, on copies: repairs that a start makes
(journal, fsck of the boot partition) are made first. The answer is a value; nothing raises for what
the disk holds.
"""

from __future__ import annotations

import re
import shutil
import struct
from dataclasses import dataclass, field
from pathlib import Path

import anyio.to_thread

from skerry.lab.blocklog import copy_range
from skerry.lab.gpt import Place, Table, read_table
from skerry.lib.digest import sha256
from skerry.lib.proc import Runner
from skerry.plan.bootentries import FOLDER, MAX_ENTRY_BYTES, BootEntry, EntryName, parse, parse_name
from skerry.plan.disklayout import BOOT, ESP, SLOTS, STATE, data_label, verity_label
from skerry.plan.osslots import (
    DATA_SUPER,
    SECTOR,
    VERITY_SUPER,
    RunningSystem,
    erofs_uuid,
    parse_cmdline,
    verity_uuid,
)

_LIMIT_S = 120.0
_MAX_UKI_BYTES = 512 << 20


@dataclass(frozen=True, slots=True)
class SlotLook:
    """What lies in a slot; UUIDs are empty where no superblock is."""

    root_uuid: str = ""
    verity_uuid: str = ""


@dataclass(frozen=True, slots=True)
class EntryLook:
    """A boot entry as the loader sees it. `why_not` is empty when the system it leads to starts;
    `slot` is where the initrd would find it."""

    file: str
    name: EntryName
    entry: BootEntry | None
    order: str
    slot: str = ""
    why_not: str = ""

    @property
    def starts(self) -> bool:
        return not self.why_not


@dataclass(frozen=True, slots=True)
class DiskLook:
    """`problems` are what no start repairs; `boot` is a folder with the boot partition's files, as
    they are after the repairs of a start."""

    table: Table
    problems: tuple[str, ...] = ()
    entries: tuple[EntryLook, ...] = ()
    slots: dict[str, SlotLook] = field(default_factory=dict)
    boot: Path = Path()

    @property
    def chosen(self) -> EntryLook | None:
        """The entry that systemd-boot takes; None when there is none."""
        return choose(self.entries)

    @property
    def boots(self) -> str:
        """`SLOT VERSION` of the image that would run at last, empty for none: when the chosen one
        does not start, the initrd or the recovery asks for the newest other that was not given
        up."""
        waiting = list(self.entries)
        while waiting:
            first = choose(tuple(waiting))
            if first is None:
                break
            if first.starts and first.entry is not None:
                return f"{first.slot} {first.entry.version}"
            waiting = [item for item in waiting if item != first and not item.name.bad]
        return ""


def choose(entries: tuple[EntryLook, ...]) -> EntryLook | None:
    """By systemd-boot's rules: entries without tries last, then the newest `version` (systemd.io,
    Automatic Boot Assessment; Boot Loader Specification, "Sorting"; all have one sort key)."""
    return max(entries, key=lambda item: (not item.name.bad, item.order), default=None)


async def look(
    disk: Path, *, runner: Runner, scratch: Path, db_certificate: Path | None = None
) -> DiskLook:
    """Check a disk's file, which stays as it is; copies go into `scratch`, a folder that is new.

    `db_certificate`: boot images must carry this signature.
    """
    scratch.mkdir(parents=True)
    table = await anyio.to_thread.run_sync(read_table, disk)
    labels = [ESP, BOOT, STATE, *(f(slot) for slot in SLOTS for f in (data_label, verity_label))]
    missing = [label for label in labels if label not in table.parts]
    if missing:
        return DiskLook(table, (f"partitions are missing: {', '.join(missing)}",))
    problems = [] if not table.first_trouble else [f"partition table: {table.first_trouble}"]
    for label in (ESP, BOOT, STATE):
        await anyio.to_thread.run_sync(_take, disk, table.parts[label], scratch / label)
        problems += await _file_system(label, scratch / label, runner)
    boot = scratch / "boot"
    boot.mkdir()
    await runner.run(
        ["mcopy", "-s", "-n", "-Q", "-i", str(scratch / BOOT), "::/", str(boot)],
        timeout_s=_LIMIT_S,
        check=False,
        env={"MTOOLS_SKIP_CHECK": "1"},
    )
    slots = {slot: _slot(disk, table, slot) for slot in SLOTS}
    check = _Check(disk, table, slots, boot, runner, db_certificate)
    entries = await check.entries()
    return DiskLook(table, tuple(problems), entries, slots, boot)


async def _file_system(label: str, copy: Path, runner: Runner) -> list[str]:
    """Repair as a start does, then look: what is left to repair is a problem."""
    if label == STATE:
        repair, check = ["e2fsck", "-p"], ["e2fsck", "-fn"]
    else:
        repair, check = ["fsck.vfat", "-a"], ["fsck.vfat", "-n"]
    if label != ESP:  # nothing ever writes there, and nothing repairs it
        done = await runner.run([*repair, str(copy)], timeout_s=_LIMIT_S, check=False)
        if label == STATE and done.code >= 4:
            await runner.run(["e2fsck", "-fy", str(copy)], timeout_s=_LIMIT_S, check=False)
    done = await runner.run([*check, str(copy)], timeout_s=_LIMIT_S, check=False)
    if done.ok:
        return []
    return [f"file system of {label} is damaged: {done.stdout.strip()[-400:]}"]


def _slot(disk: Path, table: Table, slot: str) -> SlotLook:
    with disk.open("rb") as file:
        file.seek(table.parts[data_label(slot)].start + DATA_SUPER)
        data = file.read(SECTOR)
        file.seek(table.parts[verity_label(slot)].start + VERITY_SUPER)
        return SlotLook(erofs_uuid(data), verity_uuid(file.read(SECTOR)))


def _take(disk: Path, place: Place, into: Path) -> None:
    copy_range(disk, into, start=place.start, size=place.size)


@dataclass(slots=True)
class _Check:
    disk: Path
    table: Table
    slots: dict[str, SlotLook]
    boot: Path
    runner: Runner
    certificate: Path | None
    _verified: dict[tuple[str, str], str] = field(default_factory=dict)

    async def entries(self) -> tuple[EntryLook, ...]:
        folder = self.boot / FOLDER
        found = []
        for place in sorted(folder.iterdir()) if folder.is_dir() else []:
            name = parse_name(place.name)
            if name is None or place.stat().st_size > MAX_ENTRY_BYTES:
                continue
            text = place.read_text(errors="replace")
            uki = _key(text, "efi").lstrip("/")
            if uki:  # the loader shows nothing that starts nothing
                found.append(await self._entry(place.name, name, text, uki))
        return tuple(found)

    async def _entry(self, file: str, name: EntryName, text: str, uki: str) -> EntryLook:
        entry = parse(text)
        slot, trouble = "", await self._uki(uki, entry)
        if not trouble:
            slot, trouble = await self._root(self._system(uki, entry))
        return EntryLook(file, name, entry, _key(text, "version"), slot, trouble)

    async def _uki(self, uki: str, entry: BootEntry | None) -> str:
        """What the firmware has against a boot image."""
        place = self.boot / uki
        if not place.is_file():
            return f"{uki} is missing"
        data = place.read_bytes()
        if not data.startswith(b"MZ") or len(data) > _MAX_UKI_BYTES:
            return f"{uki} is no boot image"
        if entry is not None and entry.uki_digest and sha256(data) != entry.uki_digest:
            return f"{uki} is not the one that the entry names"
        if self.certificate is not None:
            done = await self.runner.run(
                ["sbverify", "--cert", str(self.certificate), str(place)],
                timeout_s=_LIMIT_S,
                check=False,
            )
            if not done.ok:
                return f"{uki} is not signed as wanted"
        return ""

    def _system(self, uki: str, entry: BootEntry | None) -> RunningSystem:
        """What the boot image looks for: its own command line; a made-up image has none, and its
        entry speaks for it."""
        line = pe_section((self.boot / uki).read_bytes(), b".cmdline")
        if line or entry is None:
            return parse_cmdline(line.decode(errors="replace").replace("\0", " "))
        return RunningSystem(
            root_hash=entry.root_hash, root_uuid=entry.root_uuid, verity_uuid=entry.verity_uuid
        )

    async def _root(self, wanted: RunningSystem) -> tuple[str, str]:
        named = [
            slot
            for slot, found in self.slots.items()
            if wanted.root_uuid
            and (found.root_uuid, found.verity_uuid) == (wanted.root_uuid, wanted.verity_uuid)
        ]
        if len(named) != 1:
            return "", f"{len(named)} slots hold root {wanted.root_uuid or 'nothing'}"
        key = (named[0], wanted.root_hash)
        if key not in self._verified:
            self._verified[key] = await self._verify(*key)
        return named[0], self._verified[key]

    async def _verify(self, slot: str, root_hash: str) -> str:
        """Every block against the tree of hashes, as reading it one day would."""
        paths = []
        for label in (data_label(slot), verity_label(slot)):
            path = self.boot.parent / label
            if not path.exists():
                await anyio.to_thread.run_sync(_take, self.disk, self.table.parts[label], path)
            paths.append(str(path))
        done = await self.runner.run(
            ["veritysetup", "verify", *paths, root_hash], timeout_s=_LIMIT_S, check=False
        )
        return "" if done.ok else f"slot {slot} does not verify: {done.stderr.strip()[-200:]}"


def _key(text: str, key: str) -> str:
    found = re.search(rf"^{key}[ \t]+(\S+)", text, re.MULTILINE)
    return found[1] if found else ""


def pe_section(data: bytes, name: bytes) -> bytes:
    """A section of a PE file (Microsoft, PE Format); empty where there is none."""
    try:
        head = struct.unpack_from("<I", data, 0x3C)[0]
        if data[head : head + 4] != b"PE\0\0":
            return b""
        count, optional = struct.unpack_from("<H12xH", data, head + 6)
        for number in range(count):
            at = head + 24 + optional + 40 * number
            if data[at : at + 8].rstrip(b"\0") == name:
                size, _, raw_size, raw = struct.unpack_from("<IIII", data, at + 8)
                return data[raw : raw + min(size, raw_size)]
    except struct.error:
        return b""
    return b""


def remove_scratch(scratch: Path) -> None:
    """Remove what `look` left; nothing happens when there is nothing."""
    shutil.rmtree(scratch, ignore_errors=True)
