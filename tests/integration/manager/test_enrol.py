"""Enrolment: every outcome, on both sides."""

from __future__ import annotations

import anyio
import msgspec
import pytest

from skerry.lib import pki
from skerry.manager.services import enrol
from skerry.manager.services.credentials import Asking
from skerry.wire import httpsig, messages

from .conftest import BASE, Manager, condition, path_of

pytestmark = pytest.mark.anyio


async def test_token_that_approves_gives_a_certificate_and_roots(manager: Manager) -> None:
    secret = await manager.token(labels={"tier": "store"})
    device = manager.device("shop-1")

    state = await device.enrol(token=secret)

    assert (state.state, state.host_name, state.project) == ("approved", "shop-1", "default")
    certificate = pki.load_certificate(state.certificate)
    assert certificate.subject.rfc4514_string() == f"CN={state.host_uid}"
    assert {key.role.value for key in state.trusted_keys} == {"release", "channel"}
    host = (await manager.admin.get(path_of("hosts", "shop-1"))).json()
    assert host["metadata"]["labels"] == {"tier": "store"}
    assert host["status"]["phase"] == "Ready"


async def test_asking_again_with_the_same_key_uses_no_second_token(manager: Manager) -> None:
    secret = await manager.token(maximumUses=1)
    device = manager.device("shop-1")

    first = await device.enrol(token=secret)
    again = await device.enrol(token=secret)

    assert first.host_uid == again.host_uid
    token = (await manager.admin.get(path_of("registrationtokens", "t"))).json()
    assert token["status"]["uses"] == 1
    assert (await manager.admin.get(path_of("hosts"))).json()["total"] == 1


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("unknown", "TokenUnknown"),
        ("expired", "TokenExpired"),
        ("revoked", "TokenRevoked"),
        ("used", "TokenUsedUp"),
        ("network", "NetworkNotAllowed"),
    ],
)
async def test_bad_token_is_denied_with_its_reason(
    manager: Manager, case: str, reason: str
) -> None:
    networks = ["198.51.100.0/24"] if case == "network" else []
    secret = await manager.token(maximumUses=1, allowedNetworks=networks)
    if case == "unknown":
        secret = "0" * 40
    if case == "expired":
        manager.clock.advance(25 * 3600)
    if case == "revoked":
        login = await manager.admin.post(path_of("registrationtokens", "t") + "/revoke")
        assert login.status_code == 200
    if case == "used":
        assert (await manager.device("first").enrol(token=secret)).state == "approved"
    device = manager.device("late")

    state = await device.enrol(token=secret)
    later = await device.enrol()

    assert (state.state, state.reason) == ("denied", reason)
    assert (later.state, later.reason) == ("denied", reason), "the agent forgot its token"
    assert (await manager.centre.store.value("rekey", "x")) is None


async def test_without_a_secret_a_host_waits_and_a_person_approves(manager: Manager) -> None:
    device = manager.device("quiet")

    waiting = await device.enrol()
    approved = await manager.admin.post(path_of("hosts", "quiet") + "/approve")
    state = await device.enrol()

    assert (waiting.state, waiting.reason) == ("pending", "AwaitingApproval")
    assert waiting.registration_code == approved.json()["status"]["registrationCode"]
    assert state.state == "approved"


async def test_denied_host_hears_denied(manager: Manager) -> None:
    device = manager.device("foe")
    await device.enrol()

    await manager.admin.post(path_of("hosts", "foe") + "/deny")
    state = await device.enrol()

    assert (state.state, state.reason) == ("denied", "Denied")
    host = (await manager.admin.get(path_of("hosts", "foe"))).json()
    assert condition(host, "Registered") == "Denied"


async def test_known_hardware_with_a_new_key_waits_and_takes_nothing_over(
    manager: Manager,
) -> None:
    old = await manager.ready_host("shop-1")
    secret = await manager.token("again")
    new = manager.device("shop-1", hardware_id=old.hardware_id)

    asked = await new.enrol(token=secret)
    still = await old.sync()
    host = (await manager.admin.get(path_of("hosts", "shop-1"))).json()
    await manager.admin.post(
        path_of("hosts", "shop-1") + "/approve", json={"fingerprint": new.fingerprint}
    )
    taken = await new.enrol(token=secret)

    assert (asked.state, asked.reason) == ("pending", "HardwareIdTaken")
    assert still.now is not None, "the old key counts until a person decided"
    assert condition(host, "Registered") == "HardwareIdTaken"
    assert (taken.state, taken.host_uid) == ("approved", old.uid)
    assert (await manager.admin.get(path_of("hosts"))).json()["total"] == 1
    gone = await old.post(messages.SYNC_PATH, messages.SyncRequest(), host=old.uid)
    assert gone.status_code == 401


