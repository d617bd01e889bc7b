"""A Helm chart of one's own on real Kubernetes: installed, changed, torn, broken, mended, removed.

One story on one host, because a cluster takes a minute to make and each chapter seconds.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from skerry.builder.agent import build_agent
from skerry.builder.archives import build_images
from skerry.builder.cache import Cache, default_cache
from skerry.builder.charts import build_chart
from skerry.builder.example import build_example
from skerry.builder.gomodules import machine_architecture
from skerry.builder.layout import BuiltArtifact
from skerry.builder.release import build_release
from skerry.client.api import Api
from skerry.lab import ContainerHost, Lab, content, deviations, onboarding
from skerry.lab.inprocess import Running, running_manager
from skerry.lib.errors import SkerryError
from skerry.lib.oci import Layout
from skerry.lib.proc import SystemRunner
from skerry.manager.settings import Settings
from skerry.model.kinds import KINDS

pytestmark = [
    pytest.mark.lab,
    pytest.mark.long,
    pytest.mark.anyio,
    pytest.mark.timeout(3600),
]

CHECKOUT = Path(__file__).resolve().parents[2]
HOST, CLUSTER, RELEASE = "quay-1", "quay", "1.36.3"
LINKS = "/var/lib/skerry/links"
ADMIN = "--kubeconfig=/etc/kubernetes/admin.conf"
IMAGE = "skerry.dev/example/web:1.0"

CHART = {
    "Chart.yaml": "apiVersion: v2\nname: kiosk\nversion: 1.0.0\n",
    "values.yaml": "greeting: none\nimage: none\nhookSeconds: 0\n",
    "templates/hook.yaml": """
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ .Release.Name }}-before
  annotations:
    helm.sh/hook: pre-install,pre-upgrade
    helm.sh/hook-delete-policy: before-hook-creation
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 1
      containers:
        - name: before
          image: skerry.dev/example/web:1.0
          imagePullPolicy: Never
          command: [/bin/busybox, sleep, "{{ .Values.hookSeconds }}"]
""",
    "templates/page.yaml": """
apiVersion: v1
kind: Secret
metadata: {name: page}
stringData:
  index.html: {{ .Values.greeting | quote }}
""",
    "templates/web.yaml": """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  strategy: {type: Recreate}
  selector: {matchLabels: {app: web}}
  template:
    metadata:
      labels: {app: web}
      annotations: {page: {{ .Values.greeting | sha256sum }}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: web
          image: {{ .Values.image }}
          imagePullPolicy: Never
          command: [/bin/busybox, httpd, -f, -p, "8080", -h, /www]
          volumeMounts: [{name: page, mountPath: /www}]
          readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
      volumes:
        - name: page
          secret: {secretName: page}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080, nodePort: 30080}]
