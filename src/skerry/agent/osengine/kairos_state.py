"""What a Kairos host says of itself, parsed, and the slots that follow from it. No effects.

Kairos' slots are files that change their names: an upgrade renames `active.img` to `passive.img`
below the running system. An image is therefore known by the UUID of its file system, which mkfs
draws anew for each image and which renaming and relabelling keep, and its slot, `a` or `b`, by it.
`next` stands for what waits in the content store: on Kairos the slot itself is written when the
image is activated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec

from skerry.model.kairosimage import KairosBoot
from skerry.model.meta import Record
from skerry.plan.disklayout import SLOTS
from skerry.plan.osupdate import OsEngineKind, OsObserved, OsSlot, SlotState

ACTIVE, PASSIVE, NEXT, RECOVERY = "active", "passive", "next", "recovery"
LABELS = {ACTIVE: "COS_ACTIVE", PASSIVE: "COS_PASSIVE"}
# Boot entries of GRUB by slot.
ENTRIES = {ACTIVE: "cos", PASSIVE: "fallback"}
STATE_LABEL, OEM_LABEL, PERSISTENT_LABEL = "COS_STATE", "COS_OEM", "COS_PERSISTENT"
# Where a healthy host has which file system.
MOUNTED = {"/oem": OEM_LABEL, "/usr/local": PERSISTENT_LABEL}
BOOT_ENTRY = re.compile(
    r"(active|passive|recovery|statereset)(?:\+(\d{1,2})(?:-(\d{1,2}))?)?\.conf"
)
_MAX_TEXT = 64 * 1024


class BootState(StrEnum):
    """Which system started, as `kairos-agent state get boot` names it."""

    ACTIVE = "active_boot"
    PASSIVE = "passive_boot"
    RECOVERY = "recovery_boot"
    LIVE = "livecd_boot"
    RESET = "autoreset_boot"
    UNKNOWN = "unknown"


class Verdict(StrEnum):
    """What became of an image that skerry put on trial."""

    PENDING = "pending"
    GOOD = "good"
    BAD = "bad"


class Known(Record, frozen=True, kw_only=True):
    """An image that skerry activated. `image` is the artifact's digest."""

    image: str
    version: str
    verdict: Verdict = Verdict.PENDING


class Staged(Record, frozen=True, kw_only=True):
    """An image that lies complete and checked in the content store."""

    image: str
    version: str
    kairos_version: str
    blob: str
    size_bytes: int
    unpacked_bytes: int


class Activating(Record, frozen=True, kw_only=True):
    """An upgrade that was begun. `before` are the images that were there."""

    staged: Staged
    before: tuple[str, ...]


class Kept(Record, frozen=True, kw_only=True):
    """The image that the last upgrade left alone, and what its slot was called then."""

    identity: str
    slot: str


class KairosRecord(Record, frozen=True, kw_only=True):
    """What the engine remembers on the persistent partition. `known` by identity of the image."""

    kept: Kept | None = None
    staged: Staged | None = None
    activating: Activating | None = None
    known: dict[str, Known] = {}


@dataclass(frozen=True, slots=True)
class Mount:
    """One mounted file system."""

    target: str
    source: str
    options: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Device:
    """One block device with a file system on it."""

    name: str
    label: str = ""
    uuid: str = ""
    type: str = ""


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """One image file. `identity` is its file system's UUID, or a digest for a UKI. `counter` is
    the boot counter of its entry (UKI only; None without one)."""

    label: str = ""
    identity: str = ""
    version: str = ""
    kernel: bool = True
    initrd: bool = True
    counter: int | None = None

    def missing(self, name: str, boot: KairosBoot) -> list[str]:
        """What keeps it from starting as the slot `name`."""
        wrong = []
        if boot is KairosBoot.GRUB and self.label != LABELS.get(name, self.label):
            wrong.append(f"its label is {self.label or 'missing'}, not {LABELS[name]}")
        if not self.version:
            wrong.append("it has no kairos-release")
        if not self.kernel:
            wrong.append("it has no kernel")
        if not self.initrd:
            wrong.append("it has no initrd")
        return wrong


