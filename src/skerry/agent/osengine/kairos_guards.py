"""What must hold before `kairos-agent` may rewrite a slot, and after it did. No effects.

Each guard answers a way in which fleets of Kairos hosts broke (docs/how-to/use-kairos-hosts.md has
the table). All that is wrong comes at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from skerry.agent.osengine.engine import OsEngineFailed, OsReason
from skerry.agent.osengine.kairos_state import (
    ACTIVE,
    ENTRIES,
    LABELS,
    PASSIVE,
    BootState,
    KairosFacts,
    KairosRecord,
    Staged,
    encrypted,
    known_of,
    mount_problems,
    slot_of,
)
from skerry.model.kairosimage import KairosBoot, KairosImageInfo
from skerry.plan.osupdate import SlotState

MIB = 1024 * 1024
# ext2 keeps tables, an index and five per cent for root.
_OVERHEAD = 1.1
_MARGIN_MIB = 128
_LOW_BATTERY_PERCENT = 30


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why not, and what a person can do. `lasting`: trying again changes nothing."""

    reason: OsReason
    message: str
    hint: str
    lasting: bool = False


def image_size_mib(unpacked_bytes: int) -> int:
    """Size of a file system that holds the image: for `upgrade.system.size`."""
    return int(unpacked_bytes * _OVERHEAD) // MIB + _MARGIN_MIB


def needed_bytes(facts: KairosFacts, unpacked_bytes: int) -> int:
    """Free bytes that an upgrade needs at its peak where the slots lie. Image files are sparse, so
    what counts is what is in them. On a host with trusted boot the tree is unpacked first and then
    copied over the active one."""
    if facts.boot is KairosBoot.UKI:
        return 2 * unpacked_bytes + _MARGIN_MIB * MIB
    return int(unpacked_bytes * _OVERHEAD) + _MARGIN_MIB * MIB // 2


def stage_refusals(
    facts: KairosFacts, record: KairosRecord, info: KairosImageInfo
) -> list[Refusal]:
    """Before the image is fetched."""
    found = [*_mode(facts), *_trial(facts, record)]
    if info.architecture != facts.architecture:
        found.append(
            Refusal(
                OsReason.ARCHITECTURE_MISMATCH,
                f"image {info.name} {info.version} is for {info.architecture}, "
                f"this host is {facts.architecture}",
                "build the image for this architecture",
                lasting=True,
            )
        )
    if info.boot is not facts.boot:
        found.append(
            Refusal(
                OsReason.IMAGE_INVALID,
                f"image {info.name} {info.version} is for {info.boot} hosts of Kairos, "
                f"this host is a {facts.boot} host",
                "build the image for hosts of this kind",
                lasting=True,
            )
        )
    return [*found, *_space(facts, info.unpacked_bytes)]


def activate_refusals(facts: KairosFacts, record: KairosRecord, staged: Staged) -> list[Refusal]:
    """Before `kairos-agent upgrade` runs."""
    return [
        *_mode(facts),
        *_alone(facts),
        *_pending(facts, record),
        *_way_back(facts, record),
        *_mounts(facts),
        *_power(facts),
        *_space(facts, staged.unpacked_bytes),
    ]


def reset_refusals(facts: KairosFacts) -> list[Refusal]:
    """Before a reset is asked for."""
    found = [*_alone(facts)]
    if encrypted(facts) and facts.boot is KairosBoot.GRUB:
        found.append(
            Refusal(
                OsReason.OS_ENGINE_FAILED,
                "Kairos cannot reset a host whose persistent partition is encrypted",
                "install the host again",
                lasting=True,
            )
        )
    return found


def image_problems(facts: KairosFacts, staged: Staged) -> list[str]:
    """What is wrong with the slots after an upgrade."""
    found = []
    for name in (ACTIVE, PASSIVE):
        image = facts.images.get(name)
        if image is None:
            found.append(f"there is no {name} image")
        else:
            found += [f"{name} image: {wrong}" for wrong in image.missing(name, facts.boot)]
    active = facts.images.get(ACTIVE)
    if active is not None and active.version != staged.kairos_version:
        found.append(
            f"the active image says version {active.version or 'nothing'}, "
            f"wanted {staged.kairos_version}"
        )
    return found


def upgrade_config(facts: KairosFacts, unpacked_bytes: int) -> str:
    """A cloud-config for one run of `kairos-agent upgrade`.

    The size is said because kairos-agent guesses that of a saved image from its packed bytes. The
    stage runs when the new image is complete, in it. What kairos-agent does next is to rename
    `active.img` to `passive.img`, and to label it only then: a power cut between the two would
    leave no image that starts, for the initrd finds its root by label. So the label comes first,
    and before it the choice of the entry that starts whatever `passive.img` is.
    """
    config: dict[str, object] = {
        "upgrade": {"system": {"size": image_size_mib(unpacked_bytes)}},
    }
    passive = facts.images.get(PASSIVE)
    if (
        facts.boot is KairosBoot.GRUB
        and facts.booted is BootState.ACTIVE
        and passive is not None
        and not passive.missing(PASSIVE, facts.boot)
    ):
        outside = "chroot /proc/1/root"
        commands = [
            f"{outside} kairos-agent grubedit set saved_entry={ENTRIES[PASSIVE]}",
            f"{outside} tune2fs -L {LABELS[PASSIVE]} {facts.state}/cOS/{ACTIVE}.img",
        ]
        config["stages"] = {"after-upgrade-chroot": [{"name": "skerry", "commands": commands}]}
    return f"#cloud-config\n{yaml.safe_dump(config, sort_keys=False)}"


