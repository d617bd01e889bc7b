"""Layers: applied in order, pruned across kinds, and never in each other's way."""

from __future__ import annotations

import msgspec
import pytest
import yaml

from skerry.agent.kube import inventory, layers, places
from skerry.lib.digest import sha256
from skerry.lib.proc import Result
from skerry.model.kinds import LayerType
from skerry.plan import steps as do
from skerry.plan.desired import DesiredLayer

pytestmark = pytest.mark.anyio

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec: {selector: {matchLabels: {app: web}}}
"""
SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: web}
"""


def a_layer(name: str, manifests: str, **changes: object) -> DesiredLayer:
    plain = DesiredLayer(
        name=name, type=LayerType.ADDON, manifests=manifests, digest=sha256(manifests.encode())
    )
    return msgspec.structs.replace(plain, **changes)


async def apply(host, *all_layers: DesiredLayer) -> None:
    cluster = host.cluster(layers=all_layers)
    for layer in all_layers:
        await host.engine.perform(do.ApplyLayer(name=layer.name, digest=layer.digest), cluster)


def deployment(*, ready: int, generation: int = 1) -> dict[str, object]:
    return {
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "shop", "generation": generation},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "web"}}},
        "status": {"observedGeneration": 1, "readyReplicas": ready, "updatedReplicas": 1},
    }


async def test_objects_are_applied_server_side_with_the_layers_label(host) -> None:
    host.remember()

    await apply(host, a_layer("web", DEPLOYMENT, namespace="shop"))

    asked, call = host.kubectl_calls()
    assert asked == "get namespace shop --ignore-not-found -o json"
    assert "apply --server-side --force-conflicts --field-manager skerry" in call
    objects = list(yaml.safe_load_all(host.runner.inputs[-1]))
    assert [item["kind"] for item in objects] == ["Namespace", "Deployment"]
    assert all(item["metadata"]["labels"]["skerry.dev/layer"] == "web" for item in objects)


async def test_an_object_that_left_the_layer_is_deleted_across_kinds(host) -> None:
    host.remember()
    await apply(host, a_layer("web", f"{DEPLOYMENT}---{SERVICE}", namespace="shop"))

    await apply(host, a_layer("web", DEPLOYMENT, namespace="shop"))

    deleted = [call for call in host.kubectl_calls() if " delete " in call]
    assert deleted == ["--namespace shop delete Service web --ignore-not-found --wait=false"]


async def test_a_layer_that_is_gone_takes_its_objects_and_its_namespace_last(host) -> None:
    host.remember()
    await apply(host, a_layer("web", DEPLOYMENT, namespace="shop"))

    await host.engine.perform(do.PruneLayer(name="web"), None)

    deleted = [call for call in host.kubectl_calls() if "delete" in call]
    assert "Deployment.v1.apps web" in deleted[0]
    assert "Namespace shop" in deleted[1]
    assert inventory.inventories(host.doors) == []


async def test_an_object_is_known_before_it_is_made_so_a_crash_forgets_none(host) -> None:
    host.remember()
    seen: list[int] = []
    host.runner.answer_with(
        f"{places.LINKS}/kubectl",
        answer=lambda argv: (
            seen.append(len(inventory.inventories(host.doors)[0].objects))
            if "apply" in argv
            else None
        ),
    )

    await apply(host, a_layer("web", f"{DEPLOYMENT}---{SERVICE}"))

    assert seen == [2]


async def test_a_layer_the_api_refuses_is_remembered_and_tried_again_later(host) -> None:
    host.remember()
    host.workloads()
    host.runner.answer_with(
        f"{places.LINKS}/kubectl",
        answer=lambda argv: Result(argv, 1, "", "no matches") if "apply" in argv else None,
    )
    bad, good = a_layer("bad", DEPLOYMENT), a_layer("good", SERVICE)

    await apply(host, bad, good)
    now = {item.name: item for item in await layers.observe(host.doors)}
    host.clock.advance(60)
    later = {item.name: item for item in await layers.observe(host.doors)}

    assert "no matches" in now["bad"].message
    assert now["bad"].digest == bad.digest
    assert not now["bad"].again
    assert later["bad"].again
    assert "good" in now


