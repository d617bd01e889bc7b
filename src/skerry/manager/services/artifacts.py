"""Artifacts: content by digest, complete only with all blobs and a trusted release signature.

An artifact never changes what it names: another digest is another artifact.
"""

from __future__ import annotations

import contextlib
from datetime import datetime

import msgspec

from skerry.lib.errors import SkerryError
from skerry.manager.services.centre import Caller, Centre, audit, event
from skerry.manager.services.draft import Draft, Ending
from skerry.manager.store.protocol import AnyResource, Conflict, Put, Query, WriteSet
from skerry.model.artifact import ArtifactRef
from skerry.model.kinds import ArtifactSpec, ArtifactStatus, ArtifactType
from skerry.model.meta import Condition, Record
from skerry.model.problems import Problem
from skerry.model.versions import version_order
from skerry.wire import envelope as env
from skerry.wire.messages import ArtifactStatement, decode

_ONE_PER_VERSION = {ArtifactType.KUBERNETES: "Kubernetes", ArtifactType.AGENT: "the agent"}


class _Use(Record, frozen=True, kw_only=True):
    """What an issued assignment says about artifacts (see `assignments.Issued`)."""

    cluster: str = ""
    manifests: tuple[str, ...] = ()


def reference(resource: AnyResource) -> ArtifactRef:
    """How assignments and revisions name the artifact."""
    spec: ArtifactSpec = resource.spec
    return ArtifactRef(
        name=resource.name,
        type=spec.type.value,
        version=spec.version,
        architecture=spec.architecture,
        digest=spec.digest,
        envelope_digest=spec.envelope_digest,
        size_bytes=spec.size_bytes,
    )


async def find(centre: Centre, wanted: str) -> tuple[ArtifactRef, ...]:
    """Artifacts that a layer means by a name: that one, or NAME-ARCHITECTURE of each kind."""
    return tuple(
        reference(item)
        for item in await everything(centre)
        if item.name in (wanted, f"{wanted}-{item.spec.architecture}")
    )


async def kubernetes(centre: Centre, version: str, architecture: str) -> AnyResource | None:
    """The Kubernetes release of a version for an architecture, if it was pushed."""
    page = await centre.store.list(Query("Artifact", "", fields={"spec.type": "kubernetes"}))
    for item in page.items:
        if item.spec.version == version and item.spec.architecture in (architecture, "any"):
            return item
    return None


async def everything(centre: Centre) -> list[AnyResource]:
    """All artifacts."""
    items: list[AnyResource] = []
    after = ""
    while True:
        page = await centre.store.list(Query("Artifact", "", limit=1000, after=after))
        items += page.items
        after = page.after
        if not after:
            return items


async def prepare(
    centre: Centre, caller: Caller, old: AnyResource | None, new: AnyResource
) -> Draft:
    """Refuse what is signed wrongly; otherwise record how complete it is."""
    spec: ArtifactSpec = new.spec
    problems: list[Problem] = []
    if old is not None and old.spec != new.spec:
        problems.append(
            Problem(
                path="spec",
                message="an artifact never changes",
                hint="apply it under another name, for example with its version",
            )
        )
    if old is None and spec.type in _ONE_PER_VERSION:
        problems += await _twins(centre, new)
    if spec.type is ArtifactType.AGENT and version_order(spec.version) is None:
        problems.append(
            Problem(
                path="spec.version",
                message=f"{spec.version[:60]!r} is not a version of an agent",
                hint="write it as 0.2.0",
            )
        )
    status, wrong = examine(centre, new)
    problems += wrong
    return Draft(msgspec.structs.replace(new, status=status), problems=tuple(problems))


async def _twins(centre: Centre, new: AnyResource) -> list[Problem]:
    """What a version means for an architecture is said once."""
    spec: ArtifactSpec = new.spec
    key = (spec.type, spec.version, spec.architecture)
    return [
        Problem(
            path="spec.version",
            message=f"artifact {item.name} is {_ONE_PER_VERSION[spec.type]} {spec.version} for"
            f" {spec.architecture} already",
            hint="delete that one first, or build another version",
        )
        for item in await everything(centre)
        if (item.spec.type, item.spec.version, item.spec.architecture) == key
    ]


