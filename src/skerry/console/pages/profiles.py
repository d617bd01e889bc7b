"""Cluster profiles: versions, an editor that shows every problem with its line, and differences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.responses import Response

from skerry.console import difftext, yamltext
from skerry.console.door import Visit, back
from skerry.console.inside import AnyResource, NotFound, Query
from skerry.console.pages.listing import listing
from skerry.manager.services import history, objects
from skerry.manager.services.centre import require
from skerry.manager.services.objects import ChangedMeanwhile
from skerry.model.kinds import KINDS, ClusterProfileSpec
from skerry.model.meta import DEFAULT_PROJECT
from skerry.model.problems import DocumentInvalid, Problem
from skerry.model.profile import Revision, decode_revision

_KIND = KINDS["ClusterProfile"]
_EXAMPLE = """\
metadata:
  name: shop
spec:
  version: 1.0.0
  type: full
  description: Single-node Kubernetes with a web application
  variables:
    - name: greeting
      default: Hello from the edge
  layers:
    - name: kubernetes
      type: kubernetes
      provider: kubeadm
      version: 1.35.4
    - name: network
      type: network
      provider: routed
"""


@dataclass(frozen=True, slots=True)
class Placed:
    """A problem with the editor's line that it is about."""

    problem: Problem
    line: int


async def index(visit: Visit) -> Response:
    """All profiles."""
    found = await listing(visit, _KIND.name)
    rows = [(item, await _users(visit, item)) for item in found.items]
    return await visit.show(
        "profiles.html",
        listing=found,
        rows=rows,
        live=f"/live?kinds=ClusterProfile&since={found.revision}" if found.revision else "",
    )


async def page(visit: Visit) -> Response:
    """One profile: the layers of one of its versions, its variables, its users."""
    profile = await _get(visit)
    versions = list(reversed(profile.status.revisions))
    wanted = visit.params.get("version") or profile.spec.version
    revision = revision_of(visit, profile, wanted)
    clusters = await objects.list_objects(
        visit.centre,
        visit.caller,
        Query("Cluster", profile.project, fields={"spec.profiles.name": profile.name}, limit=50),
    )
    events: list[dict[str, Any]] = []
    if visit.may("list", "Event", profile.project):
        events = await history.events(
            visit.centre,
            visit.caller,
            project=profile.project,
            kind=_KIND.name,
            name=profile.name,
            limit=10,
        )
    return await visit.show(
        "profile.html",
        profile=profile,
        versions=versions,
        wanted=wanted,
        revision=revision,
        layers=[(layer, yamltext.write(_body(layer))) for layer in revision.layers],
        clusters=clusters.items,
        events=events,
    )


async def new(visit: Visit) -> Response:
    """An empty editor, with an example to start from."""
    require(visit.caller, "create", _KIND.name, visit.project_for(_KIND.name) or "")
    return await _editor(visit, None, _EXAMPLE)


async def edit(visit: Visit) -> Response:
    """The editor with the present version."""
    profile = await _get(visit)
    require(visit.caller, "update", _KIND.name, profile.project)
    return await _editor(visit, profile, _written(profile))


async def save(visit: Visit) -> Response:
    """Check, or check and record as a version."""
    profile = await _get(visit) if "name" in visit.request.path_params else None
    where = profile.project if profile else visit.project_for(_KIND.name) or ""
    require(visit.caller, "update" if profile else "create", _KIND.name, where)
    text = visit.form.get("text", "").replace("\r\n", "\n")
    dry_run = visit.form.get("do") != "apply"
    place = None if profile is None else (profile.project, profile.name)
    try:
        written = yamltext.read(text)
    except DocumentInvalid as exc:
        placed = [Placed(item, 0) for item in exc.problems]
        return await _editor(visit, profile, text, problems=placed, status=422)
    document = written.document
    if isinstance(document, dict):
        document = {"kind": _KIND.name, **document}
    revision = visit.form.get("revision", "")
    try:
        done = await objects.apply(
            visit.centre,
            visit.caller,
            document,
            kind=_KIND,
            place=place,
            revision=int(revision) if revision.isdigit() and profile else None if profile else 0,
            dry_run=dry_run,
        )
    except DocumentInvalid as exc:
        placed = [Placed(item, written.line_of(item.path)) for item in exc.problems]
        return await _editor(visit, profile, text, problems=placed, status=422)
    except ChangedMeanwhile as exc:
        return await _editor(visit, profile, text, conflict=exc, status=409)
    if dry_run:
        return await _editor(visit, profile, text, checked=done)
    return back(f"/profiles/{done.resource.project}/{done.resource.name}")