async def test_a_secret_that_kubectl_quotes_is_not_in_the_message(host) -> None:
    host.remember()
    told = 'Invalid value: "hunter2-hunter2"'
    host.runner.answer_with(
        f"{places.LINKS}/kubectl",
        answer=lambda argv: Result(argv, 1, "", told) if "apply" in argv else None,
    )
    layer = a_layer("web", DEPLOYMENT)
    cluster = host.cluster(layers=(layer,), hidden=("hunter2-hunter2",))

    await host.engine.perform(do.ApplyLayer(name="web", digest=layer.digest), cluster)

    (found,) = inventory.inventories(host.doors)
    assert found.error.endswith('Invalid value: "***"')


async def test_a_namespace_that_was_there_before_stays(host) -> None:
    host.remember()
    host.runner.answer_with(
        f"{places.LINKS}/kubectl",
        answer=lambda argv: (
            Result(argv, 0, '{"metadata": {"name": "shop"}}', "") if "namespace" in argv else None
        ),
    )
    await apply(host, a_layer("web", SERVICE, namespace="shop"))

    await host.engine.perform(do.PruneLayer(name="web"), None)

    deleted = [call for call in host.kubectl_calls() if " delete " in f" {call}"]
    assert deleted == ["--namespace shop delete Service web --ignore-not-found --wait=false"]


@pytest.mark.parametrize(
    ("manifests", "told"),
    [
        ("a: [", "not YAML"),
        ("- 1", "not a mapping"),
        ("kind: Pod", "lacks apiVersion"),
    ],
)
async def test_manifests_that_are_none_are_said_and_nothing_is_applied(
    host, manifests: str, told: str
) -> None:
    host.remember()

    await apply(host, a_layer("web", manifests))

    assert told in inventory.inventories(host.doors)[0].error
    assert host.kubectl_calls() == []


async def test_a_layer_is_ready_only_when_its_newest_pods_are(host) -> None:
    host.remember()
    await apply(host, a_layer("web", DEPLOYMENT, namespace="shop"))

    found = []
    for state in (
        deployment(ready=0),
        deployment(ready=1, generation=2),
        deployment(ready=1),
    ):
        host.pods()
        host.workloads(state)
        (layer,) = await layers.observe(host.doors)
        found.append((layer.ready, layer.message))

    assert found == [
        (False, "Deployment web has 0 of 1 pods ready"),
        (False, "Deployment web was not taken up yet"),
        (True, ""),
    ]


async def test_a_pods_own_reason_and_image_are_told(host) -> None:
    host.remember()
    await apply(host, a_layer("web", DEPLOYMENT, namespace="shop"))
    pod = {
        "status": {
            "containerStatuses": [
                {
                    "image": "registry.example/none:1",
                    "state": {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}},
                }
            ]
        }
    }
    host.workloads(deployment(ready=0))
    host.pods(pod)

    (layer,) = await layers.observe(host.doors)

    assert layer.message == (
        "Deployment web has 0 of 1 pods ready: image registry.example/none:1 cannot be pulled:"
        " registry registry.example does not have it"
    )
    assert layer.reason == "ImagePullFailed"


async def test_a_new_version_that_does_not_come_up_is_not_ready_because_the_old_one_is(
    host,
) -> None:
    host.remember()
    await apply(host, a_layer("web", DEPLOYMENT, namespace="shop"))
    stuck = deployment(ready=1)
    stuck["status"] = {**stuck["status"], "replicas": 2}
    host.workloads(stuck)
    host.pods()

    (layer,) = await layers.observe(host.doors)

    assert not layer.ready
    assert layer.message == "Deployment web still needs 1 of its old pods"


async def test_a_workload_that_someone_deleted_is_asked_for_again(host) -> None:
    host.remember()
    await apply(host, a_layer("web", DEPLOYMENT, namespace="shop"))
    host.workloads()

    (layer,) = await layers.observe(host.doors)

    assert layer.again


async def test_waiting_for_a_broken_layer_ends_without_failing(host) -> None:
    host.remember()
    await apply(host, a_layer("web", DEPLOYMENT, namespace="shop"))
    host.workloads(deployment(ready=0))
    host.pods()
    began = host.clock.monotonic()

    await host.engine.perform(do.WaitLayer(name="web", digest="x", wait_s=30), None)

    assert 30 <= host.clock.monotonic() - began < 40
