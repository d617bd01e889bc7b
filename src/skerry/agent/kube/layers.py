"""Layers above Kubernetes: objects applied, waited for, and pruned when they are gone.

A layer is manifests or a Helm chart (`charts`). What was applied is kept in one inventory per
layer, written before objects are created, so that an object is never forgotten: those that a new
content no longer names are deleted, across kinds, and so is a whole form that the layer left.
A layer that cannot be applied, removed or does not become ready is a fact to report, not a
failure.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import yaml

from skerry.agent.kube import charts, gate, images
from skerry.agent.kube.engine import EngineFailed, Reason
from skerry.agent.kube.inventory import (
    LABEL,
    WORKLOADS,
    Inventory,
    ObjectRef,
    due,
    forget,
    in_use,
    inventories,
    load,
    namespace_ref,
    ref_of,
    save,
)
from skerry.agent.kube.record import Doors
from skerry.agent.redact import yaml_problem
from skerry.lib import yamltext
from skerry.lib.errors import SkerryError
from skerry.lib.proc import CommandFailed, CommandTimedOut
from skerry.plan.desired import DesiredCluster, DesiredLayer
from skerry.plan.observed import ObservedLayer

_MANAGER = "skerry"
_TRIES = 4
_ERROR_CHARS = 1000
# Shorter ones cannot be told from ordinary words.
_LEAST_SECRET_CHARS = 4
# Where the API keeps the kinds whose rollout is looked at.
_API_OF = {kind: "apis/batch/v1" if kind == "Job" else "apis/apps/v1" for kind in WORKLOADS}
_PLURAL = {kind: f"{kind.lower()}s" for kind in WORKLOADS}
# Kinds that others need: applied first, and deleted last.
_FIRST = ("Namespace", "CustomResourceDefinition", "PriorityClass", "StorageClass")


def parse(layer: DesiredLayer) -> list[dict[str, Any]]:
    """Objects of a layer's manifests with its label, in order of application.

    Raises EngineFailed (LayerInvalid).
    """
    try:
        documents = [item for item in yamltext.load_all(layer.manifests) if item is not None]
    except yaml.YAMLError as exc:
        raise _invalid(layer, f"its manifests are not YAML: {yaml_problem(exc)}") from exc
    objects: list[dict[str, Any]] = []
    for document in documents:
        if not isinstance(document, dict):
            raise _invalid(layer, "a document of its manifests is not a mapping")
        items = document.get("items")
        is_list = str(document.get("kind", "")).endswith("List") and isinstance(items, list)
        objects += items if is_list and items is not None else [document]
    for item in objects:
        meta = item.get("metadata")
        named = isinstance(meta, dict) and meta.get("name")
        if not (isinstance(item.get("apiVersion"), str) and item.get("kind") and named):
            raise _invalid(layer, "an object lacks apiVersion, kind or metadata.name")
        item["metadata"].setdefault("labels", {})
        item["metadata"]["labels"] = {**item["metadata"]["labels"], LABEL: layer.name}
    return sorted(objects, key=lambda item: item["kind"] not in _FIRST)


async def apply(doors: Doors, cluster: DesiredCluster, *, name: str, digest: str) -> None:
    """Make the cluster have exactly the layer's content; a failure is kept in the inventory."""
    layer = next((item for item in cluster.layers if item.name == name), None)
    if layer is None or layer.digest != digest:
        return  # A newer assignment came meanwhile; the next plan sees to it.
    order = [item.name for item in cluster.layers].index(name)
    old = load(doors, name) or Inventory(name=name, digest="", order=order)
    try:
        for artifact in layer.artifacts:
            if artifact.type != "chart":
                await images.import_artifact(doors, artifact)
        started = msgspec.structs.replace(old, order=order, removing=False)
        if layer.chart:
            await _apply_chart(doors, layer, started)
        else:
            await _apply_manifests(doors, layer, started)
    except SkerryError as exc:
        told = hide(exc.message, cluster.hidden)
        _failed(doors, old, told, reason=exc.reason, digest=digest)


async def _apply_manifests(doors: Doors, layer: DesiredLayer, old: Inventory) -> None:
    objects = parse(layer)
    if old.release:
        old = await _leave_release(doors, layer, old)
    own = await _namespace(doors, layer, objects)
    objects = [*own, *objects]
    refs = tuple(ref_of(item, layer.namespace) for item in objects)
    every = (*refs, *(ref for ref in old.objects if ref not in refs))
    save(doors, _clean(old, digest="", objects=every))
    await _server_side(doors, layer, objects)
    await _delete(doors, layer.name, [ref for ref in old.objects if ref not in refs])
    save(doors, _clean(old, digest=layer.digest, objects=refs))


