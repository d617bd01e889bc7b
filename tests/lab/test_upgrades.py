"""Upgrades one after another: a minor, a patch and another minor version, each with its proof.

Between the first and the last the cluster runs three minor versions in a row. After the last one,
when it is long confirmed, the kubelet dies.
"""

from __future__ import annotations

import json

import pytest
from tests.lab import trouble
from tests.lab.bench import CLUSTER, HOST, Bench, apply, host_of, in_sync, push, register, until

from skerry.client.api import Api
from skerry.lab import onboarding
from skerry.plan.kubernetes import KubernetesValues

pytestmark = [
    pytest.mark.lab,
    pytest.mark.long,
    pytest.mark.anyio,
    pytest.mark.timeout(5400),
]

FIRST, *NEXT = VERSIONS = ("1.35.4", "1.36.1", "1.36.3", "1.37.2")

_ETCD = """
version=$(readlink /var/lib/skerry/links/kubelet | cut -d/ -f7)
/var/lib/skerry/releases/kubernetes/$version/bin/etcdctl --endpoints=https://127.0.0.1:2379 \\
  --cacert=/etc/kubernetes/pki/etcd/ca.crt --cert=/etc/kubernetes/pki/etcd/healthcheck-client.crt \\
  --key=/etc/kubernetes/pki/etcd/healthcheck-client.key "$@" --write-out=json
"""


async def test_patch_and_minor_upgrades_in_a_row(bench: Bench) -> None:
    chapter = bench.chapter
    async with bench.manager() as running:
        api = running.api
        async with chapter("releases are built and pushed"):
            await push(running, *VERSIONS)
            await register(bench, api)
        async with chapter(f"a cluster with {FIRST}"):
            await apply(api, bench.profile("1.0.0", FIRST, {}), bench.cluster("1.0.0", FIRST))
            await onboarding.wait_for_cluster(api, CLUSTER, limit_s=300)
            await until("the writer", bench.written, limit_s=30)
        await every_version_is_healthy(bench, FIRST)
        for number, version in enumerate(NEXT, start=1):
            async with chapter(f"an upgrade to {version}"):
                await it_upgrades(bench, api, profile=f"1.{number}.0", version=version)
            await every_version_is_healthy(bench, version)
        async with chapter("a kubelet dies after its upgrade"):
            await trouble.a_kubelet_dies_after_its_upgrade(bench, api)
        await bench.nothing_written_was_lost()


async def it_upgrades(bench: Bench, api: Api, *, profile: str, version: str) -> None:
    written = await bench.nothing_written_was_lost()
    await apply(api, bench.profile(profile, version, {}), bench.cluster(profile, version))

    await until("the upgrade", lambda: in_sync(api, version), limit_s=600)
    await onboarding.wait_for_cluster(api, CLUSTER, limit_s=60)
    await until("the page", lambda: bench.says(version), limit_s=150)
    assert await bench.nothing_written_was_lost() > written
    events = (await host_of(api))["status"]["conditions"]
    assert not any(item["reason"] == "UpgradeReturned" for item in events)


async def every_version_is_healthy(bench: Bench, version: str) -> None:
    """Programs, API, node and core add-ons are all of the version, and only it is on the disk."""

    async def only_this_release() -> bool:
        left = (await bench.sh("ls /var/lib/skerry/releases/kubernetes")).split()
        images = await bench.sh(
            "/var/lib/skerry/links/ctr --address /run/skerry/containerd/containerd.sock"
            " --namespace k8s.io images ls -q"
        )
        own = {line.rsplit(":", 1)[1] for line in images.split() if "/kube-apiserver:" in line}
        assert (left, own) == ([version], {f"v{version}"})
        return True

    await until("the old release to be gone", only_this_release, limit_s=60)

    told = json.loads(await bench.kubectl("version", "-o", "json"))
    assert told["clientVersion"]["gitVersion"] == f"v{version}"
    assert told["serverVersion"]["gitVersion"] == f"v{version}"
    node = json.loads(await bench.kubectl("get", "node", HOST, "-o", "json"))
    assert node["status"]["nodeInfo"]["kubeletVersion"] == f"v{version}"
    proxy = await bench.kubectl(
        *("--namespace", "kube-system", "get", "daemonset", "kube-proxy", "-o"),
        "jsonpath={.spec.template.spec.containers[0].image}",
    )
    assert proxy.endswith(f":v{version}")
    await etcd_is_healthy(bench)


async def etcd_is_healthy(bench: Bench) -> None:
    """One member, healthy, without alarms; saved before each upgrade and no more than is kept."""
    health = json.loads(await etcdctl(bench, "endpoint", "health"))
    assert [item["health"] for item in health] == [True]
    assert len(json.loads(await etcdctl(bench, "member", "list"))["members"]) == 1
    assert not json.loads(await etcdctl(bench, "alarm", "list")).get("alarms")
    saved = (await bench.sh("ls /var/lib/skerry/snapshots/*/etcd.json")).split()
    assert 1 <= len(saved) <= KubernetesValues().snapshot_keep
    assert (await bench.sh("ls -d /var/lib/skerry/snapshots/*")).count("-to-") <= len(NEXT)


async def etcdctl(bench: Bench, *words: str) -> str:
    done = await bench.host.run(["sh", "-c", _ETCD, "sh", *words], timeout_s=30)
    return done.stdout