def config_to_check(text: str) -> str:
    """The cloud-config as kairos-agent's schema wants it, which knows only whole configs: one
    with a user. Raises OsEngineFailed."""
    try:
        loaded = yaml.safe_load(text)
    except yaml.YAMLError as exc:
        raise _no_config(f"it is not YAML: {exc}") from exc
    if not text.startswith("#cloud-config\n") or not isinstance(loaded, dict):
        raise _no_config("it does not begin with the line #cloud-config, or holds no fields")
    whole = {"users": [{"name": "kairos", "groups": ["admin"]}], **loaded}
    return f"#cloud-config\n{yaml.safe_dump(whole)}"


def _no_config(problem: str) -> OsEngineFailed:
    return OsEngineFailed(
        OsReason.OS_ENGINE_FAILED,
        f"the cloud-config for this host cannot be used: {problem}",
        hint="correct it",
        retryable=False,
    )


def wrong_labels(facts: KairosFacts) -> dict[str, str]:
    """Slots whose file carries another slot's label, and the right one. Between the two renames
    of an upgrade a power cut leaves that behind, and immucore finds its root by label."""
    if facts.boot is not KairosBoot.GRUB:
        return {}
    return {
        name: LABELS[name]
        for name, image in facts.images.items()
        if name in LABELS and image.identity and image.label != LABELS[name]
    }


def lost_active(facts: KairosFacts) -> bool:
    """Whether an upgrade ended between its two renames while its host went on running: there is
    no active image, and the passive one is the system that runs as active."""
    return (
        facts.boot is KairosBoot.GRUB
        and ACTIVE not in facts.images
        and facts.running == PASSIVE
        and facts.booted is BootState.ACTIVE
    )


def _mode(facts: KairosFacts) -> Iterator[Refusal]:
    if facts.booted not in (BootState.ACTIVE, BootState.PASSIVE):
        yield Refusal(
            OsReason.OS_NOT_MANAGED,
            f"the host runs Kairos' {facts.booted.replace('_boot', '')} system, not a slot",
            "restart the host into its active or passive system",
        )
    elif "in_ram_mode" in facts.sentinels:
        yield Refusal(
            OsReason.OS_NOT_MANAGED,
            "the host runs from memory: its image is what the network hands it at a start",
            "change the image where the host starts from",
            lasting=True,
        )
    elif not facts.state:
        yield Refusal(
            OsReason.SLOT_UNREADABLE,
            "the partition of the slots is not mounted",
            "look at the disk; restart the host",
        )


def _alone(facts: KairosFacts) -> Iterator[Refusal]:
    if facts.upgrading:
        yield Refusal(
            OsReason.OS_BUSY,
            "another kairos-agent changes this host's images",
            "it goes on by itself when that one has ended",
        )


def _pending(facts: KairosFacts, record: KairosRecord) -> Iterator[Refusal]:
    """kairos-agent takes the booted slot from the command line: a second upgrade before a restart
    moves the image that never started over the one that runs."""
    if lost_active(facts):
        return
    if facts.booted is BootState.ACTIVE and facts.running == PASSIVE:
        yield Refusal(
            OsReason.OS_BUSY,
            "an image was activated and the host has not restarted since",
            "restart the host first",
        )
    else:
        yield from _trial(facts, record)


def _trial(facts: KairosFacts, record: KairosRecord) -> Iterator[Refusal]:
    if facts.running and slot_of(facts, record, facts.running).state is SlotState.TRIAL:
        yield Refusal(
            OsReason.OS_BUSY,
            "the running image is on trial: an upgrade would overwrite the last confirmed one",
            "confirm it or return first",
        )


def _way_back(facts: KairosFacts, record: KairosRecord) -> Iterator[Refusal]:
    """The slot that stays must be able to start: it is what a failed trial returns to."""
    running = facts.images.get(facts.running)
    if running is None or lost_active(facts):
        return
    wrong = [item for item in running.missing(facts.running, facts.boot) if "label" not in item]
    if wrong:
        yield Refusal(
            OsReason.SLOT_UNREADABLE,
            f"the running image could not be started again: {'; '.join(wrong)}",
            "reset or reinstall the host",
        )
    elif (known := known_of(facts, record, facts.running)) and known.verdict == "bad":
        yield Refusal(
            OsReason.OS_BUSY,
            "the running image was given up; an upgrade would keep it as the way back",
            "restart the host into the other slot first",
        )


def _mounts(facts: KairosFacts) -> Iterator[Refusal]:
    if wrong := mount_problems(facts):
        yield Refusal(
            OsReason.OS_ENGINE_FAILED,
            f"the host did not start whole: {'; '.join(wrong)}",
            "restart the host",
        )


def _power(facts: KairosFacts) -> Iterator[Refusal]:
    left = facts.on_battery_percent
    if left is not None and left < _LOW_BATTERY_PERCENT:
        yield Refusal(
            OsReason.OS_BUSY,
            f"the host runs on a battery with {left} % left",
            f"connect it to power; it goes on at {_LOW_BATTERY_PERCENT} %",
        )


def _space(facts: KairosFacts, unpacked_bytes: int) -> Iterator[Refusal]:
    needed = needed_bytes(facts, unpacked_bytes)
    if facts.state and facts.state_free < needed:
        where = "the EFI partition" if facts.boot is KairosBoot.UKI else "COS_STATE"
        yield Refusal(
            OsReason.IMAGE_TOO_LARGE,
            f"an upgrade needs {needed // MIB} MiB on {where}, "
            f"{facts.state_free // MIB} MiB are free",
            "build a smaller image, or reinstall with a larger partition: it cannot grow",
            lasting=True,
        )
