"""What the agent asks of a Kubernetes engine, and how an engine fails.

An engine performs one step at a time, each idempotent, and measures what is there. It knows
nothing of operations, journals or the manager.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

from skerry.lib.errors import SkerryError
from skerry.model.meta import Condition
from skerry.plan.desired import DesiredCluster
from skerry.plan.observed import KubeObserved
from skerry.plan.steps import Step


class Reason(StrEnum):
    """Every reason with which a step of an engine fails."""

    PREFLIGHT_REFUSED = "PreflightRefused"
    FOREIGN_KUBERNETES = "ForeignKubernetes"
    RELEASE_INVALID = "ReleaseInvalid"
    IMAGE_MISSING = "ImageMissing"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    DISK_FULL = "DiskFull"
    RUNTIME_NOT_READY = "RuntimeNotReady"
    CONTROL_PLANE_NOT_READY = "ControlPlaneNotReady"
    KUBELET_NOT_READY = "KubeletNotReady"
    KUBEADM_FAILED = "KubeadmFailed"
    SNAPSHOT_FAILED = "SnapshotFailed"
    RESTORE_FAILED = "RestoreFailed"
    LAYER_INVALID = "LayerInvalid"
    LAYER_NOT_READY = "LayerNotReady"
    RESET_INCOMPLETE = "ResetIncomplete"
    STEP_UNKNOWN = "StepUnknown"


class EngineFailed(SkerryError):
    """A step failed. `reason` is one of `Reason`."""

    def __init__(
        self, reason: Reason, message: str, *, hint: str = "", retryable: bool = True
    ) -> None:
        super().__init__(message, hint=hint, retryable=retryable, reason=reason.value)


class Content(Protocol):
    """Verified blobs by digest, fetched when they are not here."""

    async def ensure(self, digest: str, *, size: int = 0) -> str:
        """Path inside the Root of the verified blob. Raises SkerryError with a reason."""
        ...

    def drop(self, digest: str) -> None: ...


class KubeEngine(Protocol):
    """One distribution's way of being Kubernetes on this host."""

    async def observe(self) -> KubeObserved:
        """Measure. Never raises for a Kubernetes that is broken or absent."""
        ...

    async def perform(self, step: Step, cluster: DesiredCluster | None) -> None:
        """Do one step for the cluster that the operation brings about (or, while returning,
        the former one). Raises EngineFailed or another SkerryError."""
        ...

    async def health(self, cluster: DesiredCluster) -> tuple[Condition, ...]:
        """What a healthy host must have, one condition each; all True means healthy."""
        ...
