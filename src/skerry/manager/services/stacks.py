"""From profiles to the stack of one cluster, and everything that can be wrong with it.

The same functions serve a profile alone (with example values), a cluster's admission, its dry run
and the conditions of its status.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import yaml

from skerry.lib import yamltext
from skerry.lib.digest import canonical_json, sha256
from skerry.manager.services import artifacts
from skerry.manager.services.centre import Centre
from skerry.manager.store.protocol import NotFound
from skerry.model.artifact import ArtifactRef
from skerry.model.kinds import LayerType, ProfileType, ProfileUse
from skerry.model.meta import NAME_PATTERN
from skerry.model.problems import Problem, under
from skerry.model.profile import ResolvedLayer, Revision, decode_revision
from skerry.model.template import expand, references
from skerry.plan.desired import DesiredCluster, DesiredLayer
from skerry.plan.kubernetes import check_values

NETWORK_PROVIDERS = ("routed",)
KUBERNETES_PROVIDERS = ("kubeadm",)
# Helm 4, pkg/chart/common/util, ValidateReleaseName.
MAX_RELEASE_NAME = 53
_MAX_TEXT = 2 * 1024 * 1024


async def load_revisions(
    centre: Centre, project: str, uses: Sequence[ProfileUse]
) -> tuple[list[Revision], list[Problem]]:
    """The revisions that a cluster names, and what of them does not exist."""
    revisions: list[Revision] = []
    problems: list[Problem] = []
    for index, use in enumerate(uses):
        path = f"spec.profiles[{index}]"
        try:
            found = await centre.store.get("ClusterProfile", project, use.name)
        except NotFound:
            problems.append(
                Problem(
                    path=f"{path}.name",
                    message=f"there is no profile {use.name!r} in project {project}",
                    hint="apply the ClusterProfile first",
                )
            )
            continue
        digest = next((r.digest for r in found.status.revisions if r.version == use.version), "")
        if not digest:
            there = ", ".join(r.version for r in found.status.revisions[-10:])
            problems.append(
                Problem(
                    path=f"{path}.version",
                    message=f"profile {use.name} has no version {use.version}",
                    hint=f"there are: {there or 'none'}",
                )
            )
            continue
        revisions.append(decode_revision(centre.blobs.read_small(digest)))
    return revisions, problems


def layer_problems(
    layers: Sequence[ResolvedLayer], *, types: Mapping[str, str], path: str = "spec.layers"
) -> list[Problem]:
    """What is wrong with expanded layers, each below `path[index]`.

    `types` are those of the artifacts that there are, by the names that the layers use.
    """
    problems: list[Problem] = []
    for index, layer in enumerate(layers):
        problems += under(f"{path}[{index}]", _one_layer(layer, types))
    return problems


def artifact_types(revision: Revision) -> dict[str, str]:
    """Types of the artifacts that a revision pins, by the names that its layers use."""
    return {ref.name: ref.type for ref in revision.artifacts}


def shape_problems(
    kind: ProfileType, layers: Sequence[tuple[str, LayerType]], *, path: str = "spec.layers"
) -> list[Problem]:
    """Which layers a profile of a type needs; `layers` are (name, type)."""
    problems: list[Problem] = []
    base = (LayerType.OS, LayerType.KUBERNETES, LayerType.NETWORK)
    for wanted in (LayerType.KUBERNETES, LayerType.NETWORK):
        names = [name for name, found in layers if found is wanted]
        if kind is not ProfileType.ADDON and len(names) != 1:
            found = ", ".join(names) if names else "none"
            problems.append(
                Problem(
                    path=path,
                    message=f"a {kind.value} profile needs exactly one layer of type"
                    f" {wanted.value}, found {found}",
                    hint=f"add a layer with type: {wanted.value}" if not names else "remove one",
                )
            )
    systems = [name for name, found in layers if found is LayerType.OS]
    if len(systems) > 1:
        problems.append(
            Problem(
                path=path,
                message=f"there are {len(systems)} layers of type os: {', '.join(systems)}",
                hint="a host runs one OS image; remove the others",
            )
        )
    seen: set[str] = set()
    for index, (name, found_type) in enumerate(layers):
        if kind is ProfileType.ADDON and found_type in base:
            problems.append(
                Problem(
                    path=f"{path}[{index}].type",
                    message=f"an addon profile has no {found_type.value} layer",
                    hint="move it to the full or infra profile",
                )
            )
        if name in seen:
            problems.append(
                Problem(path=f"{path}[{index}].name", message=f"layer {name!r} is there twice")
            )
        seen.add(name)
    return problems


def kubernetes_of(layers: Sequence[ResolvedLayer]) -> ResolvedLayer | None:
    """The stack's kubernetes layer."""
    return next((layer for layer in layers if layer.type is LayerType.KUBERNETES), None)


