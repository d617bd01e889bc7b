"""The main job on real Kubernetes: a machine becomes a cluster, changes, survives, and is reset.

One story, because each chapter needs the one before and a cluster takes a minute to make.
"""

from __future__ import annotations

import base64
import contextlib
import os
import ssl
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
import yaml

from skerry.builder.agent import build_agent
from skerry.builder.cache import default_cache
from skerry.builder.example import build_example
from skerry.builder.gomodules import machine_architecture
from skerry.builder.release import build_release
from skerry.client.api import Api
from skerry.client.bundles import download_bundle
from skerry.lab import ContainerHost, Lab, content, deviations, onboarding
from skerry.lab.inprocess import Running, running_manager
from skerry.lib.errors import SkerryError
from skerry.lib.proc import SystemRunner
from skerry.manager.settings import Settings
from skerry.model.kinds import KINDS

pytestmark = [pytest.mark.lab, pytest.mark.anyio, pytest.mark.timeout(5400)]

CHECKOUT = Path(__file__).resolve().parents[2]
HOST = "harbour-1"
CLUSTER = "harbour"
OLD, NEW = "1.35.4", "1.36.3"
KUBECTL = ["/var/lib/skerry/links/kubectl", "--kubeconfig=/etc/kubernetes/admin.conf"]

