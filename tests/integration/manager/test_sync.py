"""From a cluster to Running: assignments, acknowledgements, content, and back to clean."""

from __future__ import annotations

import anyio
import pytest

from skerry.lib import pki
from skerry.lib.digest import sha256
from skerry.model.kinds import KubernetesState
from skerry.model.profile import decode_revision
from skerry.wire import envelope as env
from skerry.wire import messages
from skerry.wire.messages import Assignment, HostEvent

from .conftest import Device, Manager, condition, path_of, running

pytestmark = pytest.mark.anyio


async def make_cluster(manager: Manager, host: str = "shop-1", name: str = "shop") -> Device:
    await manager.release()
    await manager.profile()
    device = await manager.ready_host(host)
    await manager.cluster(name, host)
    await manager.reconciler.settle()
    return device


async def phase(manager: Manager, name: str = "shop") -> str:
    await manager.reconciler.settle()
    found = (await manager.admin.get(path_of("clusters", name))).json()
    return str(found["status"]["phase"])


async def assignment_of(device: Device) -> Assignment:
    answer = await device.sync()
    assert answer.assignment is not None
    return messages.decode(answer.assignment.payload, Assignment)


async def test_assignment_is_signed_and_names_revision_and_release(manager: Manager) -> None:
    device = await make_cluster(manager)

    answer = await device.sync()

    assert answer.assignment is not None
    payload = env.verify(
        answer.assignment,
        payload_type=env.ASSIGNMENT,
        role=env.KeyRole.CHANNEL,
        trusted=manager.centre.keys.trusted,
    )
    assignment = messages.decode(payload, Assignment)
    assert assignment.cluster is not None
    assert (assignment.cluster.name, assignment.cluster.role) == ("shop", "control-plane")
    assert [ref.version for ref in assignment.cluster.artifacts] == ["1.36.3"]
    revision = await device.fetch(assignment.cluster.revisions[0].digest)
    assert decode_revision(revision.content).profile == "edge"


async def test_the_site_that_a_host_is_told_is_the_one_decided_at_the_centre(
    manager: Manager,
) -> None:
    device = await make_cluster(manager)
    await device.sync()
    await manager.apply("Site", "sites", "north", {})
    patch = {"spec": {"site": "north"}}
    answered = await manager.admin.patch(path_of("hosts", "shop-1"), json=patch)
    assert answered.status_code == 200, answered.text
    await manager.reconciler.settle()

    answer = await device.sync()

    assert answer.assignment is not None
    assignment = messages.decode(answer.assignment.payload, Assignment)
    assert assignment.cluster is not None
    assert assignment.cluster.site == "north"


async def test_running_means_ready_and_acknowledged_by_digest(manager: Manager) -> None:
    device = await make_cluster(manager)
    provisioning = await phase(manager)
    await device.sync()

    await device.report(kubernetes=running("shop", ready=False))
    not_ready = await phase(manager)
    await device.report(kubernetes=running("shop"))
    done = await phase(manager)
    await manager.profile(version="1.0.1", kubernetes="1.36.3", description="newer")
    await manager.cluster("shop", "shop-1", version="1.0.1")
    behind = await phase(manager)

    assert (provisioning, not_ready) == ("Provisioning", "Degraded")
    assert done == "Running"
    assert behind == "Updating", "the node is fine but has not acknowledged the new digest"


async def test_acknowledgement_of_what_was_never_issued_is_not_believed(
    manager: Manager,
) -> None:
    device = await make_cluster(manager)
    await device.sync()
    epoch = device.have[0]

    await device.sync(acknowledged_epoch=epoch, acknowledged_digest="sha256:" + "0" * 64)
    await device.sync(acknowledged_epoch=epoch + 5, acknowledged_digest=device.have[1])

    host = (await manager.admin.get(path_of("hosts", "shop-1"))).json()
    assert host["status"].get("acknowledged", {}).get("digest", "") == ""


async def test_epoch_grows_only_when_the_content_changed(manager: Manager) -> None:
    device = await make_cluster(manager)
    first = await assignment_of(device)

    await manager.reconciler.settle()
    same = await device.sync()
    await manager.admin.patch(path_of("hosts", "shop-1"), json={"metadata": {"labels": {"a": "b"}}})
    await manager.reconciler.settle()
    still = await device.sync()
    await manager.profile(version="1.0.1", description="newer")
    await manager.cluster("shop", "shop-1", version="1.0.1")
    await manager.reconciler.settle()
    second = await assignment_of(device)

    assert same.assignment is None
    assert still.assignment is None
    assert second.epoch == first.epoch + 1


