"""Bad luck on a real host, as chapters of a story: each shows one cause, the same words on both
sides, and ends well once the cause is gone, without anybody asking for another try."""

from __future__ import annotations

from typing import Any

import anyio
from tests.lab.bench import CLUSTER, HOST, Bench, apply, condition, host_of, until

from skerry.client.api import Api
from skerry.lab import onboarding
from skerry.model.kinds import KINDS

# Doubles: they look like another Kubernetes and do nothing.
_FOREIGN = """
set -e
cat > /etc/systemd/system/kubelet.service <<UNIT
[Service]
ExecStart=/bin/sleep infinity
UNIT
systemd-run --quiet --unit=double-port socat TCP-LISTEN:10250,fork /dev/null
"""
_FOREIGN_GONE = """
rm /etc/systemd/system/kubelet.service
systemctl stop double-port
"""


async def a_foreign_kubelet_is_refused_by_name(bench: Bench, api: Api, kubernetes: str) -> None:
    await bench.sh(_FOREIGN)

    await apply(api, bench.profile("1.0.0", kubernetes, {}), bench.cluster("1.0.0", "ahoy"))
    await until("the refusal", lambda: _blamed(api, "ForeignKubernetes"), limit_s=60)

    why = await api.why_host("default", HOST)
    for name in ("unit kubelet.service", "/etc/systemd/system/kubelet.service", "port 10250"):
        assert name in why["message"]
    assert why["nextAction"] == f"skerry describe host {HOST}"
    await _same_words(bench, api, "Another Kubernetes is here")
    assert await bench.sh("ls -A /var/lib/skerry/releases /var/lib/skerry/kube; true") == ""

    await bench.sh(_FOREIGN_GONE)
    # Nobody asks for another try: the next chapter waits for the cluster.


async def layers_that_never_become_ready(bench: Bench, api: Api, kubernetes: str) -> None:
    """An image that nobody has and a program that never says it is ready, repaired one by one."""
    image, probe = _layer("no-image", image="skerry.dev/example/none:9.9"), "false"
    steps = {
        "1.0.1": [image, _layer("never-ready", probe=probe)],
        "1.0.2": [_layer("no-image"), _layer("never-ready", probe=probe)],
        "1.0.3": [_layer("no-image"), _layer("never-ready")],
    }

    async def change(version: str) -> None:
        profile = bench.profile(version, kubernetes, {}, layers=steps[version])
        await apply(api, profile, bench.cluster(version, "fog"))

    async def told(reason: str, *words: str) -> bool:
        await _blamed(api, reason)
        message = (await api.why_host("default", HOST))["message"]
        assert all(word in message for word in words), message
        return True

    await change("1.0.1")
    both = (
        "no-image: Deployment no-image has 0 of 1 pods ready: image skerry.dev/example/none:9.9",
        "never-ready: Deployment never-ready has 0 of 1 pods ready",
    )
    await until("both causes", lambda: told("ImagePullFailed", *both), limit_s=120)
    await _same_words(bench, api, "Image cannot be pulled")
    assert await bench.page()

    await change("1.0.2")
    await until("the other cause", lambda: told("LayerNotReady", both[1]), limit_s=120)
    await _same_words(bench, api, "Layer is not ready")

    await change("1.0.3")
    await onboarding.wait_for_cluster(api, CLUSTER, limit_s=120)


async def a_kubelet_dies_after_its_upgrade(bench: Bench, api: Api) -> None:
    """The kubelet's own bookkeeping is damaged some time after the upgrade was confirmed: it ends
    at each start, and skerry cannot know better than the person who is told."""
    damaged = "/var/lib/kubelet/cpu_manager_state"
    await bench.sh(f"echo damaged > {damaged} && systemctl kill -s KILL skerry-kubelet")

    await until("the cause", lambda: _blamed(api, "KubeletNotReady"), limit_s=300)

    why = await api.why_host("default", HOST)
    assert why["nextAction"] == f"skerry describe host {HOST}"
    cluster = await api.get(KINDS["Cluster"], "default", CLUSTER)
    assert cluster["status"]["phase"] == "Degraded"
    await _same_words(bench, api, "kubelet is not ready")
    # What runs goes on. (Its service does not: Kubernetes takes a lost node's pods out of it.)
    written = await bench.nothing_written_was_lost()
    await anyio.sleep(1)
    assert await bench.nothing_written_was_lost() > written

    await bench.sh(f"rm {damaged}")
    await onboarding.wait_for_cluster(api, CLUSTER, limit_s=400)
    assert condition(await host_of(api), "Reconciled")["status"] == "True"


async def _blamed(api: Api, reason: str) -> bool:
    """Whether host and cluster both name the reason."""
    why = await api.why_host("default", HOST)
    assert why["reason"] == reason, why
    cluster = await api.get(KINDS["Cluster"], "default", CLUSTER)
    assert condition(cluster, "Ready")["reason"] == reason, cluster["status"]
    return True


async def _same_words(bench: Bench, api: Api, title: str) -> None:
    """The host in front of a person says what the centre says, with its next action."""

    async def says() -> bool:
        why = await api.why_host("default", HOST)
        shown = await bench.status()
        assert title == why["title"]
        assert title in shown, shown
        assert f"next  {why['nextAction'].split(' host ')[0]}" in shown, shown
        return True

    await until("the same words", says, limit_s=30)


def _layer(
    name: str, *, image: str = "skerry.dev/example/web:1.0", probe: str = "true"
) -> dict[str, Any]:
    return {
        "name": name,
        "type": "addon",
        "artifacts": ["example-web-1-0"],
        "waitS": 10,
        "manifests": f"""
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: default}}
spec:
  strategy: {{type: Recreate}}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: {name}
          image: {image}
          command: [/bin/busybox, sleep, "86400"]
          readinessProbe: {{exec: {{command: [/bin/busybox, "{probe}"]}}, periodSeconds: 1}}
""",
    }
