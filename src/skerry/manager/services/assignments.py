"""Desired state of one host: built, signed by the channel key, kept with its epoch.

An assignment is issued again only when its content changed, and its epoch then grows; both are
stored in the transaction that moves the host's desired mark. What a host may fetch is what its
present assignment leads to, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec

from skerry.lib import pki
from skerry.lib.digest import canonical_json, sha256
from skerry.lib.errors import SkerryError
from skerry.manager.services import agents, artifacts, clusters, osimages, secrets, stacks
from skerry.manager.services.centre import INTERNAL, Centre, audit, event
from skerry.manager.store.protocol import AnyResource, NotFound, Put, SetValue, WriteSet
from skerry.model.artifact import ArtifactRef
from skerry.model.kinds import Approval, ArtifactType, DesiredMark
from skerry.model.meta import Record, retries
from skerry.model.profile import Revision, resolve, secret_references
from skerry.wire import envelope as env
from skerry.wire.messages import (
    AgentAssignment,
    Assignment,
    ClusterAssignment,
    OsAssignment,
    RevisionRef,
    SealedSecret,
)

SPACE = "assignment"
FLOORS = "assignment-floor"


class Issued(Record, frozen=True, kw_only=True):
    """The newest assignment of a host. `direct` and `manifests` are what it may fetch."""

    epoch: int
    digest: str
    content_digest: str
    envelope: env.Envelope
    cluster: str = ""
    direct: tuple[str, ...] = ()
    manifests: tuple[str, ...] = ()


class CannotAssign(SkerryError):
    """Something that the assignment needs is not there. `reason` is a condition reason."""


@dataclass(frozen=True, slots=True)
class _Content:
    """What an assignment says, before secrets are sealed and an epoch is given."""

    cluster: ClusterAssignment | None
    secrets: dict[str, str]
    direct: tuple[str, ...] = ()
    manifests: tuple[str, ...] = ()
    agent: AgentAssignment | None = None
    os: OsAssignment | None = None


async def current(centre: Centre, uid: str) -> Issued | None:
    """The newest assignment of a host."""
    if uid not in centre.live.assignments:
        data = await centre.store.value(SPACE, uid)
        read = msgspec.json.decode(data, type=Issued) if data else None
        # Not plainly set: while we read, a newer one may have been issued and put there.
        centre.live.assignments.setdefault(uid, read)
    found: Issued | None = centre.live.assignments[uid]
    return found


async def issue(centre: Centre, host: AnyResource) -> bool:
    """Issue an assignment if its content changed; whether it did.

    Also issued again when the host has more than this manager knows to have told it. Raises
    CannotAssign (the host keeps what it has), Conflict (the host changed meanwhile).
    """
    if host.spec.approval is not Approval.APPROVED or host.spec.revoked:
        return False
    content = await _with_agent(centre, host, await _content(centre, host))
    content_digest = _digest(centre, host, content)
    before = await current(centre, host.uid)
    floor = await _floor(centre, host)
    if not _is_due(before, content_digest, floor):
        return False
    _check_publishing(centre)
    epoch = max(before.epoch if before else 0, host.status.desired.epoch, floor)
    issued = _sign(centre, host, content, content_digest, epoch + 1)
    mark = DesiredMark(epoch=issued.epoch, digest=issued.digest)
    agent = content.agent.version if content.agent else ""
    system = content.os.version if content.os else ""
    status = msgspec.structs.replace(
        host.status, desired=mark, desired_agent=agent, desired_os=system
    )
    changed = msgspec.structs.replace(host, status=status)
    what = f"cluster {issued.cluster}" if issued.cluster else "no cluster"
    what += f", agent {agent}" if agent else ""
    what += f", OS {system}" if system else ""
    message = f"epoch {issued.epoch}: {what}"
    await centre.store.commit(
        WriteSet(
            puts=(Put(changed, host.metadata.revision),),
            values=(SetValue(SPACE, host.uid, msgspec.json.encode(issued)),),
            events=(event(centre, host, "Assigned", message),),
            audits=(audit(centre, INTERNAL, "assign", host, f"{message} {issued.digest}"),),
        )
    )
    centre.live.assignments[host.uid] = issued
    centre.live.wake(host.uid)
    return True


async def check(centre: Centre, host: AnyResource) -> None:
    """Raises CannotAssign when something keeps the host's assignment from being issued."""
    content = await _content(centre, host)
    before = await current(centre, host.uid)
    if _is_due(before, _digest(centre, host, content), await _floor(centre, host)):
        _check_publishing(centre)


