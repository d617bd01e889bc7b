"""The agent and the OS image that the centre wants on this host, from its newest assignments.

An assignment in a later protocol is refused as a whole, except for this part: a host that was away
for long could otherwise never catch up. Signature, addressee and epoch are checked all the same,
and the artifact needs a release key's statement like everything that a host runs.
"""

from __future__ import annotations

import msgspec

from skerry.agent import accept, paths
from skerry.agent.accept import AssignmentRefused, Stored
from skerry.agent.content import Content
from skerry.agent.identity import Identity
from skerry.lib.files import Root
from skerry.lib.oci import MAX_MANIFEST_BYTES, LayoutInvalid, parse_manifest
from skerry.model.artifact import ArtifactRef
from skerry.model.meta import Record
from skerry.model.osimage import OS_SBOM_TYPE, OsImageInvalid
from skerry.plan.agentupdate import DesiredAgent
from skerry.plan.osupdate import DesiredOs
from skerry.wire import envelope as env

_MAX_TRIAL_S = 4 * 3600


class WantedOs(Record, frozen=True, kw_only=True):
    """The OS image of the assignment with digest `assignment`; None leaves the OS alone."""

    assignment: str = ""
    os: DesiredOs | None = None


def keep_offer(root: Root, envelope: env.Envelope, identity: Identity) -> bool:
    """Keep an assignment of a later protocol for the agent that it names; whether it is kept.

    Raises EnvelopeRefused, AssignmentRefused for what is not signed or not for this host.
    """
    assignment = accept.open_any_protocol(envelope, identity)
    newest = _newest(root, identity)
    if assignment.agent is None or (newest is not None and assignment.epoch <= newest.epoch):
        return False
    offer = Stored(epoch=assignment.epoch, digest=envelope.payload_digest, envelope=envelope)
    root.write(paths.AGENT_OFFER, msgspec.json.encode(offer), mode=0o600)
    return True


async def desired_agent(
    root: Root, content: Content, identity: Identity, *, architecture: str
) -> DesiredAgent | None:
    """The verified wish, or None when the centre leaves the agent alone.

    Raises SkerryError with a reason.
    """
    newest = _newest(root, identity)
    if newest is None:
        return None
    part = accept.open_any_protocol(newest.envelope, identity).agent
    if part is None:
        return None
    ref = part.artifact
    if ref.type != "agent" or ref.version != part.version:
        raise AssignmentRefused(
            f"agent {part.version[:40]} is assigned as a {ref.type[:40]} {ref.version[:40]}",
            reason="ArtifactInvalid",
        )
    await accept.check_artifact(root, content, identity, ref, architecture=architecture)
    return DesiredAgent(
        version=part.version,
        artifact=ref,
        trial_s=max(part.trial_s, 1),
        retry_failed=part.retry_failed,
    )


async def wanted_os(
    root: Root, content: Content, identity: Identity, *, architecture: str
) -> WantedOs:
    """The verified wish of the newest assignment. Raises SkerryError with a reason."""
    have = accept.stored(root, identity)
    if have is None:
        return WantedOs()
    part = accept.open_assignment(have.envelope, identity).os
    if part is None:
        return WantedOs(assignment=have.digest)
    ref = part.artifact
    if ref.type != "os" or ref.version != part.version:
        raise AssignmentRefused(
            f"OS image {part.version[:40]} is assigned as a {ref.type[:40]} {ref.version[:40]}",
            reason="ArtifactInvalid",
        )
    await accept.check_artifact(root, content, identity, ref, architecture=architecture)
    desired = DesiredOs(
        version=part.version,
        artifact=ref,
        trial_s=min(max(part.trial_s, 1), _MAX_TRIAL_S),
        retry_failed=part.retry_failed,
    )
    return WantedOs(assignment=have.digest, os=desired)


async def fetch_image(root: Root, content: Content, ref: ArtifactRef) -> None:
    """Bring everything of an OS image here that an engine may write; what it is, the engine judges.

    Raises OsImageInvalid and content errors.
    """
    place = await content.ensure(ref.digest)
    if root.size(place) > MAX_MANIFEST_BYTES:
        raise OsImageInvalid(f"manifest of OS image {ref.version} is too large")
    try:
        manifest = parse_manifest(root.read(place))
    except LayoutInvalid as exc:
        raise OsImageInvalid(f"OS image {ref.version}: {exc.message}") from exc
    for part in (manifest.config, *manifest.layers):
        if part.media_type != OS_SBOM_TYPE:
            await content.ensure(part.digest, size=part.size)


def _newest(root: Root, identity: Identity) -> Stored | None:
    places = (paths.DESIRED, paths.AGENT_OFFER)
    found = [accept.stored(root, identity, place=place) for place in places]
    return max((item for item in found if item), key=lambda item: item.epoch, default=None)
