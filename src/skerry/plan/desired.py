"""Desired state of one host after verification and expansion: what planner and engines read.

Built by the agent from the signed assignment and the revisions that it names; equal input gives
an equal value, so digests computed over it are stable.
"""

from __future__ import annotations

from typing import Any

from skerry.model.artifact import ArtifactRef
from skerry.model.kinds import LayerType
from skerry.model.meta import Record


class DesiredLayer(Record, frozen=True, kw_only=True):
    """A layer above Kubernetes with all variables expanded. `digest` covers all its content."""

    name: str
    type: LayerType
    provider: str = ""
    namespace: str = ""
    manifests: str = ""
    chart: str = ""
    values: str = ""
    artifacts: tuple[ArtifactRef, ...] = ()
    wait_s: int = 300
    digest: str = ""


class DesiredCluster(Record, frozen=True, kw_only=True):
    """This host's part in a cluster. `hidden` are texts that no message may show: opened secrets.

    `values` are the kubernetes layer's values, parsed and checked (see plan.kubernetes);
    `config_digest` covers them. `release` is the Kubernetes release to run.
    """

    name: str
    uid: str
    role: str
    node_name: str
    provider: str
    version: str
    release: ArtifactRef
    values: dict[str, Any] = {}
    config_digest: str = ""
    layers: tuple[DesiredLayer, ...] = ()
    hidden: tuple[str, ...] = ()


class DesiredHost(Record, frozen=True, kw_only=True):
    """Desired state of a host. `digest` is that of the assignment's bytes."""

    epoch: int
    digest: str
    cluster: DesiredCluster | None = None
    retry_failed: int = 0
