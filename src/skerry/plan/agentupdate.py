"""When the agent replaces itself, when a new one has proved itself, and what a return means.

Two slots hold programs; the link `current` says which one starts. A new program first runs on
trial: it has to confirm itself, or the host returns to the old one without the new one's help.
While a trial lasts nothing else is begun, so that the old agent never meets a journal that a
newer one wrote.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from skerry.model.artifact import ArtifactRef
from skerry.model.meta import Record
from skerry.model.versions import is_newer
from skerry.plan import steps as do
from skerry.plan.host import Refusal

UPDATE_AGENT = "update-agent"
SLOTS = ("a", "b")
START_LIMIT = 3


class DesiredAgent(Record, frozen=True, kw_only=True):
    """The agent that the centre wants, from a verified assignment. `retry_failed` grows when a
    person asks for another try of what failed here."""

    version: str
    artifact: ArtifactRef
    trial_s: int
    retry_failed: int = 0


class ObservedAgent(Record, frozen=True, kw_only=True):
    """What the host measured. `slot` is where the running program lies (empty: not in a slot),
    `current` what the link says, `trial` the slot that has still to prove itself; `fetched` says
    that the wanted archive is here, or unpacked already."""

    version: str
    architecture: str
    slot: str
    current: str
    trial: str = ""
    fetched: bool = False


class Restart(Record, frozen=True, kw_only=True):
    """The link says that another slot's program should run."""


class Fetch(Record, frozen=True, kw_only=True):
    """The wanted archive has to be brought here first."""


Move: TypeAlias = do.Operation | Restart | Fetch | Refusal | None


def plan_agent(
    desired: DesiredAgent | None, observed: ObservedAgent, *, failed: frozenset[str]
) -> Move:
    """The next move, or None when there is none. `failed` are digests that failed here."""
    if observed.slot not in SLOTS:
        return None
    if observed.current != observed.slot:
        return Restart()
    if observed.trial == observed.slot or desired is None:
        return None
    ref = desired.artifact
    if ref.architecture != observed.architecture:
        return Refusal(
            reason="ArchitectureMismatch",
            message=f"agent {desired.version} is for {ref.architecture}, this host is"
            f" {observed.architecture}",
            hint=f"push the agent for {observed.architecture}",
        )
    if not is_newer(desired.version, observed.version):
        return None
    if ref.digest in failed:
        return Refusal(
            reason="AgentReturned",
            message=f"agent {desired.version} failed on this host before and is not tried again",
            hint="push a newer agent, or ask for another try of the host",
        )
    if not observed.fetched:
        return Fetch()
    return _update(desired, slot=SLOTS[1 - SLOTS.index(observed.slot)])


def _update(desired: DesiredAgent, *, slot: str) -> do.Operation:
    version = desired.version
    return do.Operation(
        name=UPDATE_AGENT,
        desired_digest=desired.artifact.digest,
        steps=(
            do.StageAgent(version=version, artifact=desired.artifact, slot=slot),
            do.CheckAgent(version=version, slot=slot),
            do.SwitchAgent(
                version=version,
                digest=desired.artifact.digest,
                slot=slot,
                starts=START_LIMIT,
                trial_s=desired.trial_s,
            ),
        ),
    )


def may_confirm(*, worked: bool, synced: bool, offline: bool, ran_s: float, trial_s: float) -> bool:
    """Whether a program on trial has proved that it works.

    It has looked at the host once without failing (`worked`), and it was understood by the
    manager. A host without a line must be able to update too: where no manager answers
    (`offline`), half of the trial has to pass. A manager that answers and refuses proves nothing.
    """
    return worked and (synced or (offline and ran_s >= trial_s / 2))


class ReturnKind(StrEnum):
    """`failed`: the new program had its chance. `interrupted`: power cuts ended every start.
    `never-ran`: it was never started."""

    FAILED = "failed"
    INTERRUPTED = "interrupted"
    NEVER_RAN = "never-ran"


@dataclass(frozen=True, slots=True)
class Returned:
    """What the watchdog wrote down: `boots` has the boot id of each start of the new program,
    `late` says that its time was over."""

    version: str
    digest: str
    trial_s: int
    boots: tuple[str, ...]
    late: bool


def judge(returned: Returned, *, interrupted_before: int) -> ReturnKind:
    """How a return counts. A second storm of power cuts counts as the program's own fault."""
    if not returned.boots:
        return ReturnKind.NEVER_RAN
    storm = len(returned.boots) > 1 and len(set(returned.boots)) == len(returned.boots)
    if storm and not returned.late and not interrupted_before:
        return ReturnKind.INTERRUPTED
    return ReturnKind.FAILED


def return_words(returned: Returned, kind: ReturnKind, running: str) -> str:
    """What happened, for people."""
    match kind:
        case ReturnKind.NEVER_RAN:
            what = "was never started"
        case ReturnKind.INTERRUPTED:
            what = f"met {len(returned.boots)} power cuts in a row and is tried again"
        case ReturnKind.FAILED if returned.late:
            what = f"did not prove itself within {returned.trial_s} s"
        case ReturnKind.FAILED:
            what = f"was started {len(returned.boots)} times without proving itself"
    return f"agent {returned.version} {what}; agent {running} runs again"
