"""Charts as layers: by real helm's own rules, never twice, and never stuck after an interruption.

`Helm` below behaves as Helm 4 does where skerry depends on it: it keeps a record per revision,
refuses a release whose last change is pending, and purges all records on uninstall.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
import yaml

from skerry.agent.kube import inventory, layers, places, runtime
from skerry.lib.digest import sha256
from skerry.lib.oci import Descriptor, new_manifest
from skerry.lib.proc import CommandTimedOut, Result
from skerry.model.artifact import ArtifactRef
from skerry.model.kinds import LayerType
from skerry.model.release import CHART_ARTIFACT_TYPE, CHART_LAYER_TYPE
from skerry.plan import steps as do
from skerry.plan.desired import DesiredCluster, DesiredLayer

pytestmark = pytest.mark.anyio

KUBECTL, HELM = f"{places.LINKS}/kubectl", f"{places.LINKS}/helm"
WEB = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
"""
EXTRA = """
---
apiVersion: v1
kind: ConfigMap
metadata: {name: extra}
---
apiVersion: v1
kind: Secret
metadata: {name: kept, annotations: {helm.sh/resource-policy: keep}}
"""


class Died(BaseException):
    """The agent or the power went away; nothing may catch this but the test."""


@dataclass
class Line:
    revision: int
    status: str
    description: str
    manifest: str


@dataclass
class Helm:
    """Helm's records by (namespace, name), and what goes wrong next."""

    manifest: str = WEB
    records: dict[tuple[str, str], list[Line]] = field(default_factory=dict)
    calls: list[list[str]] = field(default_factory=list)
    dies_in: str = ""
    fails_in: str = ""
    says: str = "Error: UPGRADE FAILED: no"
    slow: bool = False
    spaces: dict[str, dict[str, str]] = field(default_factory=dict)

    def verbs(self) -> list[str]:
        return [call[0] for call in self.calls if call[0] in ("upgrade", "uninstall")]

    def called(self, verb: str) -> list[str]:
        """The only call of a verb."""
        (call,) = [call for call in self.calls if call[0] == verb]
        return call

    def helm(self, argv: tuple[str, ...]) -> Result:
        words = list(argv[3:])
        self.calls.append(words)
        verb = words[0]
        name = words[2] if verb in ("upgrade", "get") else words[1]
        space = words[words.index("--namespace") + 1]
        lines = self.records.setdefault((space, name), [])
        if self.slow and verb == "upgrade":
            raise CommandTimedOut(argv, 60)
        return getattr(self, f"_{verb}")(argv, words, lines)

    def _history(self, argv, words, lines) -> Result:
        if not lines:
            return Result(argv, 1, "", "Error: release: not found\n")
        told = [
            {"revision": x.revision, "status": x.status, "description": x.description}
            for x in lines
        ]
        return Result(argv, 0, json.dumps(told), "")

    def _get(self, argv, words, lines) -> Result:
        if self.dies_in == "get":
            raise Died
        wanted = int(words[words.index("--revision") + 1]) if "--revision" in words else 0
        line = next(x for x in reversed(lines) if wanted in (0, x.revision))
        return Result(argv, 0, line.manifest, "")

    def _upgrade(self, argv, words, lines) -> Result:
        last = lines[-1].status if lines else ""
        if last.startswith("pending"):
            return Result(argv, 1, "", "Error: UPGRADE FAILED: another operation is in progress")
        if last == "uninstalling":
            return Result(argv, 1, "", 'Error: UPGRADE FAILED: "web" has no deployed releases')
        line = Line(
            lines[-1].revision + 1 if lines else 1,
            "pending-upgrade" if lines else "pending-install",
            "",
            self.manifest,
        )
        lines.append(line)
        if self.dies_in == "upgrade":
            raise Died
        if self.fails_in == "upgrade":
            line.status, line.description = "failed", "no"
            return Result(argv, 1, "", f"level=WARN msg=hm\n{self.says}\n")
        for old in lines[:-1]:
            old.status = "superseded" if old.status == "deployed" else old.status
        line.status = "deployed"
        line.description = words[words.index("--description") + 1]
        return Result(argv, 0, "", "")

    def _uninstall(self, argv, words, lines) -> Result:
        if not lines:
            told = "Error: uninstall: Release not loaded: web: release: not found\n"
            return Result(argv, 1, "", told)
        lines[-1].status = "uninstalling"
        if self.dies_in == "uninstall":
            raise Died
        if self.fails_in == "uninstall":
            return Result(argv, 1, "", "Error: 1 error occurred:\n\t* job bye failed\n")
        lines.clear()
        return Result(argv, 0, "", "")

    def kubectl(self, argv: tuple[str, ...]) -> Result | None:
        if "secrets" in argv and "delete" in argv:
            space = argv[argv.index("--namespace") + 1]
            wanted = dict(x.split("=") for x in argv[argv.index("--selector") + 1].split(","))
            assert wanted["owner"] == "helm"
            lines = self.records[(space, wanted["name"])]
            lines[:] = [x for x in lines if x.revision != int(wanted["version"])]
            return Result(argv, 0, "", "")
        if "get" in argv and "namespace" in argv:
            name = argv[argv.index("namespace") + 1]
            there = self.spaces.get(name)
            text = json.dumps({"metadata": {"labels": there}}) if there is not None else ""
            return Result(argv, 0, text, "")
        return None