async def _apply_chart(doors: Doors, layer: DesiredLayer, old: Inventory) -> None:
    namespace = layer.namespace or "default"
    # Asked for again though nothing failed: something of it was deleted on the cluster.
    mend = old.digest == layer.digest and not old.error
    chart = await charts.fetch(doors, layer)
    charts.need_helm(doors, layer.name)
    if old.release and old.release != namespace:
        old = await _leave_release(doors, layer, old)
    if not old.release:
        # Helm refuses objects that are there and not its own, so they go before it comes.
        former = [ref for ref in old.objects if ref != namespace_ref(namespace)]
        await _delete(doors, layer.name, former, wait_s=layer.wait_s)
        old = msgspec.structs.replace(
            old, objects=tuple(ref for ref in old.objects if ref not in former)
        )
    own = await _namespace(doors, layer, ())
    spaces = tuple(ref_of(item, "") for item in own)
    watched = tuple(ref for ref in old.objects if ref not in spaces)
    now = _clean(old, digest="", objects=(*spaces, *watched), release=namespace)
    now = save(doors, now)
    if own:
        await _server_side(doors, layer, own)

    def keep(more: tuple[ObjectRef, ...]) -> None:
        nonlocal now
        loose = tuple(dict.fromkeys((*now.loose, *more)))
        now = save(doors, msgspec.structs.replace(now, loose=loose))

    known = await charts.history(doors, layer.name, namespace)
    known = await charts.clear(doors, layer, known, keep=keep)
    if mend or not charts.is_done(layer, known):
        await charts.upgrade(doors, layer, chart)
    refs = await charts.objects(doors, layer.name, namespace)
    await _delete(doors, layer.name, [ref for ref in now.loose if ref not in refs])
    done = _clean(now, digest=layer.digest, objects=(*spaces, *refs), release=namespace)
    save(doors, msgspec.structs.replace(done, loose=()))


async def _leave_release(doors: Doors, layer: DesiredLayer, old: Inventory) -> Inventory:
    """Take the layer's Helm release away; what is left in the inventory then is its namespace."""
    charts.need_helm(doors, layer.name)
    await charts.uninstall(doors, old.name, old.release, limit_s=layer.wait_s)
    spaces = tuple(ref for ref in old.objects if ref.kind == "Namespace")
    return save(doors, _clean(old, digest="", objects=spaces))


def _clean(
    old: Inventory, *, digest: str, objects: tuple[ObjectRef, ...], release: str = ""
) -> Inventory:
    """The inventory of a try that has not failed so far."""
    return msgspec.structs.replace(
        old,
        digest=digest,
        objects=objects,
        release=release,
        error="",
        reason="",
        failures=0,
        tried_at=None,
    )


def _failed(
    doors: Doors,
    old: Inventory,
    told: str,
    *,
    reason: str,
    digest: str,
    removing: bool = False,
) -> None:
    kept = load(doors, old.name) or old
    again = old.digest == digest and bool(old.error)
    save(
        doors,
        msgspec.structs.replace(
            kept,
            digest=digest,
            order=old.order,
            error=told[:_ERROR_CHARS],
            reason=reason,
            failures=(old.failures if again else 0) + 1,
            tried_at=doors.clock.now(),
            removing=removing,
        ),
    )


def hide(text: str, hidden: Sequence[str]) -> str:
    """A message without secrets, line by line: programs quote what they do not like."""
    lines = {line.strip() for value in hidden for line in (value, *value.splitlines())}
    for line in sorted(lines, key=len, reverse=True):
        if len(line) >= _LEAST_SECRET_CHARS:
            text = text.replace(line, "***")
    return text


async def wait(doors: Doors, *, name: str, wait_s: float) -> None:
    """Wait until the layer is ready, or until its time is over."""
    end = doors.clock.monotonic() + wait_s
    while doors.clock.monotonic() < end:
        layer = next((item for item in await observe(doors) if item.name == name), None)
        if layer is None or layer.ready or layer.again:
            return
        inventory = load(doors, name)
        if inventory is not None and inventory.error:
            return
        await doors.clock.sleep(2.0)


