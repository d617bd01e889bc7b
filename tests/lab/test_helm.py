"""Real helm against a real API server: what it leaves when it dies, and that nothing of it stays.

No host and no kubelet: etcd, API server and two controllers on loopback are enough for objects, and
a hook whose Job nobody runs keeps helm waiting for as long as a test wants.
"""

from __future__ import annotations

import os
import secrets
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx2
import msgspec
import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from skerry.agent.content import ContentStore
from skerry.agent.kube import charts, inventory, places
from skerry.agent.kube.api import HttpKubeApi
from skerry.agent.kube.kubeadm import KubeadmEngine
from skerry.agent.kube.record import Doors, KubeRecord
from skerry.builder.cache import Cache, default_cache
from skerry.builder.charts import build_chart
from skerry.builder.gomodules import build_component, probe_toolchain
from skerry.builder.recipes import release_table
from skerry.lib.clock import SystemClock
from skerry.lib.digest import sha256
from skerry.lib.files import DiskRoot
from skerry.lib.oci import Layout
from skerry.lib.proc import Result, SystemRunner
from skerry.model.artifact import ArtifactRef
from skerry.model.kinds import LayerType
from skerry.plan import steps as do
from skerry.plan.desired import DesiredCluster, DesiredLayer

pytestmark = [pytest.mark.lab, pytest.mark.anyio, pytest.mark.timeout(1800)]

RELEASE = "1.36.3"
CHART = {
    "Chart.yaml": "apiVersion: v2\nname: kiosk\nversion: 1.0.0\n",
    "values.yaml": "greeting: none\nhook: false\nextra: false\nheld: false\nbroken: false\n",
    "templates/page.yaml": """
apiVersion: v1
kind: ConfigMap
metadata:
  name: page
  {{- if .Values.held }}
  finalizers: [skerry.dev/held]
  {{- end }}
data: {text: {{ .Values.greeting | quote }}}
{{- if .Values.broken }}{{ fail "the chart says no" }}{{ end }}
""",
    "templates/extra.yaml": """
{{- if .Values.extra }}
apiVersion: v1
kind: ConfigMap
metadata: {name: extra}
{{- end }}
""",
    # After the objects were made, so that a torn change leaves some.
    "templates/hook.yaml": """
{{- if .Values.hook }}
apiVersion: batch/v1
kind: Job
metadata: {name: never, annotations: {helm.sh/hook: "post-install,post-upgrade"}}
spec:
  template:
    spec: {restartPolicy: Never, containers: [{name: x, image: none}]}
{{- end }}
""",
}


class Elsewhere(SystemRunner):
    """Runs the host's programs from the builder's cache, with the test's credential."""

    def __init__(self, programs: dict[str, Path], credential: Path) -> None:
        self._programs = programs
        self._credential = credential

    async def run(self, argv: Sequence[str], **more: Any) -> Result:
        program = self._programs[argv[0].rpartition("/")[2]]
        words = [str(program), *argv[1:]]
        words[words.index("--kubeconfig") + 1] = str(self._credential)
        return await super().run(words, **more)


class ByToken(HttpKubeApi):
    """Asks with the test's credential, a token, instead of a kubeconfig that kubeadm wrote."""

    def __init__(self, root: DiskRoot, credential: Path) -> None:
        super().__init__(root)
        self._credential = credential

    async def _client(self, config: str) -> httpx2.AsyncClient:
        document = yaml.safe_load(self._credential.read_text())
        token = document["users"][0]["user"]["token"]
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return httpx2.AsyncClient(
            base_url=document["clusters"][0]["cluster"]["server"],
            headers={"authorization": f"Bearer {token}"},
            verify=context,
            trust_env=False,
        )


