"""Helm charts on this cluster: real `helm upgrade --install` from a chart file on this host.

Helm keeps its own record of a release in the cluster, and refuses to work on one whose last
change never ended. Such a torn change is cleared away here before the next one: a release that
never came up is taken away and installed anew, so that its install hooks run; the record of a torn
upgrade is dropped, which puts Helm back to the state before it. What a change was for is written
into Helm's record as its description, so that an agent that died right after Helm's success
does not do it again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import yaml

from skerry.agent.kube import places, releases
from skerry.agent.kube.engine import EngineFailed, Reason
from skerry.agent.kube.inventory import ObjectRef, ref_of
from skerry.agent.kube.record import Doors
from skerry.lib.proc import CommandFailed, CommandTimedOut, Result
from skerry.model.artifact import ArtifactRef
from skerry.model.release import CHART_ARTIFACT_TYPE, CHART_LAYER_TYPE
from skerry.plan.desired import DesiredLayer

HISTORY = 5
MANAGED_BY = "app.kubernetes.io/managed-by=Helm"
REMOVE_S = 180.0
_SHORT_S = 60.0
_MARGIN_S = 60.0
_WORDS_CHARS = 600
_PENDING = ("pending-upgrade", "pending-rollback")
_CAME_UP = ("deployed", "superseded")
_KEEP = "helm.sh/resource-policy"


class Revision(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `helm history -o json` (Helm 4, pkg/cmd/history.go)."""

    revision: int
    status: str
    description: str = ""


def need_helm(doors: Doors, layer: str) -> None:
    """Link the running release's helm. Raises EngineFailed (LayerInvalid) when it has none."""
    version = doors.record().version
    program = places.program(version, "helm")
    if not doors.root.exists(program):
        raise EngineFailed(
            Reason.LAYER_INVALID,
            f"layer {layer} is a chart and Kubernetes release {version} on this host has no helm;"
            " build and push the release again",
            hint=f"skerry release build kubernetes {version}, then skerry release push",
        )
    link = f"{places.LINKS}/helm"
    if doors.root.read_link(link) != program:
        doors.root.link(link, program)


async def fetch(doors: Doors, layer: DesiredLayer) -> str:
    """Bring the layer's chart and keep it; path of the file. Raises EngineFailed."""
    artifact = _artifact(layer)
    manifest = await releases.read_manifest(doors, artifact, artifact_type=CHART_ARTIFACT_TYPE)
    files = [item for item in manifest.layers if item.media_type == CHART_LAYER_TYPE]
    if len(files) != 1:
        raise _invalid(layer, f"artifact {artifact.name} holds {len(files)} charts, wanted one")
    path = await doors.content.ensure(files[0].digest, size=files[0].size)
    record = doors.record()
    if record.charts.get(artifact.digest) != files[0].digest:
        doors.remember(charts={**record.charts, artifact.digest: files[0].digest})
    return path


def remove_artifact(doors: Doors, digest: str) -> None:
    """Give a chart's space back."""
    record = doors.record()
    doors.content.drop(record.charts[digest])
    doors.content.drop(digest)
    doors.remember(charts={key: kept for key, kept in record.charts.items() if key != digest})


async def history(doors: Doors, name: str, namespace: str) -> list[Revision]:
    """What Helm knows of a release, oldest first; empty when there is none."""
    answer = await _helm(
        doors,
        *("history", name, "--namespace", namespace, "--max", "50", "--output", "json"),
        timeout_s=_SHORT_S,
        what=f"read the history of {name}",
        absent_is_fine=True,
    )
    if answer is None:
        return []
    found = msgspec.json.decode(answer.stdout, type=list[Revision])
    return sorted(found, key=lambda item: item.revision)


async def clear(
    doors: Doors,
    layer: DesiredLayer,
    known: list[Revision],
    *,
    keep: Callable[[tuple[ObjectRef, ...]], None],
) -> list[Revision]:
    """Clear away what an interrupted or failed change left; what Helm then still knows.

    `keep` is given what a torn upgrade may have made, before its record goes.
    """
    name, namespace = layer.name, _namespace(layer)
    known = list(known)
    while known and known[-1].status in _PENDING:
        torn = known.pop()
        keep(await objects(doors, name, namespace, revision=torn.revision))
        # Helm's records are Secrets with these labels (Helm 4, pkg/storage/driver/secrets.go).
        await doors.kubectl(
            *("--namespace", namespace, "delete", "secrets", "--ignore-not-found"),
            *("--selector", f"owner=helm,name={name},version={torn.revision}"),
            timeout_s=_SHORT_S,
        )
    if not known:
        return []
    if known[-1].status == "uninstalling":
        await uninstall(doors, name, namespace, limit_s=layer.wait_s)
        return []
    if not any(item.status in _CAME_UP for item in known):
        # Hooks of a release that never came up may need what it lacks.
        await uninstall(doors, name, namespace, limit_s=layer.wait_s, hooks=False)
        return []
    return known