async def prune(doors: Doors, name: str) -> None:
    """Delete a layer's objects and forget it; a failure is kept and tried again later."""
    old = load(doors, name)
    if old is None:
        return
    try:
        if old.release:
            charts.need_helm(doors, name)
            await charts.uninstall(doors, name, old.release, limit_s=charts.REMOVE_S)
            left = [ref for ref in old.objects if ref.kind == "Namespace"]
            await _delete(doors, name, [*old.loose, *left])
        else:
            await _delete(doors, name, list(old.objects))
    except SkerryError as exc:
        told = f"cannot be removed: {exc.message}"
        _failed(doors, old, told, reason=exc.reason, digest="", removing=True)
        return
    forget(doors, name)


async def observe(doors: Doors) -> tuple[ObservedLayer, ...]:
    """State of every applied layer, with one question to the API for all workloads that skerry
    applied and one for all that Helm did."""
    known = inventories(doors)
    if not known:
        return ()
    workloads = await _workloads(doors, helm=any(item.release for item in known))
    if workloads is None:
        return tuple(
            ObservedLayer(
                name=item.name, digest=item.digest, message=item.error or "the API does not answer"
            )
            for item in known
        )
    return tuple([await _one(doors, item, workloads) for item in known])


async def _one(
    doors: Doors, inventory: Inventory, workloads: dict[tuple[str, str, str], dict[str, Any]]
) -> ObservedLayer:
    name, digest = inventory.name, inventory.digest
    if inventory.error:
        again = due(doors, inventory)
        return ObservedLayer(
            name=name,
            digest=digest,
            message=inventory.error,
            again=again,
            stuck=inventory.removing and not again,
            reason=inventory.reason,
        )
    for ref in inventory.objects:
        if ref.kind not in WORKLOADS:
            continue
        found = workloads.get((ref.kind, ref.namespace, ref.name))
        if found is None:
            if ref.kind == "Job":
                continue  # Jobs with a time to live go away by themselves.
            message = f"{ref.kind} {ref.name} was deleted; it is applied again"
            return ObservedLayer(name=name, digest=digest, message=message, again=True)
        lacks = rollout_lacks(found)
        if lacks:
            trouble = await _trouble(doors, found)
            return ObservedLayer(
                name=name,
                digest=digest,
                message=f"{ref.kind} {ref.name} {lacks}{trouble.message}",
                reason=trouble.reason,
            )
    return ObservedLayer(name=name, digest=digest, ready=True)


def rollout_lacks(item: dict[str, Any]) -> str:
    """What a workload still lacks; empty when it is rolled out."""
    kind, spec, status = item["kind"], item.get("spec", {}), item.get("status", {})
    if kind == "Job":
        done = any(
            part["type"] in ("Complete", "SuccessCriteriaMet") and part["status"] == "True"
            for part in status.get("conditions", [])
        )
        failed = [part for part in status.get("conditions", []) if part["type"] == "Failed"]
        if failed:
            return f"failed: {failed[0].get('message', '')}"
        return "" if done else "has not completed"
    if status.get("observedGeneration", 0) < item["metadata"].get("generation", 0):
        return "was not taken up yet"
    if kind == "DaemonSet":
        wanted = status.get("desiredNumberScheduled", 0)
        fresh = status.get("updatedNumberScheduled", 0)
        ready = status.get("numberReady", 0)
    else:
        wanted = spec.get("replicas", 1)
        fresh = status.get("updatedReplicas", 0)
        ready = status.get("readyReplicas", 0)
    if min(fresh, ready) < wanted:
        return f"has {min(fresh, ready)} of {wanted} pods ready"
    # Pods of the old version count as ready until the new ones take over.
    old = status.get("replicas", fresh) - fresh if kind == "Deployment" else 0
    return f"still needs {old} of its old pods" if old > 0 else ""


async def system_lacks(doors: Doors) -> str:
    """What the cluster's own DNS and proxy lack; empty when both are rolled out."""
    for kind, name in (("Deployment", "coredns"), ("DaemonSet", "kube-proxy")):
        answer = await doors.ask(f"/{_API_OF[kind]}/namespaces/kube-system/{_PLURAL[kind]}/{name}")
        if not answer.ok:
            return f"{name} cannot be read: {answer.problem}"
        item = {**answer.json(), "kind": kind}
        lacks = rollout_lacks(item)
        if lacks:
            return f"{name} {lacks}{(await _trouble(doors, item)).message}"
    return ""


