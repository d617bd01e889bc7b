"""Layers above Kubernetes: objects applied, waited for, and pruned when they are gone.

What was applied is kept in one inventory per layer, written before objects are created, so that
an object is never forgotten: those that a new content no longer names are deleted, across kinds.
A layer that cannot be applied or does not become ready is a fact to report, not a failure.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

import msgspec
import yaml

from skerry.agent.kube import gate, images, places
from skerry.agent.kube.engine import EngineFailed, Reason
from skerry.agent.kube.record import Doors
from skerry.agent.redact import yaml_problem
from skerry.lib.errors import SkerryError
from skerry.lib.proc import CommandFailed, CommandTimedOut
from skerry.model.meta import Record
from skerry.plan.desired import DesiredCluster, DesiredLayer
from skerry.plan.kubernetes_fields import words
from skerry.plan.observed import ObservedLayer

LABEL = "skerry.dev/layer"
_MANAGER = "skerry"
_TRIES = 4
_AGAIN_LEAST_S, _AGAIN_MOST_S = 30.0, 600.0
_WORKLOADS = ("Deployment", "DaemonSet", "StatefulSet", "Job")
# Kinds that others need: applied first, and deleted last.
_FIRST = ("Namespace", "CustomResourceDefinition", "PriorityClass", "StorageClass")


class ObjectRef(Record, frozen=True, kw_only=True):
    """An object by what the API calls it. `resource` is "Kind.group" as kubectl takes it."""

    api_version: str
    kind: str
    name: str
    namespace: str = ""

    @property
    def resource(self) -> str:
        group, _, version = self.api_version.rpartition("/")
        return f"{self.kind}.{version}.{group}" if group else self.kind


class Inventory(Record, frozen=True, kw_only=True):
    """What was applied of a layer. `error` says why the last try to apply it failed."""

    name: str
    digest: str
    order: int = 0
    objects: tuple[ObjectRef, ...] = ()
    error: str = ""
    failures: int = 0
    tried_at: datetime | None = None


def inventories(doors: Doors) -> list[Inventory]:
    """Every layer on this cluster, in the order in which they were applied."""
    found = [
        msgspec.json.decode(doors.root.read(f"{places.LAYERS}/{name}"), type=Inventory)
        for name in doors.root.list(places.LAYERS)
        if name.endswith(".json") and not name.startswith(".")
    ]
    return sorted(found, key=lambda item: (item.order, item.name))


def parse(layer: DesiredLayer) -> list[dict[str, Any]]:
    """Objects of a layer with its label and default namespace, in order of application.

    Raises EngineFailed (LayerInvalid).
    """
    if layer.chart:
        raise _invalid(layer, "charts are not supported by this agent")
    try:
        documents = [item for item in yaml.safe_load_all(layer.manifests) if item is not None]
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
    if layer.namespace and not any(
        item["kind"] == "Namespace" and item["metadata"]["name"] == layer.namespace
        for item in objects
    ):
        objects.insert(0, _namespace(layer))
    return sorted(objects, key=lambda item: item["kind"] not in _FIRST)


async def apply(doors: Doors, cluster: DesiredCluster, *, name: str, digest: str) -> None:
    """Make the cluster have exactly the layer's objects; a failure is kept in the inventory."""
    layer = next((item for item in cluster.layers if item.name == name), None)
    if layer is None or layer.digest != digest:
        return  # A newer assignment came meanwhile; the next plan sees to it.
    old = _load(doors, name)
    try:
        objects = parse(layer)
        refs = tuple(_ref(item, layer.namespace) for item in objects)
        for artifact in layer.artifacts:
            await images.import_artifact(doors, artifact)
        order = [item.name for item in cluster.layers].index(name)
        before = old.objects if old else ()
        every = (*refs, *(ref for ref in before if ref not in refs))
        _save(doors, Inventory(name=name, digest="", order=order, objects=every))
        await _server_side(doors, layer, objects)
        await _delete(doors, [ref for ref in before if ref not in refs])
    except SkerryError as exc:
        kept = _load(doors, name) or Inventory(name=name, digest=digest)
        _save(
            doors,
            msgspec.structs.replace(
                kept,
                digest=digest,
                error=exc.message[:1000],
                failures=(old.failures if old and old.digest == digest else 0) + 1,
                tried_at=doors.clock.now(),
            ),
        )
        return
    _save(doors, Inventory(name=name, digest=digest, order=order, objects=refs))


async def wait(doors: Doors, *, name: str, wait_s: float) -> None:
    """Wait until the layer is ready, or until its time is over."""
    end = doors.clock.monotonic() + wait_s
    while doors.clock.monotonic() < end:
        layer = next((item for item in await observe(doors) if item.name == name), None)
        if layer is None or layer.ready or layer.again:
            return
        inventory = _load(doors, name)
        if inventory is not None and inventory.error:
            return
        await doors.clock.sleep(2.0)


async def prune(doors: Doors, name: str) -> None:
    """Delete a layer's objects and forget it. Raises EngineFailed when something stays."""
    inventory = _load(doors, name)
    if inventory is None:
        return
    await _delete(doors, list(inventory.objects))
    doors.root.remove(_place(name))