async def test_deleted_cluster_goes_when_its_host_proved_to_be_clean(manager: Manager) -> None:
    device = await make_cluster(manager)
    await device.sync()
    await device.report(kubernetes=running("shop"))

    asked = await manager.admin.delete(path_of("clusters", "shop"))
    deleting = await phase(manager)
    empty = await assignment_of(device)
    await device.report(kubernetes=running("shop"))
    waiting = await phase(manager)
    await device.report(kubernetes=KubernetesState())
    await manager.reconciler.settle()

    assert (asked.status_code, deleting, waiting) == (202, "Deleting", "Deleting")
    assert empty.cluster is None
    assert (await manager.admin.get(path_of("clusters", "shop"))).status_code == 404
    host = (await manager.admin.get(path_of("hosts", "shop-1"))).json()
    assert (host["status"]["phase"], host["metadata"]["finalizers"]) == ("Ready", [])
    await manager.cluster("next", "shop-1")


async def test_force_needs_a_wait_that_is_shown(manager: Manager) -> None:
    await make_cluster(manager)
    await manager.admin.delete(path_of("clusters", "shop"))

    early = await manager.admin.delete(path_of("clusters", "shop") + "?force=true")
    manager.clock.advance(manager.centre.settings.force_wait_s + 1)
    late = await manager.admin.delete(path_of("clusters", "shop") + "?force=true")

    assert early.status_code == 409
    assert early.json()["waitSeconds"] == manager.centre.settings.force_wait_s + 1
    assert late.json() == {"deleted": True}
    host = (await manager.admin.get(path_of("hosts", "shop-1"))).json()
    assert host["metadata"]["finalizers"] == []


async def test_a_host_reaches_nothing_of_another_host(manager: Manager) -> None:
    mine = await make_cluster(manager)
    assignment = await assignment_of(mine)
    assert assignment.cluster is not None
    ref = assignment.cluster.artifacts[0]
    other = await manager.ready_host("shop-2")
    await other.sync()
    wanted = {
        assignment.cluster.revisions[0].digest,
        ref.envelope_digest,
        *manager.centre.blobs.members(ref.digest),
    }

    allowed = {digest: (await mine.fetch(digest)).status_code for digest in wanted}
    refused = {digest: (await other.fetch(digest)).status_code for digest in wanted}
    unknown = await other.fetch("sha256:" + "0" * 64)
    stolen = await other.http.get(
        f"https://manager.test{messages.CONTENT_PATH}{ref.digest}",
        headers=other.headers("GET", f"{messages.CONTENT_PATH}{ref.digest}", b"", host=mine.uid),
    )

    assert set(allowed.values()) == {200}
    assert set(refused.values()) == {404}
    there = await other.fetch(ref.digest)
    assert there.json()["message"].replace(ref.digest, "") == unknown.json()["message"].replace(
        "sha256:" + "0" * 64, ""
    ), "what is missing and what is foreign look the same"
    assert stolen.status_code == 401


async def test_content_of_an_old_assignment_is_out_of_reach(manager: Manager) -> None:
    device = await make_cluster(manager)
    assignment = await assignment_of(device)
    assert assignment.cluster is not None
    digest = assignment.cluster.revisions[0].digest

    await manager.admin.delete(path_of("clusters", "shop"))
    await manager.reconciler.settle()

    assert (await device.fetch(digest)).status_code == 404


async def test_download_resumes_where_it_was_cut(manager: Manager) -> None:
    device = await make_cluster(manager)
    assignment = await assignment_of(device)
    assert assignment.cluster is not None
    digest = assignment.cluster.revisions[0].digest
    whole = (await device.fetch(digest)).content

    rest = await device.fetch(digest, start=10)
    beyond = await device.fetch(digest, start=len(whole))

    assert (rest.status_code, rest.content) == (206, whole[10:])
    assert beyond.status_code == 416
    assert sha256(whole[:10] + rest.content) == digest


async def test_missing_release_is_the_one_cause_on_the_cluster(manager: Manager) -> None:
    await manager.profile()
    await manager.ready_host("shop-1")
    await manager.cluster("shop", "shop-1")
    before = await phase(manager)
    cluster = (await manager.admin.get(path_of("clusters", "shop"))).json()
    why = (await manager.admin.get("/v1/why/host/shop-1")).json()

    await manager.release()
    await manager.reconciler.settle()
    after = (await manager.admin.get(path_of("hosts", "shop-1"))).json()

    assert (before, condition(cluster, "Ready")) == ("Provisioning", "ArtifactMissing")
    assert why["reason"] == "ArtifactMissing"
    assert why["nextAction"] == "skerry release push"
    assert after["status"]["desired"]["epoch"] == 2


