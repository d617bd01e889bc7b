"""Which OS image the manager assigns, and what it refuses to record."""

from __future__ import annotations

from typing import Any

import pytest

from skerry.lib.digest import canonical_json, sha256
from skerry.model.inventory import Inventory
from skerry.model.osstate import OsState
from skerry.wire import messages
from skerry.wire.messages import Assignment, HostReport, OsAssignment

from .conftest import Device, Manager, cluster_spec, path_of, problems_of, profile_spec, running

pytestmark = pytest.mark.anyio


def os_layer(*names: str, **more: Any) -> dict[str, Any]:
    return {"name": "os", "type": "os", "artifacts": list(names), **more}


async def push(manager: Manager, version: str, architecture: str = "amd64") -> str:
    name = f"edge-{version}-{architecture}".replace(".", "-")
    return await manager.artifact(name, "os", version, architecture)


async def assigned(manager: Manager, device: Device) -> Assignment:
    await manager.reconciler.settle()
    answer = await device.sync()
    assert answer.assignment is not None
    return messages.decode(answer.assignment.payload, Assignment)


async def the_os(manager: Manager, device: Device) -> OsAssignment | None:
    return (await assigned(manager, device)).os


async def test_the_os_layer_of_the_cluster_reaches_the_host(manager: Manager) -> None:
    device = await manager.ready_host("shop-1")
    await manager.release()
    digest = await push(manager, "1.4.0")
    await push(manager, "1.4.0", "arm64")
    await manager.profile(layers=[os_layer("edge-1-4-0")])
    await manager.cluster("shop", "shop-1")

    found = await assigned(manager, device)

    assert found.os is not None
    assert (found.os.version, found.os.artifact.digest) == ("1.4.0", digest)
    assert found.os.trial_s == manager.centre.settings.os_trial_s
    assert found.cluster is not None
    assert {ref.type for ref in found.cluster.artifacts} == {"kubernetes"}
    host = (await manager.admin.get(path_of("hosts", "shop-1"))).json()
    assert host["status"]["desiredOs"] == "1.4.0"


async def test_a_host_may_fetch_its_image_and_no_other(manager: Manager) -> None:
    device = await manager.ready_host("shop-1")
    wanted, other = await push(manager, "1.4.0"), await push(manager, "1.5.0")
    await manager.apply(
        "Host", "hosts", "shop-1", {"osImage": "edge-1-4-0", "approval": "approved"}
    )
    found = await the_os(manager, device)
    assert found is not None

    for digest in (wanted, found.artifact.envelope_digest, sha256(b"layer of edge-1-4-0-amd64")):
        assert (await device.fetch(digest)).status_code == 200
    assert (await device.fetch(other)).status_code == 404


async def test_a_host_without_cluster_has_a_wish_of_its_own(manager: Manager) -> None:
    device = await manager.ready_host("shop-1")
    await push(manager, "1.4.0")
    await manager.apply(
        "Host", "hosts", "shop-1", {"osImage": "edge-1-4-0", "approval": "approved"}
    )

    found = await assigned(manager, device)
    assert found.cluster is None
    assert found.os is not None

    await manager.apply("Host", "hosts", "shop-1", {"approval": "approved"})
    assert await the_os(manager, device) is None


async def test_the_layer_of_the_profile_goes_before_the_hosts_wish(manager: Manager) -> None:
    device = await manager.ready_host("shop-1")
    await manager.release()
    await push(manager, "1.4.0")
    await push(manager, "1.5.0")
    await manager.apply(
        "Host", "hosts", "shop-1", {"osImage": "edge-1-5-0", "approval": "approved"}
    )
    await manager.profile(layers=[os_layer("edge-1-4-0")])
    await manager.cluster("shop", "shop-1")

    found = await the_os(manager, device)

    assert found is not None
    assert found.version == "1.4.0"


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ("nothing-there", "there is no artifact"),
        ("kubernetes-1-36-3", "is of type kubernetes, wanted os"),
        ("edge-2-0-0", "is for arm64, this host is amd64"),
    ],
)
async def test_a_wish_that_cannot_come_true_is_refused(
    manager: Manager, wish: str, words: str
) -> None:
    device = await manager.ready_host("shop-1")
    report = HostReport(agent_version="0.1.0", inventory=Inventory(architecture="amd64"))
    await device.sync(report=report, status_digest=sha256(canonical_json(report)))
    await manager.release()
    await push(manager, "2.0.0", "arm64")

    answer = await manager.admin.put(
        path_of("hosts", "shop-1"),
        json={
            "kind": "Host",
            "metadata": {"name": "shop-1"},
            "spec": {"osImage": wish, "approval": "approved"},
        },
    )

    assert words in problems_of(answer)["spec.osImage"]


