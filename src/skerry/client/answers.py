"""Answers of fixed form. Unknown fields pass, so an older client reads a newer manager."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from skerry.model.changes import Difference
from skerry.model.meta import Record

Document = dict[str, Any]


class Listing(Record, frozen=True, kw_only=True):
    """One page, or all pages joined. `revision` is where a watch goes on."""

    items: tuple[Document, ...] = ()
    after: str = ""
    revision: int = 0
    total: int = 0


class Reaction(Record, frozen=True, kw_only=True):
    """What a change does to one host."""

    host: str
    path: str
    kind: str
    message: str = ""


class DryRun(Record, frozen=True, kw_only=True):
    """What an apply would do."""

    created: bool = False
    changes: tuple[Difference, ...] = ()
    reactions: tuple[Reaction, ...] = ()
    object: Document = {}


class WatchEvent(Record, frozen=True, kw_only=True):
    """One change. `type` is CHANGED, DELETED or ERROR (then `reason` and `message` say why)."""

    type: str
    revision: int = 0
    object: Document = {}
    reason: str = ""
    message: str = ""


class Session(Record, frozen=True, kw_only=True):
    """A sign-in. `token` is a secret."""

    token: str
    subject: str = ""
    expires_at: datetime | None = None


class ApiKey(Record, frozen=True, kw_only=True):
    """A key for a program, shown once."""

    key: str
    subject: str = ""
    expires_at: datetime | None = None


class Info(Record, frozen=True, kw_only=True):
    """What a manager says about itself to everybody."""

    version: str = ""
    url: str = ""
    development_keys: bool = False
    observing: bool = False


class Heard(Record, frozen=True, kw_only=True):
    """What a host said that it has."""

    epoch: int
    digest: str = ""
    at: datetime | None = None


class RestoreHost(Record, frozen=True, kw_only=True):
    """One host of a manager that was restored. `heard` is None until it called."""

    project: str
    name: str
    issued_epoch: int = 0
    heard: Heard | None = None


class RestoreView(Record, frozen=True, kw_only=True):
    """Whether a manager only observes, since when, and what it learned."""

    observing: bool = False
    since: datetime | None = None
    source: str = ""
    hosts: tuple[RestoreHost, ...] = ()


class EventLine(Record, frozen=True, kw_only=True):
    """Something that happened to an object."""

    sequence: int
    at: datetime
    kind: str
    name: str
    reason: str
    message: str
    project: str = ""
    severity: str = "info"


class AuditLine(Record, frozen=True, kw_only=True, omit_defaults=False):
    """One record of the audit chain, as it is exported."""

    sequence: int
    at: datetime
    actor: str
    verb: str
    kind: str
    project: str
    name: str
    source: str
    change: str
    previous_hash: str
    hash: str


class Uploaded(Record, frozen=True, kw_only=True):
    """How far an upload is."""

    digest: str
    complete: bool = False
    offset: int = 0


class Events(Record, frozen=True, kw_only=True):
    """A page of events, newest first."""

    items: tuple[EventLine, ...] = ()


class Audits(Record, frozen=True, kw_only=True):
    """A page of audit records, oldest first."""

    items: tuple[AuditLine, ...] = ()
