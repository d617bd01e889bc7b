"""A simulated machine for the appliance's engine: disk, firmware, loader, initrd.

The loader follows systemd-boot's written rules (systemd.io, Automatic Boot Assessment;
uapi-group.org, Boot Loader Specification, "Sorting"), the initrd those of the appliance's scripts,
and the boot partition those of a vfat without a journal.
"""

from __future__ import annotations

import errno
import json
import random
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.contract.osengine.made import ROOT_BYTES, VERITY_BYTES, Image, Shelf

from skerry.agent.osengine.ab import AbEngine
from skerry.lib.clock import ManualClock
from skerry.lib.memory_files import MemoryRoot, PowerCut
from skerry.lib.memory_volumes import MemoryVolumes
from skerry.lib.proc import FakeRunner, Result
from skerry.plan.bootentries import BootEntry, EntryName, render, uki_name
from skerry.plan.osupdate import OsObserved, SlotState

VENDOR = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
_COUNTED = re.compile(r"(?P<id>[^+]+)(?:\+(?P<left>\d+)(?:-(?P<done>\d+))?)?\.conf")
_SLOTS = {"a": ("vda3", "vda4"), "b": ("vda5", "vda6")}


@dataclass(slots=True)
class MachineRoot(MemoryRoot):
    """Files of the machine. `/boot` is a vfat: read-only unless mounted otherwise, and a rename
    that is cut may leave both names, one, or none."""

    chance: random.Random = field(default_factory=lambda: random.Random(0))

    def write_chunks(self, path: str, chunks: Iterable[bytes], *, mode: int = 0o644) -> int:
        self._guard(path)
        before = self.files.get(path)
        data = b"".join(chunks)
        try:
            return MemoryRoot.write_chunks(self, path, (data,), mode=mode)
        except PowerCut:
            folder, _, name = path.rpartition("/")
            self._mess(f"{folder}/.{name}.new", path, data, before)
            raise

    def rename(self, old: str, new: str) -> None:
        self._guard(new)
        data = self.files[old]
        before = self.files.get(new)
        try:
            MemoryRoot.rename(self, old, new)
        except PowerCut:
            self._mess(old, new, data, before)
            raise

    def remove(self, path: str) -> None:
        self._guard(path)
        MemoryRoot.remove(self, path)

    def _mess(self, old: str, new: str, data: bytes, before: bytes | None) -> None:
        if not new.startswith("/boot/") or not self._cut_half:
            return
        self.files.pop(old, None)
        self.files.pop(new, None)
        left = self.chance.choice(["old", "new", "both", "none", "shared", "torn"])
        if before is not None:
            self.files[new] = before  # replacing changes one directory entry, in one sector
            left = self.chance.choice(["old", "new", "both"])
        if left in ("old", "both", "shared"):
            self.files[old] = data
        if left in ("new", "both"):
            self.files[new] = data
        if left == "shared":
            self.files[new] = b""  # fsck.vfat truncates the second owner of clusters
        if left == "torn":
            self.files[old] = data[: len(data) // 2]

    def _guard(self, path: str) -> None:
        if path.startswith("/boot/") and b"vfat rw" not in self.files["/proc/mounts"]:
            raise OSError(errno.EROFS, "Read-only file system", path)


@dataclass
class Appliance:
    """The machine. `signed` are the boot images that its firmware starts."""

    images: tuple[Image, ...]
    seed: int = 0
    root: MachineRoot = field(default_factory=MachineRoot)
    volumes: MemoryVolumes = field(default_factory=MemoryVolumes)
    running: str = ""
    starts: int = 0
    one_shot: str = ""
    hang: frozenset[str] = frozenset()
    """Versions that start and then never answer; on trial the deadline restarts them."""
    waits_for_person: bool = False
    architecture: str = "amd64"

    def __post_init__(self) -> None:
        self.root.chance = random.Random(self.seed)
        self.shelf = Shelf(self.root, *self.images)
        self.runner = FakeRunner()
        self.runner.answer_with("mount", answer=self._mount)
        self.clock = ManualClock()
        self.new_process()

    def new_process(self) -> None:
        self.engine = AbEngine(
            root=self.root,
            runner=self.runner,
            volumes=self.volumes,
            content=self.shelf,
            clock=self.clock,
            architecture=self.architecture,
            chunk=2048,
        )

    def install(self, image: Image) -> None:
        """What the installer leaves: slot a, an entry without a counter."""
        for label in ("skerry-a", "skerry-b"):
            self.volumes.make(label, 2 * ROOT_BYTES)
            self.volumes.make(f"{label}-verity", 2 * VERITY_BYTES)
        self.volumes.kept["skerry-a"][:ROOT_BYTES] = image.root
        self.volumes.kept["skerry-a-verity"][:VERITY_BYTES] = image.verity
        uki = uki_name("a", image.info.root_hash)
        entry = BootEntry(
            generation=1,
            slot="a",
            name="edge",
            version=image.info.version,
            root_hash=image.info.root_hash,
            root_uuid=image.info.root_uuid,
            verity_uuid=image.info.verity_uuid,
            uki=uki,
            image=image.ref.digest,
            policy_generation=image.info.generation,
        )
        self.root.files[f"/boot/{uki}"] = image.uki
        file = EntryName(generation=1).file
        self.root.files[f"/boot/loader/entries/{file}"] = render(entry).encode()

    def copy(self, *, seed: int) -> Appliance:
        """The same machine, powered on and running, as another value."""
        root = MachineRoot(files=dict(self.root.files), folders=set(self.root.folders))
        kept = {label: bytearray(data) for label, data in self.volumes.kept.items()}
        volumes = MemoryVolumes(kept=kept, refused=set(self.volumes.refused))
        other = Appliance(
            self.images,
            seed=seed,
            root=root,
            volumes=volumes,
            hang=self.hang,
            architecture=self.architecture,
        )
        other.running, other.starts, other.one_shot = self.running, self.starts, self.one_shot
        return other

    def lose_power(self) -> None:
        """A random part of what was not flushed is gone."""
        chance = self.root.chance
        self.volumes.lose(chance, kept=chance.choice([0.0, 0.1, 0.5, 0.9, 1.0]))
        self.volumes.power_on()
        self.root.power_on()
        self.running = ""

    def boot(self, *, lost: int = 0) -> str:
        """Start until some slot runs; "" when none ever will. The next `lost` starts on trial lose
        their power before a verdict."""
        self.waits_for_person = False
        self.running = ""
        for _ in range(16):
            chosen = self._choose()
            if chosen is None:
                return ""
            started = self._start(chosen)
            if started is None:
                continue
            slot, image, file = started
            if "+" in file and (lost or image.info.version in self.hang):
                lost = max(lost - 1, 0)
                continue
            self._run(slot, image, chosen)
            return slot
        return ""

    def startable(self, slot: str) -> Image | None:
        """The image that would run if the loader chose this slot now."""
        for file in self._files():
            uki = self._uki_of(file)
            if uki.startswith(f"EFI/skerry/{slot}-"):
                image = self._loaded(uki)
                if image is not None and self._found(image) == slot:
                    return image
        return None

    def holds(self, slot: str, image: Image) -> bool:
        """Whether the durable bytes of a slot are those of the image."""
        data = self.volumes.kept[f"skerry-{slot}"][: len(image.root)]
        hashes = self.volumes.kept[f"skerry-{slot}-verity"][: len(image.verity)]
        return bytes(data) == image.root and bytes(hashes) == image.verity

    def entries(self, slot: str) -> list[str]:
        """Files that lead to a slot."""
        return [x for x in self._files() if self._uki_of(x).startswith(f"EFI/skerry/{slot}-")]

    def _files(self) -> list[str]:
        files = self.root.list("/boot/loader/entries")
        # systemd-boot: hidden files and other suffixes are no entries; neither are those
        # without something to start.
        return [
            x for x in files if not x.startswith(".") and _COUNTED.fullmatch(x) and self._uki_of(x)
        ]

    def _text(self, file: str) -> str:
        return self.root.files[f"/boot/loader/entries/{file}"].decode()

    def _key(self, file: str, key: str) -> str:
        for line in self._text(file).splitlines():
            if line.startswith(f"{key} "):
                return line.removeprefix(f"{key} ").strip()
        return ""

    def _uki_of(self, file: str) -> str:
        return self._key(file, "efi").lstrip("/")

    def _choose(self) -> str | None:
        files = self._files()
        if self.one_shot in files:
            chosen, self.one_shot = self.one_shot, ""
            return chosen
        self.one_shot = ""

        def order(file: str) -> tuple[bool, str, int, int]:
            found = _COUNTED.fullmatch(file)
            assert found is not None
            left = -1 if found["left"] is None else int(found["left"])
            return (left != 0, self._key(file, "version"), left, -int(found["done"] or 0))

        return max(files, key=order, default=None)

    def _start(self, file: str) -> tuple[str, Image, str] | None:
        self.starts += 1
        found = _COUNTED.fullmatch(file)
        assert found is not None
        now = file
        if found["left"] is not None:
            left, done = max(int(found["left"]) - 1, 0), int(found["done"] or 0) + 1
            now = f"{found['id']}+{left}-{done}.conf"
            folder = "/boot/loader/entries"
            self.root.files[f"{folder}/{now}"] = self.root.files.pop(f"{folder}/{file}")
        image = self._loaded(self._uki_of(now))
        slot = self._found(image) if image is not None else ""
        if image is None or not slot:
            # Refused by the firmware: recovery; root not found: the initrd. Both ask for another
            # slot once, unless this one is counted down anyway.
            if "+" not in now or image is None:
                self._ask_for_other(now)
            return None
        return slot, image, now

    def _ask_for_other(self, file: str) -> None:
        number = re.split(r"[+.]", file)[0]
        others = [
            x
            for x in self._files()
            if re.split(r"[+.]", x)[0] != number and self.root.files.get(f"/boot/{self._uki_of(x)}")
        ]
        # One that was given up is better than none.
        others = [x for x in others if "+0" not in x] or others
        if others:
            self.one_shot = others[-1]
        else:
            self.waits_for_person = True

    def _loaded(self, uki: str) -> Image | None:
        """What the firmware starts: only what was signed."""
        data = self.root.files.get(f"/boot/{uki}", b"")
        return next((image for image in self.images if image.uki == data), None)

    def _found(self, image: Image) -> str:
        """The slot in which the initrd finds the root of a boot image, and verifies it."""
        named = [
            slot
            for slot in ("a", "b")
            if self.volumes.kept[f"skerry-{slot}"][1024:1536] == image.root[1024:1536]
            and self.volumes.kept[f"skerry-{slot}-verity"][:512] == image.verity[:512]
        ]
        assert len(named) < 2, "two slots have the same name"
        return named[0] if named and self.holds(named[0], image) else ""

    def _run(self, slot: str, image: Image, file: str) -> None:
        self.running = slot
        self.volumes.refused = {f"skerry-{slot}", f"skerry-{slot}-verity"}
        self.volumes.written.clear()
        files = self.root.files
        for number, (name, label) in enumerate(
            (name, label)
            for here, names in _SLOTS.items()
            for name, label in zip(names, (f"skerry-{here}", f"skerry-{here}-verity"), strict=True)
        ):
            files[f"/sys/class/block/{name}/uevent"] = f"PARTN={number}\nPARTNAME={label}".encode()
        for path in [path for path in files if path.startswith("/sys/dev/block")]:
            del files[path]
        for name in _SLOTS[slot]:
            files[f"/sys/dev/block/253:0/slaves/{name}/dev"] = b"254:3"
        files["/proc/cmdline"] = json.loads(image.uki[2:])["cmdline"].encode()
        files["/proc/self/mountinfo"] = b"20 1 253:0 / / ro,noatime - erofs /dev/mapper/root ro\n"
        files["/proc/mounts"] = b"/dev/vda2 /boot vfat ro,nosuid 0 0\n"
        files["/proc/sys/kernel/random/boot_id"] = f"boot-{self.starts}\n".encode()
        files["/etc/os-release"] = (
            f'ID=debian\nVARIANT_ID=skerry-appliance\nIMAGE_ID="edge"\n'
            f'IMAGE_VERSION="{image.info.version}"\n'
        ).encode()
        chosen = b"\6\0\0\0" + f"{file}\0".encode("utf-16-le")
        files[f"/sys/firmware/efi/efivars/LoaderEntrySelected-{VENDOR}"] = chosen
        self.new_process()

    def _mount(self, argv: tuple[str, ...]) -> Result | None:
        assert argv[-1] == "/boot", argv
        how = argv[2].removeprefix("remount,")
        self.root.files["/proc/mounts"] = f"/dev/vda2 /boot vfat {how},nosuid 0 0\n".encode()
        return Result(argv, 0, "", "")


def check_truth(machine: Appliance, seen: OsObserved) -> None:
    """What an engine says against what lies on the machine."""
    by_digest = {image.ref.digest: image for image in machine.images}
    assert seen.running == machine.running, seen
    for slot in seen.slots:
        entries = machine.entries(slot.name)
        started = machine.startable(slot.name)
        said = f"{slot} with {entries}; {seen.problems}"
        about = [text for text in seen.problems if f"slot {slot.name}" in text]
        match slot.state:
            case SlotState.GOOD | SlotState.TRIAL:
                assert about or (started and slot.image == started.ref.digest), said
                assert entries, said
                # An entry of before may be left where arming was cut; the newest one counts.
                newest = max(x[:13] for x in entries)
                good = f"{newest}.conf" in entries
                assert good == (slot.state is SlotState.GOOD), said
            case SlotState.STAGED:
                image = by_digest[slot.image]
                assert machine.holds(slot.name, image), said
                assert not entries or slot.name == seen.running, said
                assert slot.name != seen.running or about, said
            case SlotState.BAD:
                newest = max(x[:13] for x in entries)
                assert all("+0" in x for x in entries if x.startswith(newest)), said
            case SlotState.EMPTY | SlotState.PARTIAL:
                assert about or not entries, said
                assert about or started is None, said
    if seen.running:
        assert seen.slot(seen.running) is not None
        image = machine.startable(seen.running)
        if image is not None:
            assert seen.version == image.info.version


def check_disk(machine: Appliance) -> None:
    """What must hold after every write, whatever an engine says: a confirmed slot starts, no entry
    leads to a slot that cannot start, no half-written slot has a name."""
    found = {slot: machine.startable(slot) for slot in ("a", "b")}
    confirmed = [x for slot in found if found[slot] for x in machine.entries(slot) if "+" not in x]
    assert confirmed, f"nothing confirmed starts: {machine.root.list('/boot/loader/entries')}"
    for slot, image in found.items():
        assert image is not None or not machine.entries(slot), f"entry to a slot {slot} in pieces"
        data = machine.volumes.kept[f"skerry-{slot}"]
        hashes = machine.volumes.kept[f"skerry-{slot}-verity"]
        for known in machine.images:
            if data[1024:1536] == known.root[1024:1536]:
                assert bytes(data).startswith(known.root), (
                    f"slot {slot} is named before it is whole"
                )
            if hashes[:512] == known.verity[:512]:
                assert bytes(hashes).startswith(known.verity), f"hashes of {slot} are named early"
