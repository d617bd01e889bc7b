"""The main job on real Kubernetes: a machine becomes a cluster, changes, survives, and is reset.

One story, because each chapter needs the one before and a cluster takes a minute to make.
"""

from __future__ import annotations

import base64
import ssl
import time
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import httpx2
import pytest
import yaml
from tests.lab import trace, trouble
from tests.lab.bench import (
    CLUSTER,
    HOST,
    Bench,
    apply,
    condition,
    host_of,
    in_sync,
    push,
    register,
    until,
)

from skerry.client.api import Api
from skerry.client.bundles import download_bundle
from skerry.lab import onboarding
from skerry.model.kinds import KINDS

pytestmark = [pytest.mark.lab, pytest.mark.anyio, pytest.mark.timeout(5400)]

OLD, NEW = "1.35.4", "1.36.3"


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
    before = await trace.record(bench.host)
    chapter = bench.chapter
    async with bench.manager() as running:
        api = running.api
        async with chapter("releases are built and pushed"):
            await push(running, OLD, NEW)
        async with chapter("a host registers"):
            await a_host_registers(bench, api)
        async with chapter("a foreign kubelet is refused by name"):
            await trouble.a_foreign_kubelet_is_refused_by_name(bench, api, OLD)
        async with chapter("it becomes a cluster that answers"):
            await it_becomes_a_cluster_that_answers(bench, api)
        async with chapter("a value changes without disruption"):
            await a_value_changes_without_disruption(bench, api)
        async with chapter("layers that never become ready"):
            await trouble.layers_that_never_become_ready(bench, api, OLD)
        async with chapter("a bad upgrade returns and loses nothing"):
            await a_bad_upgrade_returns_and_loses_nothing(bench, api)
        async with chapter("a bundle is exported"):
            bundle = await a_bundle_is_exported(bench, api)
    async with chapter("it upgrades without the manager"):
        await it_upgrades_without_the_manager(bench, bundle)
    async with chapter("it reboots into running"):
        await it_reboots_into_running(bench)
    async with bench.manager() as running:
        api = running.api
        async with chapter("it catches up"):
            await it_catches_up(api)
        async with chapter("deletion resets the host"):
            await deletion_resets_the_host(bench, api)
        async with chapter("the host can be used again"):
            await the_host_can_be_used_again(bench, api)
        async with chapter("removal leaves no trace"):
            await removal_leaves_no_trace(bench, before)


async def a_host_registers(bench: Bench, api: Api) -> None:
    token = await register(bench, api)
    environment = await bench.sh(
        "cat /proc/*/environ /proc/*/cmdline 2>/dev/null | tr '\\0' '\\n'; true"
    )
    assert token["secret"] not in environment


async def it_becomes_a_cluster_that_answers(bench: Bench, api: Api) -> None:
    # Asked for when the host was refused; now it forms by itself.
    await onboarding.wait_for_cluster(api, CLUSTER, limit_s=300)

    await until("the page", lambda: bench.says("ahoy"), limit_s=30)
    await until("the writer", bench.written, limit_s=30)


async def a_value_changes_without_disruption(bench: Bench, api: Api) -> None:
    before = await bench.kubectl("get", "node", HOST, "-o", "jsonpath={.metadata.uid}")
    await apply(api, bench.cluster("1.0.0", "land in sight"))

    await until("the new page", lambda: bench.says("land in sight"), limit_s=150)
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
    await bench.nothing_written_was_lost()
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
        status = await bench.status()
        assert f"v{NEW}" == text, text
        assert "doing" not in status, status
        return f"kubernetes   {NEW}" in status

    await until("the upgrade", upgraded, limit_s=420)
    await until("the new page", lambda: bench.says("new harbour"), limit_s=150)
    await bench.nothing_written_was_lost()


async def it_reboots_into_running(bench: Bench) -> None:
    began = time.monotonic()
    await bench.host.stop()
    bench.note("shutdown", time.monotonic() - began)
    await bench.host.start()

    await until("the page after a reboot", lambda: bench.says("new harbour"), limit_s=180)


async def it_catches_up(api: Api) -> None:
    await until("the host in sync", lambda: in_sync(api, NEW), limit_s=120)
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
    assert await bench.sh(_LEFT) == ""


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
    await until("the page", lambda: bench.says("second voyage"), limit_s=60)


async def removal_leaves_no_trace(bench: Bench, before: trace.Trace) -> None:
    """A running cluster and the agent go; the host is what it was before it registered."""
    await bench.host.run(["skerry-agent", "remove", "--yes"], timeout_s=240)
    await bench.sh("rm -r /root/host.bundle")  # the test's own

    after = await trace.record(bench.host)

    left = trace.differences(before, after)
    assert not left, "\n".join(left)


async def _count(items: list[str]) -> int:
    return len(items)