@pytest.fixture
def helm(host) -> Helm:
    fake = Helm()
    host.runner.answer_with(HELM, answer=fake.helm)
    host.runner.answer_with(KUBECTL, answer=fake.kubectl)
    host.remember()
    host.root.write(places.program("1.36.3", "helm"), b"", mode=0o755)
    return fake


def chart(host, data: bytes = b"chart") -> ArtifactRef:
    layer = Descriptor(media_type=CHART_LAYER_TYPE, digest=host.content.add(data), size=len(data))
    config = Descriptor(media_type="x", digest=host.content.add(b"{}"), size=2)
    manifest = new_manifest(artifact_type=CHART_ARTIFACT_TYPE, config=config, layers=(layer,))
    return ArtifactRef(
        name="shop-1-0-0",
        type="chart",
        version="1.0.0",
        architecture="any",
        digest=host.content.add(manifest.encode()),
        envelope_digest=sha256(b"e"),
    )


def a_layer(host, **changes: object) -> DesiredLayer:
    plain = DesiredLayer(
        name="web",
        type=LayerType.ADDON,
        chart="shop-1-0-0",
        namespace="shop",
        values="greeting: ahoy\n",
        artifacts=(chart(host),),
        wait_s=120,
    )
    plain = msgspec.structs.replace(plain, **changes)
    return msgspec.structs.replace(plain, digest=sha256(msgspec.json.encode(plain)))


def manifests_layer(host, text: str = WEB, **changes: object) -> DesiredLayer:
    return a_layer(host, chart="", artifacts=(), values="", manifests=text, **changes)


async def apply(host, *every: DesiredLayer, hidden: tuple[str, ...] = ()) -> DesiredCluster:
    cluster = host.cluster(layers=every, hidden=hidden)
    for layer in every:
        await host.engine.perform(do.ApplyLayer(name=layer.name, digest=layer.digest), cluster)
    return cluster


async def died(host, layer: DesiredLayer) -> None:
    with pytest.raises(Died):
        await apply(host, layer)


def only(host) -> inventory.Inventory:
    (found,) = inventory.inventories(host.doors)
    return found


def deployed(helm: Helm, space: str = "shop") -> str:
    last = helm.records[(space, "web")][-1]
    return f"{last.revision} {last.status}"


def deleted(host) -> list[str]:
    return [call for call in host.kubectl_calls() if "delete" in call and "secrets" not in call]


