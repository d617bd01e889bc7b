"""What every verb works on: the store, the clock, the keys, and what lives in memory only.

Memory holds heartbeats, counters of requests and wake-ups; all of it can be lost without harm.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import anyio

from skerry.lib.clock import Clock
from skerry.lib.errors import SkerryError
from skerry.lib.files import Root
from skerry.manager.auth.decide import SYSTEM, Principal, allowed
from skerry.manager.keys import Keys
from skerry.manager.services.blobs import Blobs
from skerry.manager.settings import Settings
from skerry.manager.store.backup import RestoreMark
from skerry.manager.store.protocol import Audit, Conflict, Event, Store
from skerry.model.meta import Resource


class NotPermitted(SkerryError):
    """The caller may not do this."""

    exit_code = 4


class NotSignedIn(SkerryError):
    """Nobody is signed in, or no longer."""

    exit_code = 4


@dataclass(frozen=True, slots=True)
class Caller:
    """A principal and where the request came from."""

    principal: Principal
    source: str = ""

    @property
    def name(self) -> str:
        return self.principal.name


CONTACTS = "contact"  # space of the last heartbeats that were written
INTERNAL = Caller(SYSTEM, "manager")


@dataclass
class Live:
    """In memory only. `contacts` is the last sync by host uid, `unflushed` those not on disk.

    `denials` holds (reason, message) by key fingerprint, so that a host whose token was refused
    keeps hearing why; `assignments` caches what is stored by host uid, `agents` which agents are
    there; `replays` is when a host's repeated requests were last told to people. While `restored`
    is set the manager only observes; `head` is the last audit record whose hash was signed and
    kept. `look_again` asks the loops to go over everything in their next round.
    """

    contacts: dict[str, datetime] = field(default_factory=dict)
    unflushed: set[str] = field(default_factory=set)
    counters: dict[str, int] = field(default_factory=dict)
    wakers: dict[str, anyio.Event] = field(default_factory=dict)
    denials: dict[str, tuple[str, str]] = field(default_factory=dict)
    assignments: dict[str, Any] = field(default_factory=dict)
    agents: Any = None
    replays: dict[str, datetime] = field(default_factory=dict)
    restored: RestoreMark | None = None
    head: int = 0
    look_again: bool = False

    def forget(self, uid: str) -> None:
        """A host is gone; what was held for it is answered."""
        for kept in (self.contacts, self.counters, self.assignments, self.replays):
            kept.pop(uid, None)
        self.unflushed.discard(uid)
        self.wake(uid)

    def seen(self, uid: str, at: datetime) -> None:
        self.contacts[uid] = at
        self.unflushed.add(uid)

    def waiter(self, uid: str) -> anyio.Event:
        """The event that `wake` sets next."""
        return self.wakers.setdefault(uid, anyio.Event())

    def wake(self, uid: str) -> None:
        """Answer the held request of a host, if there is one."""
        event = self.wakers.pop(uid, None)
        if event is not None:
            event.set()


@dataclass(frozen=True, slots=True)
class Centre:
    """The manager's inside, passed to every verb."""

    store: Store
    clock: Clock
    root: Root
    keys: Keys
    settings: Settings
    url: str
    blobs: Blobs
    live: Live = field(default_factory=Live)


def require(caller: Caller, verb: str, kind: str, project: str) -> None:
    """Raises NotPermitted."""
    if not allowed(caller.principal, verb, kind, project):
        where = f"in project {project}" if project else "at system scope"
        raise NotPermitted(
            f"{caller.name} may not {verb} {kind} {where}",
            hint="ask an administrator for a role binding",
            reason="NotPermitted",
        )


def audit(
    centre: Centre, caller: Caller, verb: str, resource: Resource[Any, Any], change: str = ""
) -> Audit:
    """The audit record of a change to an object."""
    return Audit(
        at=centre.clock.now(),
        actor=caller.name,
        verb=verb,
        object_kind=resource.kind,
        object_project=resource.project,
        object_name=resource.name,
        source=caller.source,
        change=change,
    )


def event(
    centre: Centre,
    resource: Resource[Any, Any],
    reason: str,
    message: str,
    *,
    severity: str = "info",
) -> Event:
    """An event on an object."""
    return Event(
        at=centre.clock.now(),
        object_kind=resource.kind,
        object_project=resource.project,
        object_name=resource.name,
        reason=reason,
        message=message,
        severity=severity,
    )


class Contended(Conflict):
    """Several writers changed the same objects again and again."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} is being changed by others right now", hint="try again", retryable=True
        )
