"""Which OS image a host should run: its cluster's os layer, else the host's own wish.

It is assigned to every host, also to one whose system skerry does not manage: only the host knows
how its system is updated, and it then says by name why the wish cannot come true.
"""

from __future__ import annotations

from collections.abc import Sequence

from skerry.manager.services import artifacts
from skerry.manager.services.centre import Centre
from skerry.manager.services.draft import HostReaction
from skerry.manager.store.protocol import AnyResource, NotFound
from skerry.model.artifact import ArtifactRef
from skerry.model.kinds import ArtifactType, LayerType
from skerry.model.meta import retries
from skerry.model.problems import Problem
from skerry.model.profile import Revision
from skerry.plan.reactions import ReactionKind
from skerry.wire.messages import OsAssignment


def pinned(revisions: Sequence[Revision], architecture: str) -> ArtifactRef | None:
    """The image that the stack's os layer pins for hosts of this architecture."""
    for revision in revisions:
        for layer in revision.layers:
            if layer.type is not LayerType.OS:
                continue
            for ref in revision.artifacts:
                if ref.name in layer.artifacts and ref.architecture == architecture:
                    return ref
    return None


async def own_wish(centre: Centre, host: AnyResource) -> ArtifactRef | None:
    """The image that `spec.osImage` names, for the host's architecture; None when it is not there
    any more."""
    if not host.spec.os_image:
        return None
    architecture = host.status.inventory.architecture or "amd64"
    for name in (host.spec.os_image, f"{host.spec.os_image}-{architecture}"):
        try:
            item = await centre.store.get("Artifact", "", name)
        except NotFound:
            continue
        if item.spec.type is ArtifactType.OS and item.spec.architecture == architecture:
            return artifacts.reference(item)
    return None


def assignment(centre: Centre, host: AnyResource, ref: ArtifactRef | None) -> OsAssignment | None:
    """The host's part about its OS; None leaves the OS alone."""
    if ref is None:
        return None
    return OsAssignment(
        version=ref.version,
        artifact=ref,
        trial_s=centre.settings.os_trial_s,
        retry_failed=retries(host.metadata.annotations),
    )


def reaction(
    host: AnyResource, before: ArtifactRef | None, after: ArtifactRef | None
) -> list[HostReaction]:
    """What another image in the stack does to a host, for the dry run."""
    if before == after or (after is not None and host.status.os.image == after.digest):
        return []
    kind, message = ReactionKind.NOTHING, "the OS is left as it is from now on"
    if after is not None:
        kind = ReactionKind.REBOOT
        message = f"OS image {after.version} is written to the other slot, then the host restarts"
    return [HostReaction(host=host.name, path="os", kind=kind.value, message=message)]


async def wish_problems(centre: Centre, host: AnyResource) -> list[Problem]:
    """What is wrong with `spec.osImage`."""
    wanted = host.spec.os_image
    if not wanted:
        return []
    found = await artifacts.find(centre, wanted)
    architecture = host.status.inventory.architecture or "amd64"
    kinds = {ref.type for ref in found}
    message = hint = ""
    if not found:
        message = f"there is no artifact {wanted[:80]!r}"
        hint = "push it first with 'skerry release push'"
    elif kinds != {ArtifactType.OS.value}:
        message = f"artifact {wanted[:80]!r} is of type {', '.join(sorted(kinds))}, wanted os"
        hint = "see 'skerry get artifacts'"
    elif architecture not in {ref.architecture for ref in found}:
        there = ", ".join(sorted({ref.architecture for ref in found}))
        message = f"artifact {wanted[:80]!r} is for {there}, this host is {architecture}"
        hint = f"push the image for {architecture}"
    return [Problem(path="spec.osImage", message=message, hint=hint)] if message else []
