"""OS updates from the profile to the verdict: real manager, real agent, a loader that counts."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest
from tests.integration.agent.machines import OsHost, push_os
from tests.integration.agent.stacks import push_profile, push_release, put_cluster
from tests.integration.sim.conftest import Manager

from skerry.agent.facts import architecture
from skerry.agent.osengine.package import PackageEngine
from skerry.manager.services import history, objects
from skerry.manager.services.centre import INTERNAL
from skerry.manager.store.protocol import AnyResource
from skerry.model.kinds import KINDS, ClusterPhase

pytestmark = [pytest.mark.integration, pytest.mark.anyio, pytest.mark.timeout(120)]


async def enrolled(manager: Manager, host: OsHost) -> str:
    """Name of the host once it is in."""
    host.register()
    async with host.running():
        await host.until_synced()
    host.starts.clear()
    return host.identity.host_name


async def a_host(manager: Manager, **more: object) -> OsHost:
    token = await manager.token(autoApprove=True)
    return OsHost(manager=manager.url, authority=manager.authority_pem, token=token, **more)  # type: ignore[arg-type]


async def stack(manager: Manager, host: str, version: str, image: str) -> None:
    layers = [{"name": "os", "type": "os", "artifacts": [image]}]
    await push_profile(manager, version, kubernetes="1.36.3", layers=layers)
    await put_cluster(manager, host, version)


async def get(manager: Manager, kind: str, name: str) -> AnyResource:
    return await manager.centre.store.get(kind, "default", name)


async def until(
    manager: Manager, kind: str, name: str, done: Callable[[AnyResource], bool]
) -> AnyResource:
    found: AnyResource | None = None
    try:
        with anyio.fail_after(60):
            while True:
                found = await get(manager, kind, name)
                if done(found):
                    return found
                await anyio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"not in time: {found}") from None


def reason(host: AnyResource) -> str:
    return next((item.reason for item in host.status.conditions if item.type == "OsUpdated"), "")


async def events(manager: Manager, name: str) -> list[str]:
    """Reasons, the oldest first."""
    found = await history.events(
        manager.centre, INTERNAL, project="default", kind="Host", name=name, limit=200
    )
    return [item["reason"] for item in reversed(found)]


async def retry(manager: Manager, name: str) -> None:
    change = {"metadata": {"annotations": {"skerry.dev/retry-failed": "1"}}}
    await objects.patch(manager.centre, INTERNAL, KINDS["Host"], ("default", name), change)


async def test_an_os_layer_is_staged_started_confirmed_and_acknowledged(manager: Manager) -> None:
    host = await a_host(manager)
    name = await enrolled(manager, host)
    await push_release(manager, "1.36.3")
    digest = await push_os(manager, "2.0.0")
    await stack(manager, name, "1.0.0", "edge-2-0-0")

    async with host.running():
        cluster = await until(
            manager, "Cluster", "shop", lambda c: c.status.phase is ClusterPhase.RUNNING
        )

    found = await get(manager, "Host", name)
    assert (found.status.os.version, found.status.os.slot) == ("2.0.0", "b")
    assert found.status.os.image == digest
    assert found.status.os.on_trial is False
    assert [(slot.name, slot.state) for slot in found.status.os.slots] == [
        ("a", "good"),
        ("b", "good"),
    ]
    assert found.status.acknowledged == found.status.desired
    assert found.status.desired_os == "2.0.0"
    assert host.starts == ["1.0.0", "2.0.0"]
    assert cluster.status.desired_digest == found.status.acknowledged.digest
    assert "os           2.0.0  slot b" in host.screen
    assert "slot a       1.0.0  confirmed, the way back" in host.screen


async def test_an_image_that_fails_its_gate_returns_and_waits_for_a_person(
    manager: Manager,
) -> None:
    host = await a_host(manager, sick={"2.0.0"})
    name = await enrolled(manager, host)
    await push_release(manager, "1.36.3")
    await push_profile(manager, "1.0.0", kubernetes="1.36.3")
    await put_cluster(manager, name, "1.0.0")
    bad = await push_os(manager, "2.0.0")

    async with host.running():
        await until(manager, "Cluster", "shop", lambda c: c.status.phase is ClusterPhase.RUNNING)
        await stack(manager, name, "2.0.0", "edge-2-0-0")
        found = await until(manager, "Host", name, lambda h: reason(h) == "OsReturned")
        assert found.status.os.version == "1.0.0"
        cluster = await until(
            manager, "Cluster", "shop", lambda c: c.status.conditions[0].reason == "OsReturned"
        )
        assert cluster.status.phase is ClusterPhase.DEGRADED
        found = await until(manager, "Host", name, lambda h: h.status.os.failed == (bad,))
        assert found.status.acknowledged != found.status.desired
        assert host.cause.next_action == f"skerry retry host {name}"
        assert "the kubelet does not start" in host.cause.message

        # Another version of the profile with the same image is no other image.
        await stack(manager, name, "2.0.1", "edge-2-0-0")
        epoch = found.status.desired.epoch
        await until(manager, "Host", name, lambda h: h.status.desired.epoch > epoch)
        await anyio.sleep(1)
        assert host.starts == ["1.0.0", "2.0.0", "1.0.0"]

        host.sick.clear()
        await retry(manager, name)
        await until(manager, "Cluster", "shop", lambda c: c.status.phase is ClusterPhase.RUNNING)

    found = await get(manager, "Host", name)
    assert (found.status.os.version, found.status.os.failed) == ("2.0.0", ())


async def test_an_image_that_never_starts_is_tried_twice(manager: Manager) -> None:
    host = await a_host(manager)
    host.faults.unbootable = frozenset({"2.0.0"})
    name = await enrolled(manager, host)
    await push_os(manager, "2.0.0")
    await manager.apply(
        {
            "kind": "Host",
            "metadata": {"name": name},
            "spec": {"osImage": "edge-2-0-0", "approval": "approved"},
        }
    )

    async with host.running():
        await until(manager, "Host", name, lambda h: reason(h) == "OsInterrupted")
        # The second try comes by itself after a rest; a new assignment would not wait for it.
        found = await until(manager, "Host", name, lambda h: reason(h) == "OsReturned")

    assert found.status.os.version == "1.0.0"
    assert [item for item in await events(manager, name) if item.startswith("Os")] == [
        "OsInterrupted",
        "OsReturned",
    ]


async def test_a_host_without_cluster_takes_the_image_of_its_own_spec(manager: Manager) -> None:
    host = await a_host(manager)
    name = await enrolled(manager, host)
    await push_os(manager, "2.0.0")
    await manager.apply(
        {
            "kind": "Host",
            "metadata": {"name": name},
            "spec": {"osImage": "edge-2-0-0", "approval": "approved"},
        }
    )

    async with host.running():
        found = await until(
            manager,
            "Host",
            name,
            lambda h: h.status.desired_os == "2.0.0" and h.status.acknowledged == h.status.desired,
        )

    assert (found.status.os.version, host.starts) == ("2.0.0", ["1.0.0", "2.0.0"])


async def test_a_host_of_packages_says_so_and_carries_out_the_rest(manager: Manager) -> None:
    host = await a_host(manager)
    name = await enrolled(manager, host)
    host.os_engine = lambda _content: PackageEngine(host.root, architecture())  # type: ignore[method-assign]
    await push_release(manager, "1.36.3")
    await push_os(manager, "2.0.0")
    await stack(manager, name, "1.0.0", "edge-2-0-0")

    async with host.running():
        found = await until(manager, "Host", name, lambda h: reason(h) == "OsNotManaged")
        found = await until(manager, "Host", name, lambda h: h.status.kubernetes.node_ready)

    assert found.status.os.engine == "package"
    assert found.status.acknowledged != found.status.desired


async def test_a_power_cut_on_trial_goes_on_with_the_trial(manager: Manager) -> None:
    host = await a_host(manager)
    host.faults.lost_starts = 1
    name = await enrolled(manager, host)
    await push_release(manager, "1.36.3")
    await push_os(manager, "2.0.0")
    await stack(manager, name, "1.0.0", "edge-2-0-0")

    async with host.running():
        await until(manager, "Cluster", "shop", lambda c: c.status.phase is ClusterPhase.RUNNING)

    assert (await get(manager, "Host", name)).status.os.version == "2.0.0"
    assert not any(item == "OsInterrupted" for item in await events(manager, name))
