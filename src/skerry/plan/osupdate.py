"""When a host changes its OS image, when the new one has proved itself, and what a return means.

Staging is gentle and an operation of its own, so that a newer assignment can take its place; from
arming on, the update is one disruptive operation that outlives the restart in the journal. A slot
that runs on trial is settled before anything else is planned.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeAlias

from skerry.model.artifact import ArtifactRef
from skerry.model.meta import Record
from skerry.plan import steps as do
from skerry.plan.host import Refusal

STAGE_OS = "stage-os"
UPDATE_OS = "update-os"
RETURN_OS = "return-os"
OS_OPERATIONS = (STAGE_OS, UPDATE_OS, RETURN_OS)

# The gate has to end before the image's own deadline restarts the machine.
_GATE_SHARE = 0.75
_GATE_MARGIN_S = 120.0


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

    @property
    def on_trial(self) -> bool:
        """Whether the running system has still to be confirmed."""
        slot = self.slot(self.running)
        return slot is not None and slot.state is SlotState.TRIAL


class DesiredOs(Record, frozen=True, kw_only=True):
    """The image that the centre wants, from a verified assignment. `retry_failed` grows when a
    person asks for another try of what failed here."""

    version: str
    artifact: ArtifactRef
    trial_s: int = 900
    retry_failed: int = 0


class FetchImage(Record, frozen=True, kw_only=True):
    """The wanted image's content has to be brought here first."""


OsMove: TypeAlias = do.Operation | FetchImage | Refusal | None


def plan_os(
    desired: DesiredOs | None,
    observed: OsObserved,
    *,
    failed: frozenset[str],
    fetched: bool = True,
    healthy: tuple[str, ...] = (),
    line: bool = False,
    gate_s: float | None = None,
) -> OsMove:
    """The next move of a host without a journal, or None when there is none.

    `failed` are digests of images that failed here, `fetched` says that the wanted one's content
    is on the host. `healthy` are the types of the conditions that are True now and `line` whether
    the manager answers now: what the gate will ask for again. `gate_s` is how long it may take,
    by default three quarters of the trial.
    """
    if observed.engine is OsEngineKind.PACKAGE:
        return None if desired is None else _not_managed(desired)
    if observed.on_trial:
        return _settle(desired, observed, failed, healthy, line, gate_s)
    if desired is None:
        return None
    refusal = _refusal(desired, observed, failed)
    if refusal is not None:
        return refusal
    if runs(desired, observed):
        return _entry_again(desired, observed)
    idle = observed.slot(observed.idle)
    whole = idle is not None and idle.state not in (SlotState.EMPTY, SlotState.PARTIAL)
    if idle is not None and whole and idle.image == desired.artifact.digest:
        return _update(desired, observed, _gate(desired.trial_s, healthy, line, gate_s))
    if not fetched:
        return FetchImage()
    return do.Operation(
        name=STAGE_OS,
        desired_digest=desired.artifact.digest,
        steps=(do.StageImage(version=desired.version, image=desired.artifact),),
    )


def runs(desired: DesiredOs, observed: OsObserved) -> bool:
    """Whether the running system is the wanted one.

    The image that the disk was made with may not know its own artifact; its version has to do. To
    write it into the other slot once more would win nothing and make both slots look alike.
    """
    if not observed.running:
        return False
    if observed.image:
        return observed.image == desired.artifact.digest
    return bool(observed.version) and observed.version == desired.version


def _entry_again(desired: DesiredOs, observed: OsObserved) -> do.Operation | None:
    """The boot partition lost the entry of what runs: it is written again, for without it the next
    start is the other slot. A trial that lost its entry has a journal and is judged by that."""
    slot = observed.slot(observed.running)
    if slot is None or slot.state is not SlotState.STAGED or not observed.image:
        return None
    steps = (do.ConfirmImage(version=desired.version),)
    return do.Operation(name=UPDATE_OS, desired_digest=observed.image, steps=steps)


def is_settled(desired: DesiredOs | None, observed: OsObserved) -> bool:
    """Whether the OS is as desired and confirmed, so that the host may acknowledge."""
    if desired is None:
        return not observed.on_trial
    slot = observed.slot(observed.running)
    return runs(desired, observed) and slot is not None and slot.state is SlotState.GOOD


def _not_managed(desired: DesiredOs) -> Refusal:
    return Refusal(
        reason="OsNotManaged",
        message=f"OS image {desired.version} is wanted, but this host's system is managed by its"
        " own packages; skerry leaves it alone",
        hint="install the appliance on this host, or take the os layer out of its profile",
    )


