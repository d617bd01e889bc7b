"""Boot entries of the appliance: names with counters, and what stands in them.

One text file per slot on the boot partition says all that is known of the slot. The loader reads
the keys (uapi-group.org, Boot Loader Specification, type 1) and keeps count in the name
(systemd.io, Automatic Boot Assessment); skerry reads the comments.
"""

from __future__ import annotations

import re

import msgspec

from skerry.model.meta import Record

FOLDER = "loader/entries"
IMAGES = "EFI/skerry"
TRIES = 3
MAX_ENTRY_BYTES = 16 * 1024

_NAME = re.compile(r"skerry-(\d{6})(?:\+(\d{1,2})(?:-(\d{1,6}))?)?\.conf")
_GIVEN_UP = 50
_MARK = "# skerry "


class BootEntry(Record, frozen=True, kw_only=True):
    """What a slot holds. `image` is the artifact's digest, empty for the image that the disk was
    made with; `uki` the path of the boot image on the boot partition, `uki_digest` the digest of
    its bytes (empty: unknown)."""

    generation: int
    slot: str
    name: str
    version: str
    root_hash: str
    root_uuid: str
    verity_uuid: str
    uki: str
    image: str = ""
    trial_s: int = 900
    policy_generation: int = 1
    uki_digest: str = ""


class EntryName(Record, frozen=True, kw_only=True):
    """`left` is None for a confirmed entry; 0 for one that had its tries or was rolled back."""

    generation: int
    left: int | None = None
    done: int = 0

    @property
    def file(self) -> str:
        counter = ""
        if self.left is not None:
            counter = f"+{self.left}" + (f"-{self.done}" if self.done else "")
        return f"skerry-{self.generation:06d}{counter}.conf"

    @property
    def confirmed(self) -> bool:
        return self.left is None

    @property
    def bad(self) -> bool:
        return self.left == 0

    @property
    def rolled_back(self) -> bool:
        """Not the last try that may be running: given up, or started after its tries."""
        return self.left == 0 and self.done > TRIES

    def started_as(self, selected: EntryName | None) -> bool:
        """Whether the loader started the entry by this very name, which it may have told before
        or after it counted; not so for one that was renamed since."""
        return (
            selected is not None
            and (selected.generation, selected.left) == (self.generation, self.left)
            and self.done - selected.done in (0, 1)
        )

    def returned(self) -> EntryName:
        """The name of an entry that had its chance."""
        return EntryName(generation=self.generation, left=0, done=_GIVEN_UP)


def parse_name(file: str) -> EntryName | None:
    """None for what is no entry of ours."""
    found = _NAME.fullmatch(file)
    if found is None:
        return None
    left, done = found[2], found[3]
    return EntryName(
        generation=int(found[1]),
        left=None if left is None else int(left),
        done=0 if done is None else int(done),
    )


def first_to_start(names: tuple[EntryName, ...]) -> EntryName | None:
    """The entry that systemd-boot starts: those without tries last, else the newest."""
    return max(names, key=lambda name: (not name.bad, name.generation), default=None)


def counted(name: EntryName) -> EntryName:
    """What an entry is called once the loader started it."""
    if name.left is None:
        return name
    return EntryName(generation=name.generation, left=max(name.left - 1, 0), done=name.done + 1)


def uki_name(slot: str, root_hash: str) -> str:
    """Path of a slot's boot image on the boot partition."""
    return f"{IMAGES}/{slot}-{root_hash[:16]}.efi"


def render(entry: BootEntry) -> str:
    """The file's text."""
    known = msgspec.json.encode(entry, order="sorted").decode()
    return (
        f"title skerry {entry.name} {entry.version} (slot {entry.slot})\n"
        "sort-key skerry\n"
        f"version {entry.generation:06d}\n"
        f"efi /{entry.uki}\n"
        f"{_MARK}{known}\n"
    )


def slot_named(text: str) -> str:
    """The slot whose boot image the loader would start by this file; empty for none of ours."""
    found = re.search(rf"^efi\s+/{IMAGES}/([a-z])-", text, re.MULTILINE)
    return found[1] if found else ""


def parse(text: str) -> BootEntry | None:
    """None for a file without, or with a torn, description."""
    for line in text.splitlines():
        if line.startswith(_MARK):
            try:
                return msgspec.json.decode(line[len(_MARK) :], type=BootEntry)
            except (msgspec.DecodeError, RecursionError):
                return None
    return None