async def test_a_chart_is_installed_offline_from_its_file_under_the_layers_name(host, helm) -> None:
    layer = a_layer(host)

    await apply(host, layer)

    call = helm.called("upgrade")
    assert call[:3] == ["upgrade", "--install", "web"]
    assert host.root.read(f"{places.STATE}/content/sha256/{sha256(b'chart')[7:]}") == b"chart"
    assert call[3] == host.root.host_path(f"{places.STATE}/content/sha256/{sha256(b'chart')[7:]}")
    text = " ".join(call)
    assert "--namespace shop" in text
    assert "--history-max 5" in text
    assert "--timeout 120s" in text
    assert only(host).digest == layer.digest
    assert only(host).error == ""


async def test_values_go_by_standard_input_and_lie_nowhere(host, helm) -> None:
    layer = a_layer(host, values="password: hunter2-hunter2\n")

    await apply(host, layer, hidden=("hunter2-hunter2",))

    assert helm.called("upgrade")[-2:] == ["--values", "-"]
    position = next(i for i, call in enumerate(host.runner.calls) if "upgrade" in call)
    assert host.runner.inputs[position] == b"password: hunter2-hunter2\n"
    assert not any("hunter2" in word for call in host.runner.calls for word in call)
    files = [place for place in Path(host.root.base).rglob("*") if place.is_file()]
    assert files
    assert not [place for place in files if b"hunter2" in place.read_bytes()]


async def test_the_namespace_is_made_with_the_layers_label(host, helm) -> None:
    await apply(host, a_layer(host))

    (made,) = [
        yaml.safe_load(data)
        for call, data in zip(host.runner.calls, host.runner.inputs, strict=True)
        if call[0] == KUBECTL and "apply" in call
    ]
    assert made["metadata"] == {"name": "shop", "labels": {"skerry.dev/layer": "web"}}


async def test_a_layer_without_a_namespace_goes_into_the_default_one(host, helm) -> None:
    await apply(host, a_layer(host, namespace=""))

    assert deployed(helm, "default") == "1 deployed"
    assert not any("apply" in call for call in host.kubectl_calls())


async def test_an_agent_that_died_after_helms_success_does_not_upgrade_again(host, helm) -> None:
    layer = a_layer(host)
    helm.dies_in = "get"
    await died(host, layer)

    helm.dies_in = ""
    await apply(host, layer)

    assert helm.verbs() == ["upgrade"]
    assert only(host).digest == layer.digest


async def test_a_torn_install_is_taken_away_and_installed_anew(host, helm) -> None:
    """So that its install hooks run, which an upgrade would leave out."""
    layer = a_layer(host)
    helm.dies_in = "upgrade"
    await died(host, layer)
    assert deployed(helm) == "1 pending-install"

    helm.dies_in = ""
    await apply(host, layer)

    assert helm.verbs() == ["upgrade", "uninstall", "upgrade"]
    assert "--no-hooks" in helm.called("uninstall")
    assert deployed(helm) == "1 deployed"
    assert only(host).error == ""


@pytest.mark.parametrize("status", ["pending-upgrade", "pending-rollback"])
async def test_a_torn_upgrade_is_forgotten_and_what_it_made_goes(host, helm, status: str) -> None:
    await apply(host, a_layer(host))
    helm.manifest, helm.dies_in = WEB + EXTRA, "upgrade"
    await died(host, a_layer(host, values="greeting: torn\n"))
    helm.records[("shop", "web")][-1].status = status

    helm.manifest, helm.dies_in = WEB, ""
    last = a_layer(host, values="greeting: whole\n")
    await apply(host, last)

    assert deployed(helm) == "2 deployed"
    assert only(host).digest == last.digest
    assert only(host).loose == ()
    # What the chart keeps for ever is left alone.
    assert deleted(host) == [
        "--namespace shop delete ConfigMap extra --ignore-not-found --wait=false"
    ]


