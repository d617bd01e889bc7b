"""A small stack at a manager: a signed release, a profile and a cluster on one host."""

from __future__ import annotations

from typing import Any

from tests.integration.sim.conftest import Manager

from skerry.agent.facts import architecture
from skerry.lib.digest import canonical_json, sha256
from skerry.lib.oci import Descriptor, new_manifest
from skerry.wire import envelope as env
from skerry.wire.messages import ArtifactStatement


async def push_release(manager: Manager, version: str) -> None:
    """A well-formed, signed Kubernetes release without content."""
    centre = manager.centre
    arch = architecture()
    name = f"kubernetes-{version}-{arch}".replace(".", "-")
    layer, config = f"layer of {name}".encode(), f'{{"name":"{name}"}}'.encode()
    manifest = new_manifest(
        artifact_type="application/vnd.skerry.test",
        config=Descriptor(media_type="application/json", digest=sha256(config), size=len(config)),
        layers=(Descriptor(media_type="application/x", digest=sha256(layer), size=len(layer)),),
    ).encode()
    assert centre.keys.release is not None
    statement = ArtifactStatement(
        name=name, type="kubernetes", version=version, architecture=arch, digest=sha256(manifest)
    )
    signed = env.sign(env.ARTIFACT, canonical_json(statement), [centre.keys.release]).encode()
    for data in (layer, config, manifest, signed):
        await centre.blobs.put(data)
    spec = {
        "type": "kubernetes",
        "version": version,
        "architecture": arch,
        "digest": sha256(manifest),
        "envelopeDigest": sha256(signed),
    }
    await manager.apply({"kind": "Artifact", "metadata": {"name": name}, "spec": spec})


async def push_profile(manager: Manager, version: str, *, kubernetes: str, **more: Any) -> None:
    layers = [
        {
            "name": "k8s",
            "type": "kubernetes",
            "provider": "kubeadm",
            "version": kubernetes,
            "values": more.pop("values", ""),
        },
        {"name": "net", "type": "network", "provider": "routed"},
        *more.pop("layers", []),
    ]
    spec = {"version": version, "type": "full", "layers": layers, **more}
    await manager.apply({"kind": "ClusterProfile", "metadata": {"name": "edge"}, "spec": spec})


async def put_cluster(manager: Manager, host: str, version: str, **more: Any) -> None:
    spec = {
        "profiles": [{"name": "edge", "version": version}],
        "pools": [{"name": "main", "role": "control-plane", "hosts": [host]}],
        **more,
    }
    await manager.apply({"kind": "Cluster", "metadata": {"name": "shop"}, "spec": spec})
