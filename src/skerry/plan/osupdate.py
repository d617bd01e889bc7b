"""When a host changes its OS image, when the new one has proved itself, and what a return means."""

from __future__ import annotations

from enum import StrEnum

from skerry.model.artifact import ArtifactRef
from skerry.model.meta import Record

UPDATE_OS = "update-os"


class OsEngineKind(StrEnum):
    """How the OS of a host is managed. `package`: it is left alone."""

    AB = "ab"
    KAIROS = "kairos"
    PACKAGE = "package"
    FAKE = "fake"


class SlotState(StrEnum):
    """`empty`: nothing that could start. `partial`: being written, has no name yet. `staged`:
    complete, no boot entry leads to it. `trial`: has tries left and no verdict. `good`: confirmed.
    `bad`: rolled back, or its tries are used up."""

    EMPTY = "empty"
    PARTIAL = "partial"
    STAGED = "staged"
    TRIAL = "trial"
    GOOD = "good"
    BAD = "bad"


class OsSlot(Record, frozen=True, kw_only=True):
    """One slot as measured. `image` is the artifact's digest, empty when unknown."""

    name: str
    state: SlotState
    image: str = ""
    version: str = ""
    tries_left: int = 0


class OsObserved(Record, frozen=True, kw_only=True):
    """What an engine measured of the host's OS; describing never raises for a broken slot.

    `running` is the slot that the running system lies in (empty: in none, or a recovery system);
    `problems` are sentences for people about what is not as it should be (a slot that does not
    verify, a boot partition that cannot be read).
    """

    engine: OsEngineKind
    architecture: str
    boot_id: str
    running: str = ""
    version: str = ""
    image: str = ""
    recovery: bool = False
    slots: tuple[OsSlot, ...] = ()
    problems: tuple[str, ...] = ()

    def slot(self, name: str) -> OsSlot | None:
        return next((item for item in self.slots if item.name == name), None)

    @property
    def idle(self) -> str:
        """The slot that may be written; empty when the running one is unknown."""
        names = [item.name for item in self.slots if item.name != self.running]
        return names[0] if self.running and names else ""


class DesiredOs(Record, frozen=True, kw_only=True):
    """The image that the centre wants, from a verified assignment. `retry_failed` grows when a
    person asks for another try of what failed here."""

    version: str
    artifact: ArtifactRef
    trial_s: int = 900
    retry_failed: int = 0