def references_for(revisions: Sequence[Revision], architecture: str) -> tuple[ArtifactRef, ...]:
    """Pinned artifacts for a host of this architecture."""
    return tuple(
        ref
        for revision in revisions
        for ref in revision.artifacts
        if ref.architecture in (architecture, "any")
    )


async def desired(
    centre: Centre,
    *,
    name: str,
    uid: str,
    node: str,
    architecture: str,
    layers: Sequence[ResolvedLayer],
) -> DesiredCluster:
    """What a host would read from its assignment, for the dry run's reactions."""
    kubernetes = kubernetes_of(layers)
    version = kubernetes.version if kubernetes else ""
    found = await artifacts.kubernetes(centre, version, architecture)
    release = (
        artifacts.reference(found)
        if found
        else ArtifactRef(
            name="kubernetes",
            type="kubernetes",
            version=version,
            architecture=architecture,
            digest="",
            envelope_digest="",
        )
    )
    values = _mapping(kubernetes.values) if kubernetes else {}
    return DesiredCluster(
        name=name,
        uid=uid,
        role="control-plane",
        node_name=node,
        provider=kubernetes.provider if kubernetes else "",
        version=version,
        release=release,
        values=dict(values) if isinstance(values, Mapping) else {},
        config_digest=sha256(canonical_json(values)),
        layers=tuple(
            DesiredLayer(name=layer.name, type=layer.type, digest=layer.digest)
            for layer in layers
            if layer.type not in (LayerType.KUBERNETES, LayerType.OS)
        ),
    )


def _one_layer(layer: ResolvedLayer, types: Mapping[str, str]) -> list[Problem]:
    problems = [
        Problem(path=field, message=f"is larger than {_MAX_TEXT} characters")
        for field in ("values", "manifests")
        if len(getattr(layer, field)) > _MAX_TEXT
    ]
    if problems:
        return problems
    match layer.type:
        case LayerType.KUBERNETES:
            problems += _kubernetes_layer(layer)
        case LayerType.NETWORK:
            if layer.provider not in NETWORK_PROVIDERS and not (layer.manifests or layer.chart):
                problems.append(
                    Problem(
                        path="provider",
                        message=f"network provider {layer.provider!r} is unknown",
                        hint="write provider: routed, or give manifests",
                    )
                )
        case LayerType.OS:
            return problems + _os_layer(layer, types)
        case _:
            if not (layer.manifests or layer.chart):
                problems.append(
                    Problem(path="manifests", message="is empty, and so is chart", hint="give one")
                )
    problems += _manifest_problems(layer.manifests)
    problems += _artifact_problems(layer, types)
    namespace = expand(layer.namespace, dict.fromkeys(references(layer.namespace), "later"))
    if namespace and re.fullmatch(NAME_PATTERN.strip("^$"), namespace) is None:
        problems.append(
            Problem(
                path="namespace",
                message=f"{layer.namespace[:80]!r} is not the name of a namespace",
                hint="lower case letters, digits and hyphens, at most 63",
            )
        )
    if layer.chart:
        problems += _chart_problems(layer, types)
    return problems


def _os_layer(layer: ResolvedLayer, types: Mapping[str, str]) -> list[Problem]:
    """An os layer is one image and nothing else."""
    problems = [
        Problem(path=field, message="has no meaning in a layer of type os", hint="leave it out")
        for field in ("provider", "version", "values", "manifests", "chart", "namespace")
        if getattr(layer, field).strip()
    ]
    if len(layer.artifacts) != 1:
        problems.append(
            Problem(
                path="artifacts",
                message=f"names {len(layer.artifacts)} artifacts, wanted exactly one OS image",
                hint="name the Artifact of type os that 'skerry get artifacts' shows",
            )
        )
    problems += [
        Problem(
            path=f"artifacts[{index}]",
            message=f"{name!r} is of type {types[name]}, wanted os",
            hint="a layer of type os names an OS image",
        )
        for index, name in enumerate(layer.artifacts)
        if types.get(name, "os") != "os"
    ]
    return problems


def _artifact_problems(layer: ResolvedLayer, types: Mapping[str, str]) -> list[Problem]:
    """Artifacts that no layer can use, and charts that this one would only carry around."""
    problems: list[Problem] = []
    for index, name in enumerate(layer.artifacts):
        found = types.get(name)
        if found == "chart" and name != layer.chart:
            message, hint = f"{name!r} is a chart that is not used", f"write chart: {name}"
        elif found in (None, "chart", "images"):
            continue
        else:
            message, hint = f"{name!r} is of type {found}", "a layer uses images and charts"
        problems.append(Problem(path=f"artifacts[{index}]", message=message, hint=hint))
    return problems


