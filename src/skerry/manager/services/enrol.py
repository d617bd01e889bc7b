"""A machine asks to become a host. The answer is pending, denied with a reason, or a certificate.

Idempotent by the host's key. Only a secret lets a host in by itself: a token that says so, or a
pairing key; serial, MAC and id pre-fill and wait for a person. A machine that is known under
another key waits as well, so that nobody takes over a host silently.
"""

from __future__ import annotations

import re
import uuid
from datetime import datetime

import msgspec

from skerry.lib import pki
from skerry.lib.digest import sha256
from skerry.lib.errors import SkerryError
from skerry.manager.services import hosts, restored
from skerry.manager.services.centre import Centre, Contended, audit, event
from skerry.manager.services.credentials import Asking, Credential, credential_of
from skerry.manager.services.tokens import is_junk
from skerry.manager.store.protocol import (
    AnyResource,
    Conflict,
    Event,
    LimitReached,
    NotFound,
    Put,
    Query,
    SetValue,
    Take,
    WriteSet,
)
from skerry.model.inventory import Inventory, Nic
from skerry.model.kinds import Approval, HostPhase, HostSpec, HostStatus
from skerry.model.labels import host_labels
from skerry.model.meta import DEFAULT_PROJECT, Metadata, Resource
from skerry.wire.messages import EnrolRequest, EnrolState

_TRIES = 12
_RETRY_S = 10
_DENIED_RETRY_S = 60
_MAX_DENIALS = 10_000


class TooManyWaiting(SkerryError):
    """Too many hosts without a token wait for approval."""


async def enrol(centre: Centre, asking: Asking) -> EnrolState:
    """Answer one request. Raises TooManyWaiting; every other outcome is a state."""
    made = ""
    for _ in range(_TRIES):
        try:
            return await _once(centre, asking)
        except LimitReached:
            there = await host_of_key(centre, asking.fingerprint) or await _twin(centre, asking)
            if there is not None and there.uid != made:
                made = there.uid  # another request made this host a moment ago: look again
                continue
            token = (await credential_of(centre, asking)).token
            name = f"registration token {token.name}" if token else "the registration token"
            return await _deny(centre, asking, "TokenUsedUp", f"{name} is used up", token)
        except Conflict:
            continue  # another request of this key, or a name that was taken meanwhile
    raise Contended("registration")


async def host_of_key(centre: Centre, fingerprint: str) -> AnyResource | None:
    """The host that has this key."""
    page = await centre.store.list(
        Query("Host", fields={"status.fingerprint": fingerprint}, limit=1)
    )
    return page.items[0] if page.items else None


async def _once(centre: Centre, asking: Asking) -> EnrolState:
    host = await host_of_key(centre, asking.fingerprint)
    if host is not None:
        return await _known(centre, asking, host)
    waiting = await centre.store.value(hosts.REKEY_KEYS, asking.fingerprint)
    if waiting is not None:
        return await _rekey_state(centre, asking, waiting.decode())
    stone_uid = await centre.store.value(hosts.STONE_KEYS, asking.fingerprint)
    credential = await credential_of(centre, asking)
    if credential.denied:
        return await _deny(centre, asking, credential.denied, credential.message, credential.token)
    remembered = centre.live.denials.get(asking.fingerprint)
    if remembered is not None and not credential.proven:
        return _denied(asking, *remembered)
    twin = await _twin(centre, asking)
    if twin is not None and twin.status.fingerprint == asking.fingerprint:
        return await _known(centre, asking, twin)  # made a moment ago by another request
    if centre.live.restored is not None:
        # Uses of tokens and removals after the backup are not known, so nobody new is counted.
        return _pending(asking, None, "ManagerRestored", restored.WAITS)
    if twin is not None:
        return await _ask_rekey(centre, asking, twin, credential)
    stone = await hosts.find_stone(centre, stone_uid.decode()) if stone_uid else None
    once = await _once_only(centre, asking, stone_uid)
    return await _create(centre, asking, credential, stone, once)