async def _trouble(doors: Doors, item: dict[str, Any]) -> gate.Trouble:
    """The first pod's own reason."""
    labels = item.get("spec", {}).get("selector", {}).get("matchLabels", {})
    if not labels:
        return gate.Trouble()
    namespace = item["metadata"].get("namespace", "default")
    answer = await doors.ask(
        f"/api/v1/namespaces/{namespace}/pods",
        query={"labelSelector": ",".join(f"{key}={value}" for key, value in labels.items())},
    )
    for pod in answer.json()["items"] if answer.ok else ():
        found = gate.pod_trouble(pod)
        if found.message:
            return found
    return gate.Trouble()


async def _workloads(
    doors: Doors, *, helm: bool
) -> dict[tuple[str, str, str], dict[str, Any]] | None:
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for selector in (LABEL, charts.MANAGED_BY) if helm else (LABEL,):
        for kind in WORKLOADS:
            answer = await doors.ask(
                f"/{_API_OF[kind]}/{_PLURAL[kind]}", query={"labelSelector": selector}
            )
            if not answer.ok:
                return None
            for item in answer.json()["items"]:
                meta = item["metadata"]
                # Items of a list do not say their kind.
                found[(kind, meta.get("namespace", ""), meta["name"])] = {**item, "kind": kind}
    return found


async def _server_side(doors: Doors, layer: DesiredLayer, objects: list[dict[str, Any]]) -> None:
    """Apply, again while the API says that something it needs is not there yet."""
    if not objects:
        return
    text = yaml.safe_dump_all(objects, sort_keys=False).encode()
    space = ("--namespace", layer.namespace) if layer.namespace else ()
    for attempt in range(_TRIES):
        try:
            await doors.kubectl(
                *space,
                *("apply", "--server-side", "--force-conflicts"),
                *("--field-manager", _MANAGER, "--filename", "-"),
                timeout_s=120,
                stdin=text,
            )
            return
        except (CommandFailed, CommandTimedOut) as exc:
            if attempt + 1 == _TRIES:
                text_out = exc.result.stderr if isinstance(exc, CommandFailed) else exc.message
                raise EngineFailed(
                    Reason.LAYER_INVALID,
                    f"layer {layer.name} cannot be applied: {text_out.strip()[-600:]}",
                ) from exc
        await doors.clock.sleep(2.0 * (attempt + 1))


async def _delete(
    doors: Doors, layer: str, refs: Sequence[ObjectRef], *, wait_s: float = 0
) -> None:
    """Delete objects, a namespace only when no other layer uses it. Waits when `wait_s`."""
    waiting = (f"--timeout={wait_s:g}s",) if wait_s else ("--wait=false",)
    for ref in sorted(refs, key=lambda item: item.kind in _FIRST):
        if ref.kind == "Namespace" and in_use(doors, ref.name, besides=layer):
            continue
        space = ("--namespace", ref.namespace) if ref.namespace else ()
        answer = await doors.kubectl(
            *space,
            *("delete", ref.resource, ref.name, "--ignore-not-found", *waiting),
            timeout_s=60 + wait_s,
            check=False,
        )
        # A kind that is gone takes its objects with it.
        if not answer.ok and "the server doesn't have a resource type" not in answer.stderr:
            raise EngineFailed(
                Reason.LAYER_NOT_READY,
                f"cannot delete {ref.kind} {ref.name}: {answer.stderr.strip()[-300:]}",
            )


async def _namespace(
    doors: Doors, layer: DesiredLayer, objects: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The layer's namespace as an object, when it is for skerry to make and to remove."""
    said = any(
        item["kind"] == "Namespace" and item["metadata"]["name"] == layer.namespace
        for item in objects
    )
    if not layer.namespace or said:
        return []
    answer = await doors.kubectl(
        *("get", "namespace", layer.namespace, "--ignore-not-found", "-o", "json"), timeout_s=20
    )
    there = json.loads(answer.stdout) if answer.stdout.strip() else None
    if there is not None and LABEL not in (there["metadata"].get("labels") or {}):
        return []
    meta = {"name": layer.namespace, "labels": {LABEL: layer.name}}
    return [{"apiVersion": "v1", "kind": "Namespace", "metadata": meta}]


def _invalid(layer: DesiredLayer, message: str) -> EngineFailed:
    return EngineFailed(
        Reason.LAYER_INVALID,
        f"layer {layer.name}: {message}",
        hint="correct the layer in the profile",
        retryable=False,
    )