async def diff(visit: Visit) -> Response:
    """What differs between two versions."""
    profile = await _get(visit)
    versions = [item.version for item in profile.status.revisions]
    latest = versions[-1] if versions else ""
    before = visit.params.get("from") or (versions[-2] if len(versions) > 1 else latest)
    after = visit.params.get("to") or latest
    old, later = revision_of(visit, profile, before), revision_of(visit, profile, after)
    return await visit.show(
        "diff.html",
        profile=profile,
        versions=list(reversed(versions)),
        before=before,
        after=after,
        lines=difftext.diff(_readable(old), _readable(later)),
    )


def revision_of(visit: Visit, profile: AnyResource, version: str) -> Revision:
    """A recorded version. Raises NotFound."""
    require(visit.caller, "get", _KIND.name, profile.project)
    found = next((r for r in profile.status.revisions if r.version == version), None)
    if found is None:
        raise NotFound(
            f"profile {profile.name} has no version {version[:40]}", hint="choose one from its page"
        )
    return decode_revision(visit.centre.blobs.read_small(found.digest))


async def _get(visit: Visit) -> AnyResource:
    project, name = visit.place
    return await objects.get(visit.centre, visit.caller, _KIND, project, name)


async def _users(visit: Visit, profile: AnyResource) -> int:
    query = Query("Cluster", profile.project, fields={"spec.profiles.name": profile.name}, limit=1)
    return int((await objects.list_objects(visit.centre, visit.caller, query)).total)


async def _editor(
    visit: Visit, profile: AnyResource | None, text: str, *, status: int = 200, **found: Any
) -> Response:
    return await visit.show(
        "editor.html",
        status=status,
        profile=profile,
        text=text,
        problems=found.get("problems", ()),
        checked=found.get("checked"),
        conflict=found.get("conflict"),
        project=visit.project_for(_KIND.name) or DEFAULT_PROJECT,
    )


def _written(profile: AnyResource) -> str:
    metadata = {"name": profile.name, "labels": dict(profile.metadata.labels)}
    spec: ClusterProfileSpec = profile.spec
    return yamltext.write({"metadata": metadata, "spec": _trimmed(spec)})


def _trimmed(spec: ClusterProfileSpec) -> Any:
    """Without what is there by default."""
    plain = msgspec.to_builtins(spec)
    for layer in plain["layers"]:
        if layer.get("waitS") == 300:
            del layer["waitS"]
    for variable in plain["variables"]:
        if variable.get("format") == "string":
            del variable["format"]
        if not variable.get("required"):
            variable.pop("required", None)
    return plain


def _readable(revision: Revision) -> str:
    """A revision as text whose lines can be compared."""
    return yamltext.write(
        {
            "version": revision.version,
            "type": revision.type,
            "variables": revision.variables,
            "layers": revision.layers,
            "artifacts": [
                {"name": item.name, "architecture": item.architecture, "digest": item.digest}
                for item in revision.artifacts
            ],
        }
    )


def _body(layer: Any) -> dict[str, Any]:
    plain = msgspec.to_builtins(layer)
    return {key: plain[key] for key in ("values", "manifests") if plain.get(key)}
