"""The boot partition: entries and boot images as files, and the mount that guards them.

The partition is mounted read-only and writable only while something changes. It has no journal of
its own, and a rename that is cut may leave both names or none; so a file that must not be lost
stays until the one that replaces it is durable.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

from skerry.agent.osengine.engine import OsEngineFailed, OsReason
from skerry.lib.clock import Clock
from skerry.lib.digest import sha256_of_chunks
from skerry.lib.errors import SkerryError
from skerry.lib.files import DiskFull, FileMissing, Root, text_of
from skerry.lib.proc import CommandFailed, CommandMissing, CommandTimedOut, Runner
from skerry.plan.bootentries import (
    FOLDER,
    IMAGES,
    MAX_ENTRY_BYTES,
    BootEntry,
    EntryName,
    parse,
    parse_name,
    render,
    slot_named,
)
from skerry.plan.osslots import FoundEntry

BOOT = "/boot"
ENTRIES = f"{BOOT}/{FOLDER}"
RESET = f"{BOOT}/skerry/reset"

_MOUNT_S = 60.0
_LOOK_AGAIN_S = 6 * 3600.0
_MARGIN_BYTES = 1 << 20
_MAX_ENTRIES = 64


@dataclass(slots=True)
class BootFiles:
    """What lies on the boot partition. Reading never raises; writing needs `writable`."""

    root: Root
    runner: Runner
    clock: Clock
    _looked: dict[str, tuple[str, int, float, str]] = field(default_factory=dict)

    def mounted(self) -> str:
        """`rw`, `ro`, or empty when the boot partition is not mounted."""
        found = ""
        for line in text_of(self.root, "/proc/mounts").splitlines():
            words = line.split()
            if len(words) > 3 and words[1] == BOOT:
                found = "ro" if "ro" in words[3].split(",") else "rw"
        return found

    @contextlib.asynccontextmanager
    async def writable(self) -> AsyncIterator[None]:
        """The partition can be written inside. Raises OsEngineFailed for what the disk says."""
        if not self.mounted():
            await self._command("systemctl", "start", "boot.mount")
        if self.mounted() != "rw":
            await self._command("mount", "-o", "remount,rw", BOOT)
        try:
            with _failing():
                yield
        finally:
            # A failure to close the door is no failure of what was done.
            with contextlib.suppress(SkerryError):
                await self._command("mount", "-o", "remount,ro", BOOT)

    async def ready(self) -> None:
        """Mount the partition if the start could not: a disk that came late is no reason to stay
        without it until the next one. Whether it worked is seen by looking."""
        if not self.mounted():
            with contextlib.suppress(SkerryError):
                await self._command("systemctl", "start", "boot.mount")

    def entries(self) -> tuple[tuple[FoundEntry, ...], tuple[str, ...]]:
        """Every file that is one of our entries, and what is wrong among them."""
        found: list[FoundEntry] = []
        problems: list[str] = []
        try:
            names = self.root.list(ENTRIES)
        except OSError as exc:
            return (), (f"boot entries cannot be listed: {exc.strerror}",)
        for file in names[:_MAX_ENTRIES]:
            name = parse_name(file)
            if name is None:
                continue
            try:
                text = self._text(file)
            except FileMissing:
                continue  # it was removed or renamed since the list was made
            entry = parse(text)
            if entry is None or entry.generation != name.generation:
                problems.append(f"boot entry {file} is damaged")
                entry = None
            slot = entry.slot if entry else slot_named(text)
            found.append(FoundEntry(file, name, entry, slot))
        return tuple(found), tuple(problems)

    def write_entry(self, name: EntryName, entry: BootEntry) -> None:
        """Write an entry under a name, durably, and see that it is there."""
        text = render(entry).encode()
        path = f"{ENTRIES}/{name.file}"
        self.root.write(path, text)
        found = b"".join(self.root.read_chunks(path, from_disk=True))
        if found != text:
            raise _broken(f"boot entry {name.file} is not what was written")

    def remove_entry(self, file: str) -> None:
        self.root.remove(f"{ENTRIES}/{file}")

    def uki_trouble(self, uki: str, digest: str, size: int = 0) -> str:
        """What is wrong with a boot image; empty when nothing is. `size` 0 and `digest` "" are
        unknown. The whole file is read only now and then: 60 MiB take half a second."""
        path = f"{BOOT}/{uki}"
        try:
            there = self.root.size(path)
            if size and there != size:
                return f"{uki} has {there} bytes, wanted {size}"
            if next(self.root.read_chunks(path, size=2), b"") != b"MZ":
                return f"{uki} is no boot image"
        except FileMissing:
            return f"{uki} is missing"
        except OSError as exc:
            return f"{uki} cannot be read: {exc.strerror}"
        known = self._looked.get(uki)
        now = self.clock.monotonic()
        if known is not None and known[:2] == (digest, there) and now < known[2]:
            return known[3]
        trouble = "" if not digest or self.digest_of(uki) == digest else f"{uki} is damaged"
        self._looked[uki] = (digest, there, now + _LOOK_AGAIN_S, trouble)
        return trouble

    def look_again(self) -> None:
        """Forget what was found about boot images: one was written, or is relied on now."""
        self._looked.clear()

    def digest_of(self, uki: str) -> str:
        """Digest of a boot image's bytes on the disk; empty when it cannot be read."""
        try:
            return sha256_of_chunks(self.root.read_chunks(f"{BOOT}/{uki}", from_disk=True))
        except (FileMissing, OSError):
            return ""

    def images(self, slot: str) -> list[str]:
        """Paths of a slot's boot images, whole or not, on the boot partition."""
        return [
            f"{IMAGES}/{name}"
            for name in self.root.list(f"{BOOT}/{IMAGES}")
            if name.lstrip(".").startswith(f"{slot}-")
        ]

    def space_for(self, size: int, *, slot: str) -> None:
        """Raises OsEngineFailed when a boot image of `size` bytes has no place, even without
        those that the slot has now."""
        freed = sum(self.root.size(f"{BOOT}/{uki}") for uki in self.images(slot))
        free = self.root.free_bytes(BOOT) + freed
        if free < size + _MARGIN_BYTES:
            raise _full(f"a boot image of {size} bytes needs a place, {free} bytes are free")

    def remove_images(self, slot: str, *, keep: str = "") -> None:
        """Remove a slot's boot images but one."""
        for uki in self.images(slot):
            if uki != keep:
                self.root.remove(f"{BOOT}/{uki}")

    def write_uki(self, uki: str, source: str, digest: str) -> None:
        """Put a boot image in place: it has its name only after it was read back."""
        self.look_again()
        if self.digest_of(uki) == digest:
            return
        folder, _, name = uki.rpartition("/")
        fresh = f"{folder}/.{name}.unread"
        self.root.write_chunks(f"{BOOT}/{fresh}", self.root.read_chunks(source))
        if self.digest_of(fresh) != digest:
            self.root.remove(f"{BOOT}/{fresh}")
            raise _broken(f"boot image {uki} is not what was written")
        self.root.rename(f"{BOOT}/{fresh}", f"{BOOT}/{uki}")

    def _text(self, file: str) -> str:
        """What an entry says; empty when it cannot be read or is none of ours by its size."""
        path = f"{ENTRIES}/{file}"
        try:
            if self.root.size(path) > MAX_ENTRY_BYTES:
                return ""
            return self.root.read(path).decode(errors="replace")
        except OSError:
            return ""

    async def _command(self, *argv: str) -> None:
        try:
            await self.runner.run(argv, timeout_s=_MOUNT_S)
        except (CommandFailed, CommandMissing, CommandTimedOut) as exc:
            raise _broken(f"the boot partition cannot be mounted as wanted: {exc}") from exc


@contextlib.contextmanager
def _failing() -> Iterator[None]:
    try:
        yield
    except DiskFull as exc:
        if BOOT in str(exc):
            raise _full(str(exc)) from exc
        raise
    except FileMissing as exc:
        raise _broken(str(exc)) from exc
    except OSError as exc:
        raise _broken(f"it cannot be written: {exc.strerror}") from exc


def _full(what: str) -> OsEngineFailed:
    return OsEngineFailed(
        OsReason.BOOT_PARTITION_FULL,
        f"no space on the boot partition: {what}",
        hint="remove files that are not skerry's from /boot",
    )


def _broken(what: str) -> OsEngineFailed:
    return OsEngineFailed(
        OsReason.BOOT_PARTITION_BROKEN,
        f"boot partition: {what}",
        hint="restart the host once: its file system is checked at the start; if this stays,"
        " replace the disk",
    )
