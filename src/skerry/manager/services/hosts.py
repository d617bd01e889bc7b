"""Hosts: approve, deny, revoke, and what happens when one is deleted.

A deleted or revoked host leaves a stone behind that names who did it and when; it outlives the
object, so that a host that comes back can be told.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from skerry.lib import pki
from skerry.lib.digest import sha256
from skerry.manager.auth.decide import allowed
from skerry.manager.services import osimages
from skerry.manager.services.centre import (
    CONTACTS,
    INTERNAL,
    Caller,
    Centre,
    Contended,
    audit,
    event,
    require,
)
from skerry.manager.services.clusters import MARK, cluster_of
from skerry.manager.services.draft import Draft, Ending
from skerry.manager.services.present import shown
from skerry.manager.store.protocol import (
    AnyResource,
    Conflict,
    Delete,
    NotFound,
    Put,
    SetValue,
    Take,
    WriteSet,
)
from skerry.model.kinds import Approval, HostPhase, HostSpec, HostStatus
from skerry.model.meta import Condition, Record
from skerry.model.problems import DocumentInvalid, Problem

STONES = "revoked-host"
STONE_KEYS = "revoked-key"
REKEYS = "rekey"
REKEY_KEYS = "rekey-key"
# What is kept by a host's uid elsewhere and goes with it.
_OF_A_HOST = ("assignment", "assignment-floor", "host-events", "restored-host", CONTACTS)
OWN_CONDITIONS = ("Registered", "Reachable")
_TRIES = 8


class Stone(Record, frozen=True, kw_only=True):
    """What is remembered of a host that was revoked or deleted."""

    name: str
    project: str
    by: str
    at: datetime
    public_key: str


class Rekey(Record, frozen=True, kw_only=True):
    """A machine that is known asks to come in with a new key."""

    public_key: str
    sealing_key: str
    fingerprint: str
    at: datetime
    denied: bool = False


async def find_stone(centre: Centre, uid: str) -> Stone | None:
    """What is remembered of a host that is gone or revoked."""
    data = await centre.store.value(STONES, uid)
    return msgspec.json.decode(data, type=Stone) if data else None


async def find_rekey(centre: Centre, uid: str) -> Rekey | None:
    """The new key that waits for this host."""
    data = await centre.store.value(REKEYS, uid)
    return msgspec.json.decode(data, type=Rekey) if data else None


async def waiting_rekeys(
    centre: Centre, caller: Caller, project: str | None
) -> list[tuple[AnyResource, Rekey]]:
    """Known machines with a new key that nobody has decided about, as far as the caller may see
    them. They are few, so they are found by their keys and not among all hosts."""
    found: list[tuple[AnyResource, Rekey]] = []
    for uid, data in (await centre.store.values(REKEYS)).items():
        rekey = msgspec.json.decode(data, type=Rekey)
        if rekey.denied:
            continue
        try:
            host = await centre.store.get_by_uid("Host", uid)
        except NotFound:
            continue
        seen = allowed(caller.principal, "list", "Host", host.project)
        if seen and project in (None, host.project):
            found.append((await shown(centre, host), rekey))
    return sorted(found, key=lambda item: (item[0].project, item[0].name))


def with_condition(status: HostStatus, condition: Condition) -> HostStatus:
    """The status with one condition set; `since` stays while nothing changed."""
    kept = [item for item in status.conditions if item.type != condition.type]
    before = next((item for item in status.conditions if item.type == condition.type), None)
    if before is not None and (before.status, before.reason) == (
        condition.status,
        condition.reason,
    ):
        condition = msgspec.structs.replace(condition, since=before.since)
    return msgspec.structs.replace(status, conditions=(*kept, condition))


def registered(now: datetime, *, status: str, reason: str, message: str) -> Condition:
    """The condition about a host's registration."""
    return Condition(type="Registered", status=status, reason=reason, message=message, since=now)


class OtherKey(Conflict):
    """The key that waits for approval is not the one that the person saw."""

    def __init__(self, name: str, code: str) -> None:
        super().__init__(
            f"host {name} waits with code {code}, and that is not what was approved",
            hint="compare the code with the one on the machine, and name it: skerry approve host"
            f" {name} --code {code}",
            reason="Conflict",
        )


