"""What people are told when an operation on the cluster has ended."""

from __future__ import annotations

from skerry.plan.desired import DesiredCluster
from skerry.plan.steps import Operation

# What an operation that ended well is called in the list of events.
_DONE = {
    "create": "{version} is up",
    "upgrade": "upgraded to {version}",
    "configure": "new settings are in use",
    "layers": "layers are applied",
    "renew": "certificates are renewed",
    "snapshot": "etcd is saved",
    "repair": "what had stopped runs again",
    "tidy": "what nothing uses any more is removed",
    "reset": "nothing of the cluster is left",
}


def done_words(operation: Operation, cluster: DesiredCluster | None) -> str:
    """An operation that did what it should."""
    told = _DONE.get(operation.name, "{name} done")
    return told.format(name=operation.name, version=_version(cluster))


def returned_words(
    operation: Operation, cluster: DesiredCluster | None, previous: DesiredCluster | None
) -> str:
    """An operation that was taken back."""
    if operation.name == "configure":
        return "new settings failed and the host returned to the former ones"
    tried = f"{operation.name} to {_version(cluster)}" if cluster else operation.name
    return f"{tried} failed and the host returned to {_version(previous)}"


def _version(cluster: DesiredCluster | None) -> str:
    return f"Kubernetes {cluster.version}" if cluster else "its former state"