def _chart_problems(layer: ResolvedLayer, types: Mapping[str, str]) -> list[Problem]:
    problems: list[Problem] = []
    if layer.type in (LayerType.KUBERNETES, LayerType.OS):
        message = f"a layer of type {layer.type.value} takes no chart"
        return [Problem(path="chart", message=message, hint="use a layer of type addon")]
    if layer.chart not in layer.artifacts:
        there = ", ".join(item for item in layer.artifacts if types.get(item) == "chart")
        problems.append(
            Problem(
                path="chart",
                message=f"{layer.chart[:80]!r} is not among the layer's artifacts",
                hint=f"one of: {there}" if there else f"add {layer.chart[:80]} to artifacts",
            )
        )
    elif types.get(layer.chart, "chart") != "chart":
        problems.append(
            Problem(
                path="chart",
                message=f"artifact {layer.chart!r} is of type {types[layer.chart]}, wanted chart",
                hint="make one with 'skerry release build chart'",
            )
        )
    if layer.manifests.strip():
        message = "cannot be beside a chart"
        hint = "put them into a layer of their own"
        problems.append(Problem(path="manifests", message=message, hint=hint))
    if layer.provider:
        message = f"{layer.provider!r} cannot be beside a chart"
        problems.append(Problem(path="provider", message=message, hint="remove one of them"))
    if len(layer.name) > MAX_RELEASE_NAME:
        problems.append(
            Problem(
                path="name",
                message=f"has {len(layer.name)} characters, the name of a Helm release at most"
                f" {MAX_RELEASE_NAME}",
                hint="rename the layer",
            )
        )
    return problems + _chart_values_problems(layer)


def _chart_values_problems(layer: ResolvedLayer) -> list[Problem]:
    # What only a host knows is a plain word as far as this check goes.
    text = expand(layer.values, dict.fromkeys(references(layer.values), "known-later"))
    try:
        values = _mapping(text)
    except yaml.YAMLError as exc:
        return [Problem(path="values", message=f"is not YAML: {_first_line(exc)}")]
    if not isinstance(values, Mapping):
        return [Problem(path="values", message="must be a mapping")]
    return []


def _kubernetes_layer(layer: ResolvedLayer) -> list[Problem]:
    problems: list[Problem] = []
    if layer.provider not in KUBERNETES_PROVIDERS:
        problems.append(
            Problem(
                path="provider",
                message=f"kubernetes provider {layer.provider!r} is unknown"
                if layer.provider
                else "is missing",
                hint=f"one of: {', '.join(KUBERNETES_PROVIDERS)}",
            )
        )
    if version_of(layer.version) is None:
        problems.append(
            Problem(
                path="version",
                message=f"{layer.version!r} is not a Kubernetes version"
                if layer.version
                else "is missing",
                hint="write it as 1.36.3",
            )
        )
    try:
        values = _mapping(layer.values)
    except yaml.YAMLError as exc:
        problems.append(Problem(path="values", message=f"is not YAML: {_first_line(exc)}"))
        return problems
    if not isinstance(values, Mapping):
        problems.append(Problem(path="values", message="must be a mapping"))
        return problems
    problems += [
        Problem(path=f"values.{item.path}", message=item.message)
        for item in check_values(
            dict(values), version=layer.version if version_of(layer.version) else ""
        )
    ]
    return problems


def version_of(text: str) -> tuple[int, int, int] | None:
    """(major, minor, patch), or None when the text is not a version."""
    parts = text.removeprefix("v").split("-")[0].split(".")
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() for part in parts):
        return None
    return int(parts[0]), int(parts[1]), int(parts[2])


def _manifest_problems(text: str) -> list[Problem]:
    if not text.strip():
        return []
    problems: list[Problem] = []
    try:
        for index, item in enumerate(yamltext.load_all(text)):
            if item is None:
                continue
            if not isinstance(item, Mapping) or not item.get("apiVersion") or not item.get("kind"):
                problems.append(
                    Problem(
                        path="manifests",
                        message=f"document {index + 1} is not a Kubernetes object",
                        hint="each document needs apiVersion, kind and metadata",
                    )
                )
    except yaml.YAMLError as exc:
        problems.append(Problem(path="manifests", message=f"is not YAML: {_first_line(exc)}"))
    return problems


def _mapping(text: str) -> Any:
    loaded = yamltext.load(text)
    # Dates and the like become text, as they would in JSON.
    try:
        return {} if loaded is None else msgspec.json.decode(msgspec.json.encode(loaded))
    except (TypeError, ValueError, msgspec.MsgspecError) as exc:
        raise yaml.YAMLError(f"is no plain data: {exc}") from exc


def _first_line(exc: yaml.YAMLError) -> str:
    mark = getattr(exc, "problem_mark", None)
    what = getattr(exc, "problem", None) or str(exc).splitlines()[0]
    return f"{what} in line {mark.line + 1}" if mark else str(what)