async def approve(
    centre: Centre,
    caller: Caller,
    project: str,
    name: str,
    *,
    site: str = "",
    fingerprint: str = "",
    code: str = "",
) -> AnyResource:
    """Let a waiting host in; for a known machine with a new key, take the new key.

    `fingerprint` or `code` say which key the person looked at; raises OtherKey when another one
    waits meanwhile. A known machine's new key is never taken without one of them: whoever knows a
    hardware id can ask, also a moment before the button is pressed.
    """

    async def change(host: AnyResource) -> WriteSet | None:
        if host.spec.revoked:
            raise DocumentInvalid(
                f"host {name}",
                [Problem(path="spec.revoked", message="is revoked", hint="delete the host first")],
            )
        rekey = await find_rekey(centre, host.uid)
        waiting = rekey is not None and not rekey.denied
        if host.spec.approval is Approval.APPROVED and not waiting:
            return None
        waits = rekey.fingerprint if rekey is not None and waiting else host.status.fingerprint
        named = bool(fingerprint or code)
        if (waiting and not named) or not _is_meant(waits, fingerprint=fingerprint, code=code):
            raise OtherKey(name, pki_code(waits))
        spec: HostSpec = msgspec.structs.replace(host.spec, approval=Approval.APPROVED)
        if site:
            await centre.store.get("Site", project, site)
            spec = msgspec.structs.replace(spec, site=site)
        status: HostStatus = host.status
        values: tuple[SetValue, ...] = ()
        if rekey is not None and waiting:
            status = _take_key(status, rekey)
            values = _forget_rekey(host.uid, rekey)
            centre.live.counters.pop(host.uid, None)
        if status.phase is not HostPhase.IN_USE:
            status = msgspec.structs.replace(status, phase=HostPhase.READY)
        good = registered(
            centre.clock.now(), status="True", reason="Approved", message=f"by {caller.name}"
        )
        return _write(
            centre, caller, "approve", host, spec, with_condition(status, good), values=values
        )

    return await _change(centre, caller, "approve", project, name, change)


async def deny(centre: Centre, caller: Caller, project: str, name: str) -> AnyResource:
    """Refuse a waiting host; for a known machine with a new key, refuse the key."""

    async def change(host: AnyResource) -> WriteSet | None:
        rekey = await find_rekey(centre, host.uid)
        now = centre.clock.now()
        if rekey is not None and not rekey.denied:
            refused = msgspec.structs.replace(rekey, denied=True)
            good = registered(now, status="True", reason="Approved", message="new key was denied")
            return _write(
                centre,
                caller,
                "deny",
                host,
                host.spec,
                with_condition(host.status, good),
                values=(SetValue(REKEYS, host.uid, msgspec.json.encode(refused)),),
            )
        if cluster_of(host):
            raise DocumentInvalid(
                f"host {name}",
                [
                    Problem(
                        path="spec.approval",
                        message=f"is in cluster {cluster_of(host)}",
                        hint=f"skerry delete cluster {cluster_of(host)}, or revoke the host",
                    )
                ],
            )
        spec = msgspec.structs.replace(host.spec, approval=Approval.DENIED)
        status = msgspec.structs.replace(host.status, phase=HostPhase.DENIED)
        bad = registered(now, status="False", reason="Denied", message=f"denied by {caller.name}")
        return _write(centre, caller, "deny", host, spec, with_condition(status, bad))

    return await _change(centre, caller, "deny", project, name, change)


async def revoke(centre: Centre, caller: Caller, project: str, name: str) -> AnyResource:
    """Shut a host out for good. What runs on it goes on; it hears nothing any more."""

    async def change(host: AnyResource) -> WriteSet | None:
        if host.spec.revoked:
            return None
        spec = msgspec.structs.replace(host.spec, revoked=True)
        status = msgspec.structs.replace(host.status, phase=HostPhase.REVOKED)
        bad = registered(
            centre.clock.now(), status="False", reason="Revoked", message=f"by {caller.name}"
        )
        return _write(
            centre,
            caller,
            "revoke",
            host,
            spec,
            with_condition(status, bad),
            values=stones(centre, caller, host),
        )

    done = await _change(centre, caller, "revoke", project, name, change)
    centre.live.wake(done.uid)
    return done


async def prepare(
    centre: Centre, caller: Caller, old: AnyResource | None, new: AnyResource
) -> Draft:
    """People change a host's site, labels and OS image; it makes itself by registering."""
    if old is None:
        problem = Problem(
            path="kind",
            message="a host makes itself by registering",
            hint="run the install line of 'skerry token create' on the machine",
        )
        return Draft(new, problems=(problem,))
    problems = [
        Problem(path=f"spec.{field}", message="is not changed by apply", hint=hint)
        for field, hint in (
            ("approval", f"skerry approve|deny host {new.name}"),
            ("revoked", f"skerry revoke host {new.name}"),
        )
        if getattr(old.spec, field) != getattr(new.spec, field)
    ]
    if new.spec.os_image != old.spec.os_image:
        problems += await osimages.wish_problems(centre, new)
    return Draft(new, problems=tuple(problems))


