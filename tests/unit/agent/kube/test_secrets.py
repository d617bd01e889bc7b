"""Secrets reach programs by input or private files, and come back in no error or report."""

from __future__ import annotations

import base64
import stat
from pathlib import Path

import msgspec
import pytest
import structlog
from tests.unit.agent.test_work import Bench

from skerry.agent.content import ContentStore
from skerry.agent.journal import EventLog, Journal
from skerry.agent.kube import layers
from skerry.agent.kube.engine import EngineFailed, Reason
from skerry.agent.kube.fake import FakeKubeEngine
from skerry.agent.redact import redactor
from skerry.lib.digest import canonical_json, sha256
from skerry.model.kinds import LayerType
from skerry.model.meta import Condition
from skerry.plan import steps as do
from skerry.plan.desired import DesiredCluster, DesiredLayer
from skerry.plan.observed import KubeObserved, ObservedLayer

pytestmark = pytest.mark.anyio

PLANTED = "planted-8Kd2-secret"
VALUES = {
    "registries": {
        "hosts": {"registry.test": {"username": "till", "password": f"{PLANTED}-registry"}}
    },
    "proxy": {"http": f"http://user:{PLANTED}-proxy@proxy.test:3128"},
}
MANIFEST = f"""
apiVersion: v1
kind: Secret
metadata: {{name: app}}
stringData: {{key: {PLANTED}-app}}
"""


def a_cluster(host, manifests: str = MANIFEST):  # type: ignore[no-untyped-def]
    layer = DesiredLayer(
        name="web", type=LayerType.ADDON, manifests=manifests, digest=sha256(manifests.encode())
    )
    return host.cluster(
        values=VALUES, config_digest=sha256(canonical_json(VALUES)), layers=(layer,)
    )


async def test_programs_get_them_by_input_and_files_are_private(host) -> None:
    host.remember()
    cluster = a_cluster(host)
    await host.engine.perform(
        do.FetchRelease(version=cluster.version, release=cluster.release), cluster
    )
    await host.engine.perform(
        do.UnpackRelease(release=cluster.release, version=cluster.version), cluster
    )
    await host.engine.perform(do.ConfigureHost(version=cluster.version), cluster)
    await host.engine.perform(do.ApplyLayer(name="web", digest=cluster.layers[0].digest), cluster)

    assert host.runner.calls
    assert PLANTED not in str(host.runner.calls)
    assert any(PLANTED.encode() in (given or b"") for given in host.runner.inputs)
    secret = base64.b64encode(f"till:{PLANTED}-registry".encode())
    holders = {
        path: stat.S_IMODE(path.stat().st_mode)
        for path in Path(host.root.base).rglob("*")
        if path.is_file() and any(word in path.read_bytes() for word in (PLANTED.encode(), secret))
    }
    assert len(holders) >= 2
    assert set(holders.values()) == {0o600}, holders


class Quoting(FakeKubeEngine):
    """An engine whose every failure quotes what the API server was given."""

    text = ""

    async def perform(self, step: do.Step, cluster: DesiredCluster | None) -> None:
        if isinstance(step, do.GateNode):
            raise EngineFailed(Reason.KUBELET_NOT_READY, self.text, hint=self.text, retryable=False)
        await super().perform(step, cluster)

    async def observe(self) -> KubeObserved:
        layer = ObservedLayer(name="web", digest="d", ready=False, message=self.text)
        return msgspec.structs.replace(await super().observe(), layers=(layer,))

    async def health(self, cluster: DesiredCluster) -> tuple[Condition, ...]:
        return (
            Condition(type="Layers", status="False", reason="LayerNotReady", message=self.text),
        )


async def test_an_api_server_that_quotes_a_secret_is_not_repeated() -> None:
    secret = f"{PLANTED}-sealed"
    encoded = base64.b64encode(secret.encode()).decode()
    bench = Bench()
    bench.engine = Quoting(bench.clock, architecture=bench.arch)
    bench.engine.text = f'data: Invalid value: "{secret}"; patch {{"key":"{encoded}"}}'
    bench.restart()
    bench.assign("1.36.3", secret=secret, greeting="hi")
    shown: list[str] = []
    with structlog.testing.capture_logs() as logs:
        for _ in range(6):
            await bench.worker.turn()
            shown += [
                str(bench.standing.conditions),
                str(bench.standing.kubernetes),
                str([item.message for item in EventLog(bench.root).waiting()]),
                str(Journal(bench.root).failed()),
            ]

    everything = "\n".join([*shown, str(logs)])
    assert "Invalid value" in everything, "the failure itself is told"
    assert '"***"' in everything
    assert PLANTED not in everything
    assert encoded not in everything


def test_every_form_of_a_secret_is_known(host) -> None:
    clean = redactor([f"{PLANTED}\nsecond line\t{PLANTED}"], a_cluster(host))

    for text in (
        PLANTED,
        f"second line\\t{PLANTED}",
        f"{PLANTED}-registry",
        f"{PLANTED}-proxy",
        f"{PLANTED}-app",
        base64.b64encode(f"till:{PLANTED}-registry".encode()).decode(),
        base64.b64encode(f"{PLANTED}-app".encode()).decode(),
    ):
        assert text not in clean(f"error: {text} is invalid")
    assert clean("nothing of it") == "nothing of it"


@pytest.mark.parametrize("secret", ["", "ab", "\n\n", "   "])
def test_what_is_too_short_to_be_a_secret_hides_no_words(secret: str) -> None:
    assert redactor([secret])("a bad cab") == "a bad cab"


async def test_a_manifest_that_is_no_yaml_is_named_by_its_line_only(host) -> None:
    host.remember()
    host.workloads()
    cluster = a_cluster(host, f"{MANIFEST}broken: '{PLANTED}-open")

    await host.engine.perform(do.ApplyLayer(name="web", digest=cluster.layers[0].digest), cluster)
    (found,) = await layers.observe(host.doors)

    assert "in line" in found.message
    assert PLANTED not in found.message


def test_content_from_a_bundle_is_private(tmp_path: Path, host) -> None:
    store = ContentStore(host.root, None)
    data = msgspec.json.encode({"password": PLANTED})

    store.put(sha256(data), data)

    place = Path(host.root.host_path(store.path(sha256(data))))
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