@dataclass(frozen=True, slots=True)
class KairosFacts:
    """Everything measured. `root_image` is the file below the running root, empty when unknown;
    `state` and `state_free` are the mount point and free bytes of the partition that holds the
    slots (the EFI partition on a host with trusted boot); `reset_asked` is the boot id of the
    start in which a reset was asked for that has not happened since."""

    boot: KairosBoot = KairosBoot.GRUB
    booted: BootState = BootState.UNKNOWN
    boot_id: str = ""
    architecture: str = ""
    release: Mapping[str, str] = field(default_factory=dict)
    sentinels: frozenset[str] = frozenset()
    mounts: tuple[Mount, ...] = ()
    devices: tuple[Device, ...] = ()
    root_image: str = ""
    state: str = ""
    state_free: int = 0
    images: Mapping[str, ImageFacts] = field(default_factory=dict)
    grubenv: Mapping[str, str] = field(default_factory=dict)
    assessment: Mapping[str, str] = field(default_factory=dict)
    transition_mounted: bool = False
    transition_file: bool = False
    upgrading: bool = False
    on_battery_percent: int | None = None
    reset_asked: str = ""

    @property
    def version(self) -> str:
        return self.release.get("KAIROS_VERSION") or self.release.get("KAIROS_RELEASE", "")

    @property
    def running(self) -> str:
        """The slot that the running system lies in. The file says it better than the command
        line, which still says `active` after an upgrade has renamed that file."""
        name = self.root_image.rsplit("/", 1)[-1].removesuffix(" (deleted)")
        if name in ("active.img", "passive.img"):
            return name.removesuffix(".img")
        by_boot = {BootState.ACTIVE: ACTIVE, BootState.PASSIVE: PASSIVE}
        return by_boot.get(self.booted, "")

    def mount(self, target: str) -> Mount | None:
        """What is mounted there, the topmost."""
        return next((item for item in reversed(self.mounts) if item.target == target), None)

    def label_of(self, source: str) -> str:
        return next((item.label for item in self.devices if item.name == source), "")


def parse_env(text: str) -> dict[str, str]:
    """Variables of a GRUB environment block or of a release file; quotes are taken off."""
    found = {}
    for line in text[:_MAX_TEXT].splitlines():
        name, mark, value = line.strip().partition("=")
        if mark and not name.startswith("#"):
            found[name] = value.strip().strip("\"'")
    return found


def parse_findmnt(text: str) -> tuple[Mount, ...]:
    """Output of `findmnt --json --list --output TARGET,SOURCE,OPTIONS`."""
    try:
        rows = msgspec.json.decode(text or "{}").get("filesystems", [])
    except (msgspec.DecodeError, AttributeError):
        return ()
    return tuple(
        Mount(
            target=str(row.get("target", "")),
            # "/dev/sda5[/.state/opt.bind]" names the folder of a bind mount.
            source=str(row.get("source", "")).split("[", 1)[0],
            options=frozenset(str(row.get("options", "")).split(",")),
        )
        for row in rows
        if isinstance(row, dict)
    )


def parse_blkid(text: str) -> tuple[Device, ...]:
    """Output of `blkid -o export`: paragraphs of NAME=value."""
    found = []
    for paragraph in text.split("\n\n"):
        values = dict(line.split("=", 1) for line in paragraph.splitlines() if "=" in line)
        if name := values.get("DEVNAME"):
            found.append(
                Device(
                    name=name,
                    label=values.get("LABEL", ""),
                    uuid=values.get("UUID", ""),
                    type=values.get("TYPE", ""),
                )
            )
    return tuple(found)


def parse_dumpe2fs(text: str) -> tuple[str, str]:
    """Label and UUID from `dumpe2fs -h`; empty for what is not said."""
    label = re.search(r"^Filesystem volume name:\s+(\S+)", text, re.MULTILINE)
    uuid = re.search(r"^Filesystem UUID:\s+(\S+)", text, re.MULTILINE)
    name = label[1] if label and label[1] != "<none>" else ""
    return name, uuid[1] if uuid else ""


