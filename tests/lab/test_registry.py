"""A site behind a proxy with a private registry: real containerd, real registry, real proxying.

The host reaches nothing but the proxy. One cluster serves all chapters, as making it takes a
minute; each chapter runs an image of its own, so that it has to be pulled.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import httpx2
import pytest

from skerry.builder.agent import build_agent
from skerry.builder.cache import default_cache
from skerry.builder.example import build_example
from skerry.builder.gomodules import machine_architecture
from skerry.builder.release import build_release
from skerry.client.api import Api
from skerry.lab import ContainerHost, Lab, content, deviations, onboarding
from skerry.lab.imageregistry import PASSWORD, USER, ImageRegistry, registry_program
from skerry.lab.inprocess import Running, running_manager
from skerry.lib import pki
from skerry.lib.clock import SystemClock
from skerry.lib.errors import SkerryError
from skerry.lib.proc import SystemRunner
from skerry.manager.settings import Settings
from skerry.model.kinds import KINDS
from skerry.plan.kubernetes import ADDRESS, POD_CIDR, SERVICE_CIDR

pytestmark = [
    pytest.mark.lab,
    pytest.mark.long,
    pytest.mark.anyio,
    pytest.mark.timeout(1800),
]

CHECKOUT = Path(__file__).resolve().parents[2]
HOST, CLUSTER, VERSION = "harbour-1", "harbour", "1.35.4"
MANAGER_PORT, REGISTRY_PORT, PROXY_PORT = 9443, 5443, 3128
# Nobody has this name: only the mirror can give the image.
IMAGE = "shop.example/web"
KUBECTL = ["/var/lib/skerry/links/kubectl", "--kubeconfig=/etc/kubernetes/admin.conf"]


@dataclass
class ForwardProxy:
    """A forward proxy that knows CONNECT only, and what it was asked for.

    It leads to `only` and nowhere else, so that no test reaches beyond the lab.
    """

    only: str
    targets: list[str] = field(default_factory=list)

    async def serve(
        self,
        address: str,
        port: int,
        *,
        task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        async with await anyio.create_tcp_listener(local_host=address, local_port=port) as listener:
            task_status.started()
            await listener.serve(self._connection)

    async def _connection(self, client: anyio.abc.SocketStream) -> None:
        async with client:
            with contextlib.suppress(anyio.EndOfStream, anyio.ClosedResourceError, OSError):
                head = b""
                while b"\r\n\r\n" not in head:
                    head += await client.receive()
                method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
                self.targets.append(target)
                if method != "CONNECT" or target.rpartition(":")[0] != self.only:
                    await client.send(b"HTTP/1.1 403 Forbidden\r\n\r\n")
                    return
                await self._tunnel(client, target)

    async def _tunnel(self, client: anyio.abc.SocketStream, target: str) -> None:
        try:
            server = await anyio.connect_tcp(self.only, int(target.rpartition(":")[2]))
        except OSError:
            await client.send(b"HTTP/1.1 502 no way there\r\n\r\n")
            return
        async with server, anyio.create_task_group() as tg:
            await client.send(b"HTTP/1.1 200 connected\r\n\r\n")
            tg.start_soon(self._pipe, client, server)
            tg.start_soon(self._pipe, server, client)

    @staticmethod
    async def _pipe(one: anyio.abc.SocketStream, other: anyio.abc.SocketStream) -> None:
        with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            async for data in one:
                await other.send(data)
            await other.send_eof()


@dataclass
class Site:
    """The host, what it may reach, and the manager."""

    lab: Lab
    host: ContainerHost
    proxy: ForwardProxy
    registry: ImageRegistry
    running: Running

    @property
    def api(self) -> Api:
        return self.running.api

    @property
    def proxy_url(self) -> str:
        return f"http://{self.lab.gateway}:{PROXY_PORT}"

    def registries(self, **changes: str) -> dict[str, Any]:
        """The profile value, right but for `changes` (ca, username, password)."""
        account = {
            "ca": self.registry.ca_pem,
            "username": USER,
            "password": "${{ secret.registry.password }}",
            **changes,
        }
        return {
            "mirrors": {"shop.example": [f"https://{self.registry.host}"]},
            "hosts": {self.registry.host: account},
        }

    async def desire(self, version: str, *, tag: str, registries: Mapping[str, Any]) -> None:
        """Apply the example with another image and other registries, as one profile version."""
        values = {
            **deviations(self.lab.facts),
            "proxy": {"http": self.proxy_url, "https": self.proxy_url},
            "registries": dict(registries),
        }
        profile, cluster = content.example_documents(CHECKOUT, values)
        profile["spec"]["version"] = version
        for layer in profile["spec"]["layers"]:
            if layer["name"] == "web":
                del layer["artifacts"]
                layer["waitS"] = 10
                layer["manifests"] = (
                    layer["manifests"]
                    .replace("skerry.dev/example/web:1.0", f"{IMAGE}:{tag}")
                    .replace("imagePullPolicy: Never", "imagePullPolicy: IfNotPresent")
                )
        cluster["spec"]["profiles"][0]["version"] = version
        cluster["spec"]["variables"]["greeting"] = "from the registry"
        for document in (profile, cluster):
            await self.api.apply(KINDS[document["kind"]], "default", document)

    async def kubectl(self, *arguments: str) -> str:
        return (await self.host.run([*KUBECTL, *arguments], timeout_s=60)).stdout

    async def running_image(self) -> str:
        """Image of the pod that is ready."""
        pods = json.loads(await self.kubectl("-n", "shop", "get", "pods", "-o", "json"))["items"]
        return ",".join(
            pod["spec"]["containers"][0]["image"]
            for pod in pods
            if pod["status"].get("containerStatuses", [{}])[0].get("ready")
        )

    async def processes(self) -> str:
        """Ids of everything that must not restart."""
        script = (
            "systemctl show -p MainPID --value skerry-containerd skerry-kubelet skerry-agent;"
            "pgrep -x kube-apiserver; pgrep -x etcd"
        )
        return (await self.host.run(["sh", "-c", script], timeout_s=20)).stdout

    async def cause(self) -> dict[str, Any]:
        return dict(await self.api.why_host("default", HOST))


@pytest.fixture(scope="module")
async def site(lab: Lab, lab_base: Path) -> AsyncIterator[Site]:
    cache, runner = default_cache(os.environ), SystemRunner()
    archive = await build_agent(
        cache=cache, runner=runner, lock=CHECKOUT / "requirements" / "dev.txt"
    )
    program = await registry_program(cache, runner, os.environ)
    host = await lab.add_host(HOST)
    await host.start()
    proxy = ForwardProxy(str(lab.gateway))
    with tempfile.TemporaryDirectory(dir=lab_base) as folder:
        settings = Settings(
            data=f"{folder}/data",
            host=str(lab.gateway),
            port=MANAGER_PORT,
            names=(str(lab.gateway),),
            agent_archives=((machine_architecture(), str(archive.path)),),
            sync_interval_s=5,
        )
        registry = ImageRegistry(
            program,
            Path(folder) / "registry",
            address=str(lab.gateway),
            port=REGISTRY_PORT,
            clock=SystemClock(),
        )
        async with (
            registry,
            running_manager(settings, Path(folder) / "key") as running,
            anyio.create_task_group() as tg,
        ):
            await tg.start(proxy.serve, str(lab.gateway), PROXY_PORT)
            await host.run(["nft", "-f", "-"], stdin=_only_by_proxy(lab), timeout_s=10)
            built = [
                await build_release(VERSION, cache=cache, runner=runner, env=os.environ),
                example := await build_example("1.0", cache=cache, runner=runner),
            ]
            for tag in ("1.0", "5.0"):
                await registry.push(example.path, repository="web", tag=tag)
            key = onboarding.release_key(Path(running.info.data))
            await onboarding.push_artifacts(running.api, built[:1], key=key)
            secret = {
                "kind": "Secret",
                "metadata": {"name": "registry"},
                "spec": {"data": {"password": PASSWORD}},
            }
            await running.api.apply(KINDS["Secret"], "default", secret)
            yield Site(lab, host, proxy, registry, running)
            tg.cancel_scope.cancel()


def _only_by_proxy(lab: Lab) -> bytes:
    """A firewall on the host: of this computer it reaches the proxy and the resolver only."""
    return f"""table inet site_firewall {{
  chain out {{
    type filter hook output priority 0; policy accept;
    ct state established,related accept
    ip daddr {lab.gateway} tcp dport {{ {PROXY_PORT}, 53 }} accept
    ip daddr {lab.gateway} meta l4proto tcp reject with tcp reset
  }}
}}
""".encode()


async def until(what: str, check: Any, *, limit_s: float) -> Any:
    """Wait for an async condition; its last error or value is the failure's text."""
    seen: object = None
    with anyio.move_on_after(limit_s):
        while True:
            try:
                seen = await check()
                if seen:
                    return seen
            except (SkerryError, httpx2.HTTPError, AssertionError) as exc:
                seen = exc
            await anyio.sleep(1)
    pytest.fail(f"{what} did not come about within {limit_s:g} s; last seen: {seen}")