def _is_due(before: Issued | None, content_digest: str, floor: int) -> bool:
    return before is None or before.content_digest != content_digest or floor >= before.epoch


async def _floor(centre: Centre, host: AnyResource) -> int:
    """The highest epoch that the host has and that is not ours; 0 when there is none."""
    stored = await centre.store.value(FLOORS, host.uid)
    return int(stored) if stored else 0


def _check_publishing(centre: Centre) -> None:
    if centre.live.restored is not None:
        raise CannotAssign(
            "this manager was restored from a backup and tells hosts nothing new until a person"
            " confirms it",
            hint="skerry backup status, then skerry backup confirm",
            reason="ManagerRestored",
        )


async def may_fetch(centre: Centre, uid: str, digest: str) -> bool:
    """Whether the host's present assignment leads to this content."""
    issued = await current(centre, uid)
    if issued is None:
        return False
    if digest in issued.direct or digest in issued.manifests:
        return True
    for manifest in issued.manifests:
        if centre.blobs.has(manifest) and digest in centre.blobs.members(manifest):
            return True
    return False


async def _with_agent(centre: Centre, host: AnyResource, content: _Content) -> _Content:
    agent = await agents.wanted(centre, host)
    if agent is None:
        return content
    ref = agent.artifact
    return replace(
        content,
        agent=agent,
        direct=(*content.direct, ref.envelope_digest),
        manifests=(*content.manifests, ref.digest),
    )


async def _content(centre: Centre, host: AnyResource) -> _Content:
    cluster = await _cluster(centre, host)
    if cluster is None:
        plain = _Content(None, {})
        if clusters.cluster_of(host):
            # It leaves its cluster first: an OS that fails must not keep it from proving that.
            return plain
        return await _with_os(centre, host, plain, [])
    revisions, missing = await stacks.load_revisions(centre, host.project, cluster.spec.profiles)
    if missing:
        raise CannotAssign(missing[0].message, hint=missing[0].hint, reason="ProfileMissing")
    refs = await _artifacts(centre, host, cluster, revisions)
    opened = await _secrets(centre, host.project, revisions)
    part = ClusterAssignment(
        name=cluster.name,
        uid=cluster.uid,
        role=clusters.role_of(cluster.spec, host.name),
        site=host.spec.site,
        revisions=tuple(
            RevisionRef(profile=item.profile, version=item.version, digest=item.digest)
            for item in revisions
        ),
        variables=dict(cluster.spec.variables),
        artifacts=refs,
        retry_failed=retries(cluster.metadata.annotations),
    )
    content = _Content(
        part,
        opened,
        direct=tuple(
            dict.fromkeys((*(r.digest for r in part.revisions), *(r.envelope_digest for r in refs)))
        ),
        manifests=tuple(dict.fromkeys(ref.digest for ref in refs)),
    )
    return await _with_os(centre, host, content, revisions)


async def _cluster(centre: Centre, host: AnyResource) -> AnyResource | None:
    """The cluster that wants something of the host now."""
    name = clusters.cluster_of(host)
    if not name:
        return None
    try:
        cluster = await centre.store.get("Cluster", host.project, name)
    except NotFound:
        return None
    if cluster.metadata.deleted_at is not None or not clusters.role_of(cluster.spec, host.name):
        return None
    return cluster


async def _with_os(
    centre: Centre, host: AnyResource, content: _Content, revisions: list[Revision]
) -> _Content:
    """The content with the OS image of the stack, or of the host's own wish."""
    architecture = host.status.inventory.architecture or "amd64"
    ref = osimages.pinned(revisions, architecture) or await osimages.own_wish(centre, host)
    if ref is None:
        return content
    _check_complete(centre, ref)
    return replace(
        content,
        os=osimages.assignment(centre, host, ref),
        direct=(*content.direct, ref.envelope_digest),
        manifests=(*content.manifests, ref.digest),
    )