async def _once_only(centre: Centre, asking: Asking, stone_uid: bytes | None) -> tuple[Take, ...]:
    """Counters by which requests at the same time cannot make two hosts of one key or machine.

    Each deletion of such a host begins a new counter.
    """
    life = stone_uid.decode() if stone_uid else "first"
    key = Take(f"host-key/{asking.fingerprint}/{life}", 1)
    hardware = asking.request.facts.hardware_id[:200]
    if is_junk(hardware):
        return (key,)
    gone = await centre.store.counter(hosts.gone_counter(hardware))
    return (key, Take(f"hardware/{sha256(hardware.encode())}/{gone}", 1))


async def _known(centre: Centre, asking: Asking, host: AnyResource) -> EnrolState:
    status: HostStatus = host.status
    if host.spec.revoked:
        stone = await hosts.find_stone(centre, host.uid)
        who = f" by {stone.by} at {stone.at:%Y-%m-%d %H:%M} UTC" if stone else ""
        return _denied(asking, "Revoked", f"this host was revoked{who}", host=host)
    if host.spec.approval is Approval.APPROVED:
        return await _approved(centre, asking, host)
    credential = await credential_of(centre, asking)
    if host.spec.approval is Approval.DENIED:
        return _denied(asking, "Denied", "an operator denied this host", host=host)
    if credential.denied:
        return _denied(asking, credential.denied, credential.message, host=host)
    if credential.approves and centre.live.restored is not None:
        return _pending(asking, host, "ManagerRestored", restored.WAITS)
    if credential.approves and credential.project == host.project:
        now = centre.clock.now()
        condition = hosts.registered(now, status="True", reason="Approved", message="by token")
        approved = msgspec.structs.replace(
            host,
            spec=msgspec.structs.replace(host.spec, approval=Approval.APPROVED),
            status=hosts.with_condition(
                msgspec.structs.replace(status, phase=HostPhase.READY), condition
            ),
        )
        done = await centre.store.commit(
            WriteSet(
                takes=(credential.take,) if credential.take else (),
                puts=(Put(approved, host.metadata.revision),),
                events=(event(centre, host, "Approved", "by a registration secret"),),
                audits=(audit(centre, asking.caller, "approve", host, "by token"),),
            )
        )
        return await _approved(centre, asking, done.written[0])
    return _pending(asking, host, "AwaitingApproval", "waits for an operator to approve it")


async def _approved(centre: Centre, asking: Asking, host: AnyResource) -> EnrolState:
    """A fresh certificate for a key that is in; asking again is harmless."""
    centre.live.denials.pop(asking.fingerprint, None)
    pem, ends = hosts.issue_certificate(centre, host.status.public_key, host.uid)
    status = msgspec.structs.replace(
        host.status,
        certificate_expires_at=ends,
        counter=max(host.status.counter, asking.counter),
        sealing_key=asking.request.sealing_key,
        agent_version=asking.request.agent_version,
    )
    await centre.store.commit(
        WriteSet(
            puts=(Put(msgspec.structs.replace(host, status=status), host.metadata.revision),),
            audits=(audit(centre, asking.caller, "issue-certificate", host, f"until {ends}"),),
        )
    )
    return EnrolState(
        state="approved",
        reason="Approved",
        message="this host is registered",
        registration_code=hosts.pki_code(asking.fingerprint),
        host_uid=host.uid,
        host_name=host.name,
        project=host.project,
        certificate=pem,
        trusted_keys=centre.keys.trusted,
        authorities=centre.keys.authorities,
    )