async def test_a_site_behind_a_proxy_runs_images_of_a_private_registry(site: Site) -> None:
    direct = f"https://{site.lab.gateway}:{MANAGER_PORT}/healthz"
    refused = await site.host.run(["curl", "-sk", direct], timeout_s=10, check=False)
    assert refused.code == 7, "the firewall of this test does not work"

    await it_registers_and_becomes_a_cluster_through_the_proxy(site)
    before = await site.processes()
    await each_mistake_has_one_cause(site)
    await right_registries_are_read_without_a_restart(site, before)
    await nothing_of_the_cluster_went_through_the_proxy(site)


async def it_registers_and_becomes_a_cluster_through_the_proxy(site: Site) -> None:
    token = await onboarding.new_token(
        site.api, "proxied", {"autoApprove": True, "proxy": site.proxy_url}
    )
    await onboarding.install_agent(site.host, str(token["install"]))
    await onboarding.wait_for_host(site.api, HOST, limit_s=60)

    await site.desire("1.0.0", tag="1.0", registries=site.registries())
    await onboarding.wait_for_cluster(site.api, CLUSTER, limit_s=300)

    assert await site.running_image() == f"{IMAGE}:1.0"
    async with httpx2.AsyncClient(trust_env=False, timeout=5) as http:
        assert "from the registry" in (await http.get(f"http://{site.host.address}:30080/")).text
    gateway = site.lab.gateway
    assert set(site.proxy.targets) == {f"{gateway}:{MANAGER_PORT}", f"{gateway}:{REGISTRY_PORT}"}