async def ending(centre: Centre, caller: Caller, old: AnyResource) -> Ending:
    """A host in a cluster leaves it first; any host leaves a stone."""
    stone = stones(centre, caller, old)
    if old.metadata.deleted_at is not None and caller == INTERNAL:
        stone = ()  # there is one of the person who asked for it
    values = [
        *stone,
        *(SetValue(space, old.uid, None) for space in _OF_A_HOST),
    ]
    rekey = await find_rekey(centre, old.uid)
    if rekey is not None:
        values += _forget_rekey(old.uid, rekey)
    hardware = old.status.hardware_id
    takes = (Take(gone_counter(hardware), None),) if hardware else ()
    finalizers = old.metadata.finalizers if cluster_of(old) else ()
    return Ending(finalizers=finalizers, values=tuple(values), takes=takes, asked=stone)


async def finish_deletion(centre: Centre, host: AnyResource) -> None:
    """Remove a host whose deletion a person asked for, once nothing holds it. Raises Conflict."""
    end = await ending(centre, INTERNAL, host)
    await centre.store.commit(
        WriteSet(
            takes=end.takes,
            deletes=(Delete("Host", host.project, host.name, host.metadata.revision),),
            values=end.values,
            events=(event(centre, host, "Deleted", "nothing holds it any more"),),
            audits=(audit(centre, INTERNAL, "finish-delete", host),),
        )
    )
    centre.live.forget(host.uid)


def gone_counter(hardware: str) -> str:
    """Counts the hosts with this hardware id that were deleted."""
    return f"hardware-gone/{sha256(hardware.encode())}"


def stones(centre: Centre, caller: Caller, host: AnyResource) -> tuple[SetValue, ...]:
    """What is remembered of a host that is shut out."""
    if not host.status.public_key:
        return ()
    stone = Stone(
        name=host.name,
        project=host.project,
        by=caller.name,
        at=centre.clock.now(),
        public_key=host.status.public_key,
    )
    return (
        SetValue(STONES, host.uid, msgspec.json.encode(stone)),
        SetValue(STONE_KEYS, host.status.fingerprint, host.uid.encode()),
    )


def marks(host: AnyResource) -> tuple[str, ...]:
    """The clusters that hold the host."""
    return tuple(item for item in host.metadata.finalizers if item.startswith(MARK))


def _take_key(status: HostStatus, rekey: Rekey) -> HostStatus:
    # The counter starts again: it belongs to the key.
    return msgspec.structs.replace(
        status,
        public_key=rekey.public_key,
        sealing_key=rekey.sealing_key,
        fingerprint=rekey.fingerprint,
        registration_code=pki_code(rekey.fingerprint),
        counter=0,
    )


def pki_code(fingerprint: str) -> str:
    """Eight digits of the key's fingerprint, shown on both sides."""
    short = fingerprint[:8].upper()
    return f"{short[:4]}-{short[4:]}"


def _is_meant(waits: str, *, fingerprint: str, code: str) -> bool:
    plain = code.replace("-", "").replace(" ", "").upper()
    return (not fingerprint or fingerprint == waits) and (
        not code or plain == pki_code(waits).replace("-", "")
    )


def _forget_rekey(uid: str, rekey: Rekey) -> tuple[SetValue, ...]:
    return (SetValue(REKEYS, uid, None), SetValue(REKEY_KEYS, rekey.fingerprint, None))


def _write(
    centre: Centre,
    caller: Caller,
    verb: str,
    host: AnyResource,
    spec: HostSpec,
    status: HostStatus,
    *,
    values: tuple[SetValue, ...] = (),
) -> WriteSet:
    words = {"approve": "Approved", "deny": "Denied", "revoke": "Revoked"}
    metadata = msgspec.structs.replace(
        host.metadata, generation=host.metadata.generation + (spec != host.spec)
    )
    new = msgspec.structs.replace(host, metadata=metadata, spec=spec, status=status)
    return WriteSet(
        puts=(Put(new, host.metadata.revision),),
        values=values,
        events=(event(centre, host, words[verb], f"by {caller.name}"),),
        audits=(audit(centre, caller, verb, host, f"key {status.fingerprint[:16]}"),),
    )


async def _change(
    centre: Centre, caller: Caller, verb: str, project: str, name: str, change: Any
) -> AnyResource:
    require(caller, verb, "Host", project)
    for _ in range(_TRIES):
        host = await centre.store.get("Host", project, name)
        writes = await change(host)
        if writes is None:
            return await shown(centre, host)
        try:
            done = await centre.store.commit(writes)
        except Conflict:
            continue
        return await shown(centre, done.written[0])
    raise Contended(f"host {name}")


def issue_certificate(centre: Centre, public_key: str, uid: str) -> tuple[str, datetime]:
    """A host certificate (PEM) and when it ends."""
    certificate = pki.issue_host_certificate(
        centre.keys.authority,
        pki.load_host_public(public_key),
        host_uid=uid,
        now=centre.clock.now(),
        days=centre.settings.host_certificate_days,
    )
    return pki.certificate_pem(certificate), certificate.not_valid_after_utc
