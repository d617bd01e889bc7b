"""Cluster profiles: each version becomes one immutable revision, named by its digest."""

from __future__ import annotations

import msgspec
from anyio import to_thread

from skerry.lib.digest import sha256
from skerry.manager.services import artifacts, stacks
from skerry.manager.services.centre import Caller, Centre, event
from skerry.manager.services.draft import Draft, Ending
from skerry.manager.store.protocol import AnyResource, Query
from skerry.model.artifact import ArtifactRef
from skerry.model.kinds import ClusterProfileSpec, ProfileRevisionRef, ProfileType
from skerry.model.problems import DocumentInvalid, Problem, under
from skerry.model.profile import MAX_REVISION_BYTES, Revision, new_revision, resolve
from skerry.model.template import check_variables


async def prepare(
    centre: Centre, caller: Caller, old: AnyResource | None, new: AnyResource
) -> Draft:
    """Check the whole stack that this profile brings, and record its revision."""
    spec: ClusterProfileSpec = new.spec
    problems = stacks.shape_problems(spec.type, [(item.name, item.type) for item in spec.layers])
    if not spec.layers:
        problems.append(Problem(path="spec.layers", message="is empty", hint="add a layer"))
    found, missing = await _artifacts(centre, spec)
    problems += missing
    variables = check_variables(spec.variables)
    problems += under("spec", variables)
    revision = new_revision(new.name, spec, found)
    if not variables:
        # In a thread: a stack of some megabytes takes a second, and everybody else would wait.
        problems += await to_thread.run_sync(expanded_problems, revision)
    data = revision.encode()
    if len(data) > MAX_REVISION_BYTES:
        problems.append(Problem(path="spec", message=f"is larger than {MAX_REVISION_BYTES} bytes"))
    digest = sha256(data)
    known = next((r for r in new.status.revisions if r.version == spec.version), None)
    if known is not None and known.digest != digest:
        problems.append(
            Problem(
                path="spec.version",
                message=f"version {spec.version} was recorded with other content and never changes",
                hint="raise the version and apply again",
            )
        )
    if old is not None and old.spec.type is not spec.type:
        problems.append(Problem(path="spec.type", message="a profile keeps its type"))
    if problems or known is not None:
        return Draft(new, problems=tuple(problems))
    ref = ProfileRevisionRef(version=spec.version, digest=digest, created_at=centre.clock.now())
    status = msgspec.structs.replace(new.status, revisions=(*new.status.revisions, ref))
    return Draft(
        msgspec.structs.replace(new, status=status),
        blobs=(data,),
        events=(event(centre, new, "RevisionRecorded", f"version {spec.version} is {digest}"),),
    )


def expanded_problems(revision: Revision) -> list[Problem]:
    """What is wrong with the layers once variables have (example) values."""
    alone = msgspec.structs.replace(revision, type=ProfileType.FULL)
    try:
        layers = resolve([alone], {}, examples=True)
    except DocumentInvalid as exc:
        prefix = f"profile {revision.profile} "
        return under(
            "spec",
            [
                Problem(path=item.path.removeprefix(prefix), message=item.message, hint=item.hint)
                for item in exc.problems
            ],
        )
    return stacks.layer_problems(layers, types=stacks.artifact_types(revision))


async def ending(centre: Centre, caller: Caller, old: AnyResource) -> Ending:
    """A profile that a cluster uses stays."""
    page = await centre.store.list(
        Query("Cluster", old.project, fields={"spec.profiles.name": old.name}, limit=5)
    )
    if not page.total:
        return Ending()
    names = ", ".join(item.name for item in page.items)
    problem = Problem(path="metadata", message=f"{page.total} clusters use it: {names}")
    return Ending(problems=(problem,))


async def _artifacts(
    centre: Centre, spec: ClusterProfileSpec
) -> tuple[dict[str, tuple[ArtifactRef, ...]], list[Problem]]:
    found: dict[str, tuple[ArtifactRef, ...]] = {}
    problems: list[Problem] = []
    for index, layer in enumerate(spec.layers):
        for position, wanted in enumerate(layer.artifacts):
            if wanted not in found:
                found[wanted] = await artifacts.find(centre, wanted)
            if not found[wanted]:
                problems.append(
                    Problem(
                        path=f"spec.layers[{index}].artifacts[{position}]",
                        message=f"there is no artifact {wanted!r}",
                        hint="push it first with 'skerry release push'",
                    )
                )
    return found, problems
