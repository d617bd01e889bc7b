"""From a signed assignment to the desired state that planner and engines read.

Nothing of an assignment is used before its signature, its addressee and its epoch were checked.
What hosts run is decided by release keys: every artifact needs a statement signed by one, whatever
the manager says. Variables are expanded here, on the host.
"""

from __future__ import annotations

from typing import Any

import msgspec
import yaml

from skerry.agent import paths
from skerry.agent.content import Content
from skerry.agent.identity import HostKeys, Identity
from skerry.agent.redact import yaml_problem
from skerry.lib import pki, yamltext
from skerry.lib.digest import canonical_json, sha256
from skerry.lib.errors import SkerryError
from skerry.lib.files import Root
from skerry.model.artifact import ArtifactRef
from skerry.model.kinds import LayerType
from skerry.model.meta import Record
from skerry.model.profile import ResolvedLayer, Revision, decode_revision, resolve
from skerry.model.template import never
from skerry.plan.desired import DesiredCluster, DesiredHost, DesiredLayer
from skerry.plan.kubernetes import check_values
from skerry.wire import envelope as env
from skerry.wire.messages import (
    PROTOCOL,
    ArtifactStatement,
    Assignment,
    ClusterAssignment,
    SealedSecret,
    decode,
)

_MAX_DOCUMENT = 4 * 1024 * 1024


class AssignmentRefused(SkerryError):
    """The newest assignment cannot be acted on; the host keeps what it has."""


class Stored(Record, frozen=True, kw_only=True):
    """The newest accepted assignment, as received."""

    epoch: int
    digest: str
    envelope: env.Envelope


def stored(root: Root, identity: Identity, *, place: str = paths.DESIRED) -> Stored | None:
    """The newest accepted assignment, if any; `place` is where it lies.

    One for another registration of this machine does not count: a manager that made the host
    anew begins its epochs again.
    """
    if not root.exists(place):
        return None
    found = msgspec.json.decode(root.read(place), type=Stored)
    addressee = decode(found.envelope.payload, Assignment, limit=env.MAX_ENVELOPE_BYTES).host_uid
    return found if addressee == identity.host_uid else None


def open_assignment(envelope: env.Envelope, identity: Identity) -> Assignment:
    """Check signature, addressee and protocol.

    Raises EnvelopeRefused (SignatureInvalid) and AssignmentRefused.
    """
    assignment = open_any_protocol(envelope, identity)
    if assignment.min_protocol > PROTOCOL:
        raise AssignmentRefused(
            f"the manager needs protocol {assignment.min_protocol}, this agent speaks {PROTOCOL}",
            hint="update the agent",
            reason="Unsupported",
        )
    return assignment


def open_any_protocol(envelope: env.Envelope, identity: Identity) -> Assignment:
    """Check signature and addressee only: for the one part that every protocol keeps, the agent.

    Raises EnvelopeRefused (SignatureInvalid) and AssignmentRefused.
    """
    payload = env.verify(
        envelope,
        payload_type=env.ASSIGNMENT,
        role=env.KeyRole.CHANNEL,
        trusted=identity.trusted_keys,
    )
    assignment = decode(payload, Assignment, limit=env.MAX_ENVELOPE_BYTES)
    if assignment.host_uid != identity.host_uid:
        raise AssignmentRefused(
            f"the assignment is for host {assignment.host_uid[:40]!r}, this is"
            f" {identity.host_uid!r}",
            reason="SignatureInvalid",
        )
    return assignment


def accept(root: Root, envelope: env.Envelope, identity: Identity) -> Stored:
    """Persist an assignment if it is newer than what the host has.

    The same assignment again is fine. Raises AssignmentRefused (OlderEpoch) otherwise.
    """
    assignment = open_assignment(envelope, identity)
    new = Stored(epoch=assignment.epoch, digest=envelope.payload_digest, envelope=envelope)
    have = stored(root, identity)
    if have is not None:
        if have.epoch == new.epoch and have.digest == new.digest:
            return have
        if new.epoch <= have.epoch:
            raise AssignmentRefused(
                f"the manager sent epoch {new.epoch}, this host has already {have.epoch}",
                hint="if the manager was restored from a backup, confirm it there",
                reason="OlderEpoch",
            )
    root.write(paths.DESIRED, msgspec.json.encode(new), mode=0o600)
    return new


async def desired_host(
    root: Root, content: Content, identity: Identity, keys: HostKeys, *, architecture: str
) -> DesiredHost | None:
    """The desired state, with all documents that it names fetched and verified.

    None before the first assignment. Raises SkerryError with a reason.
    """
    have = stored(root, identity)
    if have is None:
        return None
    assignment = open_assignment(have.envelope, identity)
    cluster = None
    if assignment.cluster is not None:
        cluster = await _cluster(
            root, content, identity, keys, assignment.cluster, architecture=architecture
        )
    return DesiredHost(
        epoch=have.epoch,
        digest=have.digest,
        cluster=cluster,
        retry_failed=assignment.cluster.retry_failed if assignment.cluster else 0,
    )


def opened_secrets(root: Root, identity: Identity, keys: HostKeys) -> tuple[str, ...]:
    """The secrets of the newest assignment, so that texts can be cleaned of them."""
    have = stored(root, identity)
    if have is None:
        return ()
    assignment = open_assignment(have.envelope, identity)
    return tuple(_open(assignment.cluster.secrets, keys).values()) if assignment.cluster else ()