async def test_denied_new_key_stays_out(manager: Manager) -> None:
    old = await manager.ready_host("shop-1")
    new = manager.device("shop-1", hardware_id=old.hardware_id)
    await new.enrol()

    await manager.admin.post(path_of("hosts", "shop-1") + "/deny")

    assert (await new.enrol()).reason == "Denied"
    await old.sync()


async def test_junk_hardware_id_identifies_nobody(manager: Manager) -> None:
    secret = await manager.token()

    first = await manager.device("a", hardware_id="To be filled by O.E.M.").enrol(token=secret)
    second = await manager.device("b", hardware_id="To be filled by O.E.M.").enrol(token=secret)

    assert (first.state, second.state) == ("approved", "approved")


async def test_pairing_key_approves_once_and_serial_only_fills_in(manager: Manager) -> None:
    from skerry.manager.services.tokens import hash_secret

    await manager.apply("Site", "sites", "north", {})
    await manager.apply(
        "HostClaim",
        "hostclaims",
        "by-key",
        {"pairingKeyHash": hash_secret("k" * 20), "site": "north", "hostName": "till-1"},
    )
    await manager.apply(
        "HostClaim", "hostclaims", "by-serial", {"serial": "SN-4711", "hostName": "till-2"}
    )

    paired = await manager.device("x").enrol(pairing_key="k" * 20)
    second = await manager.device("y").enrol(pairing_key="k" * 20)
    serial = await manager.device("z").enrol(serial="SN-4711")

    assert (paired.state, paired.host_name) == ("approved", "till-1")
    assert (second.state, second.reason) == ("denied", "TokenUnknown")
    assert (serial.state, serial.host_name) == ("pending", "till-2")


async def test_revoked_host_hears_who_did_it(manager: Manager) -> None:
    device = await manager.ready_host("shop-1")

    await manager.admin.post(path_of("hosts", "shop-1") + "/revoke")
    sync = await device.post(messages.SYNC_PATH, messages.SyncRequest(), host=device.uid)
    enrol = await device.enrol()

    refusal = messages.decode(sync.content, messages.Refusal)
    assert (sync.status_code, refusal.reason) == (403, "Revoked")
    assert "user:admin" in refusal.message
    assert (enrol.state, enrol.reason) == ("denied", "Revoked")


async def test_deleted_host_that_comes_back_waits_for_a_person(manager: Manager) -> None:
    device = await manager.ready_host("shop-1")
    secret = await manager.token("more")

    gone = await manager.admin.delete(path_of("hosts", "shop-1"))
    sync = await device.post(messages.SYNC_PATH, messages.SyncRequest(), host=device.uid)
    back = await device.enrol(token=secret)

    assert gone.json() == {"deleted": True}
    assert messages.decode(sync.content, messages.Refusal).reason == "Revoked"
    assert back.state == "pending"
    assert "user:admin removed this host" in back.message


async def test_wrong_signature_and_foreign_key_are_refused(manager: Manager) -> None:
    device = manager.device("shop-1")
    body = b"{}"
    headers = device.headers("POST", messages.ENROL_PATH, body, host=device.fingerprint)

    changed = await device.http.post(BASE + messages.ENROL_PATH, content=b"{ }", headers=headers)
    other = manager.device("other")
    named = await device.post(messages.ENROL_PATH, other.request(), host=device.fingerprint)

    assert changed.status_code == 400  # not even a message
    assert messages.decode(named.content, messages.Refusal).reason == "SignatureInvalid"


async def test_replayed_request_is_refused(manager: Manager) -> None:
    device = await manager.ready_host("shop-1")
    body = b"{}"
    headers = device.headers("POST", messages.SYNC_PATH, body, host=device.uid)

    first = await device.http.post(BASE + messages.SYNC_PATH, content=body, headers=headers)
    replay = await device.http.post(BASE + messages.SYNC_PATH, content=body, headers=headers)

    assert (first.status_code, replay.status_code) == (200, 409)
    assert messages.decode(replay.content, messages.Refusal).reason == "RequestReplayed"


