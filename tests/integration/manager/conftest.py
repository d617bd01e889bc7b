"""A whole manager in process: real SQLite store, real keys, requests through ASGI."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
from starlette.applications import Starlette

from skerry.lib import pki
from skerry.lib.clock import ManualClock
from skerry.lib.digest import canonical_json, sha256
from skerry.lib.oci import Descriptor, new_manifest
from skerry.manager.app import build_app, first_password, open_centre
from skerry.manager.reconcile.loops import Reconciler
from skerry.manager.services.centre import Centre
from skerry.manager.settings import Settings
from skerry.model.kinds import KubernetesState, LayerState
from skerry.wire import envelope as env
from skerry.wire import httpsig, messages

BASE = "https://manager.test"


class Address:
    """An ASGI transport whose client address can be chosen."""

    def __init__(self, app: Starlette, address: str) -> None:
        self.transport = httpx2.ASGITransport(
            app=app, raise_app_exceptions=True, client=(address, 4242)
        )


@dataclass
class Device:
    """The host's side of the wire, without an agent."""

    http: httpx2.AsyncClient
    name: str
    hardware_id: str
    architecture: str = "amd64"
    identity: Any = field(default_factory=pki.new_host_key)
    sealing: Any = field(default_factory=pki.new_sealing_key)
    counter: int = 0
    uid: str = ""
    channel: Any = None
    have: tuple[int, str] = (0, "")

    @property
    def fingerprint(self) -> str:
        return pki.fingerprint(self.identity.public_key())

    def headers(self, method: str, path: str, body: bytes, *, host: str) -> dict[str, str]:
        self.counter += 1
        return httpsig.sign_request(
            httpsig.Message(headers={}, method=method, url=BASE + path, body=body),
            self.identity,
            host=host,
            counter=self.counter,
        )

    async def post(self, path: str, value: object, *, host: str) -> httpx2.Response:
        body = msgspec.json.encode(value)
        headers = self.headers("POST", path, body, host=host)
        answer = await self.http.post(BASE + path, content=body, headers=headers)
        if self.channel is not None:
            httpsig.verify_answer(
                httpsig.Answer(
                    headers=dict(answer.headers),
                    status_code=answer.status_code,
                    body=answer.content,
                ),
                self.channel,
                host=host,
                counter=self.counter,
            )
        return answer

    def request(self, **more: Any) -> messages.EnrolRequest:
        return messages.EnrolRequest(
            agent_version="0.1.0",
            public_key=pki.public_pem(self.identity.public_key()),
            sealing_key=pki.public_pem(self.sealing.public_key()),
            facts=messages.HostFacts(
                hardware_id=self.hardware_id,
                host_name=self.name,
                architecture=self.architecture,
                serial=more.pop("serial", ""),
            ),
            **more,
        )

    async def enrol(self, **more: Any) -> messages.EnrolState:
        answer = await self.post(messages.ENROL_PATH, self.request(**more), host=self.fingerprint)
        assert answer.status_code == 200, answer.text
        state = messages.decode(answer.content, messages.EnrolState)
        self.uid = state.host_uid or self.uid
        return state

    async def sync(self, **more: Any) -> messages.SyncAnswer:
        request = messages.SyncRequest(have_epoch=self.have[0], have_digest=self.have[1], **more)
        answer = await self.post(messages.SYNC_PATH, request, host=self.uid)
        assert answer.status_code == 200, answer.text
        found = messages.decode(answer.content, messages.SyncAnswer)
        if found.assignment is not None:
            payload = messages.decode(found.assignment.payload, messages.Assignment)
            self.have = (payload.epoch, found.assignment.payload_digest)
        return found

    async def report(self, **more: Any) -> messages.SyncAnswer:
        """Acknowledge what we have and report."""
        report = messages.HostReport(agent_version="0.1.0", **more)
        return await self.sync(
            report=report,
            status_digest=sha256(canonical_json(report)),
            acknowledged_epoch=self.have[0],
            acknowledged_digest=self.have[1],
        )

    async def fetch(self, digest: str, *, start: int = 0) -> httpx2.Response:
        path = messages.CONTENT_PATH + digest
        headers = self.headers("GET", path, b"", host=self.uid)
        if start:
            headers["range"] = f"bytes={start}-"
        return await self.http.get(BASE + path, headers=headers)