async def _cluster(
    root: Root,
    content: Content,
    identity: Identity,
    keys: HostKeys,
    part: ClusterAssignment,
    *,
    architecture: str,
) -> DesiredCluster:
    revisions: list[Revision] = []
    for named in part.revisions:
        path = await content.ensure(named.digest)
        revisions.append(decode_revision(_small(root, path)))
    secrets = _open(part.secrets, keys)
    layers = resolve(
        revisions,
        part.variables,
        facts={**_facts(identity, part, architecture), **secrets},
        keep=never,
    )
    by_digest = {ref.digest: ref for ref in part.artifacts}
    by_name = {ref.name: ref for ref in part.artifacts}
    for ref in part.artifacts:
        await check_artifact(root, content, identity, ref, architecture=architecture)
    kubernetes = next((layer for layer in layers if layer.type is LayerType.KUBERNETES), None)
    if kubernetes is None:
        raise AssignmentRefused(
            "the assigned stack has no kubernetes layer", reason="ValuesInvalid"
        )
    release = next(
        (
            ref
            for ref in part.artifacts
            if ref.type == "kubernetes" and ref.version == kubernetes.version
        ),
        None,
    )
    if release is None:
        raise AssignmentRefused(
            f"no Kubernetes release {kubernetes.version} for {architecture} was assigned",
            hint="build and push it with 'skerry release build' and 'skerry release push'",
            reason="ArtifactMissing",
        )
    values = _values(kubernetes)
    return DesiredCluster(
        name=part.name,
        uid=part.uid,
        role=part.role,
        node_name=identity.host_name,
        provider=kubernetes.provider,
        version=kubernetes.version,
        release=release,
        values=values,
        config_digest=sha256(canonical_json(values)),
        layers=tuple(
            _layer(layer, {**by_name, **by_digest})
            for layer in layers
            if layer.type not in (LayerType.KUBERNETES, LayerType.OS)
        ),
        hidden=tuple(sorted({value for value in secrets.values() if value})),
    )


def _values(layer: ResolvedLayer) -> dict[str, Any]:
    try:
        values = yamltext.load(layer.values) or {}
    except yaml.YAMLError as exc:
        raise AssignmentRefused(
            f"values of layer {layer.name} are not YAML: {yaml_problem(exc)}",
            reason="ValuesInvalid",
        ) from exc
    problems = check_values(values)
    if problems:
        raise AssignmentRefused(
            f"values of layer {layer.name}: "
            + "; ".join(f"{item.path}: {item.message}" for item in problems),
            reason="ValuesInvalid",
        )
    return dict(values)


def _layer(layer: ResolvedLayer, artifacts: dict[str, ArtifactRef]) -> DesiredLayer:
    lacking = [name for name in layer.artifacts if name not in artifacts]
    if lacking:
        raise AssignmentRefused(
            f"layer {layer.name} needs artifact {lacking[0]}, which was not assigned",
            reason="ArtifactMissing",
        )
    needed = tuple(artifacts[name] for name in layer.artifacts)
    plain = DesiredLayer(
        name=layer.name,
        type=layer.type,
        provider=layer.provider,
        namespace=layer.namespace,
        manifests=layer.manifests,
        chart=layer.chart,
        values=layer.values,
        artifacts=needed,
        wait_s=layer.wait_s,
    )
    return msgspec.structs.replace(plain, digest=sha256(canonical_json(plain)))


async def check_artifact(
    root: Root, content: Content, identity: Identity, ref: ArtifactRef, *, architecture: str
) -> None:
    """What a host may run at all: right architecture, and a release key's statement about it.

    Raises AssignmentRefused, EnvelopeRefused.
    """
    if ref.architecture not in (architecture, "any"):
        raise AssignmentRefused(
            f"{ref.name} {ref.version} is for {ref.architecture}, this host is {architecture}",
            reason="ArchitectureMismatch",
        )
    data = _small(root, await content.ensure(ref.envelope_digest))
    payload = env.verify(
        env.decode(data),
        payload_type=env.ARTIFACT,
        role=env.KeyRole.RELEASE,
        trusted=identity.trusted_keys,
    )
    statement = decode(payload, ArtifactStatement)
    stated = (statement.type, statement.version, statement.architecture, statement.digest)
    if stated != (ref.type, ref.version, ref.architecture, ref.digest):
        raise AssignmentRefused(
            f"the signed statement of {ref.name} {ref.version} speaks of"
            f" {statement.type} {statement.version} {statement.architecture}"
            f" {statement.digest[:19]}…, not of what was assigned",
            reason="SignatureInvalid",
        )


def _facts(identity: Identity, part: ClusterAssignment, architecture: str) -> dict[str, str]:
    return {
        "cluster.name": part.name,
        "cluster.uid": part.uid,
        "host.name": identity.host_name,
        "host.uid": identity.host_uid,
        "host.architecture": architecture,
        "host.site": part.site,
    }


def _open(secrets: tuple[SealedSecret, ...], keys: HostKeys) -> dict[str, str]:
    opened: dict[str, str] = {}
    for secret in secrets:
        plain = pki.open_sealed(secret.sealed, keys.sealing, info=secret.name.encode())
        try:
            opened[secret.name] = plain.decode()
        except UnicodeDecodeError:
            # Not `from` the cause: it quotes the value.
            raise AssignmentRefused(
                f"secret {secret.name[:100]} is not text", reason="ValuesInvalid"
            ) from None
    return opened


def _small(root: Root, path: str) -> bytes:
    if root.size(path) > _MAX_DOCUMENT:
        raise AssignmentRefused(
            f"document {path.rsplit('/', 1)[-1][:19]}… is larger than {_MAX_DOCUMENT} bytes",
            reason="DigestMismatch",
        )
    return root.read(path)
