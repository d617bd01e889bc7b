"""What a host reports of its operating system."""

from __future__ import annotations

from skerry.model.meta import Record


class OsSlotState(Record, frozen=True, kw_only=True):
    """One slot. `state`: empty, partial, staged, trial, good or bad; `image` is the artifact's
    digest, empty when it is not known."""

    name: str
    state: str
    version: str = ""
    image: str = ""


class OsState(Record, frozen=True, kw_only=True):
    """How the OS is managed (`engine`: ab, kairos, package), which slot runs, whether it has still
    to prove itself, and the digests of images that failed on this host."""

    engine: str = ""
    slot: str = ""
    version: str = ""
    image: str = ""
    on_trial: bool = False
    recovery: bool = False
    slots: tuple[OsSlotState, ...] = ()
    failed: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