@dataclass
class Bench:
    doors: Doors
    engine: KubeadmEngine
    artifact: ArtifactRef

    def layer(self, values: str = "", **changes: Any) -> DesiredLayer:
        plain = DesiredLayer(
            name="kiosk",
            type=LayerType.ADDON,
            namespace="kiosk",
            chart="kiosk-1-0-0",
            values=values,
            artifacts=(self.artifact,),
            wait_s=30,
        )
        plain = msgspec.structs.replace(plain, **changes)
        return msgspec.structs.replace(plain, digest=sha256(msgspec.json.encode(plain)))

    async def apply(self, layer: DesiredLayer) -> inventory.Inventory:
        step = do.ApplyLayer(name=layer.name, digest=layer.digest)
        await self.engine.perform(step, self.cluster(layer))
        (found,) = inventory.inventories(self.doors)
        return found

    async def prune(self) -> None:
        await self.engine.perform(do.PruneLayer(name="kiosk"), None)

    def cluster(self, *layers: DesiredLayer) -> DesiredCluster:
        return DesiredCluster(
            name="quay",
            uid="u1",
            role="control-plane",
            node_name="n1",
            provider="kubeadm",
            version=RELEASE,
            release=self.artifact,
            layers=layers,
        )

    async def history(self) -> list[tuple[int, str]]:
        known = await charts.history(self.doors, "kiosk", "kiosk")
        return [(item.revision, item.status) for item in known]

    async def text(self, name: str = "page") -> str:
        answer = await self.doors.kubectl(
            *("--namespace", "kiosk", "get", "configmap", name, "--ignore-not-found"),
            *("-o", "jsonpath={.metadata.name}={.data.text}"),
        )
        return answer.stdout

    async def torn(self, layer: DesiredLayer, status: str) -> None:
        """Begin to apply a layer and kill everything when helm waits for the hook."""
        step = do.ApplyLayer(name=layer.name, digest=layer.digest)
        await self._torn(step, layer, status, ready=self._hook)

    async def torn_prune(self, layer: DesiredLayer) -> None:
        step = do.PruneLayer(name=layer.name)
        await self._torn(step, layer, "uninstalling", ready=lambda: self._is("uninstalling"))

    async def _torn(
        self,
        step: do.Step,
        layer: DesiredLayer,
        status: str,
        *,
        ready: Callable[[], Awaitable[bool]],
    ) -> None:
        async with anyio.create_task_group() as tg:
            tg.start_soon(self.engine.perform, step, self.cluster(layer))
            await until(ready)
            tg.cancel_scope.cancel()
        assert await self._is(status)

    async def _hook(self) -> bool:
        asked = ("--namespace", "kiosk", "get", "job", "never", "--ignore-not-found", "-o", "name")
        return (await self.doors.kubectl(*asked)).stdout != ""

    async def _is(self, status: str) -> bool:
        return [found for _, found in await self.history()][-1:] == [status]

    async def gone(self) -> bool:
        asked = ("get", "namespace", "kiosk", "--ignore-not-found")
        return (await self.doors.kubectl(*asked)).stdout == ""

    async def answers(self) -> bool:
        return (await self.doors.kubectl("get", "namespace", "default", check=False)).ok


async def until(check: Callable[[], Awaitable[bool]], *, limit_s: float = 60) -> None:
    """Wait for a condition."""
    with anyio.fail_after(limit_s):
        while True:
            if await check():
                return
            await anyio.sleep(0.2)


@pytest.fixture(scope="module")
async def programs(anyio_backend: str) -> dict[str, Path]:
    runner = SystemRunner()
    toolchain, table = await probe_toolchain(runner), release_table(RELEASE)
    found: dict[str, Path] = {}
    for name in ("kubernetes", "etcd", "helm"):
        component = await build_component(
            table.recipes[name],
            toolchain=toolchain,
            cache=default_cache(os.environ),
            runner=runner,
            env=os.environ,
        )
        found |= {program: component.program(program) for program in table.recipes[name].programs}
    return found


@pytest.fixture(scope="module")
async def bench(
    programs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, anyio_backend: str
) -> AsyncIterator[Bench]:
    folder = tmp_path_factory.mktemp("helm")
    with ExitStack() as stack:
        credential = start(stack, programs, folder)
        root = DiskRoot(str(folder / "host"))
        doors = Doors(
            runner=Elsewhere(programs, credential),
            root=root,
            clock=SystemClock(),
            content=ContentStore(root, None),
            api=ByToken(root, credential),
        )
        record = KubeRecord(cluster_uid="u1", started=True, initialised=True, version=RELEASE)
        root.write(places.RECORD, msgspec.json.encode(record))
        root.write(places.program(RELEASE, "helm"), b"")
        bench = Bench(
            doors,
            KubeadmEngine(doors.runner, root, doors.clock, doors.content, api=doors.api),
            a_chart(folder, doors.content),
        )
        await until(bench.answers)
        yield bench


def a_chart(folder: Path, content: Any) -> ArtifactRef:
    for path, text in CHART.items():
        (folder / "kiosk" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "kiosk" / path).write_text(text)
    built = build_chart(folder / "kiosk", cache=Cache(folder / "cache"))
    layout = Layout.open(built.path)
    pointer, manifest = layout.only_manifest()
    for part in (pointer, *manifest.layers):
        content.put(part.digest, layout.blob_path(part.digest).read_bytes())
    return ArtifactRef(
        name="kiosk-1-0-0",
        type="chart",
        version="1.0.0",
        architecture="any",
        digest=built.digest,
        envelope_digest=built.digest,
    )