async def test_what_a_torn_upgrade_made_is_known_before_its_record_goes(host, helm) -> None:
    await apply(host, a_layer(host))
    helm.manifest, helm.dies_in = WEB + EXTRA, "upgrade"
    await died(host, a_layer(host, values="greeting: torn\n"))
    helm.manifest = WEB

    # It dies a second time, after the torn record was dropped.
    await died(host, a_layer(host, values="greeting: whole\n"))

    assert "extra" in [ref.name for ref in only(host).loose]


async def test_an_uninstall_that_was_cut_off_is_finished_before_the_next_install(
    host, helm
) -> None:
    layer = a_layer(host)
    cluster = await apply(host, layer)
    helm.dies_in = "uninstall"
    with pytest.raises(Died):
        await host.engine.perform(do.PruneLayer(name="web"), cluster)
    assert deployed(helm) == "1 uninstalling"

    helm.dies_in = ""
    await apply(host, a_layer(host, values="greeting: back\n"))

    assert helm.verbs() == ["upgrade", "uninstall", "uninstall", "upgrade"]
    assert deployed(helm) == "1 deployed"


async def test_a_prune_that_was_cut_off_is_done_again(host, helm) -> None:
    cluster = await apply(host, a_layer(host))
    helm.dies_in = "uninstall"
    with pytest.raises(Died):
        await host.engine.perform(do.PruneLayer(name="web"), cluster)

    helm.dies_in = ""
    await host.engine.perform(do.PruneLayer(name="web"), cluster)

    assert helm.records[("shop", "web")] == []
    assert inventory.inventories(host.doors) == []


async def test_helms_own_words_are_told_and_the_layer_is_tried_again_later(host, helm) -> None:
    helm.fails_in = "upgrade"
    helm.says = (
        "Error: INSTALLATION FAILED: failed pre-install: 1 error occurred:\n\t* job x failed"
    )
    bad, good = a_layer(host), manifests_layer(host, name="good")
    host.workloads()

    await apply(host, bad, good)
    now = {item.name: item for item in await layers.observe(host.doors)}
    host.clock.advance(60)
    later = {item.name: item for item in await layers.observe(host.doors)}

    assert now["web"].message.endswith(
        "INSTALLATION FAILED: failed pre-install: 1 error occurred: * job x failed"
    )
    assert now["web"].digest == bad.digest
    assert now["web"].reason == "LayerNotReady"
    assert (now["web"].again, later["web"].again) == (False, True)
    assert "good" in now


async def test_a_first_install_that_failed_is_tried_as_an_install_again(host, helm) -> None:
    helm.fails_in = "upgrade"
    await apply(host, a_layer(host))

    helm.fails_in = ""
    await apply(host, a_layer(host))

    assert helm.verbs() == ["upgrade", "uninstall", "upgrade"]
    assert deployed(helm) == "1 deployed"
    assert only(host).error == ""


async def test_a_failed_upgrade_is_followed_by_another_upgrade(host, helm) -> None:
    await apply(host, a_layer(host))
    helm.fails_in = "upgrade"
    await apply(host, a_layer(host, values="greeting: bad\n"))

    helm.fails_in = ""
    await apply(host, a_layer(host, values="greeting: good\n"))

    assert helm.verbs() == ["upgrade", "upgrade", "upgrade"]
    assert deployed(helm) == "3 deployed"


async def test_pauses_between_tries_grow(host, helm) -> None:
    helm.fails_in = "upgrade"

    for _ in range(3):
        await apply(host, a_layer(host))

    assert only(host).failures == 3


async def test_a_secret_that_helm_quotes_is_not_in_the_message(host, helm) -> None:
    helm.fails_in = "upgrade"
    helm.says = "Error: UPGRADE FAILED: bad value \"hunter2-hunter2\" and 'line-two-of-it'"
    layer = a_layer(host)

    await apply(host, layer, hidden=("hunter2-hunter2", "line-one\nline-two-of-it\n"))

    assert only(host).error.endswith("bad value \"***\" and '***'")


