"""Which agent the manager assigns: the newest complete one, never an older one."""

from __future__ import annotations

import pytest

from skerry.lib.digest import canonical_json, sha256
from skerry.model.kinds import AgentState
from skerry.wire import messages
from skerry.wire.messages import AgentAssignment, Assignment, HostReport

from .conftest import Device, Manager, path_of, problems_of

pytestmark = pytest.mark.anyio


async def push(manager: Manager, version: str, architecture: str = "amd64") -> str:
    name = f"agent-{version}-{architecture}".replace(".", "-")
    return await manager.artifact(name, "agent", version, architecture)


async def assigned(manager: Manager, device: Device) -> AgentAssignment | None:
    """The agent in the host's newest assignment; fails when nothing was assigned anew."""
    await manager.reconciler.settle()
    answer = await device.sync()
    assert answer.assignment is not None
    return messages.decode(answer.assignment.payload, Assignment).agent


async def runs(device: Device, version: str, **more: object) -> None:
    report = HostReport(agent_version=version, **more)  # type: ignore[arg-type]
    await device.sync(report=report, status_digest=sha256(canonical_json(report)))


async def test_the_newest_complete_agent_of_the_architecture_is_assigned(
    manager: Manager,
) -> None:
    device = await manager.ready_host("shop-1")
    for version in ("0.9.0", "0.10.0", "0.2.0"):
        await push(manager, version)
    await push(manager, "0.11.0", "arm64")

    agent = await assigned(manager, device)

    assert agent is not None
    assert (agent.version, agent.artifact.type) == ("0.10.0", "agent")
    assert agent.trial_s == manager.centre.settings.agent_trial_s
    host = (await manager.admin.get(path_of("hosts", "shop-1"))).json()
    assert host["status"]["desiredAgent"] == "0.10.0"


async def test_a_host_may_fetch_what_its_agent_needs_and_no_more(manager: Manager) -> None:
    device = await manager.ready_host("shop-1")
    wanted = await push(manager, "0.2.0")
    other = await push(manager, "0.2.0", "arm64")
    agent = await assigned(manager, device)
    assert agent is not None

    for digest in (wanted, agent.artifact.envelope_digest):
        assert (await device.fetch(digest)).status_code == 200
    assert (await device.fetch(other)).status_code == 404


async def test_an_agent_that_is_not_complete_is_not_assigned(manager: Manager) -> None:
    device = await manager.ready_host("shop-1")
    first = await device.sync()
    assert first.assignment is not None
    await push(manager, "0.2.0")
    spec = dict(manager.artifacts["agent-0-2-0-amd64"])
    manager.centre.root.remove(f"/blobs/sha256/{spec['digest'].removeprefix('sha256:')}")
    await manager.admin.delete(path_of("artifacts", "agent-0-2-0-amd64"))
    await manager.release_again("agent-0-2-0-amd64")

    await manager.reconciler.settle()

    assert (await device.sync()).assignment is None


async def test_no_host_is_sent_to_an_older_agent(manager: Manager) -> None:
    device = await manager.ready_host("shop-1")
    await device.sync()
    await runs(device, "0.3.0")
    await push(manager, "0.2.0")

    await manager.reconciler.settle()

    assert (await device.sync()).assignment is None


async def test_the_assignment_stays_when_the_host_has_arrived(manager: Manager) -> None:
    device = await manager.ready_host("shop-1")
    await push(manager, "0.2.0")
    await assigned(manager, device)

    await runs(device, "0.2.0", agent=AgentState(slot="b"))
    await manager.reconciler.settle()

    assert (await device.sync()).assignment is None
    host = (await manager.admin.get(path_of("hosts", "shop-1"))).json()
    assert host["status"]["agent"] == {"slot": "b"}
    assert host["status"]["agentVersion"] == host["status"]["desiredAgent"] == "0.2.0"


async def test_a_project_can_pause_and_go_on(manager: Manager) -> None:
    device = await manager.ready_host("shop-1")
    await push(manager, "0.2.0")
    assert await assigned(manager, device) is not None

    await manager.apply("Project", "projects", "default", {"pauseAgentUpdates": True})
    paused = await assigned(manager, device)
    await manager.apply("Project", "projects", "default", {"pauseAgentUpdates": False})
    again = await assigned(manager, device)

    assert paused is None
    assert again is not None


async def test_a_persons_request_for_another_try_reaches_the_host(manager: Manager) -> None:
    device = await manager.ready_host("shop-1")
    await push(manager, "0.2.0")
    await assigned(manager, device)

    answer = await manager.admin.patch(
        path_of("hosts", "shop-1"),
        json={"metadata": {"annotations": {"skerry.dev/retry-failed": "1"}}},
    )
    assert answer.status_code == 200, answer.text
    agent = await assigned(manager, device)

    assert agent is not None
    assert agent.retry_failed == 1


async def test_a_version_means_one_agent_per_architecture(manager: Manager) -> None:
    await push(manager, "0.2.0")
    spec = manager.artifacts["agent-0-2-0-amd64"]

    twice = await manager.admin.put(
        path_of("artifacts", "mine"),
        json={"kind": "Artifact", "metadata": {"name": "mine"}, "spec": spec},
    )
    odd = await manager.admin.put(
        path_of("artifacts", "odd"),
        json={
            "kind": "Artifact",
            "metadata": {"name": "odd"},
            "spec": {**spec, "version": "newest"},
        },
    )

    assert "is the agent 0.2.0 for amd64 already" in problems_of(twice)["spec.version"]
    assert "is not a version of an agent" in problems_of(odd)["spec.version"]


async def test_without_any_agent_artifact_assignments_are_as_before(manager: Manager) -> None:
    device = await manager.ready_host("shop-1")

    assert await assigned(manager, device) is None
