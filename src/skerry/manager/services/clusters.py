"""Clusters: which hosts run which stack.

A host is taken in the transaction that stores the cluster, by a finalizer on the host under
compare-and-set, so two clusters can never get the same host. The finalizer stays until the host
has proved that nothing of the cluster is left on it.
"""

from __future__ import annotations

import msgspec

from skerry.manager.services import osimages, stacks
from skerry.manager.services.centre import Caller, Centre, event
from skerry.manager.services.draft import Draft, Ending, HostReaction
from skerry.manager.store.protocol import AnyResource, NotFound, Put, Query
from skerry.model.kinds import Approval, ClusterSpec, HostPhase, PoolRole
from skerry.model.problems import DocumentInvalid, Problem
from skerry.model.profile import ResolvedLayer, Revision, resolve
from skerry.plan.reactions import reactions

MARK = "cluster/"
WAITS = "hosts"


def cluster_of(host: AnyResource) -> str:
    """Name of the cluster that holds the host, or ""."""
    return next(
        (item.removeprefix(MARK) for item in host.metadata.finalizers if item.startswith(MARK)), ""
    )


def host_names(spec: ClusterSpec) -> list[str]:
    """All hosts of a cluster, in order of its pools."""
    return [name for pool in spec.pools for name in pool.hosts]


def role_of(spec: ClusterSpec, host: str) -> str:
    """The role of a host in the cluster, or ""."""
    return next((pool.role.value for pool in spec.pools if host in pool.hosts), "")


async def members(centre: Centre, cluster: AnyResource) -> list[AnyResource]:
    """Hosts that belong to the cluster or still carry something of it."""
    page = await centre.store.list(
        Query("Host", cluster.project, fields={"metadata.finalizers": f"{MARK}{cluster.name}"})
    )
    order = {name: index for index, name in enumerate(host_names(cluster.spec))}
    return sorted(page.items, key=lambda item: (order.get(item.name, len(order)), item.name))


async def prepare(
    centre: Centre, caller: Caller, old: AnyResource | None, new: AnyResource
) -> Draft:
    """Check the whole cluster; take its hosts."""
    spec: ClusterSpec = new.spec
    problems = _pool_problems(spec)
    taken, host_problems = await _hosts(centre, new)
    problems += host_problems
    revisions, missing = await stacks.load_revisions(centre, new.project, spec.profiles)
    problems += missing
    layers: tuple[ResolvedLayer, ...] = ()
    if not missing:
        try:
            layers = resolve(revisions, spec.variables)
        except DocumentInvalid as exc:
            problems += [_placed(item) for item in exc.problems]
        else:
            problems += _stack_problems(layers, revisions, spec)
            problems += await version_problems(centre, new, layers)
    if problems:
        return Draft(new, problems=tuple(problems))
    finalizers = tuple(dict.fromkeys((*new.metadata.finalizers, WAITS)))
    metadata = msgspec.structs.replace(new.metadata, finalizers=finalizers)
    return Draft(
        msgspec.structs.replace(new, metadata=metadata),
        puts=tuple(_take(item, new.name) for item in taken if cluster_of(item) != new.name),
        events=(event(centre, new, "Applied" if old else "Created", f"by {caller.name}"),),
        reactions=tuple(await _reactions(centre, old, new, layers, revisions, taken)),
    )


async def ending(centre: Centre, caller: Caller, old: AnyResource) -> Ending:
    """A cluster goes when its hosts are clean; when forced, its hosts are let go as they are."""
    held = await members(centre, old)
    if not held:
        return Ending()
    return Ending(finalizers=(WAITS,), puts=tuple(release(item) for item in held))


def release(host: AnyResource) -> Put:
    """The host without its cluster."""
    kept = tuple(item for item in host.metadata.finalizers if not item.startswith(MARK))
    phase = HostPhase.READY if host.status.phase is HostPhase.IN_USE else host.status.phase
    return Put(
        msgspec.structs.replace(
            host,
            metadata=msgspec.structs.replace(host.metadata, finalizers=kept),
            status=msgspec.structs.replace(host.status, phase=phase),
        ),
        host.metadata.revision,
    )


async def version_problems(
    centre: Centre, cluster: AnyResource, layers: tuple[ResolvedLayer, ...]
) -> list[Problem]:
    """Refuse to go down, or up by more than one minor, from what the hosts really run."""
    kubernetes = stacks.kubernetes_of(layers)
    wanted = stacks.version_of(kubernetes.version) if kubernetes else None
    if kubernetes is None or wanted is None:
        return []
    running = [
        found
        for host in await members(centre, cluster)
        if host.status.kubernetes.cluster == cluster.name
        and (found := stacks.version_of(host.status.kubernetes.control_plane_version))
    ]
    if not running:
        return []
    now = max(running)
    shown = ".".join(str(part) for part in now)
    index = next(
        (i for i, use in enumerate(cluster.spec.profiles) if use.name == kubernetes.profile), 0
    )
    path = f"spec.profiles[{index}].version"
    if wanted < now:
        return [
            Problem(
                path=path,
                message=f"brings Kubernetes {kubernetes.version}, the cluster runs {shown}:"
                " a cluster never goes down",
                hint="name a version of the profile with the same or a later Kubernetes",
            )
        ]
    if wanted[0] != now[0] or wanted[1] > now[1] + 1:
        return [
            Problem(
                path=path,
                message=f"brings Kubernetes {kubernetes.version}, the cluster runs {shown}:"
                " a minor version cannot be skipped",
                hint=f"upgrade to {now[0]}.{now[1] + 1} first",
            )
        ]
    return []