async def test_replay_of_a_report_is_refused_after_a_restart(manager: Manager) -> None:
    device = await manager.ready_host("shop-1")
    await device.report()
    used = device.counter

    manager.centre.live.counters.clear()  # what a restart forgets
    device.counter = used - 1
    answer = await device.post(messages.SYNC_PATH, messages.SyncRequest(), host=device.uid)

    assert answer.status_code == 409


async def test_oversize_body_is_refused_and_signed(manager: Manager) -> None:
    device = await manager.ready_host("shop-1")
    body = b" " * (messages.MAX_MESSAGE_BYTES + 1)
    headers = device.headers("POST", messages.SYNC_PATH, body, host=device.uid)

    answer = await device.http.post(BASE + messages.SYNC_PATH, content=body, headers=headers)

    assert answer.status_code == 413
    httpsig.verify_answer(
        httpsig.Answer(headers=dict(answer.headers), status_code=413, body=answer.content),
        device.channel,
        host=device.uid,
        counter=device.counter,
    )


async def test_registrations_from_one_address_are_throttled(manager: Manager) -> None:
    for _ in range(manager.centre.settings.enrol_burst):
        await manager.client(address="203.0.113.9").post(messages.ENROL_PATH, content=b"x")

    stopped = await manager.client(address="203.0.113.9").post(messages.ENROL_PATH, content=b"x")
    other = await manager.client(address="203.0.113.10").post(messages.ENROL_PATH, content=b"x")

    assert (stopped.status_code, other.status_code) == (429, 400)


async def test_single_use_token_lets_one_of_1000_parallel_hosts_in(manager: Manager) -> None:
    secret = await manager.token(maximumUses=1)
    request = manager.device("h").request(token=secret)
    states: list[str] = []

    async def ask(index: int) -> None:
        # Below the signatures, so that the store gets all of them at once.
        facts = messages.HostFacts(hardware_id=f"board-{index:05}", host_name=f"h{index}")
        asking = Asking(
            msgspec.structs.replace(request, facts=facts), f"{index:064x}", "192.0.2.9", 1
        )
        states.append((await enrol.enrol(manager.centre, asking)).reason)

    async with anyio.create_task_group() as tg:
        for index in range(1000):
            tg.start_soon(ask, index)

    assert sorted(set(states)) == ["Approved", "TokenUsedUp"]
    assert states.count("Approved") == 1
    assert (await manager.admin.get(path_of("hosts"))).json()["total"] == 1


async def test_one_key_in_many_parallel_requests_makes_one_host(manager: Manager) -> None:
    secret = await manager.token()
    device = manager.device("twin")
    states: list[str] = []

    async def ask(counter: int) -> None:
        # Past the counter's check, which alone would let only some of them through.
        asking = Asking(device.request(token=secret), device.fingerprint, "192.0.2.9", counter)
        states.append((await enrol.enrol(manager.centre, asking)).state)

    async with anyio.create_task_group() as tg:
        for counter in range(8):
            tg.start_soon(ask, counter)

    assert states == ["approved"] * 8
    assert (await manager.admin.get(path_of("hosts"))).json()["total"] == 1
    token = (await manager.admin.get(path_of("registrationtokens", "t"))).json()
    assert token["status"]["uses"] == 1


async def test_one_machine_with_many_new_keys_at_once_makes_one_host(manager: Manager) -> None:
    secret = await manager.token()
    states: list[str] = []

    async def ask(index: int) -> None:
        device = manager.device(f"h{index}", hardware_id="board-4711")
        states.append((await device.enrol(token=secret)).reason)

    async with anyio.create_task_group() as tg:
        for index in range(8):
            tg.start_soon(ask, index)

    assert states.count("Approved") == 1
    assert (await manager.admin.get(path_of("hosts"))).json()["total"] == 1


async def test_deleted_host_with_the_same_key_can_be_made_again(manager: Manager) -> None:
    device = await manager.ready_host("shop-1")
    for _ in range(2):
        await manager.admin.delete(path_of("hosts", "shop-1"))
        assert (await device.enrol()).state == "pending"
        await manager.admin.post(path_of("hosts", "shop-1") + "/approve")
        assert (await device.enrol()).state == "approved"