""",
}

LAYER = {
    "name": "kiosk",
    "type": "addon",
    "namespace": "kiosk",
    "chart": "kiosk-1-0-0",
    "artifacts": ["kiosk-1-0-0", "web-1-0"],
    "waitS": 15,
    "values": "greeting: '${{ greeting }} ${{ secret.kiosk.word }}'\n"
    "image: ${{ image }}\n"
    "hookSeconds: ${{ hookSeconds }}\n",
}
SECRET = "planted-quayside-word"


@dataclass
class Quay:
    """The host and its manager."""

    host: ContainerHost
    running: Running
    values: dict[str, Any]

    @property
    def api(self) -> Api:
        return self.running.api

    async def apply(self, *documents: dict[str, Any]) -> None:
        for document in documents:
            await self.api.apply(KINDS[document["kind"]], "default", document)

    def profile(self, version: str, *layers: dict[str, Any]) -> dict[str, Any]:
        names = {"greeting": "ahoy", "image": IMAGE, "hookSeconds": "0"}
        document = {
            "kind": "ClusterProfile",
            "metadata": {"name": "quay"},
            "spec": {
                "version": version,
                "type": "full",
                "variables": [{"name": name, "default": text} for name, text in names.items()],
                "layers": [
                    {
                        "name": "kubernetes",
                        "type": "kubernetes",
                        "provider": "kubeadm",
                        "version": RELEASE,
                    },
                    {"name": "network", "type": "network", "provider": "routed"},
                    *layers,
                ],
            },
        }
        return content.with_values(document, self.values)

    def cluster(self, version: str, **variables: str) -> dict[str, Any]:
        return {
            "kind": "Cluster",
            "metadata": {"name": CLUSTER},
            "spec": {
                "profiles": [{"name": "quay", "version": version}],
                "variables": variables,
                "pools": [{"name": "main", "role": "control-plane", "hosts": [HOST]}],
            },
        }

    async def on_host(self, *argv: str) -> str:
        return (await self.host.run(list(argv), timeout_s=60)).stdout

    async def history(self) -> list[tuple[int, str]]:
        text = await self.on_host(
            f"{LINKS}/helm", ADMIN, *("history", "kiosk", "-n", "kiosk", "-o", "json")
        )
        return [(item["revision"], item["status"]) for item in json.loads(text)]

    async def says(self, words: str) -> bool:
        async with httpx2.AsyncClient(trust_env=False, timeout=5) as http:
            return words in (await http.get(f"http://{self.host.address}:30080/")).text

    async def in_sync(self) -> bool:
        host = dict(await self.api.get(KINDS["Host"], "default", HOST))
        desired, acknowledged = host["status"]["desired"], host["status"]["acknowledged"]
        assert desired == acknowledged, (desired, acknowledged, host["status"]["conditions"])
        return True

    async def why(self) -> dict[str, Any]:
        return dict(await self.api.why_host("default", HOST))


@pytest.fixture(scope="module")
async def quay(lab: Lab, lab_base: Path) -> AsyncIterator[Quay]:
    cache, runner = default_cache(os.environ), SystemRunner()
    archive = await build_agent(
        cache=cache, runner=runner, lock=CHECKOUT / "requirements" / "dev.txt"
    )
    host = await lab.add_host(HOST)
    await host.start()
    with tempfile.TemporaryDirectory(dir=lab_base) as name:
        folder = Path(name)
        settings = Settings(
            data=str(folder / "data"),
            host=str(lab.gateway),
            port=9444,
            names=(str(lab.gateway),),
            agent_archives=((machine_architecture(), str(archive.path)),),
            sync_interval_s=2,
        )
        for path, text in CHART.items():
            (folder / "kiosk" / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / "kiosk" / path).write_text(text)
        async with running_manager(settings, folder / "key") as running:
            example = await build_example("1.0", cache=cache, runner=runner)
            own = Cache(folder / "cache")
            built = [
                await build_release(RELEASE, cache=cache, runner=runner, env=os.environ),
                build_images([archive_of(example)], cache=own, architecture=machine_architecture()),
                build_chart(folder / "kiosk", cache=own),
            ]
            key = onboarding.release_key(Path(running.info.data))
            await onboarding.push_artifacts(running.api, built, key=key)
            token = await onboarding.new_token(running.api, "lab", {"autoApprove": True})
            await onboarding.install_agent(host, str(token["install"]))
            await onboarding.wait_for_host(running.api, HOST, limit_s=60)
            yield Quay(host, running, dict(deviations(lab.facts)))


def archive_of(example: BuiltArtifact) -> Path:
    """The example's image as somebody's archive: an OCI layout tar, packed with gzip."""
    layout = Layout.open(example.path)
    _, manifest = layout.only_manifest()
    return layout.blob_path(manifest.layers[0].digest)


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
            await anyio.sleep(0.5)
    pytest.fail(f"{what} did not come about within {limit_s:g} s; last seen: {seen}")


async def test_a_chart_lives_and_dies_as_a_layer(quay: Quay) -> None:
    secret = {"kind": "Secret", "metadata": {"name": "kiosk"}, "spec": {"data": {"word": SECRET}}}
    await quay.apply(secret, quay.profile("1.0.0"), quay.cluster("1.0.0"))
    await onboarding.wait_for_cluster(quay.api, CLUSTER, limit_s=300)
    began = anyio.current_time()
    for chapter in (
        it_is_installed,
        a_variable_upgrades_it,
        nothing_happens_again,
        a_torn_upgrade_is_recovered,
        a_broken_image_is_one_cause,
        it_is_repaired,
        no_secret_is_left_on_the_host,
        it_is_removed,
    ):
        await chapter(quay)
        print(f"{chapter.__name__}: {anyio.current_time() - began:.1f} s")


async def it_is_installed(quay: Quay) -> None:
    await quay.apply(quay.profile("1.1.0", LAYER), quay.cluster("1.1.0"))
    await until("the page", lambda: quay.says(f"ahoy {SECRET}"), limit_s=90)
    await until("the host in sync", quay.in_sync, limit_s=30)

    assert await quay.history() == [(1, "deployed")]
    done = await quay.on_host(
        f"{LINKS}/kubectl",
        ADMIN,
        *("-n", "kiosk", "get", "job", "kiosk-before", "-o", "jsonpath={.status.succeeded}"),
    )
    assert done == "1"


async def a_variable_upgrades_it(quay: Quay) -> None:
    await quay.apply(quay.cluster("1.1.0", greeting="land in sight"))
    await until("the new page", lambda: quay.says("land in sight"), limit_s=90)
    await until("the host in sync", quay.in_sync, limit_s=30)

    assert await quay.history() == [(1, "superseded"), (2, "deployed")]


async def nothing_happens_again(quay: Quay) -> None:
    before = await quay.history()
    await quay.on_host("systemctl", "restart", "skerry-agent")
    # Something else changes, so that the agent certainly planned after its restart.
    note = {
        "name": "note",
        "type": "addon",
        "manifests": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: note}\n",
    }
    await quay.apply(
        quay.profile("1.2.0", LAYER, note), quay.cluster("1.2.0", greeting="land in sight")
    )

    async def there() -> bool:
        found = await quay.on_host(f"{LINKS}/kubectl", ADMIN, "get", "configmap", "note")
        return "note" in found

    await until("the other layer", there, limit_s=60)
    await until("the host in sync", quay.in_sync, limit_s=60)
    assert await quay.history() == before


async def a_torn_upgrade_is_recovered(quay: Quay) -> None:
    """The agent and helm die in the middle of an upgrade, as in a power cut."""
    await quay.apply(quay.cluster("1.2.0", greeting="half way", hookSeconds="12"))

    async def in_the_middle() -> bool:
        return (await quay.history())[-1] == (3, "pending-upgrade")

    await until("the upgrade's beginning", in_the_middle, limit_s=60)
    await quay.on_host(*("systemctl", "kill", "--kill-whom=all", "-s", "SIGKILL", "skerry-agent"))
    running = await quay.host.run(["pgrep", "-f", "links/helm"], timeout_s=10, check=False)
    assert running.stdout == ""
    assert (await quay.history())[-1] == (3, "pending-upgrade")

    await until("the page", lambda: quay.says("half way"), limit_s=120)
    await until("the host in sync", quay.in_sync, limit_s=60)
    assert (await quay.history())[-1] == (3, "deployed")


async def a_broken_image_is_one_cause(quay: Quay) -> None:
    await quay.apply(quay.cluster("1.2.0", greeting="broken", image="skerry.dev/no/such:1"))

    async def told() -> bool:
        why = await quay.why()
        text = json.dumps(why)
        assert "kiosk" in text, text
        assert "image skerry.dev/no/such:1 is not on this host" in text, text
        return why["reason"] == "ImagePullFailed" and bool(why["nextAction"])

    await until("the cause", told, limit_s=90)


async def it_is_repaired(quay: Quay) -> None:
    await quay.apply(quay.cluster("1.2.0", greeting="sound again"))
    await until("the page", lambda: quay.says("sound again"), limit_s=120)
    await until("the host in sync", quay.in_sync, limit_s=60)


async def no_secret_is_left_on_the_host(quay: Quay) -> None:
    logs = await quay.on_host("journalctl", "-u", "skerry-agent", "--no-pager")
    assert "layer" in logs
    assert SECRET not in logs
    # The kubelet's mount and the cluster's own database hold it; helm's folder must not.
    left = await quay.host.run(["grep", "-rl", SECRET, "/run/skerry"], timeout_s=30, check=False)
    assert left.stdout == ""


async def it_is_removed(quay: Quay) -> None:
    await quay.apply(quay.profile("1.3.0"), quay.cluster("1.3.0"))

    async def gone() -> bool:
        answer = await quay.on_host(
            f"{LINKS}/kubectl", ADMIN, "get", "namespace", "kiosk", "--ignore-not-found"
        )
        assert answer == "", answer
        return True

    await until("the namespace's end", gone, limit_s=120)
    await until("the host in sync", quay.in_sync, limit_s=60)
    releases = await quay.on_host(f"{LINKS}/helm", ADMIN, "list", "--all-namespaces", "-o", "json")
    assert json.loads(releases) == []
