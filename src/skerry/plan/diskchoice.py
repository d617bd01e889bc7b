"""Which disk the installer writes, and for every disk why it is or is not that one.

Pure: disks as measured come in, a choice with reasons goes out. A disk is never taken when the
system was started from it, when something of it is in use, when it is removable and not named, or
when it holds data and nobody gave permission for this very disk.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

import msgspec

from skerry.model.meta import Record
from skerry.plan.sitedata import DiskRule, Prefer

MAX_LSBLK_BYTES = 1024 * 1024
# Label of every partition on an installation medium.
MEDIUM_PREFIX = "skerry-install-"
LSBLK_COLUMNS = "NAME,PATH,TYPE,SIZE,MODEL,SERIAL,RM,RO,TRAN,PARTLABEL,FSTYPE,PTTYPE,MOUNTPOINTS"
_MAX_DISKS = 256


class TargetDisk(Record, frozen=True, kw_only=True):
    """A disk as measured. `names` are other paths of it (/dev/disk/by-id/...), `contents` what was
    found on it in words, `used` what has it in use. `unfinished`: what it holds is an installation
    that never came to its end."""

    path: str
    size_bytes: int
    model: str = ""
    serial: str = ""
    transport: str = ""
    removable: bool = False
    read_only: bool = False
    medium: bool = False
    used: tuple[str, ...] = ()
    contents: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    partitions: tuple[str, ...] = ()
    unfinished: bool = False

    @property
    def name(self) -> str:
        return self.path.removeprefix("/dev/")

    @property
    def empty(self) -> bool:
        return not self.contents or self.unfinished

    def called(self, text: str) -> bool:
        """Whether the text is one of its paths, its name or its serial number."""
        return bool(text) and text in (self.path, self.name, self.serial, *self.names)


class Verdict(Record, frozen=True, kw_only=True):
    """One disk and why it is (`fits`) or is not one to install on. `needs_wipe`: only its contents
    speak against it."""

    disk: TargetDisk
    fits: bool
    reason: str
    needs_wipe: bool = False


class Choice(Record, frozen=True, kw_only=True):
    """`path` of the disk to write, or empty with the `problem` and what to do (`hint`)."""

    path: str
    verdicts: tuple[Verdict, ...]
    problem: str = ""
    hint: str = ""

    def lines(self) -> list[str]:
        """A line per disk."""
        return [line(item, chosen=item.disk.path == self.path) for item in self.verdicts]


def choose(
    disks: Sequence[TargetDisk],
    rule: DiskRule,
    *,
    wipe: bool | tuple[str, ...] = False,
    least_bytes: int,
) -> Choice:
    """The disk that the rule means.

    `wipe` true permits to overwrite the disk that the rule names by path, serial number or model;
    a tuple permits it for the disks it lists. Where several disks fit and the rule does not prefer
    one, none is chosen.
    """
    verdicts = tuple(judge(disk, rule, wipe=wipe, least_bytes=least_bytes) for disk in disks)
    fitting = [item.disk for item in verdicts if item.fits]
    if not fitting:
        waiting = [item.disk for item in verdicts if item.needs_wipe]
        hint = "put in a disk that fits, or change install.disk in the site data"
        if waiting:
            hint = f"to overwrite {waiting[0].name}, name it in the site data: install.wipe"
        return Choice(path="", verdicts=verdicts, problem="no disk to install on", hint=hint)
    if len(fitting) > 1 and rule.prefer is None:
        return Choice(
            path="",
            verdicts=verdicts,
            problem=f"{len(fitting)} disks fit: {', '.join(item.name for item in fitting)}",
            hint="say which in the site data: install.disk with path, serial, model or prefer",
        )
    # Equal sizes: the first by name, so that a repeated installation takes the same disk.
    fitting.sort(key=lambda item: item.path)
    fitting.sort(key=lambda item: item.size_bytes, reverse=rule.prefer is Prefer.LARGEST)
    return Choice(path=fitting[0].path, verdicts=verdicts)


def judge(
    disk: TargetDisk, rule: DiskRule, *, wipe: bool | tuple[str, ...] = False, least_bytes: int
) -> Verdict:
    """Whether a disk may be written under a rule, and the first reason against it."""
    named = rule.names and _matches(disk, rule)
    refusal = _refusal(disk, rule, named=named, least_bytes=least_bytes)
    if refusal:
        return Verdict(disk=disk, fits=False, reason=refusal)
    if disk.unfinished:
        return Verdict(disk=disk, fits=True, reason="an installation that was not finished")
    if disk.empty:
        return Verdict(disk=disk, fits=True, reason="empty")
    holds = f"holds {', '.join(disk.contents[:4])}"
    allowed = named if wipe is True else any(disk.called(item) for item in wipe or ())
    if allowed:
        return Verdict(disk=disk, fits=True, reason=f"{holds}, to be overwritten")
    return Verdict(disk=disk, fits=False, reason=holds, needs_wipe=True)


def _refusal(disk: TargetDisk, rule: DiskRule, *, named: bool, least_bytes: int) -> str:
    if disk.medium:
        return "the medium this system was started from"
    if disk.used:
        return f"in use ({', '.join(disk.used[:3])})"
    if disk.read_only:
        return "read-only"
    if rule.names and not named:
        return "not the disk that is named"
    if (disk.removable or disk.transport == "usb") and not named:
        return "removable; it is taken only when it is named"
    least = max(least_bytes, rule.min_bytes)
    if disk.size_bytes < least:
        return f"too small, {size_text(least)} are needed"
    return ""


def _matches(disk: TargetDisk, rule: DiskRule) -> bool:
    return (
        (not rule.path or rule.path in (disk.path, *disk.names))
        and (not rule.serial or rule.serial == disk.serial)
        and (not rule.model or fnmatch.fnmatchcase(disk.model.lower(), rule.model.lower()))
    )


def line(verdict: Verdict, *, chosen: bool) -> str:
    """As the screen shows it: "vda: 20 GiB QEMU HARDDISK, empty - chosen"."""
    disk = verdict.disk
    if disk.medium:
        return f"{disk.name}: {verdict.reason}"
    words = " ".join(word for word in (size_text(disk.size_bytes), disk.model) if word)
    return f"{disk.name}: {words}, {verdict.reason}{' - chosen' if chosen else ''}"


def size_text(size_bytes: int) -> str:
    """ "20 GiB", "1.8 TiB"."""
    value, unit = float(size_bytes), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if value >= 10 or value == int(value) else f"{value:.1f} {unit}"


def read_lsblk(text: str, *, kinds: Sequence[str] = ("disk",)) -> tuple[TargetDisk, ...]:
    """Disks of `lsblk --json --bytes --output LSBLK_COLUMNS` that are of one of the `kinds`.

    `contents` are what lsblk knows from udev; the caller adds what a closer look finds.
    Raises ValueError.
    """
    if len(text) > MAX_LSBLK_BYTES:
        raise ValueError("lsblk prints more than a machine's disks")
    try:
        tree = msgspec.json.decode(text, type=_Tree)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise ValueError(f"lsblk prints something else than disks: {exc}") from exc
    found = [item for item in tree.blockdevices if item.type in kinds and item.size > 0]
    return tuple(_disk(item) for item in found[:_MAX_DISKS])


class _Block(msgspec.Struct, frozen=True, kw_only=True):
    """What lsblk says of one device (lsblk(8)); it leaves null what it does not know."""

    path: str
    type: str
    size: int = 0
    model: str | None = None
    serial: str | None = None
    rm: bool = False
    ro: bool = False
    tran: str | None = None
    partlabel: str | None = None
    fstype: str | None = None
    pttype: str | None = None
    mountpoints: list[str | None] = []
    children: list[_Block] = []


class _Tree(msgspec.Struct, frozen=True):
    blockdevices: list[_Block]


def _disk(block: _Block) -> TargetDisk:
    below = _below(block)
    contents = [f"a {block.pttype} partition table"] if block.pttype else []
    contents += [
        f"{item.fstype} on {item.path.removeprefix('/dev/')}" for item in below if item.fstype
    ]
    if not contents and len(below) > 1:
        contents = ["partitions"]
    return TargetDisk(
        path=block.path,
        size_bytes=block.size,
        model=" ".join((block.model or "").split()),
        serial=(block.serial or "").strip(),
        transport=block.tran or "",
        removable=block.rm,
        read_only=block.ro,
        medium=any((item.partlabel or "").startswith(MEDIUM_PREFIX) for item in below),
        used=tuple(_uses(below)),
        contents=tuple(contents),
        partitions=tuple(item.path for item in below if item.type == "part"),
    )


def _below(block: _Block) -> list[_Block]:
    """The device and all on top of it."""
    found = [block]
    for child in block.children:
        found += _below(child)
    return found


def _uses(blocks: list[_Block]) -> list[str]:
    used = [f"mounted at {point}" for item in blocks for point in item.mountpoints if point]
    used += [
        f"{item.path.removeprefix('/dev/')} lies on it"
        for item in blocks[1:]
        if item.type != "part"
    ]
    return used