def boot_state(cmdline: str, selected: str) -> BootState:
    """Which system started. `selected` is the loader's entry on a host with trusted boot.

    As kairos-sdk v0.25.3 decides it (state/state.go, detectBoot)."""
    if "rd.immucore.uki" in cmdline:
        roles = {
            "active": BootState.ACTIVE,
            "passive": BootState.PASSIVE,
            "recovery": BootState.RECOVERY,
            "statereset": BootState.RESET,
        }
        found = (state for role, state in roles.items() if selected.startswith(role))
        return next(found, BootState.UNKNOWN)
    for words, state in (
        (("kairos.reset",), BootState.RESET),
        (("COS_ACTIVE",), BootState.ACTIVE),
        (("COS_PASSIVE",), BootState.PASSIVE),
        (("COS_RECOVERY", "COS_SYSTEM", "recovery-mode"), BootState.RECOVERY),
        (("live:LABEL", "live:CDLABEL", "netboot"), BootState.LIVE),
    ):
        if any(word in cmdline for word in words):
            return state
    return BootState.UNKNOWN


def slot_names(facts: KairosFacts, record: KairosRecord) -> dict[str, str]:
    """What the slots of Kairos' two files are called: a slot keeps its name with its image while
    the file's changes, so that a plan can say which one to return to."""
    active, passive = facts.images.get(ACTIVE), facts.images.get(PASSIVE)
    kept = record.kept
    swapped = False
    # Straight after the installation both files are the same image.
    twins = active is not None and passive is not None and active.identity == passive.identity
    if kept is not None and not twins:
        if passive is not None and passive.identity == kept.identity:
            swapped = kept.slot == SLOTS[0]
        elif active is not None and active.identity == kept.identity:
            swapped = kept.slot == SLOTS[1]
    first, second = reversed(SLOTS) if swapped else SLOTS
    return {ACTIVE: first, PASSIVE: second}


def known_of(facts: KairosFacts, record: KairosRecord, slot: str) -> Known | None:
    """What skerry knows of a slot's image. An upgrade that ended without a word of ours is
    recognised: the active image is none of those before, and says the version that was wanted."""
    image = facts.images.get(slot)
    if image is None or not image.identity:
        return None
    if image.identity in record.known:
        return record.known[image.identity]
    begun = record.activating
    if begun is None or slot != ACTIVE or image.identity in begun.before:
        return None
    if image.version != begun.staged.kairos_version:
        return None
    return Known(image=begun.staged.image, version=begun.staged.version)


def armed(facts: KairosFacts) -> bool:
    """Whether the next start is the active image's although the lasting choice is the other."""
    return facts.grubenv.get("next_entry") == ENTRIES[ACTIVE]


def slot_of(facts: KairosFacts, record: KairosRecord, role: str) -> OsSlot:
    """The slot of one of Kairos' two files. An image that skerry never put on trial counts as good
    when it is complete: Kairos itself or its installer put it there."""
    name = slot_names(facts, record)[role]
    image = facts.images.get(role)
    if image is None:
        return OsSlot(name=name, state=SlotState.EMPTY)
    known = known_of(facts, record, role)
    digest = known.image if known else ""
    version = known.version if known else image.version
    left = 0
    if not image.identity:
        state = SlotState.PARTIAL
    elif image.missing(role, facts.boot):
        state = SlotState.BAD
    elif known is None or known.verdict is Verdict.GOOD:
        state = SlotState.GOOD
    elif known.verdict is Verdict.BAD:
        state = SlotState.BAD
    else:
        left = _tries_left(facts, image, role)
        state = SlotState.TRIAL if left or facts.running == role else SlotState.BAD
    return OsSlot(name=name, state=state, image=digest, version=version, tries_left=left)


def _tries_left(facts: KairosFacts, image: ImageFacts, name: str) -> int:
    if facts.boot is KairosBoot.UKI:
        return image.counter if image.counter is not None else 0
    return 1 if name == ACTIVE and armed(facts) else 0


