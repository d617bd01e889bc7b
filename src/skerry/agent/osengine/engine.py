"""What the agent asks of an OS engine, and how an engine fails.

Each call is idempotent: doing an interrupted one again is always right. An engine never writes the
running slot and leaves some slot bootable at every instant; whether to confirm is not its decision.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

from skerry.lib.errors import SkerryError
from skerry.model.artifact import ArtifactRef
from skerry.plan.osupdate import OsObserved


class OsReason(StrEnum):
    """Every reason with which an OS engine fails."""

    IMAGE_INVALID = "ImageInvalid"
    IMAGE_TOO_LARGE = "ImageTooLarge"
    ARCHITECTURE_MISMATCH = "ArchitectureMismatch"
    SLOT_UNREADABLE = "SlotUnreadable"
    BOOT_PARTITION_FULL = "BootPartitionFull"
    BOOT_PARTITION_BROKEN = "BootPartitionBroken"
    OS_BUSY = "OsBusy"
    OS_NOT_MANAGED = "OsNotManaged"
    OS_ENGINE_FAILED = "OsEngineFailed"


class OsEngineFailed(SkerryError):
    """A call failed. `reason` is one of `OsReason`."""

    def __init__(
        self, reason: OsReason, message: str, *, hint: str = "", retryable: bool = True
    ) -> None:
        super().__init__(message, hint=hint, retryable=retryable, reason=reason.value)


class OsEngine(Protocol):
    """One way in which an OS changes on a host. Images are named by their artifact's digest."""

    async def describe(self) -> OsObserved:
        """Measure. Never raises for a slot or boot partition that is broken or absent."""
        ...

    async def stage(self, image: ArtifactRef) -> None:
        """Write the image to the idle slot, from the content store, and check what was written.
        The idle slot's former image can no longer start from then on. Does nothing when the slot
        holds the image already. Raises OsEngineFailed, DiskFull, or content errors."""
        ...

    async def activate(self, image: ArtifactRef, *, trial_s: int) -> None:
        """Make the next start a trial of the staged image: three tries, `trial_s` seconds each.
        Raises OsEngineFailed when the image is not staged."""
        ...

    async def confirm(self) -> None:
        """The running slot is good: it starts from now on, without counting."""
        ...

    async def roll_back(self) -> None:
        """The slot on trial had its chance: the next start is the last confirmed slot. Does
        nothing when none is on trial."""
        ...

    async def reset(self, *, keep_identity: bool) -> None:
        """Ask for a wiped state at the next start. Raises OsEngineFailed where that is not
        possible."""
        ...