async def each_mistake_has_one_cause(site: Site) -> None:
    other = pki.new_authority("somebody else", now=SystemClock().now()).certificate_pem
    image = f"{IMAGE}:{{}} cannot be pulled"
    mistakes = {
        "2.0": (
            site.registries(password="wrong"),
            f"image {image}: registry shop.example does not accept this host's credentials",
        ),
        "3.0": (
            site.registries(ca=other),
            f"image {image}: certificate of registry {site.registry.host} is not accepted",
        ),
        "4.0": (site.registries(), f"image {image}: registry shop.example does not have it"),
    }
    for tag, (registries, wanted) in mistakes.items():
        await site.desire(f"1.{tag}", tag=tag, registries=registries)
        told = wanted.format(tag)

        async def told_at_the_centre(told: str = told) -> bool:
            cause = await site.cause()
            assert told in cause["message"], cause
            return bool(cause["reason"] == "ImagePullFailed")

        await until(told, told_at_the_centre, limit_s=120)
        status = await site.host.run(["skerry-agent", "status"], timeout_s=20)
        assert told in " ".join(status.stdout.split()), status.stdout
        assert await site.running_image() == f"{IMAGE}:1.0", "the old pod serves on"


async def right_registries_are_read_without_a_restart(site: Site, before: str) -> None:
    await site.desire("1.5.0", tag="5.0", registries=site.registries())

    async def runs() -> bool:
        return await site.running_image() == f"{IMAGE}:5.0"

    await until("the new image", runs, limit_s=120)
    await onboarding.wait_for_cluster(site.api, CLUSTER, limit_s=60)
    assert await site.processes() == before


async def nothing_of_the_cluster_went_through_the_proxy(site: Site) -> None:
    """API server to kubelet and back, also for a person's kubectl, while a proxy is set."""
    await site.kubectl("-n", "shop", "logs", "deploy/web")
    await site.kubectl("-n", "shop", "exec", "deploy/web", "--", "/bin/busybox", "true")
    environment = await site.host.run(
        ["sh", "-c", "tr '\\0' '\\n' < /proc/$(pgrep -x kube-apiserver)/environ"], timeout_s=10
    )
    assert "PROXY" not in environment.stdout.upper()

    own = [ipaddress.ip_network(text) for text in (POD_CIDR, SERVICE_CIDR, "127.0.0.0/8", ADDRESS)]
    strays = []
    for target in set(site.proxy.targets):
        name = target.rpartition(":")[0].strip("[]")
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            if name.endswith((".svc", ".cluster.local")) or name == "localhost":
                strays.append(target)
        else:
            strays += [target for network in own if address in network]
    assert strays == []
