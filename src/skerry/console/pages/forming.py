"""Create and change clusters. Nothing is written before the person saw the exact change and what
it does to each host: the preview is the dry run of the same apply.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from skerry.console.door import Visit, back
from skerry.console.inside import AnyResource, NotFound, Query
from skerry.console.pages.profiles import revision_of
from skerry.console.states import hosts_of
from skerry.manager.services import objects
from skerry.manager.services.centre import require
from skerry.manager.services.objects import Applied, ChangedMeanwhile
from skerry.model.kinds import KINDS, ProfileType, Variable
from skerry.model.meta import DEFAULT_PROJECT
from skerry.model.problems import DocumentInvalid, Problem
from skerry.model.template import is_deferred

_KIND = KINDS["Cluster"]
_VARIABLE = "var-"
_ADDON = "addon-"


@dataclass(frozen=True, slots=True)
class Choice:
    """One profile with its versions, newest first."""

    name: str
    type: ProfileType
    description: str
    versions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wish:
    """What a form says. `uses` maps profiles to versions, the base first."""

    project: str
    name: str
    host: str
    uses: dict[str, str]
    variables: dict[str, str]
    revision: int = 0

    def document(self, before: AnyResource | None) -> dict[str, Any]:
        """As it is applied; what the form does not show stays as it was."""
        labels = dict(before.metadata.labels) if before else {}
        annotations = dict(before.metadata.annotations) if before else {}
        pools: Any = [{"name": "main", "role": "control-plane", "hosts": [self.host]}]
        if before is not None:
            pools = [
                {"name": pool.name, "role": pool.role.value, "hosts": list(pool.hosts)}
                for pool in before.spec.pools
            ]
        return {
            "kind": _KIND.name,
            "metadata": {
                "name": self.name,
                "project": self.project,
                "labels": labels,
                "annotations": annotations,
            },
            "spec": {
                "profiles": [{"name": k, "version": v} for k, v in self.uses.items()],
                "variables": self.variables,
                "pools": pools if before or self.host else [],
            },
        }


async def new(visit: Visit) -> Response:
    """The form; choosing a profile brings its variables."""
    project = _project(visit)
    require(visit.caller, "create", _KIND.name, project)
    choices = await _choices(visit, project)
    wish = _wish(visit.params, choices, project=project, name=visit.params.get("name", ""))
    return await _form(visit, None, wish, choices)


async def create(visit: Visit) -> Response:
    """Preview, or create what was previewed."""
    project = _project(visit)
    choices = await _choices(visit, project)
    wish = _wish(visit.form, choices, project=project, name=visit.form.get("name", ""))
    return await _submit(visit, None, wish, choices)


async def change(visit: Visit) -> Response:
    """The form of a cluster that is there: versions and variables."""
    cluster = await _get(visit)
    require(visit.caller, "update", _KIND.name, cluster.project)
    choices = await _choices(visit, cluster.project)
    uses = {use.name: use.version for use in cluster.spec.profiles}
    for name in list(uses):
        uses[name] = visit.params.get(f"version-{name}", uses[name])
    wish = Wish(
        project=cluster.project,
        name=cluster.name,
        host=next(iter(hosts_of(cluster.spec)), ""),
        uses=uses,
        variables={**cluster.spec.variables, **_variables(visit.params)},
        revision=cluster.metadata.revision,
    )
    return await _form(visit, cluster, wish, choices)


async def update(visit: Visit) -> Response:
    """Preview the change, or make it."""
    cluster = await _get(visit)
    choices = await _choices(visit, cluster.project)
    uses = {
        use.name: visit.form.get(f"version-{use.name}", use.version)
        for use in cluster.spec.profiles
    }
    seen = visit.form.get("revision", "")
    wish = Wish(
        project=cluster.project,
        name=cluster.name,
        host=next(iter(hosts_of(cluster.spec)), ""),
        uses=uses,
        variables={**_deferred(cluster), **_variables(visit.form)},
        revision=int(seen) if seen.isdigit() and len(seen) < 16 else cluster.metadata.revision,
    )
    return await _submit(visit, cluster, wish, choices)


async def _submit(
    visit: Visit, cluster: AnyResource | None, wish: Wish, choices: list[Choice]
) -> Response:
    require(visit.caller, "update" if cluster else "create", _KIND.name, wish.project)
    dry_run = visit.form.get("do") != "apply"
    try:
        done = await objects.apply(
            visit.centre,
            visit.caller,
            wish.document(cluster),
            kind=_KIND,
            revision=wish.revision if cluster else 0,
            dry_run=dry_run,
        )
    except DocumentInvalid as exc:
        return await _form(visit, cluster, wish, choices, problems=exc.problems, status=422)
    except ChangedMeanwhile as exc:
        return await _form(visit, cluster, wish, choices, conflict=exc, status=409)
    if dry_run:
        return await _form(visit, cluster, wish, choices, preview=done)
    return back(f"/clusters/{wish.project}/{done.resource.name}")


async def _form(
    visit: Visit,
    cluster: AnyResource | None,
    wish: Wish,
    choices: list[Choice],
    *,
    status: int = 200,
    preview: Applied | None = None,
    problems: tuple[Problem, ...] = (),
    conflict: ChangedMeanwhile | None = None,
) -> Response:
    variables = await _declared(visit, wish)
    known = {"metadata.name", "spec.pools"} | {f"spec.variables.{v.name}" for v in variables}
    return await visit.show(
        "form-cluster.html",
        status=status,
        cluster=cluster,
        wish=wish,
        choices=[item for item in choices if item.type is not ProfileType.ADDON],
        addons=[item for item in choices if item.type is ProfileType.ADDON],
        chosen={item.name: item for item in choices},
        variables=variables,
        hosts=await _free(visit, wish.project) if cluster is None else [],
        preview=preview,
        problems=problems,
        elsewhere=[item for item in problems if not _near(item.path, known)],
        conflict=conflict,
        changes=_visible(preview),
    )


def _visible(preview: Applied | None) -> list[Any]:
    return [] if preview is None else list(preview.changes)


def _near(path: str, known: set[str]) -> bool:
    return path in known or path.startswith("spec.pools")


async def _declared(visit: Visit, wish: Wish) -> list[Variable]:
    found: dict[str, Variable] = {}
    for name, version in wish.uses.items():
        try:
            profile = await objects.get(
                visit.centre, visit.caller, KINDS["ClusterProfile"], wish.project, name
            )
            for item in revision_of(visit, profile, version).variables:
                found.setdefault(item.name, item)
        except NotFound:
            continue
    return list(found.values())


async def _choices(visit: Visit, project: str) -> list[Choice]:
    page = await objects.list_objects(
        visit.centre, visit.caller, Query("ClusterProfile", project, limit=200)
    )
    return [
        Choice(
            name=item.name,
            type=item.spec.type,
            description=item.spec.description,
            versions=tuple(r.version for r in reversed(item.status.revisions)),
        )
        for item in page.items
        if item.status.revisions
    ]


async def _free(visit: Visit, project: str) -> list[AnyResource]:
    page = await objects.list_objects(
        visit.centre,
        visit.caller,
        Query("Host", project, fields={"status.phase": "Ready"}, limit=200),
    )
    return list(page.items)


def _wish(form: Any, choices: list[Choice], *, project: str, name: str) -> Wish:
    by_name = {item.name: item for item in choices}
    base, _, version = form.get("profile", "").partition("@")
    uses: dict[str, str] = {}
    if base in by_name:
        uses[base] = version or by_name[base].versions[0]
    elif base:
        uses[base] = version or "0.0.0"
    for key, value in form.items():
        if key.startswith(_ADDON) and value:
            uses[key.removeprefix(_ADDON)] = value
    return Wish(
        project=project,
        name=name.strip(),
        host=form.get("host", "").strip(),
        uses=uses,
        variables=_variables(form),
    )


def _variables(form: Any) -> dict[str, str]:
    """An empty field means the default."""
    return {
        key.removeprefix(_VARIABLE): value
        for key, value in form.items()
        if key.startswith(_VARIABLE) and value != ""
    }


def _deferred(cluster: AnyResource) -> dict[str, str]:
    """Values that the form does not show, because only a host can expand them."""
    return {key: value for key, value in cluster.spec.variables.items() if is_deferred(key)}


def _project(visit: Visit) -> str:
    wanted = visit.form.get("project", "") or visit.params.get("project", "")
    return wanted or visit.project_for(_KIND.name) or DEFAULT_PROJECT


async def _get(visit: Visit) -> AnyResource:
    project, name = visit.place
    return await objects.get(visit.centre, visit.caller, _KIND, project, name)