def _pool_problems(spec: ClusterSpec) -> list[Problem]:
    problems: list[Problem] = []
    names = host_names(spec)
    if not spec.profiles:
        problems.append(Problem(path="spec.profiles", message="is empty", hint="name a profile"))
    controls = [pool for pool in spec.pools if pool.role is PoolRole.CONTROL_PLANE]
    if len(names) > 1 or len(spec.pools) > 1:
        problems.append(
            Problem(
                path="spec.pools",
                message=f"names {len(names)} hosts in {len(spec.pools)} pools:"
                " clusters of several hosts come later",
                hint="one pool with role control-plane and one host",
            )
        )
    elif len(controls) != 1 or len(names) != 1:
        problems.append(
            Problem(
                path="spec.pools",
                message="exactly one control-plane host is needed",
                hint="one pool with role control-plane and one host",
            )
        )
    return problems


async def _hosts(centre: Centre, cluster: AnyResource) -> tuple[list[AnyResource], list[Problem]]:
    found: list[AnyResource] = []
    problems: list[Problem] = []
    for index, pool in enumerate(cluster.spec.pools):
        for position, name in enumerate(pool.hosts):
            path = f"spec.pools[{index}].hosts[{position}]"
            try:
                host = await centre.store.get("Host", cluster.project, name)
            except NotFound:
                problems.append(
                    Problem(
                        path=path,
                        message=f"there is no host {name!r} in project {cluster.project}",
                        hint="see 'skerry get hosts'",
                    )
                )
                continue
            wrong, hint = _unfit(host, cluster.name)
            if wrong:
                problems.append(Problem(path=path, message=f"host {name} {wrong}", hint=hint))
            found.append(host)
    return found, problems


def _unfit(host: AnyResource, cluster: str) -> tuple[str, str]:
    if host.spec.revoked:
        return "is revoked", "use another host"
    if host.spec.approval is not Approval.APPROVED:
        return "is not approved", f"skerry approve host {host.name}"
    if host.metadata.deleted_at is not None:
        return "is being deleted", "use another host"
    holder = cluster_of(host)
    if holder and holder != cluster:
        return f"belongs to cluster {holder}", f"skerry delete cluster {holder}"
    return "", ""


def _stack_problems(
    layers: tuple[ResolvedLayer, ...], revisions: list[Revision], spec: ClusterSpec
) -> list[Problem]:
    problems: list[Problem] = []
    for index, use in enumerate(spec.profiles):
        own = [layer for layer in layers if layer.profile == use.name]
        types = {
            name: kind
            for revision in revisions
            if revision.profile == use.name
            for name, kind in stacks.artifact_types(revision).items()
        }
        problems += stacks.layer_problems(own, types=types, path=f"spec.profiles[{index}].layers")
    return problems


def _placed(problem: Problem) -> Problem:
    path = problem.path if problem.path.startswith("variables") else "profiles"
    message = problem.message if path != "profiles" else f"{problem.path}: {problem.message}"
    if problem.path == "profiles":
        message = problem.message
    return Problem(path=f"spec.{path}", message=message, hint=problem.hint)


def _take(host: AnyResource, cluster: str) -> Put:
    return Put(
        msgspec.structs.replace(
            host,
            metadata=msgspec.structs.replace(
                host.metadata, finalizers=(*host.metadata.finalizers, f"{MARK}{cluster}")
            ),
            status=msgspec.structs.replace(host.status, phase=HostPhase.IN_USE),
        ),
        host.metadata.revision,
    )


async def _reactions(
    centre: Centre,
    old: AnyResource | None,
    new: AnyResource,
    layers: tuple[ResolvedLayer, ...],
    revisions: list[Revision],
    hosts: list[AnyResource],
) -> list[HostReaction]:
    before: tuple[ResolvedLayer, ...] = ()
    former: list[Revision] = []
    if old is not None:
        former, missing = await stacks.load_revisions(centre, old.project, old.spec.profiles)
        if not missing:
            before = resolve(former, old.spec.variables)
    found: list[HostReaction] = []
    for host in hosts:
        architecture = host.status.inventory.architecture or "amd64"
        arguments = {"name": new.name, "uid": new.uid, "node": host.name}
        later = await stacks.desired(centre, architecture=architecture, layers=layers, **arguments)
        was = None
        if before and cluster_of(host) == new.name:
            was = await stacks.desired(
                centre, architecture=architecture, layers=before, **arguments
            )
        found += [
            HostReaction(host=host.name, path=item.path, kind=item.kind.value, message=item.message)
            for item in reactions(was, later)
        ]
        images = (osimages.pinned(former, architecture), osimages.pinned(revisions, architecture))
        found += osimages.reaction(host, *images)
    return found