async def _artifacts(
    centre: Centre, host: AnyResource, cluster: AnyResource, revisions: list[Revision]
) -> tuple[ArtifactRef, ...]:
    architecture = host.status.inventory.architecture or "amd64"
    layers = resolve(revisions, cluster.spec.variables)
    kubernetes = stacks.kubernetes_of(layers)
    version = kubernetes.version if kubernetes else ""
    release = await artifacts.kubernetes(centre, version, architecture)
    if release is None or not release.status.complete:
        raise CannotAssign(
            f"Kubernetes release {version} for {architecture} was not pushed completely",
            hint=f"skerry release build kubernetes {version} && skerry release push",
            reason="ArtifactMissing",
        )
    pinned = stacks.references_for(revisions, architecture)
    there = {ref.name for ref in pinned}
    for revision in revisions:
        for ref in revision.artifacts:
            if ref.name not in there:
                raise CannotAssign(
                    f"artifact {ref.name} is for {ref.architecture} only, host {host.name} is"
                    f" {architecture}",
                    hint=f"push {ref.name} for {architecture} and raise the profile's version",
                    reason="ArchitectureMismatch",
                )
    # The OS image is a part of the assignment of its own.
    used = tuple(ref for ref in pinned if ref.type != ArtifactType.OS.value)
    for ref in used:
        _check_complete(centre, ref)
    return (artifacts.reference(release), *used)


def _check_complete(centre: Centre, ref: ArtifactRef) -> None:
    if centre.blobs.missing(ref.digest) or not centre.blobs.has(ref.envelope_digest):
        raise CannotAssign(
            f"artifact {ref.name} is not complete here",
            hint=f"push {ref.name} again with 'skerry release push'",
            reason="ArtifactMissing",
        )


async def _secrets(centre: Centre, project: str, revisions: list[Revision]) -> dict[str, str]:
    opened: dict[str, str] = {}
    for reference in secret_references(revisions):
        name, _, key = reference.partition(".")
        try:
            values = await secrets.read(centre, project, name)
        except NotFound:
            values = {}
        if key not in values:
            raise CannotAssign(
                f"secret {name} has no key {key}" if values else f"there is no secret {name}",
                hint=f"apply Secret {name} in project {project}",
                reason="SecretMissing",
            )
        opened[f"secret.{reference}"] = values[key]
    return opened


def _digest(centre: Centre, host: AnyResource, content: _Content) -> str:
    """Equal as long as the host would do the same. Sealing is random, so values count keyed."""
    secret = msgspec.json.encode(content.secrets, order="sorted")
    # Only those that are there: assignments from before there were such parts stay as they are.
    parts = {"agent": content.agent, "os": content.os}
    return sha256(
        canonical_json(
            {
                **{name: part for name, part in parts.items() if part is not None},
                "cluster": content.cluster,
                "secrets": secrets.keyed_digest(centre.keys.secret, secret),
                "sealing": host.status.sealing_key if content.secrets else "",
                "channel": centre.keys.channel.keyid,
            }
        )
    )


def _sign(
    centre: Centre, host: AnyResource, content: _Content, content_digest: str, epoch: int
) -> Issued:
    cluster = content.cluster
    if cluster is not None and content.secrets:
        receiver = pki.load_sealing_public(host.status.sealing_key)
        sealed = tuple(
            SealedSecret(name=name, sealed=pki.seal(value.encode(), receiver, info=name.encode()))
            for name, value in sorted(content.secrets.items())
        )
        cluster = msgspec.structs.replace(cluster, secrets=sealed)
    assignment = Assignment(
        host_uid=host.uid,
        epoch=epoch,
        issued_at=centre.clock.now(),
        cluster=cluster,
        agent=content.agent,
        os=content.os,
    )
    envelope = env.sign(env.ASSIGNMENT, canonical_json(assignment), [centre.keys.channel])
    return Issued(
        epoch=epoch,
        digest=envelope.payload_digest,
        content_digest=content_digest,
        envelope=envelope,
        cluster=cluster.name if cluster else "",
        direct=content.direct,
        manifests=content.manifests,
    )
