"""What layers left in the cluster: one inventory per layer, durable before objects are made.

A layer's form is in it too: objects that were applied one by one, or a Helm release. Namespaces
are shared ground: one that skerry made goes only when no other layer has anything in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec

from skerry.agent.kube import places
from skerry.agent.kube.record import Doors
from skerry.model.meta import Record
from skerry.plan.kubernetes_fields import words

LABEL = "skerry.dev/layer"
WORKLOADS = ("Deployment", "DaemonSet", "StatefulSet", "Job")
_AGAIN_LEAST_S, _AGAIN_MOST_S = 30.0, 600.0


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
    """What was applied of a layer. `error` says why the last try failed, `reason` in one word.

    `digest` is empty while the layer is between two contents. `release` is the namespace of the
    layer's Helm release, empty when it has none; its `objects` are then those of the release,
    known for watching them, and the namespace. `loose` are objects that a torn upgrade of the
    release may have left. `removing` says that the last try was to remove the layer.
    """

    name: str
    digest: str
    order: int = 0
    objects: tuple[ObjectRef, ...] = ()
    release: str = ""
    loose: tuple[ObjectRef, ...] = ()
    error: str = ""
    reason: str = ""
    failures: int = 0
    tried_at: datetime | None = None
    removing: bool = False


def inventories(doors: Doors) -> list[Inventory]:
    """Every layer on this cluster, in the order in which they were applied."""
    found = [
        msgspec.json.decode(doors.root.read(f"{places.LAYERS}/{name}"), type=Inventory)
        for name in doors.root.list(places.LAYERS)
        if name.endswith(".json") and not name.startswith(".")
    ]
    return sorted(found, key=lambda item: (item.order, item.name))


def load(doors: Doors, name: str) -> Inventory | None:
    """A layer's inventory, if it has one."""
    if not doors.root.exists(_place(name)):
        return None
    return msgspec.json.decode(doors.root.read(_place(name)), type=Inventory)


def save(doors: Doors, inventory: Inventory) -> Inventory:
    """Keep an inventory durably."""
    doors.root.write(_place(inventory.name), msgspec.json.encode(inventory), mode=0o600)
    return inventory


def forget(doors: Doors, name: str) -> None:
    """Remove a layer's inventory."""
    doors.root.remove(_place(name))


def due(doors: Doors, inventory: Inventory) -> bool:
    """Whether a layer whose last try failed is tried again now."""
    pause = min(_AGAIN_LEAST_S * 2 ** max(inventory.failures - 1, 0), _AGAIN_MOST_S)
    tried = inventory.tried_at
    return tried is None or doors.clock.now() - tried >= timedelta(seconds=pause)


def in_use(doors: Doors, namespace: str, *, besides: str) -> bool:
    """Whether a layer other than `besides` has something in the namespace."""
    return any(
        item.release == namespace
        or any(
            ref.namespace == namespace or (ref.kind == "Namespace" and ref.name == namespace)
            for ref in item.objects
        )
        for item in inventories(doors)
        if item.name != besides
    )


def namespace_ref(name: str) -> ObjectRef:
    """A namespace as an object."""
    return ObjectRef(api_version="v1", kind="Namespace", name=name)


def ref_of(item: Mapping[str, Any], namespace: str) -> ObjectRef:
    """What names an object; `namespace` is where it goes when it does not say so itself."""
    given = item["metadata"].get("namespace", namespace or "default")
    return ObjectRef(
        api_version=item["apiVersion"],
        kind=item["kind"],
        name=item["metadata"]["name"],
        namespace="" if item["kind"] in _CLUSTER_WIDE else given,
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


def _place(name: str) -> str:
    return f"{places.LAYERS}/{name}.json"