async def test_a_helm_that_hangs_is_said(host, helm) -> None:
    helm.slow = True

    await apply(host, a_layer(host))

    assert "did not end within 300 s" in only(host).error


async def test_a_release_without_helm_is_refused_by_name(host, helm) -> None:
    await apply(host, manifests_layer(host))
    before = only(host).objects
    host.root.remove(places.program("1.36.3", "helm"))

    await apply(host, a_layer(host))

    assert "Kubernetes release 1.36.3 on this host has no helm" in only(host).error
    assert "build and push the release again" in only(host).error
    assert only(host).reason == "LayerInvalid"
    # The former form of the layer still runs.
    assert only(host).objects == before
    assert deleted(host) == []


async def test_helm_is_linked_like_other_programs(host, helm) -> None:
    await apply(host, a_layer(host))

    assert host.root.read_link(HELM) == places.program("1.36.3", "helm")


async def test_a_chart_that_is_not_among_the_artifacts_is_said(host, helm) -> None:
    await apply(host, a_layer(host, chart="other"))

    assert "chart other is not among its artifacts" in only(host).error
    assert helm.calls == []


async def test_content_that_is_no_chart_is_said(host, helm) -> None:
    ref = msgspec.structs.replace(chart(host), digest=host.release("1.36.3").digest)

    await apply(host, a_layer(host, artifacts=(ref,)))

    assert "wanted application/vnd.skerry.chart.v1" in only(host).error
    assert helm.calls == []


def a_deployment(*, ready: int) -> dict[str, object]:
    return {
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "shop", "generation": 1},
        "spec": {"replicas": 1},
        "status": {"observedGeneration": 1, "readyReplicas": ready, "updatedReplicas": ready},
    }


async def test_workloads_of_a_release_are_waited_for_like_others(host, helm) -> None:
    await apply(host, a_layer(host))

    found = []
    for ready in (0, 1):
        host.workloads(a_deployment(ready=ready), selector="app.kubernetes.io/managed-by=Helm")
        host.workloads(selector="skerry.dev/layer")
        (layer,) = await layers.observe(host.doors)
        found.append((layer.ready, layer.message))

    assert found == [(False, "Deployment web has 0 of 1 pods ready"), (True, "")]


async def test_a_deleted_workload_is_brought_back_though_nothing_changed(host, helm) -> None:
    layer = a_layer(host)
    await apply(host, layer)
    host.workloads()
    (seen,) = await layers.observe(host.doors)

    await apply(host, layer)

    assert seen.again
    assert helm.verbs() == ["upgrade", "upgrade"]


async def test_a_layer_that_becomes_a_chart_gives_up_its_objects_first(host, helm) -> None:
    await apply(host, manifests_layer(host))
    helm.spaces["shop"] = {"skerry.dev/layer": "web"}

    await apply(host, a_layer(host))

    order = [call for call in host.runner.calls if "delete" in call or "upgrade" in call]
    assert [call[0] for call in order] == [KUBECTL, KUBECTL, HELM]
    assert all("--timeout=120s" in call for call in order[:2])
    assert not any("Namespace" in call for call in order)
    assert only(host).release == "shop"
    assert [ref.kind for ref in only(host).objects] == ["Namespace", "Deployment", "ConfigMap"]


async def test_a_chart_that_becomes_manifests_is_uninstalled_first(host, helm) -> None:
    await apply(host, a_layer(host))
    helm.spaces["shop"] = {"skerry.dev/layer": "web"}

    await apply(host, manifests_layer(host))

    last = [call for call in host.runner.calls if "uninstall" in call or "apply" in call]
    assert [call[0] for call in last] == [KUBECTL, HELM, KUBECTL]
    assert only(host).release == ""
    assert helm.records[("shop", "web")] == []
    assert deleted(host) == []


