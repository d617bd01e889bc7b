"""What each kind adds to the shared verbs: one row per kind that needs something."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from zoneinfo import available_timezones

import msgspec

from skerry.manager.auth.decide import BUILT_IN
from skerry.manager.services import artifacts, clusters, hosts, profiles, secrets, tokens
from skerry.manager.services.centre import Caller, Centre
from skerry.manager.services.draft import Draft, Ending, HostReaction
from skerry.manager.store.protocol import AnyResource, NotFound, Query
from skerry.model.kinds import KINDS, Scope
from skerry.model.problems import Problem

__all__ = ["Draft", "Ending", "HostReaction", "ending", "prepare"]

_Prepare = Callable[[Centre, Caller, AnyResource | None, AnyResource], Awaitable[Draft]]
_End = Callable[[Centre, Caller, AnyResource], Awaitable[Ending]]


async def prepare(
    centre: Centre, caller: Caller, old: AnyResource | None, new: AnyResource
) -> Draft:
    """Check a new state of an object against everything else and complete it."""
    problems: list[Problem] = []
    if KINDS[new.kind].scope is Scope.PROJECT and old is None:
        problems += await _project_problems(centre, new.project)
    problems += await _site_problems(centre, new)
    rule = _PREPARE.get(new.kind)
    draft = await rule(centre, caller, old, new) if rule else Draft(new)
    if not problems:
        return draft
    return Draft(new, problems=(*problems, *draft.problems))


async def ending(centre: Centre, caller: Caller, old: AnyResource) -> Ending:
    """What the deletion of an object needs."""
    rule = _END.get(old.kind)
    return await rule(centre, caller, old) if rule else Ending()


async def _project_problems(centre: Centre, project: str) -> list[Problem]:
    try:
        found = await centre.store.get("Project", "", project)
    except NotFound:
        return [
            Problem(
                path="metadata.project",
                message=f"there is no project {project!r}",
                hint="apply a Project first, or use 'default'",
            )
        ]
    if found.metadata.deleted_at is not None:
        return [Problem(path="metadata.project", message=f"project {project!r} is being deleted")]
    return []


async def _site_problems(centre: Centre, new: AnyResource) -> list[Problem]:
    site = getattr(new.spec, "site", "")
    if not site:
        return []
    try:
        await centre.store.get("Site", new.project, site)
    except NotFound:
        return [
            Problem(
                path="spec.site",
                message=f"there is no site {site!r} in project {new.project}",
                hint="apply the Site first",
            )
        ]
    return []


async def _site(centre: Centre, caller: Caller, old: AnyResource | None, new: AnyResource) -> Draft:
    if new.spec.time_zone in available_timezones():
        return Draft(new)
    problem = Problem(
        path="spec.timeZone",
        message=f"{new.spec.time_zone[:60]!r} is not a time zone",
        hint="a name like Europe/Berlin",
    )
    return Draft(new, problems=(problem,))


async def _end_site(centre: Centre, caller: Caller, old: AnyResource) -> Ending:
    return await _unless_used(
        centre, Query("Host", old.project, fields={"spec.site": old.name}, limit=1), "hosts"
    )


async def _end_project(centre: Centre, caller: Caller, old: AnyResource) -> Ending:
    problems: list[Problem] = []
    for kind in KINDS.values():
        if kind.scope is Scope.PROJECT and kind.writable:
            page = await centre.store.list(Query(kind.name, old.name, limit=1))
            if page.total:
                problems.append(
                    Problem(path="metadata", message=f"has {page.total} {kind.plural} still")
                )
    return Ending(problems=tuple(problems))


async def _unless_used(centre: Centre, query: Query, what: str) -> Ending:
    page = await centre.store.list(query)
    if not page.total:
        return Ending()
    return Ending(problems=(Problem(path="metadata", message=f"{page.total} {what} still use it"),))


async def _role(centre: Centre, caller: Caller, old: AnyResource | None, new: AnyResource) -> Draft:
    if new.name in BUILT_IN and new.spec.rules != BUILT_IN[new.name]:
        problem = Problem(
            path="spec.rules",
            message=f"role {new.name!r} is built in",
            hint="make a role with another name",
        )
        return Draft(new, problems=(problem,))
    problems = [
        Problem(path=f"spec.rules[{index}].kinds", message=f"unknown kind {kind[:60]!r}")
        for index, rule in enumerate(new.spec.rules)
        for kind in rule.kinds
        if kind not in (*KINDS, "*", "Blob")
    ]
    return Draft(new, problems=tuple(problems))


async def _binding(
    centre: Centre, caller: Caller, old: AnyResource | None, new: AnyResource
) -> Draft:
    problems: list[Problem] = []
    for index, subject in enumerate(new.spec.subjects):
        sort, _, name = subject.partition(":")
        if sort not in ("user", "serviceaccount") or not name:
            problems.append(
                Problem(
                    path=f"spec.subjects[{index}]",
                    message=f"{subject[:60]!r} names nobody",
                    hint="write user:NAME or serviceaccount:NAME",
                )
            )
    for kind, name, path in (
        ("Role", new.spec.role, "spec.role"),
        ("Project", new.spec.project, "spec.project"),
    ):
        if name and name not in BUILT_IN:
            try:
                await centre.store.get(kind, "", name)
            except NotFound:
                problems.append(Problem(path=path, message=f"there is no {kind} {name!r}"))
    return Draft(new, problems=tuple(problems))


async def _end_role(centre: Centre, caller: Caller, old: AnyResource) -> Ending:
    if old.name in BUILT_IN:
        return Ending(problems=(Problem(path="metadata.name", message="is a built-in role"),))
    return await _unless_used(
        centre, Query("RoleBinding", "", fields={"spec.role": old.name}, limit=1), "role bindings"
    )


async def _end_user(centre: Centre, caller: Caller, old: AnyResource) -> Ending:
    if caller.name == f"user:{old.name}":
        return Ending(
            problems=(Problem(path="metadata.name", message="nobody deletes their own account"),)
        )
    from skerry.manager.auth.accounts import forget

    return Ending(values=await forget(centre.store, f"user:{old.name}"))


async def _end_service_account(centre: Centre, caller: Caller, old: AnyResource) -> Ending:
    from skerry.manager.auth.accounts import forget

    return Ending(values=await forget(centre.store, f"serviceaccount:{old.name}"))


async def _lease(
    centre: Centre, caller: Caller, old: AnyResource | None, new: AnyResource
) -> Draft:
    holders = len(new.status.holders)
    if holders > new.spec.limit:
        problem = Problem(
            path="spec.limit",
            message=f"{holders} hold this lease now",
            hint="wait until they are done, or free them first",
        )
        return Draft(new, problems=(problem,))
    return Draft(msgspec.structs.replace(new))


_PREPARE: dict[str, _Prepare] = {
    "Site": _site,
    "RegistrationToken": tokens.prepare_token,
    "HostClaim": tokens.prepare_claim,
    "Host": hosts.prepare,
    "Secret": secrets.prepare,
    "ClusterProfile": profiles.prepare,
    "Cluster": clusters.prepare,
    "Artifact": artifacts.prepare,
    "Role": _role,
    "RoleBinding": _binding,
    "Lease": _lease,
}

_END: dict[str, _End] = {
    "Site": _end_site,
    "Project": _end_project,
    "Host": hosts.ending,
    "Secret": secrets.ending,
    "ClusterProfile": profiles.ending,
    "Cluster": clusters.ending,
    "Artifact": artifacts.ending,
    "Role": _end_role,
    "User": _end_user,
    "ServiceAccount": _end_service_account,
}