async def test_release_for_another_architecture_does_not_count(manager: Manager) -> None:
    await manager.release(architecture="arm64")
    await manager.profile()
    await manager.ready_host("shop-1")
    await manager.cluster("shop", "shop-1")

    await manager.reconciler.settle()

    cluster = (await manager.admin.get(path_of("clusters", "shop"))).json()
    assert condition(cluster, "Ready") == "ArtifactMissing"


async def test_events_of_a_host_are_kept_once(manager: Manager) -> None:
    device = await manager.ready_host("shop-1")
    event = HostEvent(sequence=3, at=manager.clock.now(), reason="StepFailed", message="no space")

    first = await device.sync(events=(event,))
    again = await device.sync(events=(event,))

    assert (first.events_through, again.events_through) == (3, 3)
    found = (await manager.admin.get("/v1/projects/default/events?kind=Host&name=shop-1")).json()
    assert [item["reason"] for item in found["items"]].count("StepFailed") == 1


async def test_lost_report_is_asked_for(manager: Manager) -> None:
    device = await manager.ready_host("shop-1")

    answer = await device.sync(status_digest="sha256:" + "1" * 64)

    assert answer.want_report


async def test_held_request_ends_when_the_assignment_changes(manager: Manager) -> None:
    import anyio

    device = await make_cluster(manager)
    await device.sync()
    answers: list[messages.SyncAnswer] = []

    async def hold() -> None:
        answers.append(await device.sync(wait_s=25))

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tg:
            tg.start_soon(hold)
            while device.uid not in manager.centre.live.wakers:  # noqa: ASYNC110
                await anyio.sleep(0.01)
            assert answers == []
            await manager.admin.delete(path_of("clusters", "shop"))
            await manager.reconciler.settle()

    assert answers[0].assignment is not None


async def test_silence_is_a_quiet_condition_and_ends(manager: Manager) -> None:
    device = await make_cluster(manager)
    await device.sync()
    await device.report(kubernetes=running("shop"))

    manager.clock.advance(600)
    silent = await phase(manager)
    why = (await manager.admin.get("/v1/why/host/shop-1")).json()
    await device.sync()
    await manager.reconciler.settle()
    host = (await manager.admin.get(path_of("hosts", "shop-1"))).json()

    assert silent == "Running", "no line is no failure of the cluster"
    assert (why["reason"], why["severity"]) == ("HostSilent", "quiet")
    assert condition(host, "Reachable") == "Reachable"


async def test_silence_is_seen_long_before_everything_is_looked_at_again(
    manager: Manager,
) -> None:
    device = await make_cluster(manager)
    await device.sync()
    await device.report(kubernetes=running("shop"))
    await manager.reconciler.settle()
    settings = manager.centre.settings
    rounds = int(settings.quiet_after_s / settings.reconcile_s) + 2
    assert (rounds + 1) * settings.reconcile_s < settings.full_pass_s

    async def reachable() -> str:
        host = (await manager.admin.get(path_of("hosts", "shop-1"))).json()
        return condition(host, "Reachable")

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tg:
            tg.start_soon(manager.reconciler.run)
            for _ in range(rounds):
                await anyio.sleep(0.05)  # the loops reach their timers in real time
                manager.clock.advance(settings.reconcile_s)
            while await reachable() != "HostSilent":  # noqa: ASYNC110 - a stored condition
                await anyio.sleep(0.02)
            tg.cancel_scope.cancel()


async def test_host_ahead_of_a_restored_manager_is_not_set_back(manager: Manager) -> None:
    device = await make_cluster(manager)
    device.have = (40, "sha256:" + "2" * 64)

    answer = await device.sync()
    await manager.profile(version="1.0.1", description="newer")
    await manager.cluster("shop", "shop-1", version="1.0.1")
    await manager.reconciler.settle()
    later = await device.sync()

    assert answer.assignment is None
    assert later.assignment is not None
    assert messages.decode(later.assignment.payload, Assignment).epoch == 41


async def test_secret_travels_sealed_to_the_host(manager: Manager) -> None:
    await manager.apply("Secret", "secrets", "registry", {"data": {"password": "hunter2-planted"}})
    await manager.release()
    await manager.profile(
        layers=[
            {
                "name": "app",
                "type": "addon",
                "manifests": "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\n"
                "stringData: {p: '${{ secret.registry.password }}'}\n",
            }
        ]
    )
    device = await manager.ready_host("shop-1")
    await manager.cluster("shop", "shop-1")
    await manager.reconciler.settle()

    assignment = await assignment_of(device)
    await manager.reconciler.settle()

    assert assignment.cluster is not None
    (secret,) = assignment.cluster.secrets
    assert secret.name == "secret.registry.password"
    opened = pki.open_sealed(secret.sealed, device.sealing, info=secret.name.encode())
    assert opened == b"hunter2-planted"
    assert (await device.sync()).assignment is None, "sealing anew is no change"