async def test_everything_wrong_with_an_os_layer_is_said_at_once(manager: Manager) -> None:
    await manager.release()
    await push(manager, "1.4.0")
    layers = [
        os_layer("edge-1-4-0", "kubernetes-1-36-3", values="a: 1", provider="ab"),
        {"name": "os2", "type": "os"},
        {"name": "web", "type": "addon", "manifests": "", "artifacts": ["edge-1-4-0"]},
    ]

    answer = await manager.admin.put(
        path_of("clusterprofiles", "edge"),
        json={
            "kind": "ClusterProfile",
            "metadata": {"name": "edge"},
            "spec": profile_spec(layers=layers),
        },
    )

    found = problems_of(answer)
    assert "there are 2 layers of type os" in found["spec.layers"]
    assert "has no meaning" in found["spec.layers[2].values"]
    assert "has no meaning" in found["spec.layers[2].provider"]
    assert "names 2 artifacts" in found["spec.layers[2].artifacts"]
    assert "is of type kubernetes" in found["spec.layers[2].artifacts[1]"]
    assert "names 0 artifacts" in found["spec.layers[3].artifacts"]
    assert "is of type os" in found["spec.layers[4].artifacts[0]"]


async def test_an_image_that_is_not_complete_is_no_reason_to_take_the_old_one_away(
    manager: Manager,
) -> None:
    device = await manager.ready_host("shop-1")
    await push(manager, "1.4.0")
    await manager.apply(
        "Host", "hosts", "shop-1", {"osImage": "edge-1-4-0", "approval": "approved"}
    )
    await assigned(manager, device)
    await push(manager, "1.5.0")
    gone = sha256(b"layer of edge-1-5-0-amd64").removeprefix("sha256:")
    manager.centre.root.remove(f"/blobs/sha256/{gone}")
    await manager.apply(
        "Host", "hosts", "shop-1", {"osImage": "edge-1-5-0", "approval": "approved"}
    )

    await manager.reconciler.settle()

    assert (await device.sync()).assignment is None


async def test_a_host_leaves_its_cluster_before_its_own_wish_counts(manager: Manager) -> None:
    device = await manager.ready_host("shop-1")
    await manager.release()
    await push(manager, "1.4.0")
    wish = {"osImage": "edge-1-4-0", "approval": "approved"}
    await manager.apply("Host", "hosts", "shop-1", wish)
    await manager.profile()
    await manager.cluster("shop", "shop-1")
    assert (await assigned(manager, device)).os is not None

    await manager.admin.delete(path_of("clusters", "shop"))
    leaving = await assigned(manager, device)
    assert (leaving.cluster, leaving.os) == (None, None)

    await device.report()
    after = await assigned(manager, device)
    assert (after.cluster, after.os is not None) == (None, True)


async def test_an_assigned_image_cannot_be_deleted(manager: Manager) -> None:
    device = await manager.ready_host("shop-1")
    await push(manager, "1.4.0")
    await manager.apply(
        "Host", "hosts", "shop-1", {"osImage": "edge-1-4-0", "approval": "approved"}
    )
    await assigned(manager, device)

    answer = await manager.admin.delete(path_of("artifacts", "edge-1-4-0-amd64"))

    assert "a host was told to run it" in str(problems_of(answer))


async def test_the_dry_run_says_which_hosts_restart(manager: Manager) -> None:
    device = await manager.ready_host("shop-1")
    await manager.release()
    await push(manager, "1.4.0")
    await manager.profile()
    await manager.profile(version="1.1.0", layers=[os_layer("edge-1-4-0")])
    await manager.cluster("shop", "shop-1")
    await assigned(manager, device)

    answer = await manager.admin.put(
        path_of("clusters", "shop") + "?dryRun=true",
        json={
            "kind": "Cluster",
            "metadata": {"name": "shop"},
            "spec": cluster_spec("shop-1", version="1.1.0"),
        },
    )

    assert [
        (item["path"], item["kind"]) for item in answer.json()["reactions"] if item["path"] == "os"
    ] == [("os", "reboot")]


async def test_a_cluster_runs_only_when_its_host_runs_the_wanted_os(manager: Manager) -> None:
    device = await manager.ready_host("shop-1")
    await manager.release()
    await push(manager, "1.4.0")
    await manager.profile(layers=[os_layer("edge-1-4-0")])
    await manager.cluster("shop", "shop-1")
    await manager.reconciler.settle()
    await device.sync()

    async def phase(**more: Any) -> str:
        await device.report(kubernetes=running("shop"), **more)
        await manager.reconciler.settle()
        found = (await manager.admin.get(path_of("clusters", "shop"))).json()
        return str(found["status"].get("phase", "Pending"))

    # An agent from before there were OS images acknowledges what it does not know.
    assert await phase() != "Running"
    assert await phase(os=OsState(engine="ab", version="1.4.0", on_trial=True)) != "Running"
    assert await phase(os=OsState(engine="ab", version="1.4.0")) == "Running"