async def test_a_layer_that_moves_leaves_its_old_namespace(host, helm) -> None:
    await apply(host, a_layer(host))

    await apply(host, a_layer(host, namespace="kiosk"))

    assert helm.records[("shop", "web")] == []
    assert deployed(helm, "kiosk") == "1 deployed"
    assert [call for call in deleted(host) if "Namespace shop" in call]
    assert only(host).objects[0].name == "kiosk"


async def test_a_layer_that_is_gone_is_uninstalled_waiting_and_its_namespace_goes(
    host, helm
) -> None:
    cluster = await apply(host, a_layer(host))

    await host.engine.perform(do.PruneLayer(name="web"), cluster)

    call = helm.called("uninstall")
    assert "--wait" in call
    assert "--no-hooks" not in call
    assert deleted(host) == ["delete Namespace shop --ignore-not-found --wait=false"]
    assert inventory.inventories(host.doors) == []


async def test_a_namespace_that_was_there_before_stays(host, helm) -> None:
    helm.spaces["shop"] = {}
    cluster = await apply(host, a_layer(host))

    await host.engine.perform(do.PruneLayer(name="web"), cluster)

    assert helm.verbs() == ["upgrade", "uninstall"]
    assert deleted(host) == []


async def test_a_namespace_that_another_layer_uses_stays(host, helm) -> None:
    cluster = await apply(host, a_layer(host), manifests_layer(host, name="other"))

    await host.engine.perform(do.PruneLayer(name="other"), cluster)
    first = deleted(host)
    await host.engine.perform(do.PruneLayer(name="web"), cluster)

    assert not any("Namespace" in call for call in first)
    assert any("Namespace shop" in call for call in deleted(host))


async def test_a_layer_that_cannot_be_removed_is_a_fact_and_tried_again_later(host, helm) -> None:
    cluster = await apply(host, a_layer(host))
    helm.fails_in = "uninstall"

    await host.engine.perform(do.PruneLayer(name="web"), cluster)
    host.workloads()
    (now,) = await layers.observe(host.doors)
    host.clock.advance(60)
    (later,) = await layers.observe(host.doors)

    assert "cannot be removed: helm cannot take web away" in now.message
    assert "* job bye failed" in now.message
    assert (now.stuck, later.stuck) == (True, False)


async def test_the_chart_stays_on_the_host_until_no_layer_needs_it(host, helm) -> None:
    layer = a_layer(host)
    await apply(host, layer)
    host.content.blobs.clear()

    await apply(host, msgspec.structs.replace(layer, digest=sha256(b"again")))
    host.workloads()
    assert only(host).error == ""
    assert layer.artifacts[0].digest in (await host.engine.observe()).content
    await host.engine.perform(do.RemoveContent(digest=layer.artifacts[0].digest), None)

    assert host.root.list(f"{places.STATE}/content/sha256") == []
    assert host.doors.record().charts == {}


async def test_a_reset_leaves_no_chart_behind(host, helm) -> None:
    await apply(host, a_layer(host))
    host.root.write(f"{places.HELM}/cache/x", b"")

    await host.engine.perform(do.Reset(), None)

    assert not host.root.exists(f"{places.STATE}/content/sha256/{sha256(b'chart')[7:]}")
    assert not host.root.exists(places.HELM)


async def test_helm_comes_and_goes_with_the_release_that_has_it(host) -> None:
    with_helm = host.release("1.36.3", changed={"bin/helm": b"helm"})
    without = host.release("1.36.4")
    for ref in (with_helm, without):
        await host.engine.perform(do.UnpackRelease(version=ref.version, release=ref), None)

    found = []
    for version in ("1.36.3", "1.36.4"):
        await runtime.switch_kubelet(host.doors, version)
        found.append(host.root.read_link(HELM))

    assert found == [places.program("1.36.3", "helm"), None]