def start(stack: ExitStack, programs: dict[str, Path], folder: Path) -> Path:
    """Start etcd, the API server and two controllers; a credential for them."""
    client, peer, api, healthz = (free_port() for _ in range(4))
    key = ec.generate_private_key(ec.SECP256R1())
    (folder / "sa.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    token = secrets.token_hex(16)
    (folder / "tokens.csv").write_text(f"{token},admin,admin,system:masters\n")
    credential = folder / "admin.conf"
    cluster = {"server": f"https://127.0.0.1:{api}", "insecure-skip-tls-verify": True}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "x",
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "clusters": [{"name": "x", "cluster": cluster}],
        "users": [{"name": "x", "user": {"token": token}}],
    }
    credential.write_text(yaml.safe_dump(config))
    etcd = f"http://127.0.0.1:{client}"
    commands = {
        "etcd": [
            *("--data-dir", str(folder / "etcd"), "--unsafe-no-fsync"),
            *("--listen-client-urls", etcd, "--advertise-client-urls", etcd),
            *("--listen-peer-urls", f"http://127.0.0.1:{peer}"),
        ],
        "kube-apiserver": [
            *(f"--etcd-servers={etcd}", f"--secure-port={api}", "--bind-address=127.0.0.1"),
            *(f"--cert-dir={folder}", "--authorization-mode=RBAC"),
            *(f"--token-auth-file={folder}/tokens.csv", "--service-cluster-ip-range=10.96.0.0/24"),
            *("--service-account-issuer=https://quay.test", "--anonymous-auth=false"),
            f"--service-account-key-file={folder}/sa.key",
            f"--service-account-signing-key-file={folder}/sa.key",
            "--disable-admission-plugins=ServiceAccount",
        ],
        "kube-controller-manager": [
            *(f"--kubeconfig={credential}", f"--secure-port={healthz}", f"--cert-dir={folder}"),
            *("--bind-address=127.0.0.1", "--leader-elect=false"),
            "--controllers=garbage-collector-controller,namespace-controller",
        ],
    }
    for name, words in commands.items():
        stack.enter_context(process([str(programs[name]), *words], folder / f"{name}.log"))
    return credential


@contextmanager
def process(argv: list[str], log: Path) -> Iterator[None]:
    with log.open("wb") as writing:
        started = subprocess.Popen(argv, stdout=writing, stderr=subprocess.STDOUT)
        try:
            yield
        finally:
            started.kill()
            started.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
async def clean(bench: Bench) -> AsyncIterator[Bench]:
    """Each test begins with nothing and has to leave nothing."""
    yield bench
    await bench.prune()
    assert inventory.inventories(bench.doors) == []
    await until(bench.gone)


async def test_install_upgrade_and_nothing_twice(clean: Bench) -> None:
    first = await clean.apply(clean.layer("greeting: ahoy"))
    second = await clean.apply(clean.layer("greeting: land in sight"))
    # As after a crash between helm's success and the agent's own note of it.
    inventory.save(clean.doors, msgspec.structs.replace(second, digest=""))
    third = await clean.apply(clean.layer("greeting: land in sight"))

    assert (first.error, third.error) == ("", "")
    assert third == second
    assert [ref.name for ref in third.objects] == ["kiosk", "page"]
    assert await clean.text() == "page=land in sight"
    assert await clean.history() == [(1, "superseded"), (2, "deployed")]


async def test_a_torn_install_is_installed_anew(clean: Bench) -> None:
    await clean.torn(clean.layer("{greeting: torn, hook: true}"), "pending-install")

    done = await clean.apply(clean.layer("greeting: whole"))

    assert done.error == ""
    assert await clean.text() == "page=whole"
    assert await clean.history() == [(1, "deployed")]


async def test_a_torn_upgrade_goes_on_and_leaves_nothing(clean: Bench) -> None:
    await clean.apply(clean.layer("greeting: first"))
    torn = clean.layer("{greeting: torn, hook: true, extra: true}")
    await clean.torn(torn, "pending-upgrade")
    assert await clean.text("extra") == "extra="

    done = await clean.apply(clean.layer("greeting: whole"))

    assert (done.error, done.loose) == ("", ())
    assert await clean.text() == "page=whole"
    assert await clean.text("extra") == ""
    assert (await clean.history())[-1][1] == "deployed"


async def test_a_torn_removal_is_finished(clean: Bench) -> None:
    held = clean.layer("{greeting: held, held: true}")
    await clean.apply(held)
    await clean.torn_prune(held)
    patch = '{"metadata": {"finalizers": null}}'
    await clean.doors.kubectl(
        *("--namespace", "kiosk", "patch", "configmap", "page", "--type=merge", "-p", patch)
    )

    done = await clean.apply(clean.layer("greeting: back"))

    assert done.error == ""
    assert await clean.history() == [(1, "deployed")]


async def test_a_chart_that_fails_is_told_in_helms_words_and_repaired(clean: Bench) -> None:
    await clean.apply(clean.layer("greeting: fine"))

    bad = await clean.apply(clean.layer("broken: true"))
    good = await clean.apply(clean.layer("greeting: fine again"))

    assert bad.error.startswith("layer kiosk: helm cannot apply chart kiosk-1-0-0: UPGRADE FAILED")
    assert "the chart says no" in bad.error
    assert good.error == ""
    assert await clean.text() == "page=fine again"


async def test_a_layer_changes_its_form_and_back(clean: Bench) -> None:
    text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: page}\ndata: {text: plain}\n"
    plain = clean.layer(chart="", artifacts=(), manifests=text)
    await clean.apply(plain)
    one = await clean.text()

    as_chart = await clean.apply(clean.layer("greeting: charted"))
    two = await clean.text()
    back = await clean.apply(plain)

    assert (as_chart.error, back.error) == ("", "")
    assert (one, two, await clean.text()) == ("page=plain", "page=charted", "page=plain")
    assert await clean.history() == []