async def observe(doors: Doors) -> tuple[ObservedLayer, ...]:
    """State of every applied layer, with one question to the API for all workloads and one
    for all objects that are none."""
    known = inventories(doors)
    if not known:
        return ()
    workloads = await _workloads(doors)
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
        return ObservedLayer(
            name=name, digest=digest, message=inventory.error, again=_due(doors, inventory)
        )
    for ref in inventory.objects:
        if ref.kind not in _WORKLOADS:
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
                name=name, digest=digest, message=f"{ref.kind} {ref.name} {lacks}{trouble}"
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
    return ""


async def system_lacks(doors: Doors) -> str:
    """What the cluster's own DNS and proxy lack; empty when both are rolled out."""
    try:
        answer = await doors.kubectl(
            *("--namespace", "kube-system", "get", "deployment/coredns", "daemonset/kube-proxy"),
            *("-o", "json"),
            timeout_s=15,
        )
    except SkerryError as exc:
        return f"the core add-ons cannot be read: {exc.message[-300:]}"
    for item in json.loads(answer.stdout)["items"]:
        lacks = rollout_lacks(item)
        if lacks:
            return f"{item['metadata']['name']} {lacks}{await _trouble(doors, item)}"
    return ""


async def _trouble(doors: Doors, item: dict[str, Any]) -> str:
    """The first pod's own reason."""
    labels = item.get("spec", {}).get("selector", {}).get("matchLabels", {})
    if not labels:
        return ""
    try:
        answer = await doors.kubectl(
            "--namespace",
            item["metadata"].get("namespace", "default"),
            "get",
            "pods",
            "--selector",
            ",".join(f"{key}={value}" for key, value in labels.items()),
            "-o",
            "json",
            timeout_s=15,
        )
    except SkerryError:
        return ""
    for pod in json.loads(answer.stdout)["items"]:
        found = gate.pod_trouble(pod)
        if found:
            return found
    return ""


async def _workloads(doors: Doors) -> dict[tuple[str, str, str], dict[str, Any]] | None:
    try:
        answer = await doors.kubectl(
            *("get", "deployments,daemonsets,statefulsets,jobs", "--all-namespaces"),
            *("--selector", LABEL, "-o", "json"),
            timeout_s=20,
        )
    except SkerryError:
        return None
    return {
        (item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"]): item
        for item in json.loads(answer.stdout)["items"]
    }


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


async def _delete(doors: Doors, refs: list[ObjectRef]) -> None:
    for ref in sorted(refs, key=lambda item: item.kind in _FIRST):
        space = ("--namespace", ref.namespace) if ref.namespace else ()
        answer = await doors.kubectl(
            *space,
            *("delete", ref.resource, ref.name, "--ignore-not-found", "--wait=false"),
            timeout_s=60,
            check=False,
        )
        # A kind that is gone takes its objects with it.
        if not answer.ok and "the server doesn't have a resource type" not in answer.stderr:
            raise EngineFailed(
                Reason.LAYER_NOT_READY,
                f"cannot delete {ref.kind} {ref.name}: {answer.stderr.strip()[-300:]}",
            )


_CLUSTER_WIDE = words(
    """
    Namespace CustomResourceDefinition PriorityClass StorageClass ClusterRole ClusterRoleBinding
    PersistentVolume IngressClass RuntimeClass CSIDriver CSINode VolumeSnapshotClass
    ValidatingWebhookConfiguration MutatingWebhookConfiguration ValidatingAdmissionPolicy
    ValidatingAdmissionPolicyBinding MutatingAdmissionPolicy MutatingAdmissionPolicyBinding
    APIService ClusterIssuer FlowSchema PriorityLevelConfiguration VolumeAttributesClass
    DeviceClass GatewayClass
    """
)


def _ref(item: dict[str, Any], namespace: str) -> ObjectRef:
    given = item["metadata"].get("namespace", namespace or "default")
    return ObjectRef(
        api_version=item["apiVersion"],
        kind=item["kind"],
        name=item["metadata"]["name"],
        namespace="" if item["kind"] in _CLUSTER_WIDE else given,
    )


def _namespace(layer: DesiredLayer) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": layer.namespace, "labels": {LABEL: layer.name}},
    }


def _due(doors: Doors, inventory: Inventory) -> bool:
    pause = min(_AGAIN_LEAST_S * 2 ** max(inventory.failures - 1, 0), _AGAIN_MOST_S)
    tried = inventory.tried_at
    return tried is None or doors.clock.now() - tried >= timedelta(seconds=pause)


def _invalid(layer: DesiredLayer, message: str) -> EngineFailed:
    return EngineFailed(
        Reason.LAYER_INVALID,
        f"layer {layer.name}: {message}",
        hint="correct the layer in the profile",
        retryable=False,
    )


def _place(name: str) -> str:
    return f"{places.LAYERS}/{name}.json"


def _load(doors: Doors, name: str) -> Inventory | None:
    if not doors.root.exists(_place(name)):
        return None
    return msgspec.json.decode(doors.root.read(_place(name)), type=Inventory)


def _save(doors: Doors, inventory: Inventory) -> None:
    doors.root.write(_place(inventory.name), msgspec.json.encode(inventory), mode=0o600)
