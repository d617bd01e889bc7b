"""What must hold before the appliance's engine touches anything, and how its refusals read."""

from __future__ import annotations

import msgspec

from skerry.agent.osengine.abmeasure import Measured
from skerry.agent.osengine.engine import OsEngineFailed, OsReason
from skerry.lib.volumes import VolumeFailed
from skerry.model.artifact import ArtifactRef
from skerry.model.osimage import OS_ARTIFACT_TYPE, OsImageInfo
from skerry.plan.bootentries import TRIES, BootEntry, EntryName, uki_name
from skerry.plan.osupdate import SlotState


def running_of(seen: Measured) -> str:
    if not seen.observed.running:
        raise OsEngineFailed(
            OsReason.OS_ENGINE_FAILED,
            "which slot runs is not known, so no slot is touched",
            hint="; ".join(seen.observed.problems),
        )
    return seen.observed.running


def idle_of(seen: Measured) -> str:
    running_of(seen)
    return seen.observed.idle


def require_fallback(seen: Measured) -> None:
    """The running slot must start again by itself before the other one is touched."""
    running = running_of(seen)
    slot, facts, found = seen.observed.slot(running), seen.facts[running], seen.entry(running)
    if slot is not None and slot.state in (SlotState.TRIAL, SlotState.BAD):
        raise OsEngineFailed(
            OsReason.OS_BUSY,
            f"slot {running} runs without being confirmed; the other slot is what it returns to",
            hint="wait until the update that is under way is confirmed or returned",
        )
    if found is None or found.entry is None or slot is None or facts.uki_trouble:
        raise OsEngineFailed(
            OsReason.BOOT_PARTITION_BROKEN,
            f"slot {running}, which runs, could not be started again:"
            f" {facts.uki_trouble or 'it has no boot entry'}",
            hint="restart the host: what still starts is found then",
        )
    if (facts.root_uuid, facts.verity_uuid) != (found.entry.root_uuid, found.entry.verity_uuid):
        raise changed(running)


def require_other(seen: Measured, trial: str) -> None:
    """There must be something to return to."""
    for slot in seen.observed.slots:
        facts = seen.facts[slot.name]
        whole = not facts.trouble and not facts.uki_trouble
        if slot.name != trial and slot.state is SlotState.GOOD and whole:
            return
    raise OsEngineFailed(
        OsReason.SLOT_UNREADABLE,
        f"slot {trial} is not given up: there is no confirmed slot that could start instead",
        hint="; ".join(seen.observed.problems) or "assign another image",
    )


def reference_to(entry: BootEntry, architecture: str) -> ArtifactRef:
    """The artifact that an entry was made from; it is known by its digest."""
    return ArtifactRef(
        name=entry.name,
        type=OS_ARTIFACT_TYPE,
        version=entry.version,
        architecture=architecture,
        digest=entry.image,
        envelope_digest="",
    )


def noted(seen: Measured, image: ArtifactRef) -> OsImageInfo | None:
    """What this host knows of an image without asking anyone: it wrote it before."""
    notes = (facts.note for facts in seen.facts.values())
    return next((x.info for x in notes if x and x.complete and x.image == image.digest), None)


def check_generation(seen: Measured, info: OsImageInfo) -> None:
    confirmed = max(
        (x.entry.policy_generation for x in seen.entries if x.entry and x.name.confirmed),
        default=1,
    )
    if info.generation < confirmed:
        raise OsEngineFailed(
            OsReason.IMAGE_INVALID,
            f"OS image {info.name} {info.version} belongs to generation {info.generation} of the"
            f" policy key; this host confirmed generation {confirmed} and does not go below it",
            hint="build the image again with the present policy key",
            retryable=False,
        )


def trial_entry(seen: Measured, idle: str, image: ArtifactRef, *, trial_s: int) -> BootEntry:
    """The entry of a trial. Raises OsEngineFailed when the slot does not hold the image."""
    facts, found = seen.facts[idle], seen.entry(idle)
    here = (facts.root_uuid, facts.verity_uuid)
    note = facts.note
    if note is not None and note.complete and note.image == image.digest:
        info = note.info
        if here == (info.root_uuid, info.verity_uuid):
            return BootEntry(
                generation=found.name.generation if found else 0,
                slot=idle,
                name=info.name,
                version=info.version,
                root_hash=info.root_hash,
                root_uuid=info.root_uuid,
                verity_uuid=info.verity_uuid,
                uki=uki_name(idle, info.root_hash),
                image=image.digest,
                trial_s=trial_s,
                policy_generation=info.generation,
                uki_digest=info.uki.digest,
            )
    old = found.entry if found else None
    if old and old.image == image.digest and here == (old.root_uuid, old.verity_uuid):
        return msgspec.structs.replace(old, trial_s=trial_s)
    raise OsEngineFailed(
        OsReason.OS_ENGINE_FAILED,
        f"OS image {image.name} {image.version} is not staged in slot {idle}",
        hint="it is staged again by itself",
        retryable=False,
    )


def is_armed(name: EntryName, seen: Measured) -> bool:
    """Whether an entry has all its tries and is the first that the loader would choose."""
    return name.left == TRIES and not name.done and name.generation == seen.newest


def invalid(info: OsImageInfo, why: str) -> OsEngineFailed:
    return OsEngineFailed(
        OsReason.IMAGE_INVALID,
        f"OS image {info.name} {info.version} cannot be used: {why}",
        hint="build and push the image again",
        retryable=False,
    )


def unreadable(exc: VolumeFailed) -> OsEngineFailed:
    return OsEngineFailed(OsReason.SLOT_UNREADABLE, str(exc), hint=exc.hint)


def changed(running: str) -> OsEngineFailed:
    return OsEngineFailed(
        OsReason.SLOT_UNREADABLE,
        f"slot {running}, which runs, no longer holds what was started",
        hint="install this machine again, or replace its disk",
        retryable=False,
    )