async def _create(
    centre: Centre,
    asking: Asking,
    credential: Credential,
    stone: hosts.Stone | None,
    once: tuple[Take, ...],
) -> EnrolState:
    if not credential.proven:
        waiting = await centre.store.list(
            Query("Host", fields={"status.phase": HostPhase.PENDING.value}, limit=1)
        )
        if waiting.total >= centre.settings.max_waiting_hosts:
            raise TooManyWaiting(
                f"{waiting.total} hosts wait for approval already",
                hint="approve or deny some, or register with a token",
                reason="AwaitingApproval",
                retryable=True,
            )
    now = centre.clock.now()
    # Who was deleted by a person comes back only through a person.
    approves = credential.approves and stone is None
    reason, message = "AwaitingApproval", "waits for an operator to approve it"
    if stone is not None:
        message = f"{stone.by} removed this host at {stone.at:%Y-%m-%d %H:%M} UTC; approve it again"
    if approves:
        reason, message = "Approved", "by a registration secret"
    host = await _new_host(centre, asking, credential, now, approves=approves)
    condition = hosts.registered(
        now, status="True" if approves else "False", reason=reason, message=message
    )
    host = msgspec.structs.replace(host, status=hosts.with_condition(host.status, condition))
    puts = [Put(host, 0)]
    if credential.claim is not None:
        claimed = msgspec.structs.replace(
            credential.claim.status, claimed_by=host.name, claimed_at=now
        )
        puts.append(
            Put(
                msgspec.structs.replace(credential.claim, status=claimed),
                credential.claim.metadata.revision,
            )
        )
    done = await centre.store.commit(
        WriteSet(
            takes=(*once, credential.take) if credential.take else once,
            puts=tuple(puts),
            events=(event(centre, host, "Registered", f"from {asking.address}: {message}"),),
            audits=(audit(centre, asking.caller, "enrol", host, f"{reason}: {message}"),),
        )
    )
    if not approves:
        return _pending(asking, host, reason, message)
    return await _approved(centre, asking, done.written[0])


async def _new_host(
    centre: Centre, asking: Asking, credential: Credential, now: datetime, *, approves: bool
) -> AnyResource:
    facts = asking.request.facts
    own, _ = host_labels("labels", asking.request.labels)
    site = credential.site or await _site(centre, credential.project, asking.request.site)
    status = HostStatus(
        phase=HostPhase.READY if approves else HostPhase.PENDING,
        hardware_id="" if is_junk(facts.hardware_id) else facts.hardware_id[:200],
        public_key=asking.request.public_key,
        sealing_key=asking.request.sealing_key,
        fingerprint=asking.fingerprint,
        registration_code=hosts.pki_code(asking.fingerprint),
        agent_version=asking.request.agent_version[:60],
        addresses=tuple(item[:60] for item in facts.addresses[:32]),
        host_name=facts.host_name[:253],
        own_labels=own,
        inventory=Inventory(
            architecture=facts.architecture[:20],
            serial="" if is_junk(facts.serial) else facts.serial[:100],
            nics=tuple(Nic(name="", mac=mac[:20]) for mac in facts.macs[:32]),
        ),
        counter=asking.counter,
        registered_at=now,
    )
    return Resource(
        kind="Host",
        metadata=Metadata(
            name=await _name(centre, asking, credential),
            project=credential.project,
            uid=str(uuid.uuid4()),
            labels={**own, **(credential.labels or {})},
            generation=1,
            created_at=now,
        ),
        spec=HostSpec(site=site, approval=Approval.APPROVED if approves else Approval.PENDING),
        status=status,
    )


async def _name(centre: Centre, asking: Asking, credential: Credential) -> str:
    """A name that nobody has. Equal requests find equal names, so that they collide."""
    wanted = credential.name or asking.request.facts.host_name.split(".")[0]
    plain = re.sub(r"[^a-z0-9-]+", "-", wanted.lower())[:50].strip("-")
    if not plain or plain == "localhost":
        plain = f"edge-{asking.fingerprint[:8]}"
    try:
        await centre.store.get("Host", credential.project, plain)
    except NotFound:
        return plain
    return f"{plain}-{asking.fingerprint[:8]}"


async def _site(centre: Centre, project: str, name: str) -> str:
    try:
        return (await centre.store.get("Site", project, name)).name if name else ""
    except NotFound:
        return ""


async def _twin(centre: Centre, asking: Asking) -> AnyResource | None:
    hardware = asking.request.facts.hardware_id
    if is_junk(hardware):
        return None
    page = await centre.store.list(
        Query("Host", fields={"status.hardwareId": hardware[:200]}, limit=1)
    )
    return page.items[0] if page.items else None


