"""Objects to store in the tests."""

from __future__ import annotations

from datetime import UTC, datetime

from skerry.manager.store.protocol import AnyResource, Audit, Event
from skerry.model.kinds import EmptyStatus, HostPhase, HostSpec, HostStatus, ProjectSpec
from skerry.model.meta import Metadata, Resource

NOW = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)


def host(
    name: str,
    *,
    project: str = "default",
    labels: dict[str, str] | None = None,
    site: str = "",
    phase: HostPhase = HostPhase.PENDING,
    addresses: tuple[str, ...] = (),
    finalizers: tuple[str, ...] = (),
    uid: str = "",
) -> AnyResource:
    """A host as a caller would build it."""
    return Resource(
        kind="Host",
        metadata=Metadata(
            name=name,
            project=project,
            uid=uid,
            labels=labels or {},
            finalizers=finalizers,
            created_at=NOW,
        ),
        spec=HostSpec(site=site),
        status=HostStatus(phase=phase, addresses=addresses),
    )


def project(name: str) -> AnyResource:
    """A project, which lies in no project."""
    return Resource(
        kind="Project",
        metadata=Metadata(name=name, created_at=NOW),
        spec=ProjectSpec(),
        status=EmptyStatus(),
    )


def audit(verb: str = "create", *, at: datetime = NOW) -> Audit:
    """An audit record."""
    return Audit(
        at=at,
        actor="user:ann",
        verb=verb,
        object_kind="Host",
        object_project="default",
        object_name="h1",
        source="10.0.0.1",
        change="spec.site: '' → 'north'",
    )


def event(name: str = "h1", reason: str = "Registered", *, at: datetime = NOW) -> Event:
    """An event of a host."""
    return Event(
        at=at,
        object_kind="Host",
        object_project="default",
        object_name=name,
        reason=reason,
        message="it happened",
    )
