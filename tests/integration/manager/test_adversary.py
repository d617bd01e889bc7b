"""What somebody gets who tries: keys of the dead, names of others, keys swapped at the door."""

from __future__ import annotations

from typing import Any

import anyio
import msgspec
import pytest

from skerry.lib import pki
from skerry.manager.api.watching import RECHECK_S
from skerry.wire import messages

from .conftest import Device, Manager, condition, path_of, running
from .test_access import key_for
from .test_sync import make_cluster

pytestmark = pytest.mark.anyio


async def test_keys_of_a_deleted_service_account_do_not_come_back_with_its_name(
    manager: Manager,
) -> None:
    client = manager.client(key=await key_for(manager, "viewer"))
    name = "robot-viewer-all"

    await manager.admin.delete(path_of("serviceaccounts", name))
    await manager.apply("ServiceAccount", "serviceaccounts", name, {})

    assert (await client.get("/v1/whoami")).status_code == 401


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
async def test_a_refusal_does_not_tell_whether_something_exists(
    manager: Manager, method: str
) -> None:
    await manager.apply("Site", "sites", "there", {})
    client = manager.client(key=await key_for(manager, ""))

    answers = [
        await client.request(
            method,
            path_of("sites", name),
            json={"kind": "Site", "metadata": {"name": name}, "spec": {}},
        )
        for name in ("there", "absent")
    ]

    there, absent = (answer.text.replace("absent", "there") for answer in answers)
    assert [answer.status_code for answer in answers] == [403, 403]
    assert there == absent


async def test_watch_ends_soon_after_access_was_taken(manager: Manager) -> None:
    key = await key_for(manager, "viewer")
    lines: list[bytes] = []
    started, seen, ended = anyio.Event(), anyio.Event(), anyio.Event()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            body = message.get("body", b"")
            assert isinstance(body, bytes)
            lines.append(body)
            if b"north" in body:
                seen.set()
        started.set()

    async def receive() -> Any:
        if not started.is_set():
            return {"type": "http.request", "body": b"", "more_body": False}
        await anyio.sleep_forever()
        raise AssertionError

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/v1/sites",
        "raw_path": b"/v1/sites",
        "query_string": b"watch=true",
        "headers": [(b"authorization", f"Bearer {key}".encode()), (b"host", b"manager.test")],
        "scheme": "https",
        "server": ("manager.test", 443),
        "client": ("192.0.2.1", 1),
        "http_version": "1.1",
        "root_path": "",
    }
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tg:

            async def watch() -> None:
                await manager.app(scope, receive, send)
                ended.set()

            tg.start_soon(watch)
            await started.wait()
            await manager.apply("Site", "sites", "north", {})
            await seen.wait()
            await manager.admin.delete(path_of("rolebindings", "robot-viewer-all"))
            manager.clock.advance(RECHECK_S)
            await ended.wait()

    assert RECHECK_S < 5
    assert msgspec.json.decode(b"".join(lines).splitlines()[-1])["reason"] == "NotPermitted"


async def waiting_with_new_key(manager: Manager) -> tuple[Device, Device]:
    """A host, and a stranger with the same hardware id and another key."""
    old = await manager.ready_host("shop-1")
    return old, manager.device("stranger", hardware_id=old.hardware_id)


async def test_a_stranger_with_a_hardware_id_hears_no_name(manager: Manager) -> None:
    _, stranger = await waiting_with_new_key(manager)

    answers = [await stranger.enrol() for _ in range(2)]

    assert {answer.reason for answer in answers} == {"HardwareIdTaken"}
    assert "shop-1" not in "".join(str(answer) for answer in answers)