def examine(centre: Centre, resource: AnyResource) -> tuple[ArtifactStatus, list[Problem]]:
    """How complete an artifact is, and what is wrong with what is there."""
    spec: ArtifactSpec = resource.spec
    missing: list[str] = []
    problems: list[Problem] = []
    if centre.blobs.has(spec.envelope_digest):
        try:
            _check_signature(centre, resource)
        except SkerryError as exc:
            problems.append(Problem(path="spec.envelopeDigest", message=exc.message, hint=exc.hint))
    else:
        missing.append(spec.envelope_digest)
    members: tuple[str, ...] = ()
    try:
        missing += centre.blobs.missing(spec.digest)
        if centre.blobs.has(spec.digest):
            members = tuple(sorted(centre.blobs.members(spec.digest)))
    except SkerryError as exc:
        problems.append(Problem(path="spec.digest", message=exc.message, hint=exc.hint))
    complete = not missing and not problems
    condition = Condition(
        type="Complete",
        status="True" if complete else "False",
        reason="Complete" if complete else "ArtifactMissing",
        message="" if complete else f"{len(missing)} blobs were not uploaded yet",
        since=_since(resource, complete=complete, now=centre.clock.now()),
    )
    return ArtifactStatus(blobs=members, complete=complete, conditions=(condition,)), problems


async def recheck(centre: Centre, caller: Caller, digest: str) -> None:
    """Look again at artifacts that were not complete, after a blob arrived."""
    for item in await everything(centre):
        if item.status.complete:
            continue
        status, problems = examine(centre, item)
        if problems or status == item.status:
            continue
        changed = msgspec.structs.replace(item, status=status)
        message = "is complete" if status.complete else "got another blob"
        with contextlib.suppress(Conflict):  # somebody else looked at the same time
            await centre.store.commit(
                WriteSet(
                    puts=(Put(changed, item.metadata.revision),),
                    events=(event(centre, item, "Uploaded", message),),
                    audits=(audit(centre, caller, "upload", item, digest),),
                )
            )


def _since(resource: AnyResource, *, complete: bool, now: datetime) -> datetime | None:
    for item in resource.status.conditions:
        if item.type == "Complete" and (item.status == "True") is complete:
            found: datetime | None = item.since
            return found
    return now


async def ending(centre: Centre, caller: Caller, old: AnyResource) -> Ending:
    """An artifact that a profile pins, or that a host was told to run, stays."""
    for data in (await centre.store.values("assignment")).values():
        use = msgspec.json.decode(data, type=_Use)
        if old.spec.digest in use.manifests:
            problem = Problem(
                path="metadata",
                message=f"cluster {use.cluster} runs it"
                if use.cluster
                else "a host was told to run it",
                hint="upgrade or delete the cluster first, or let the host run another one",
            )
            return Ending(problems=(problem,))
    page = await centre.store.list(Query("ClusterProfile"))
    for item in page.items:
        for ref in item.status.revisions:
            if not centre.blobs.has(ref.digest):
                continue
            text = centre.blobs.read_small(ref.digest)
            if old.spec.digest.encode() in text:
                return Ending(
                    problems=(
                        Problem(
                            path="metadata",
                            message=f"profile {item.name} {ref.version} uses it",
                            hint="delete the profile first",
                        ),
                    )
                )
    return Ending()


def _check_signature(centre: Centre, resource: AnyResource) -> None:
    spec: ArtifactSpec = resource.spec
    payload = env.verify(
        env.decode(centre.blobs.read_small(spec.envelope_digest)),
        payload_type=env.ARTIFACT,
        role=env.KeyRole.RELEASE,
        trusted=centre.keys.trusted_releases,
    )
    statement = decode(payload, ArtifactStatement)
    signed = (statement.type, statement.version, statement.architecture, statement.digest)
    stated = (spec.type.value, spec.version, spec.architecture, spec.digest)
    if signed != stated:
        raise env.EnvelopeRefused(
            f"the signature is about {' '.join(signed)[:200]}, the artifact says"
            f" {' '.join(stated)[:200]}"
        )