def observed(facts: KairosFacts, record: KairosRecord) -> OsObserved:
    """What the engine reports."""
    role = facts.running
    running = slot_names(facts, record)[role] if role else ""
    known = known_of(facts, record, role) if role else None
    waiting = record.staged
    both = (slot_of(facts, record, ACTIVE), slot_of(facts, record, PASSIVE))
    upcoming = OsSlot(name=NEXT, state=SlotState.EMPTY)
    if waiting is not None:
        upcoming = OsSlot(
            name=NEXT, state=SlotState.STAGED, image=waiting.image, version=waiting.version
        )
    return OsObserved(
        engine=OsEngineKind.KAIROS,
        architecture=facts.architecture,
        boot_id=facts.boot_id,
        running=running,
        version=known.version if known else facts.version,
        image=known.image if known else "",
        recovery=facts.booted in (BootState.RECOVERY, BootState.RESET),
        # What may be written comes first: the image that waits, or the slot that does not run.
        slots=(upcoming, *both) if waiting is not None else (*both, upcoming),
        problems=tuple(problems(facts, record)),
    )


def problems(facts: KairosFacts, record: KairosRecord) -> list[str]:
    """What is not as it should be, in sentences."""
    found = [*mount_problems(facts), *label_problems(facts)]
    running = facts.images.get(facts.running)
    if running is not None and running.version and facts.version != running.version:
        found.append(
            f"the running system says version {facts.version or 'nothing'}, "
            f"its image says {running.version}"
        )
    for name in (ACTIVE, PASSIVE):
        image = facts.images.get(name)
        if image is None and facts.state:
            found.append(f"there is no {name} image")
        elif image is not None and (wrong := image.missing(name, facts.boot)):
            found.append(f"the {name} image cannot start: {'; '.join(wrong)}")
    if not facts.upgrading and (facts.transition_mounted or facts.transition_file):
        found.append("an upgrade was broken off; what it left is cleared before the next")
    if "upgrade_failure" in facts.sentinels:
        found.append("Kairos' boot assessment gave the active image up")
    if _stale_assessment(facts, record):
        found.append("Kairos' boot assessment still holds a mark of an earlier attempt")
    if facts.reset_asked and facts.reset_asked != facts.boot_id:
        found.append("a reset was asked for and did not happen")
    return found


def _stale_assessment(facts: KairosFacts, record: KairosRecord) -> bool:
    pending = any(item.verdict is Verdict.PENDING for item in record.known.values())
    return not pending and facts.assessment.get("boot_assessment_tentative") == "yes"


def mount_problems(facts: KairosFacts) -> list[str]:
    """Whether `/oem` and `/usr/local` are what is on their partitions: a host on which immucore
    ended early answers on the network and forgets everything at its next start."""
    if facts.booted not in (BootState.ACTIVE, BootState.PASSIVE):
        return []
    found = []
    for target, label in MOUNTED.items():
        mount = facts.mount(target)
        if mount is None:
            found.append(f"{target} is not mounted, {label} should be")
        elif facts.label_of(mount.source) != label:
            found.append(f"{target} is {mount.source}, which does not have the label {label}")
        elif "ro" in mount.options:
            found.append(f"{target} is mounted read-only")
    return found


def label_problems(facts: KairosFacts) -> list[str]:
    """Two devices of one label: by-label names then point to either. A LUKS container and the
    file system in it count as one only while nothing goes by label, so they count here."""
    seen: dict[str, list[str]] = {}
    for device in facts.devices:
        # The slots' own files show up as loop devices, each for as long as it is looked at.
        if device.label.startswith("COS_") and not re.fullmatch(r"/dev/loop\d+", device.name):
            seen.setdefault(device.label, []).append(device.name)
    return [
        f"{' and '.join(sorted(names))} both have the label {label}"
        for label, names in sorted(seen.items())
        if len(names) > 1
    ]


def encrypted(facts: KairosFacts) -> bool:
    """Whether a LUKS container carries a label of Kairos."""
    return any(
        item.type == "crypto_LUKS" and item.label.startswith("COS_") for item in facts.devices
    )