async def test_a_new_key_is_taken_only_when_the_person_names_it(manager: Manager) -> None:
    old, stranger = await waiting_with_new_key(manager)
    code = (await stranger.enrol()).registration_code
    approve = path_of("hosts", "shop-1") + "/approve"

    unnamed = await manager.admin.post(approve)
    other = await manager.admin.post(approve, json={"fingerprint": old.fingerprint})
    named = await manager.admin.post(approve, json={"code": code})

    assert (unnamed.status_code, other.status_code, named.status_code) == (409, 409, 200)
    assert code in unnamed.text
    host = (await manager.admin.get(path_of("hosts", "shop-1"))).json()
    assert host["status"]["fingerprint"] == stranger.fingerprint


async def test_a_waiting_host_is_approved_with_the_key_that_was_shown(manager: Manager) -> None:
    device = manager.device("quiet")
    await device.enrol()
    approve = path_of("hosts", "quiet") + "/approve"

    wrong = await manager.admin.post(approve, json={"code": "0000-0000"})
    right = await manager.admin.post(approve, json={"fingerprint": device.fingerprint})

    assert (wrong.status_code, right.status_code) == (409, 200)


async def test_a_host_cannot_renew_onto_a_key_that_it_does_not_hold(manager: Manager) -> None:
    first = await manager.ready_host("shop-1")
    second = await manager.ready_host("shop-2")
    theirs = pki.public_pem(second.identity.public_key())
    mine = pki.new_host_key()
    proof = pki.sign_es256(mine, messages.renewal(first.uid, first.counter + 2))

    stolen = await first.post(
        messages.RENEW_PATH, messages.RenewRequest(public_key=theirs), host=first.uid
    )
    own = await first.post(
        messages.RENEW_PATH,
        messages.RenewRequest(public_key=pki.public_pem(mine.public_key()), proof=proof),
        host=first.uid,
    )

    assert (stolen.status_code, own.status_code) == (401, 200)
    assert (await second.enrol()).host_uid == second.uid


async def test_a_key_of_an_unknown_kind_is_refused(manager: Manager) -> None:
    device = manager.device("odd")
    # SubjectPublicKeyInfo with the algorithm 1.2.3.4.
    odd = "-----BEGIN PUBLIC KEY-----\nMA4wBQYDKgMEAwUAAAECAw==\n-----END PUBLIC KEY-----\n"
    request = msgspec.structs.replace(device.request(), public_key=odd)

    answer = await device.post(messages.ENROL_PATH, request, host=device.fingerprint)

    assert answer.status_code == 400


async def test_a_channel_body_that_is_no_text_is_refused(manager: Manager) -> None:
    device = await manager.ready_host("shop-1")
    body = b'{"statusDigest":"\x80"}'
    headers = device.headers("POST", messages.SYNC_PATH, body, host=device.uid)

    answer = await device.http.post(messages.SYNC_PATH, content=body, headers=headers)

    assert answer.status_code == 400


async def test_labels_that_a_host_brings_are_few(manager: Manager) -> None:
    many = {f"l{number}": "x" for number in range(500)}
    device = manager.device("chatty")
    await device.enrol(labels=many)
    await manager.admin.post(path_of("hosts", "chatty") + "/approve")
    await device.enrol()

    for start in range(0, 500, 100):
        labels = {f"m{number}": "x" for number in range(start, start + 100)}
        await device.report(labels=labels)

    host = (await manager.admin.get(path_of("hosts", "chatty"))).json()
    assert len(host["metadata"]["labels"]) <= 64


async def test_patching_one_key_of_a_secret_keeps_the_others(manager: Manager) -> None:
    await manager.apply("Secret", "secrets", "db", {"data": {"user": "app", "password": "s3cret"}})

    answer = await manager.admin.patch(
        path_of("secrets", "db"), json={"spec": {"data": {"user": "web"}}}
    )

    assert answer.status_code == 200, answer.text
    found = (await manager.admin.get(path_of("secrets", "db"))).json()
    assert found["status"]["keys"] == ["password", "user"]


