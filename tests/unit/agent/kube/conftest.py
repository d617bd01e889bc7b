"""One host of the kubeadm engine: a folder as its disk, scripted commands, blobs by digest."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from skerry.agent.kube import places
from skerry.agent.kube.api import ApiAnswer, FakeKubeApi
from skerry.agent.kube.inventory import WORKLOADS
from skerry.agent.kube.kubeadm import KubeadmEngine
from skerry.agent.kube.record import Doors, KubeRecord
from skerry.lib.clock import ManualClock
from skerry.lib.digest import canonical_json, sha256
from skerry.lib.errors import SkerryError
from skerry.lib.files import DiskRoot
from skerry.lib.oci import Descriptor, new_manifest
from skerry.lib.proc import FakeRunner
from skerry.model.artifact import ArtifactRef
from skerry.model.release import (
    ARTIFACT_TYPE,
    CONFIG_TYPE,
    CONTENT_KEY,
    FILE_TYPE,
    IMAGE_KEY,
    IMAGE_TYPE,
    MODE_KEY,
    PATH_KEY,
    ReleaseFile,
    ReleaseImage,
    ReleaseMetadata,
)
from skerry.plan.desired import DesiredCluster


class QuickClock(ManualClock):
    """Sleeping moves this clock on at once."""

    async def sleep(self, seconds: float) -> None:
        self.advance(seconds)


@dataclass
class FakeContent:
    """Blobs that can be had; `asked` says which were."""

    root: DiskRoot
    blobs: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def add(self, data: bytes) -> str:
        self.blobs[sha256(data)] = data
        return sha256(data)

    async def ensure(self, digest: str, *, size: int = 0) -> str:
        self.asked.append(digest)
        path = f"{places.STATE}/content/sha256/{digest[7:]}"
        if self.root.exists(path):
            return path
        if digest not in self.blobs:
            raise SkerryError("no such blob", reason="ArtifactMissing")
        self.root.write(path, self.blobs[digest])
        return path

    def drop(self, digest: str) -> None:
        self.root.remove(f"{places.STATE}/content/sha256/{digest[7:]}")


@dataclass
class Host:
    root: DiskRoot
    runner: FakeRunner
    clock: QuickClock
    content: FakeContent
    engine: KubeadmEngine
    doors: Doors
    api: FakeKubeApi

    def release(
        self, version: str, *, changed: dict[str, bytes] | None = None, spoil: str = ""
    ) -> ArtifactRef:
        """A small release. `changed` are other file contents; `spoil` names a file whose blob
        does not hold what the manifest says."""
        files = {
            "bin/kubelet": f"kubelet {version}".encode(),
            "bin/kubeadm": f"kubeadm {version}".encode(),
            "cni/bridge": b"the same in every release",
            **(changed or {}),
        }
        layers, listed = [], []
        for path, data in files.items():
            packed = gzip.compress(b"spoiled" if path == spoil else data, mtime=0)
            notes = {PATH_KEY: path, MODE_KEY: "0755", CONTENT_KEY: sha256(data)}
            layers.append(self._layer(packed, FILE_TYPE, notes))
            listed.append(
                ReleaseFile(path=path, mode="0755", digest=sha256(data), size_bytes=len(data))
            )
        pause = b"pause image"
        notes = {
            PATH_KEY: "images/pause.tar",
            CONTENT_KEY: sha256(pause),
            IMAGE_KEY: "registry.k8s.io/pause:3.10",
        }
        layers.append(self._layer(gzip.compress(pause, mtime=0), IMAGE_TYPE, notes))
        image = ReleaseImage(
            name="registry.k8s.io/pause:3.10",
            path="images/pause.tar",
            digest=sha256(pause),
            size_bytes=len(pause),
        )
        metadata = ReleaseMetadata(
            distribution="kubernetes",
            version=version,
            architecture="amd64",
            source="modules",
            toolchain="go",
            components={},
            files=tuple(listed),
            images=(image,),
        ).encode()
        config = Descriptor(
            media_type=CONFIG_TYPE, digest=self.content.add(metadata), size=len(metadata)
        )
        manifest = new_manifest(artifact_type=ARTIFACT_TYPE, config=config, layers=tuple(layers))
        return ArtifactRef(
            name="kubernetes",
            type="kubernetes",
            version=version,
            architecture="amd64",
            digest=self.content.add(manifest.encode()),
            envelope_digest=sha256(b"envelope"),
        )

    def _layer(self, packed: bytes, media_type: str, notes: dict[str, str]) -> Descriptor:
        return Descriptor(
            media_type=media_type,
            digest=self.content.add(packed),
            size=len(packed),
            annotations=notes,
        )

    def cluster(self, version: str = "1.36.3", **changes: object) -> DesiredCluster:
        values = changes.pop("values", {})
        plain = DesiredCluster(
            name="shop",
            uid="u1",
            role="control-plane",
            node_name="n1",
            provider="kubeadm",
            version=version,
            release=changes.pop("release", None) or self.release(version),
            values=values,
            config_digest=sha256(canonical_json(values)),
        )
        return msgspec.structs.replace(plain, **changes)

    def remember(self, **changes: object) -> None:
        record = KubeRecord(
            cluster_uid="u1",
            cluster_name="shop",
            node_name="n1",
            address="10.254.254.1",
            started=True,
            initialised=True,
            version="1.36.3",
        )
        record = msgspec.structs.replace(record, **changes)
        self.root.write(places.RECORD, msgspec.json.encode(record))

    def workloads(self, *items: dict[str, Any], selector: str = "") -> None:
        """Let the API have these workloads, and no others, for a label selector or for any."""

        def rule(path: str, query: Mapping[str, str]) -> ApiAnswer | None:
            kind = {f"{kind.lower()}s": kind for kind in WORKLOADS}.get(path.rsplit("/", 1)[-1])
            if kind is None or selector not in ("", query.get("labelSelector")):
                return None
            # As in the API's own lists, items do not say their kind.
            found = [
                {k: v for k, v in item.items() if k != "kind"}
                for item in items
                if item["kind"] == kind
            ]
            return ApiAnswer(200, json.dumps({"items": found}))

        self.api.answer_with(rule)

    def pods(self, *items: dict[str, Any]) -> None:
        """Let every namespace have these pods."""

        def rule(path: str, _: Mapping[str, str]) -> ApiAnswer | None:
            body = json.dumps({"items": items})
            return ApiAnswer(200, body) if path.endswith("/pods") else None

        self.api.answer_with(rule)

    def kubectl_calls(self) -> list[str]:
        """What kubectl was asked, without its connection flags."""
        calls = []
        for call in self.runner.calls:
            if call[0] == f"{places.LINKS}/kubectl":
                flags = ("--kubeconfig", "--cache-dir", "--request-timeout")
                rest = list(call[1:])
                while rest[:1] and rest[0] in flags:
                    rest = rest[2:]
                calls.append(" ".join(rest))
        return calls


@pytest.fixture
def host(tmp_path: Path) -> Host:
    root = DiskRoot(str(tmp_path))
    runner, clock, content, api = FakeRunner(), QuickClock(), FakeContent(root), FakeKubeApi()
    return Host(
        root=root,
        runner=runner,
        clock=clock,
        content=content,
        engine=KubeadmEngine(runner, root, clock, content, api=api),
        doors=Doors(runner=runner, root=root, clock=clock, content=content, api=api),
        api=api,
    )