def _refusal(desired: DesiredOs, observed: OsObserved, failed: frozenset[str]) -> Refusal | None:
    version = desired.version
    if desired.artifact.architecture != observed.architecture:
        return Refusal(
            reason="ArchitectureMismatch",
            message=f"OS image {version} is for {desired.artifact.architecture}, this host is"
            f" {observed.architecture}",
            hint=f"push the image for {observed.architecture}",
        )
    slot = observed.slot(observed.running)
    if observed.recovery:
        return Refusal(
            reason="OsInRecovery",
            message="the recovery system runs, so neither slot started",
            hint="look at the machine's screen, and install a slot anew",
        )
    if slot is None or not observed.idle:
        return Refusal(
            reason="SlotUnreadable",
            message="it is not known which slot the running system lies in",
            hint="look at what the host reports about its slots",
        )
    if runs(desired, observed):
        if slot.state is not SlotState.BAD:
            return None
        return Refusal(
            reason="OsProblem",
            message=f"slot {slot.name} was given up, and yet it runs: the other slot did not start",
            hint="assign another OS image; it is written to the other slot",
        )
    if desired.artifact.digest in failed:
        return Refusal(
            reason="OsReturned",
            message=f"OS image {version} failed on this host before and is not tried again",
            hint="push a newer image, or ask for another try of the host",
        )
    return None


def _settle(
    desired: DesiredOs | None,
    observed: OsObserved,
    failed: frozenset[str],
    healthy: tuple[str, ...],
    line: bool,
    gate_s: float | None,
) -> do.Operation:
    """A trial whose journal was lost: confirm what is wanted and healthy, else return."""
    digest, version = observed.image, observed.version
    back = next((item for item in observed.slots if item.state is SlotState.GOOD), None)
    confirm = do.ConfirmImage(version=version)
    if back is None:
        # Nothing to return to: to let its tries run out would only leave two bad slots.
        return do.Operation(
            name=UPDATE_OS, desired_digest=digest, steps=(confirm,), disruptive=True
        )
    away = (do.RollBackImage(), do.Restart(unless_slot=back.name))
    if desired is None or not runs(desired, observed) or digest in failed:
        return do.Operation(name=RETURN_OS, desired_digest=digest, steps=away, disruptive=True)
    return do.Operation(
        name=UPDATE_OS,
        desired_digest=digest,
        steps=(_gate(desired.trial_s, healthy, line, gate_s), confirm),
        undo=away,
        disruptive=True,
    )


def _update(desired: DesiredOs, observed: OsObserved, gate: do.GateHost) -> do.Operation:
    version, image = desired.version, desired.artifact
    return do.Operation(
        name=UPDATE_OS,
        desired_digest=image.digest,
        steps=(
            # Once more, so that nothing is armed that is not whole; it changes nothing if it is.
            do.StageImage(version=version, image=image, attempts=1),
            do.ActivateImage(version=version, image=image, trial_s=desired.trial_s),
            do.Restart(from_boot=observed.boot_id),
            do.CheckImage(version=version, image=image),
            gate,
            do.ConfirmImage(version=version),
        ),
        undo=(do.RollBackImage(), do.Restart(unless_slot=observed.running)),
        undo_from=1,
        disruptive=True,
    )


def _gate(
    trial_s: float, healthy: tuple[str, ...], line: bool, gate_s: float | None
) -> do.GateHost:
    timeout_s = trial_s * _GATE_SHARE if gate_s is None else gate_s
    return do.GateHost(
        timeout_s=timeout_s,
        healthy=healthy,
        line=line,
        limit_s=timeout_s + _GATE_MARGIN_S,
    )


# -- what a return means -------------------------------------------------------------------------


class OsReturn(StrEnum):
    """`failed`: the image had its chance and is not tried again until a person asks for it.
    `interrupted`: nobody knows whose fault it was; it is tried once more."""

    FAILED = "failed"
    INTERRUPTED = "interrupted"

    @property
    def reason(self) -> str:
        """The condition reason."""
        return "OsReturned" if self is OsReturn.FAILED else "OsInterrupted"


def judge(*, verdict: bool, interrupted_before: int) -> OsReturn:
    """How a return counts. `verdict`: the gate looked at the running image and refused it.

    Without one (three power cuts, a hang, a panic) the image gets a second chance and no third.
    """
    if verdict or interrupted_before:
        return OsReturn.FAILED
    return OsReturn.INTERRUPTED


def fallen_back_words(version: str, observed: OsObserved, kind: OsReturn) -> str:
    """What happened, for people, when another image than the armed one runs."""
    now = f"OS {observed.version or 'of before'} runs again"
    if observed.running:
        now += f" in slot {observed.running}"
    if kind is OsReturn.INTERRUPTED:
        return f"OS image {version} was started and never confirmed; {now}, and it is tried again"
    return f"OS image {version} was started and never confirmed, for the second time; {now}"


def may_confirm_os(
    *, line_before: bool, synced: bool, offline: bool, ran_s: float, timeout_s: float
) -> bool:
    """Whether the line is as good as it was before the restart.

    A host that had one has to find it again: a broken network must not be confirmed. One that had
    none waits for half of the gate's time, and then does without.
    """
    if line_before or synced:
        return synced
    return offline and ran_s >= timeout_s / 2