async def test_patching_a_claim_keeps_its_pairing_key(manager: Manager) -> None:
    spec = {"pairingKeyHash": "ab" * 32, "serial": "SN-00017"}
    await manager.apply("HostClaim", "hostclaims", "till", spec)

    answer = await manager.admin.patch(path_of("hostclaims", "till"), json={"spec": {"site": ""}})

    stored = await manager.centre.store.get("HostClaim", "default", "till")
    assert answer.status_code == 200, answer.text
    assert stored.spec.pairing_key_hash == "ab" * 32


async def test_a_host_that_was_forced_out_hears_by_whom_and_when(manager: Manager) -> None:
    device = await manager.ready_host("shop-1")
    await manager.admin.delete(path_of("hosts", "shop-1"))

    answer = await device.post(messages.SYNC_PATH, messages.SyncRequest(), host=device.uid)
    refusal = messages.decode(answer.content, messages.Refusal)
    back = await device.enrol()

    assert (answer.status_code, refusal.reason) == (403, "Revoked")
    assert "user:admin" in refusal.message
    assert f"{manager.clock.now():%Y-%m-%d}" in refusal.message
    assert (back.state, back.reason) == ("pending", "AwaitingApproval")
    assert "user:admin removed this host" in back.message
    host = (await manager.admin.get(path_of("hosts", "shop-1"))).json()
    assert condition(host, "Registered") == "AwaitingApproval"


async def test_a_host_that_waits_for_its_cluster_goes_when_that_let_it_go(
    manager: Manager,
) -> None:
    device = await make_cluster(manager)
    await device.sync()
    await device.report(kubernetes=running("shop"))

    asked = await manager.admin.delete(path_of("hosts", "shop-1"))
    early = await manager.admin.delete(path_of("hosts", "shop-1") + "?force=true")
    await manager.admin.delete(path_of("clusters", "shop"))
    await manager.reconciler.settle()
    await device.sync()
    await device.report()
    await manager.reconciler.settle()
    gone = await manager.admin.get(path_of("hosts", "shop-1"))
    answer = await device.post(messages.SYNC_PATH, messages.SyncRequest(), host=device.uid)

    assert (asked.status_code, early.status_code) == (202, 409)
    assert early.json()["waitSeconds"] > 0
    assert gone.status_code == 404
    assert "user:admin" in messages.decode(answer.content, messages.Refusal).message


async def test_a_host_of_a_cluster_is_forced_out_after_the_wait_that_was_shown(
    manager: Manager,
) -> None:
    device = await make_cluster(manager)
    await manager.admin.delete(path_of("hosts", "shop-1"))
    early = await manager.admin.delete(path_of("hosts", "shop-1") + "?force=true")

    manager.clock.advance(early.json()["waitSeconds"])
    forced = await manager.admin.delete(path_of("hosts", "shop-1") + "?force=true")
    answer = await device.post(messages.SYNC_PATH, messages.SyncRequest(), host=device.uid)

    assert forced.json() == {"deleted": True}
    refusal = messages.decode(answer.content, messages.Refusal)
    assert (refusal.reason, "user:admin" in refusal.message) == ("Revoked", True)
    await manager.reconciler.settle()
    left = await manager.admin.delete(path_of("clusters", "shop"))
    assert left.json() == {"deleted": True}


async def test_a_release_that_a_cluster_runs_stays(manager: Manager) -> None:
    await make_cluster(manager)

    answer = await manager.admin.delete(path_of("artifacts", "kubernetes-1-36-3-amd64"))

    assert answer.status_code == 422
    assert "shop" in answer.text


async def test_sign_ins_beyond_what_can_be_checked_are_sent_away(manager: Manager) -> None:
    statuses: list[int] = []

    async def sign_in(number: int) -> None:
        client = manager.client(address=f"192.0.2.{number}")
        answer = await client.post("/v1/login", json={"user": "admin", "password": "wrong"})
        statuses.append(answer.status_code)

    async with anyio.create_task_group() as tg:
        for number in range(60):
            tg.start_soon(sign_in, number)

    assert set(statuses) == {401, 429}
