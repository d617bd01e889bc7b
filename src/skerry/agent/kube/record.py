"""What the engine remembers about the cluster on this host, and the doors it works through.

The record says what was *confirmed*; what is running is always measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from skerry.agent.kube import places
from skerry.agent.kube.api import ApiAnswer, KubeApi
from skerry.agent.kube.engine import Content, EngineFailed, Reason
from skerry.lib.clock import Clock
from skerry.lib.files import Root
from skerry.lib.proc import Result, Runner
from skerry.model.meta import Record
from skerry.plan.desired import DesiredCluster

# Set empty for every program that talks to this host's own address. kubeadm would also write
# what it finds into the control plane's manifests.
NO_PROXIES = {
    spelled: ""
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy")
    for spelled in (name, name.upper())
}


# Helm 4, pkg/helmpath and pkg/cli/environment.go; the last is client-go's discovery cache.
_HELM_PLACES = {
    "HELM_CACHE_HOME": f"{places.HELM}/cache",
    "HELM_CONFIG_HOME": f"{places.HELM}/config",
    "HELM_DATA_HOME": f"{places.HELM}/data",
    "HELM_DRIVER": "secret",
    "KUBECACHEDIR": places.KUBECTL_CACHE,
}


class KubeRecord(Record, frozen=True, kw_only=True):
    """`started` is set before the first change on the host, `initialised` by the confirmation
    of the new cluster. `images` maps names to the digest of the archive they came from,
    `content` an artifact's digest to the names it brought, and `charts` to the chart's file."""

    cluster_uid: str = ""
    cluster_name: str = ""
    node_name: str = ""
    address: str = ""
    started: bool = False
    initialised: bool = False
    version: str = ""
    config_digest: str = ""
    images: dict[str, str] = {}
    content: dict[str, tuple[str, ...]] = {}
    charts: dict[str, str] = {}
    snapshot_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Doors:
    """Commands, disk, time and content of this host."""

    runner: Runner
    root: Root
    clock: Clock
    content: Content
    api: KubeApi

    def record(self) -> KubeRecord:
        """What is remembered; an empty record when there is none."""
        if not self.root.exists(places.RECORD):
            return KubeRecord()
        return msgspec.json.decode(self.root.read(places.RECORD), type=KubeRecord)

    def remember(self, **changes: Any) -> KubeRecord:
        """Change the record durably."""
        record = msgspec.structs.replace(self.record(), **changes)
        self.root.write(places.RECORD, msgspec.json.encode(record), mode=0o600)
        return record

    def text(self, path: str) -> str:
        """Content of a text file; empty when it is not there."""
        return self.root.read(path).decode() if self.root.exists(path) else ""

    def linked_version(self, name: str) -> str:
        """Version of the release that a program's link points into; empty without one."""
        target = self.root.read_link(f"{places.LINKS}/{name}") or ""
        rest = target.removeprefix(f"{places.RELEASES}/")
        return rest.split("/", 1)[0] if rest != target else ""

    async def run(
        self,
        *argv: str,
        timeout_s: float = 60,
        check: bool = True,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Result:
        """Run a command."""
        return await self.runner.run(argv, timeout_s=timeout_s, check=check, stdin=stdin, env=env)

    async def systemctl(self, *words: str, timeout_s: float = 90, check: bool = True) -> Result:
        """Run systemctl."""
        return await self.run("systemctl", *words, timeout_s=timeout_s, check=check)

    async def active(self, unit: str) -> bool:
        """Whether a unit runs."""
        return (await self.systemctl("is-active", "--quiet", unit, check=False)).ok

    async def kubectl(
        self,
        *words: str,
        timeout_s: float = 30,
        check: bool = True,
        stdin: bytes | None = None,
    ) -> Result:
        """Run kubectl as the cluster's administrator.

        Until the cluster is confirmed nothing has bound the administrator's group yet, so the
        credential that needs no binding is used.
        """
        return await self.run(
            f"{places.LINKS}/kubectl",
            *("--kubeconfig", self._administrator(), "--cache-dir", places.KUBECTL_CACHE),
            "--request-timeout",
            f"{max(int(timeout_s) - 2, 1)}s",
            *words,
            timeout_s=timeout_s,
            check=check,
            stdin=stdin,
            env=NO_PROXIES,
        )

    async def helm(self, *words: str, timeout_s: float, stdin: bytes | None = None) -> Result:
        """Run helm as the cluster's administrator, with nothing of a home folder."""
        return await self.run(
            f"{places.LINKS}/helm",
            *("--kubeconfig", self._administrator()),
            *words,
            timeout_s=timeout_s,
            stdin=stdin,
            env={**NO_PROXIES, **_HELM_PLACES},
        )

    def _administrator(self) -> str:
        return places.ADMIN_CONF if self.record().initialised else places.SUPER_ADMIN_CONF

    async def ask(
        self, path: str, *, query: Mapping[str, str] | None = None, timeout_s: float = 10
    ) -> ApiAnswer:
        """Ask this host's API server, with the same credential as `kubectl`. Never raises."""
        return await self.api.get(path, config=self._config(), query=query, timeout_s=timeout_s)

    async def probe(self, url: str, *, timeout_s: float = 10) -> str:
        """Ask a health address of this host; empty when it answers well, else what went wrong."""
        return await self.api.probe(url, timeout_s=timeout_s)

    def _config(self) -> str:
        """Until the cluster is confirmed nothing has bound the administrator's group yet, so the
        credential that needs no binding is used."""
        return places.ADMIN_CONF if self.record().initialised else places.SUPER_ADMIN_CONF

    async def ctr(
        self, *words: str, timeout_s: float = 60, check: bool = True, version: str = ""
    ) -> Result:
        """Run containerd's own client in Kubernetes' namespace."""
        program = places.program(version, "ctr") if version else f"{places.LINKS}/ctr"
        argv: Sequence[str] = (
            program,
            "--address",
            places.CONTAINERD_SOCKET,
            "--namespace",
            "k8s.io",
            *words,
        )
        return await self.runner.run(argv, timeout_s=timeout_s, check=check)


def needed(cluster: DesiredCluster | None) -> DesiredCluster:
    """The cluster of a step that cannot do without. Raises EngineFailed."""
    if cluster is None:
        raise EngineFailed(
            Reason.STEP_UNKNOWN, "the step needs a cluster and none is desired", retryable=False
        )
    return cluster
