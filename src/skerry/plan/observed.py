"""What an engine measured of a host's Kubernetes: the planner's other half of input.

`version` is the release that was confirmed last; during an upgrade the manifests
(`control_plane_version`) and links (`kubelet_version`) run ahead of it one after another.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from skerry.model.kinds import KubernetesState, LayerState
from skerry.model.meta import Record

RENEW_BEFORE = timedelta(days=30)


class Finding(Record, frozen=True, kw_only=True):
    """Something foreign on the host: what it is and where it was found."""

    what: str
    where: str


class ObservedLayer(Record, frozen=True, kw_only=True):
    """A layer that was applied. `again` asks to apply it once more: an object of it is missing,
    or the API refused it some minutes ago and may take it now. `stuck`: it could not be removed,
    and it is too early to try that again."""

    name: str
    digest: str
    ready: bool = False
    message: str = ""
    reason: str = ""
    again: bool = False
    stuck: bool = False


class KubeObserved(Record, frozen=True, kw_only=True):
    """Versions without a leading v. `releases` maps unpacked versions to manifest digests."""

    architecture: str
    observed_at: datetime
    cluster_uid: str = ""
    cluster_name: str = ""
    initialised: bool = False
    version: str = ""
    control_plane_version: str = ""
    kubelet_version: str = ""
    runtime_version: str = ""
    runtime_active: bool = False
    kubelet_active: bool = False
    api_stopped: bool = False
    api_ready: bool = False
    node_ready: bool = False
    config_digest: str = ""
    releases: dict[str, str] = {}
    content: tuple[str, ...] = ()
    images_missing: tuple[str, ...] = ()
    layers: tuple[ObservedLayer, ...] = ()
    fenced: bool = False
    foreign: tuple[Finding, ...] = ()
    certificates_issued_at: datetime | None = None
    certificates_expire_at: datetime | None = None
    last_snapshot_at: datetime | None = None
    leftovers: bool = False

    @property
    def certificates_due(self) -> bool:
        """30 days ahead, or in the last third of a life shorter than 90 days."""
        if self.certificates_expire_at is None or self.certificates_issued_at is None:
            return False
        life = self.certificates_expire_at - self.certificates_issued_at
        ahead = min(RENEW_BEFORE, life / 3)
        return self.certificates_expire_at - self.observed_at < ahead

    def to_state(self) -> KubernetesState:
        """The part that is reported."""
        return KubernetesState(
            cluster=self.cluster_name,
            release=self.version,
            control_plane_version=self.control_plane_version,
            kubelet_version=self.kubelet_version,
            api_ready=self.api_ready,
            # The API believes a dead kubelet for most of a minute.
            node_ready=self.node_ready and self.kubelet_active,
            config_digest=self.config_digest,
            certificates_expire_at=self.certificates_expire_at,
            last_snapshot_at=self.last_snapshot_at,
            layers=tuple(
                LayerState(
                    name=layer.name,
                    digest=layer.digest,
                    ready=layer.ready,
                    message=layer.message,
                    reason=layer.reason,
                )
                for layer in self.layers
            ),
        )