async def _ask_rekey(
    centre: Centre, asking: Asking, twin: AnyResource, credential: Credential
) -> EnrolState:
    if twin.spec.revoked:
        return _denied(asking, "Revoked", "a host with this hardware id was revoked")
    before = await hosts.find_rekey(centre, twin.uid)
    message = (
        f"host {twin.name} has this hardware id and another key; an operator must approve code"
        f" {hosts.pki_code(asking.fingerprint)}"
    )
    if before is not None and not before.denied and not credential.proven:
        return _known_machine(asking)
    now = centre.clock.now()
    rekey = hosts.Rekey(
        public_key=asking.request.public_key,
        sealing_key=asking.request.sealing_key,
        fingerprint=asking.fingerprint,
        at=now,
    )
    seen = hosts.registered(now, status="Unknown", reason="HardwareIdTaken", message=message)
    marked = msgspec.structs.replace(twin, status=hosts.with_condition(twin.status, seen))
    values = [
        SetValue(hosts.REKEYS, twin.uid, msgspec.json.encode(rekey)),
        SetValue(hosts.REKEY_KEYS, asking.fingerprint, twin.uid.encode()),
    ]
    if before is not None and before.fingerprint != asking.fingerprint:
        values.append(SetValue(hosts.REKEY_KEYS, before.fingerprint, None))
    await centre.store.commit(
        WriteSet(
            takes=(credential.take,) if credential.take else (),
            puts=(Put(marked, twin.metadata.revision),),
            values=tuple(values),
            events=(event(centre, twin, "HardwareIdTaken", message, severity="warning"),),
            audits=(audit(centre, asking.caller, "ask-new-key", twin, asking.fingerprint[:16]),),
        )
    )
    return _known_machine(asking)


async def _rekey_state(centre: Centre, asking: Asking, uid: str) -> EnrolState:
    rekey = await hosts.find_rekey(centre, uid)
    if rekey is None or rekey.denied:
        return _denied(asking, "Denied", "an operator denied this machine's new key")
    return _known_machine(asking)


def _known_machine(asking: Asking) -> EnrolState:
    """Names no host: a hardware id is no proof, so whoever asks may be a stranger."""
    code = hosts.pki_code(asking.fingerprint)
    return _pending(
        asking,
        None,
        "HardwareIdTaken",
        f"this machine is known under another key; an operator must approve code {code}",
    )


async def _deny(
    centre: Centre, asking: Asking, reason: str, message: str, token: AnyResource | None
) -> EnrolState:
    """Deny a machine that has no object here, and say so once where a person will look for it."""
    if asking.fingerprint not in centre.live.denials and len(centre.live.denials) < _MAX_DENIALS:
        centre.live.denials[asking.fingerprint] = (reason, message)
        name = asking.request.facts.host_name[:63] or "unnamed"
        seen = Event(
            at=centre.clock.now(),
            object_kind="RegistrationToken" if token else "Host",
            object_project=token.project if token else DEFAULT_PROJECT,
            object_name=token.name if token else name,
            reason=reason,
            message=f"{name} (key {asking.fingerprint[:16]}) from {asking.address}: {message}",
            severity="warning",
        )
        await centre.store.commit(WriteSet(events=(seen,)))
    return _denied(asking, reason, message)


def _denied(
    asking: Asking, reason: str, message: str, *, host: AnyResource | None = None
) -> EnrolState:
    return EnrolState(
        state="denied",
        reason=reason,
        message=message,
        registration_code=hosts.pki_code(asking.fingerprint),
        retry_s=_DENIED_RETRY_S,
        host_name=host.name if host else "",
    )


def _pending(asking: Asking, host: AnyResource | None, reason: str, message: str) -> EnrolState:
    return EnrolState(
        state="pending",
        reason=reason,
        message=message,
        registration_code=hosts.pki_code(asking.fingerprint),
        retry_s=_RETRY_S,
        host_name=host.name if host else "",
    )


def check_keys(request: EnrolRequest) -> str:
    """Fingerprint of the host key in a request. Raises BadKey."""
    pki.load_sealing_public(request.sealing_key)
    return pki.fingerprint(pki.load_host_public(request.public_key))