def is_done(layer: DesiredLayer, known: list[Revision]) -> bool:
    """Whether Helm's newest change is this very content, and ended well."""
    if not known:
        return False
    return known[-1].status == "deployed" and known[-1].description == _mark(layer)


async def upgrade(doors: Doors, layer: DesiredLayer, chart: str) -> None:
    """Install or upgrade the release, hooks included. Raises EngineFailed with Helm's words.

    The values go by standard input: they may hold secrets, and so lie nowhere on this host.
    """
    values = ("--values", "-") if layer.values.strip() else ()
    await _helm(
        doors,
        *("upgrade", "--install", layer.name, doors.root.host_path(chart)),
        *("--namespace", _namespace(layer), "--history-max", str(HISTORY)),
        *("--server-side=true", "--force-conflicts", "--cleanup-on-fail", "--hide-notes"),
        *("--timeout", f"{layer.wait_s}s", "--description", _mark(layer)),
        *values,
        timeout_s=2 * layer.wait_s + _MARGIN_S,
        what=f"layer {layer.name}: helm cannot apply chart {layer.chart}",
        stdin=layer.values.encode() if values else None,
    )


async def uninstall(
    doors: Doors, name: str, namespace: str, *, limit_s: float, hooks: bool = True
) -> None:
    """Take a release away and wait for its objects to go. Raises EngineFailed.

    Pods have to be gone too (foreground): what comes next may want their ports and volumes.
    """
    await _helm(
        doors,
        *("uninstall", name, "--namespace", namespace, "--timeout", f"{limit_s:g}s"),
        *("--wait", "--cascade", "foreground"),
        *(() if hooks else ("--no-hooks",)),
        timeout_s=3 * limit_s + _MARGIN_S,
        what=f"helm cannot take {name} away",
        absent_is_fine=True,
    )


async def objects(
    doors: Doors, name: str, namespace: str, *, revision: int = 0
) -> tuple[ObjectRef, ...]:
    """Objects of a release, without those that its chart wants kept for ever."""
    answer = await _helm(
        doors,
        *("get", "manifest", name, "--namespace", namespace),
        *(("--revision", str(revision)) if revision else ()),
        timeout_s=_SHORT_S,
        what=f"read the objects of {name}",
    )
    try:
        # Everything as text: only names are wanted, and Helm's YAML knows no dates or "=".
        items = list(
            yaml.load_all(answer.stdout if answer else "", Loader=yaml.BaseLoader)
        )  # makes only text
    except yaml.YAMLError as exc:
        raise EngineFailed(
            Reason.LAYER_NOT_READY, f"the objects of {name} cannot be read: {exc}"
        ) from exc
    return tuple(
        ref_of(item, namespace)
        for item in items
        if isinstance(item, dict) and _is_object(item) and not _is_kept(item)
    )


def _is_object(item: dict[str, Any]) -> bool:
    meta = item.get("metadata")
    named = isinstance(meta, dict) and meta.get("name")
    return bool(named and item.get("apiVersion") and item.get("kind"))


def _is_kept(item: dict[str, Any]) -> bool:
    return (item["metadata"].get("annotations") or {}).get(_KEEP) == "keep"


async def _helm(
    doors: Doors,
    *words: str,
    timeout_s: float,
    what: str,
    stdin: bytes | None = None,
    absent_is_fine: bool = False,
) -> Result | None:
    """Run helm; None when there is no such release and that is fine."""
    try:
        return await doors.helm(*words, timeout_s=timeout_s, stdin=stdin)
    except CommandFailed as exc:
        told = told_by(exc.result.stderr)
        if absent_is_fine and told.endswith("release: not found"):
            return None
        raise EngineFailed(Reason.LAYER_NOT_READY, f"{what}: {told}") from exc
    except CommandTimedOut as exc:
        raise EngineFailed(
            Reason.LAYER_NOT_READY, f"{what}: it did not end within {timeout_s:g} s"
        ) from exc


def told_by(stderr: str) -> str:
    """Helm's own error in one line: everything from the last "Error:" on."""
    text = stderr.rpartition("Error: ")[2] if "Error: " in stderr else stderr
    return " ".join(text.split())[:_WORDS_CHARS] or "it said nothing"


def _artifact(layer: DesiredLayer) -> ArtifactRef:
    found = next((item for item in layer.artifacts if item.name == layer.chart), None)
    if found is None:
        raise _invalid(layer, f"chart {layer.chart} is not among its artifacts")
    if found.type != "chart":
        raise _invalid(layer, f"artifact {layer.chart} is of type {found.type}, wanted chart")
    return found


def _namespace(layer: DesiredLayer) -> str:
    return layer.namespace or "default"


def _mark(layer: DesiredLayer) -> str:
    return f"skerry {layer.digest}"


def _invalid(layer: DesiredLayer, message: str) -> EngineFailed:
    return EngineFailed(
        Reason.LAYER_INVALID,
        f"layer {layer.name}: {message}",
        hint="correct the layer in the profile",
        retryable=False,
    )