WRITER = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: writer, namespace: default}
spec:
  replicas: 1
  strategy: {type: Recreate}
  selector: {matchLabels: {app: writer}}
  template:
    metadata: {labels: {app: writer}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: writer
          image: skerry.dev/example/web:1.0
          imagePullPolicy: Never
          command: [/bin/busybox, sh, -c]
          args:
            - |
              i=$(tail -n1 /data/log 2>/dev/null || echo 0); i=${i:-0}
              while :; do i=$((i+1)); echo $i >> /data/log; sync /data/log; sleep 0.2; done
          volumeMounts: [{name: data, mountPath: /data}]
      volumes:
        - name: data
          hostPath: {path: /var/lib/writer, type: DirectoryOrCreate}
"""


@dataclass
class Bench:
    """The lab host, and a manager that can be taken away and brought back."""

    lab: Lab
    host: ContainerHost
    settings: Settings
    folder: Path
    values: Mapping[str, Any]

    @contextlib.asynccontextmanager
    async def manager(self) -> AsyncIterator[Running]:
        async with running_manager(self.settings, self.folder / "key") as running:
            yield running

    async def kubectl(self, *arguments: str) -> str:
        return (await self.host.run([*KUBECTL, *arguments], timeout_s=60)).stdout

    async def page(self) -> str:
        async with httpx2.AsyncClient(trust_env=False, timeout=5) as http:
            return (await http.get(f"http://{self.host.address}:30080/")).text

    def profile(self, version: str, kubernetes: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """The example profile at another version, with the writer as one more layer."""
        document = content.example_documents(CHECKOUT, {**self.values, **values})[0]
        document["spec"]["version"] = version
        for layer in document["spec"]["layers"]:
            if layer["type"] == "kubernetes":
                layer["version"] = kubernetes
        document["spec"]["layers"].append(
            {
                "name": "writer",
                "type": "addon",
                "artifacts": ["example-web-1-0"],
                "manifests": WRITER,
            }
        )
        return document

    def cluster(self, version: str, greeting: str) -> dict[str, Any]:
        document = content.example_documents(CHECKOUT, {})[1]
        document["spec"]["profiles"][0]["version"] = version
        document["spec"]["variables"]["greeting"] = greeting
        return document

    async def written(self) -> list[int]:
        text = (await self.host.run(["cat", "/var/lib/writer/log"], timeout_s=10)).stdout
        return [int(line) for line in text.split()]


@pytest.fixture(scope="module")
async def bench(lab: Lab, lab_base: Path) -> AsyncIterator[Bench]:
    archive = await build_agent(
        cache=default_cache(os.environ),
        runner=SystemRunner(),
        lock=CHECKOUT / "requirements" / "dev.txt",
    )
    host = await lab.add_host(HOST)
    await host.start()
    with tempfile.TemporaryDirectory(dir=lab_base) as folder:
        settings = Settings(
            data=f"{folder}/data",
            host=str(lab.gateway),
            port=9443,
            names=(str(lab.gateway),),
            agent_archives=((machine_architecture(), str(archive.path)),),
            sync_interval_s=5,
        )
        yield Bench(lab, host, settings, Path(folder), deviations(lab.facts))


async def apply(api: Api, *documents: dict[str, Any]) -> None:
    for document in documents:
        await api.apply(KINDS[document["kind"]], "default", document)


async def push_everything(running: Running, bench: Bench) -> None:
    cache, runner = default_cache(os.environ), SystemRunner()
    key = onboarding.release_key(Path(running.info.data))
    built = [
        await build_release(version, cache=cache, runner=runner, env=os.environ)
        for version in (OLD, NEW)
    ]
    built.append(await build_example("1.0", cache=cache, runner=runner))
    await onboarding.push_artifacts(running.api, built, key=key)


async def until(what: str, check: Any, *, limit_s: float) -> None:
    """Wait for an async condition; its last error or value is the failure's text."""
    seen: object = None
    with anyio.move_on_after(limit_s):
        while True:
            try:
                seen = await check()
                if seen:
                    return
            except (SkerryError, httpx2.HTTPError, AssertionError) as exc:
                seen = exc
            await anyio.sleep(1)
    pytest.fail(f"{what} did not come about within {limit_s:g} s; last seen: {seen}")


async def host_of(api: Api) -> dict[str, Any]:
    return dict(await api.get(KINDS["Host"], "default", HOST))


def condition(document: Mapping[str, Any], kind: str) -> dict[str, Any]:
    found = [item for item in document["status"]["conditions"] if item["type"] == kind]
    return found[0] if found else {}


@dataclass
class OutsideWriter:
    """Somebody elsewhere who keeps creating objects; remembers what the API acknowledged."""

    bench: Bench
    acknowledged: list[str] = field(default_factory=list)
    refused: int = 0
    number: int = 0

    async def run(self) -> None:
        context = await self._credentials()
        url = f"https://{self.bench.host.address}:6443/api/v1/namespaces/default/configmaps"
        async with httpx2.AsyncClient(verify=context, trust_env=False, timeout=2) as http:
            while True:
                self.number += 1
                name = f"outside-{self.number}"
                try:
                    answer = await http.post(url, json={"metadata": {"name": name}})
                    if answer.status_code == 201:
                        self.acknowledged.append(name)
                except httpx2.HTTPError:
                    self.refused += 1
                await anyio.sleep(0.2)

    async def _credentials(self) -> ssl.SSLContext:
        text = (
            await self.bench.host.run(["cat", "/etc/kubernetes/admin.conf"], timeout_s=10)
        ).stdout
        user = yaml.safe_load(text)["users"][0]["user"]
        context = ssl.create_default_context()
        # The certificate names the cluster's own address; who answers is not what is tested here.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        pem = self.bench.folder / "client.pem"
        pem.touch(mode=0o600)
        pem.write_bytes(
            base64.b64decode(user["client-certificate-data"])
            + base64.b64decode(user["client-key-data"])
        )
        context.load_cert_chain(pem)
        return context


async def test_main_job(bench: Bench) -> None:
    async with bench.manager() as running:
        await push_everything(running, bench)
        await a_host_registers(bench, running.api)
        await it_becomes_a_cluster_that_answers(bench, running.api)
        await a_value_changes_without_disruption(bench, running.api)
        await a_bad_upgrade_returns_and_loses_nothing(bench, running.api)
        bundle = await a_bundle_is_exported(bench, running.api)
    await it_upgrades_without_the_manager(bench, bundle)
    await it_reboots_into_running(bench)
    async with bench.manager() as running:
        await it_catches_up(running.api)
        await deletion_resets_the_host(bench, running.api)
        await the_host_can_be_used_again(bench, running.api)


async def a_host_registers(bench: Bench, api: Api) -> None:
    token = await onboarding.new_token(api, "lab", {"autoApprove": True})
    await onboarding.install_agent(bench.host, str(token["install"]))
    await onboarding.wait_for_host(api, HOST, limit_s=60)
    environment = await bench.host.run(
        ["sh", "-c", "cat /proc/*/environ /proc/*/cmdline 2>/dev/null | tr '\\0' '\\n'"],
        timeout_s=10,
    )
    assert token["secret"] not in environment.stdout


async def it_becomes_a_cluster_that_answers(bench: Bench, api: Api) -> None:
    await apply(api, bench.profile("1.0.0", OLD, {}), bench.cluster("1.0.0", "ahoy"))
    await onboarding.wait_for_cluster(api, CLUSTER, limit_s=300)

    await until("the page", lambda: _says(bench, "ahoy"), limit_s=30)
    await until("the writer", bench.written, limit_s=30)


async def a_value_changes_without_disruption(bench: Bench, api: Api) -> None:
    before = await bench.kubectl("get", "node", HOST, "-o", "jsonpath={.metadata.uid}")
    await apply(api, bench.cluster("1.0.0", "land in sight"))

    # A mounted ConfigMap reaches its pod with the kubelet's next sync, at most 90 s later.
    await until("the new page", lambda: _says(bench, "land in sight"), limit_s=150)
    await onboarding.wait_for_cluster(api, CLUSTER, limit_s=60)
    assert await bench.kubectl("get", "node", HOST, "-o", "jsonpath={.metadata.uid}") == before


async def a_bad_upgrade_returns_and_loses_nothing(bench: Bench, api: Api) -> None:
    """The control plane already answers as the new version when the kubelet cannot start."""
    bad = {
        "kubelet": {**bench.values.get("kubelet", {}), "featureGates": {"NoSuchFeature": True}},
        "upgrade": {"gateLimit": "60s"},
    }
    outside = OutsideWriter(bench)
    reached: set[str] = set()

    async def returned() -> bool:
        host = await host_of(api)
        reached.add(host["status"]["kubernetes"].get("controlPlaneVersion", ""))
        progress = host["status"].get("progress") or {}
        reached.add(progress.get("step", ""))
        return condition(host, "Reconciled").get("reason") == "UpgradeReturned" and not progress

    async with anyio.create_task_group() as tg:
        tg.start_soon(outside.run)
        await until("outside writes", lambda: _count(outside.acknowledged), limit_s=20)
        await apply(api, bench.profile("1.1.0", NEW, bad), bench.cluster("1.1.0", "bad weather"))
        await until("the return", returned, limit_s=420)
        before = len(outside.acknowledged)
        await until(
            "outside writes after the return",
            lambda: _count(outside.acknowledged[before:]),
            limit_s=60,
        )
        tg.cancel_scope.cancel()

    # The new control plane was up: its gate passed before the kubelet's failed.
    assert f"wait for the node with kubelet {NEW}" in reached
    host = await host_of(api)
    assert host["status"]["kubernetes"]["kubeletVersion"] == OLD
    assert host["status"]["kubernetes"]["controlPlaneVersion"] == OLD
    names = (await bench.kubectl("get", "configmaps", "-o", "name")).split()
    lost = [name for name in outside.acknowledged if f"configmap/{name}" not in names]
    assert lost == []
    assert outside.refused > 0
    numbers = await bench.written()
    assert numbers == list(range(1, len(numbers) + 1))
    why = await api.why_host("default", HOST)
    assert why["reason"] == "UpgradeReturned"
    assert why["nextAction"]


async def a_bundle_is_exported(bench: Bench, api: Api) -> Path:
    await apply(api, bench.profile("1.2.0", NEW, {}))
    # The line to the host is cut first, so that only the bundle can bring the upgrade.
    await bench.host.run(["systemctl", "stop", "skerry-agent"], timeout_s=60)
    await apply(api, bench.cluster("1.2.0", "new harbour"))
    before = (await host_of(api))["status"]["acknowledged"]["epoch"]
    place = bench.folder / "host.bundle"

    async def exported() -> bool:
        host = await host_of(api)
        return bool(host["status"]["desired"]["epoch"] > before + 1)

    await until("the new assignment", exported, limit_s=30)
    await download_bundle(api, "default", HOST, place)
    return place


async def it_upgrades_without_the_manager(bench: Bench, bundle: Path) -> None:
    await bench.host.copy_in(bundle, "/root/host.bundle")
    await bench.host.run(["skerry-agent", "import", "/root/host.bundle"], timeout_s=120)
    await bench.host.run(["systemctl", "start", "skerry-agent"], timeout_s=60)

    async def upgraded() -> bool:
        text = await bench.kubectl(
            "get", "node", HOST, "-o", "jsonpath={.status.nodeInfo.kubeletVersion}"
        )
        status = await bench.host.run(["skerry-agent", "status"], timeout_s=20)
        assert f"v{NEW}" == text, text
        assert "doing" not in status.stdout, status.stdout
        return f"kubernetes   {NEW}" in status.stdout

    await until("the upgrade", upgraded, limit_s=420)
    await until("the new page", lambda: _says(bench, "new harbour"), limit_s=150)
    numbers = await bench.written()
    assert numbers == list(range(1, len(numbers) + 1))


async def it_reboots_into_running(bench: Bench) -> None:
    await bench.host.stop()
    await bench.host.start()

    await until("the page after a reboot", lambda: _says(bench, "new harbour"), limit_s=180)


async def it_catches_up(api: Api) -> None:
    async def in_sync() -> bool:
        host = await host_of(api)
        desired, acknowledged = host["status"]["desired"], host["status"]["acknowledged"]
        assert desired == acknowledged, (desired, acknowledged, host["status"]["conditions"])
        return bool(host["status"]["kubernetes"]["release"] == NEW)

    await until("the host in sync", in_sync, limit_s=120)
    cluster = await onboarding.wait_for_cluster(api, CLUSTER, limit_s=60)
    assert cluster["status"]["kubernetesVersion"] == NEW


async def deletion_resets_the_host(bench: Bench, api: Api) -> None:
    await api.delete(KINDS["Cluster"], "default", CLUSTER)

    async def gone() -> bool:
        host = await host_of(api)
        return host["status"]["phase"] == "Ready" and not host["status"]["kubernetes"].get(
            "release"
        )

    await until("the reset", gone, limit_s=240)
    left = await bench.host.run(["sh", "-c", _LEFT], timeout_s=30)
    assert left.stdout == ""


_LEFT = """
units=/etc/systemd/system
for path in /etc/kubernetes /var/lib/etcd /var/lib/kubelet /etc/cni/net.d/10-skerry.conflist \\
  $units/skerry-kubelet.service $units/skerry-containerd.service; do
  [ ! -e "$path" ] || { [ -d "$path" ] && [ -z "$(ls -A "$path")" ]; } || echo "left: $path"
done
ip -br link | awk '{print $1}' | grep -E '^(cni0|skerry0|veth)' | sed 's/^/left: link /'
nft list tables | grep -E 'kube|skerry|cni' | sed 's/^/left: nft /'
mount | grep -E '/var/lib/skerry/|/run/skerry|/var/lib/kubelet/' | sed 's/^/left: mount /'
pgrep -a 'kubelet|containerd|etcd|kube-' | sed 's/^/left: process /'
ls /var/lib/skerry/releases/kubernetes 2>/dev/null | sed 's/^/left: release /'
true
"""


async def the_host_can_be_used_again(bench: Bench, api: Api) -> None:
    await apply(api, bench.cluster("1.2.0", "second voyage"))
    await onboarding.wait_for_cluster(api, CLUSTER, limit_s=300)
    await until("the page", lambda: _says(bench, "second voyage"), limit_s=60)


async def _says(bench: Bench, words: str) -> bool:
    return words in await bench.page()


async def _count(items: list[str]) -> int:
    return len(items)