@dataclass
class Manager:
    """A manager with its clock and an administrator's client."""

    centre: Centre
    app: Starlette
    clock: ManualClock
    reconciler: Reconciler
    admin: httpx2.AsyncClient
    clients: list[httpx2.AsyncClient]
    artifacts: dict[str, dict[str, str]] = field(default_factory=dict)

    def client(self, *, key: str = "", address: str = "192.0.2.10") -> httpx2.AsyncClient:
        made = httpx2.AsyncClient(
            transport=Address(self.app, address).transport,
            base_url=BASE,
            headers={"authorization": f"Bearer {key}"} if key else {},
        )
        self.clients.append(made)
        return made

    def device(self, name: str, **more: Any) -> Device:
        address = more.pop("address", "192.0.2.20")
        more.setdefault("hardware_id", f"board-{name}-77")
        device = Device(self.client(address=address), name, **more)
        device.channel = self.centre.keys.channel.key.public_key()
        return device

    async def apply(self, kind: str, plural: str, name: str, spec: Any, **more: Any) -> Any:
        answer = await self.admin.put(
            path_of(plural, name), json={"kind": kind, "metadata": {"name": name}, "spec": spec}
        )
        assert answer.status_code in (200, 201), answer.text
        return answer.json()

    async def token(self, name: str = "t", **spec: Any) -> str:
        spec.setdefault("autoApprove", True)
        made = await self.apply("RegistrationToken", "registrationtokens", name, spec)
        return str(made["secret"])

    async def ready_host(self, name: str, **more: Any) -> Device:
        secret = await self.token(f"token-{name}")
        device = self.device(name, **more)
        state = await device.enrol(token=secret)
        assert state.state == "approved", state
        await self.reconciler.settle()
        return device

    async def blob(self, data: bytes) -> str:
        return await self.centre.blobs.put(data)

    async def release(self, version: str = "1.36.3", architecture: str = "amd64") -> str:
        """Push a tiny but well-formed, signed Kubernetes release; digest of its manifest."""
        name = f"kubernetes-{version}-{architecture}".replace(".", "-")
        return await self.artifact(name, "kubernetes", version, architecture)

    async def artifact(self, name: str, kind: str, version: str, architecture: str) -> str:
        layer = f"layer of {name}".encode()
        config = f'{{"name":"{name}"}}'.encode()
        manifest = new_manifest(
            artifact_type="application/vnd.skerry.test",
            config=Descriptor(
                media_type="application/json", digest=sha256(config), size=len(config)
            ),
            layers=(Descriptor(media_type="application/x", digest=sha256(layer), size=len(layer)),),
        ).encode()
        assert self.centre.keys.release is not None
        statement = messages.ArtifactStatement(
            name=name,
            type=kind,
            version=version,
            architecture=architecture,
            digest=sha256(manifest),
        )
        envelope = env.sign(
            env.ARTIFACT, canonical_json(statement), [self.centre.keys.release]
        ).encode()
        for data in (layer, config, manifest, envelope):
            await self.blob(data)
        self.artifacts[name] = {
            "type": kind,
            "version": version,
            "architecture": architecture,
            "digest": sha256(manifest),
            "envelopeDigest": sha256(envelope),
        }
        await self.release_again(name)
        return sha256(manifest)

    async def release_again(self, name: str) -> None:
        """Apply an artifact that was made before."""
        await self.apply("Artifact", "artifacts", name, self.artifacts[name])

    async def profile(self, name: str = "edge", version: str = "1.0.0", **more: Any) -> Any:
        return await self.apply(
            "ClusterProfile", "clusterprofiles", name, profile_spec(version, **more)
        )

    async def cluster(self, name: str, host: str, version: str = "1.0.0", **more: Any) -> Any:
        return await self.apply(
            "Cluster", "clusters", name, cluster_spec(host, version=version, **more)
        )


def path_of(plural: str, name: str = "", project: str = "default") -> str:
    system = ("projects", "artifacts", "users", "serviceaccounts", "roles", "rolebindings")
    base = f"/v1/{plural}" if plural in system else f"/v1/projects/{project}/{plural}"
    return f"{base}/{name}" if name else base


def profile_spec(version: str = "1.0.0", **more: Any) -> dict[str, Any]:
    kubernetes = more.pop("kubernetes", "1.36.3")
    layers = [
        {"name": "k8s", "type": "kubernetes", "provider": "kubeadm", "version": kubernetes},
        {"name": "net", "type": "network", "provider": "routed"},
        *more.pop("layers", []),
    ]
    layers[0]["values"] = more.pop("values", "")
    return {"version": version, "type": "full", "layers": layers, **more}


def cluster_spec(host: str, *, version: str = "1.0.0", **more: Any) -> dict[str, Any]:
    return {
        "profiles": [{"name": "edge", "version": version}],
        "pools": [{"name": "main", "role": "control-plane", "hosts": [host]}],
        **more,
    }


def running(cluster: str, *, version: str = "1.36.3", ready: bool = True) -> KubernetesState:
    return KubernetesState(
        cluster=cluster,
        release=version,
        control_plane_version=version,
        kubelet_version=version,
        api_ready=True,
        node_ready=ready,
        layers=(LayerState(name="net", ready=True),),
    )


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=str(tmp_path / "data"), url=BASE, login_per_minute=6000)


@pytest.fixture
async def manager(settings: Settings, anyio_backend: str) -> AsyncIterator[Manager]:
    clock = ManualClock()
    async with open_centre(settings, clock=clock) as centre:
        app = build_app(centre)
        found = Manager(
            centre=centre,
            app=app,
            clock=clock,
            reconciler=Reconciler(centre),
            admin=None,  # type: ignore[arg-type]  # set below
            clients=[],
        )
        password = first_password(settings.data)
        answer = await found.client().post(
            "/v1/login", json={"user": "admin", "password": password}
        )
        assert answer.status_code == 200, answer.text
        found.admin = found.client(key=answer.json()["token"])
        yield found
        for client in found.clients:
            await client.aclose()


def condition(document: dict[str, Any], kind: str) -> str:
    """The reason of one condition."""
    return next(
        (str(c["reason"]) for c in document["status"]["conditions"] if c["type"] == kind), ""
    )


def problems_of(answer: httpx2.Response) -> dict[str, str]:
    """Problems of an answer by their path."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    return {item["path"]: item["message"] for item in answer.json()["problems"]}
