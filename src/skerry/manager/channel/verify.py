"""Who sent a channel request: signature against the stored key, counter that only grows.

Requests that change something need a counter above the last one of that host. Reading content is
idempotent and may overtake other requests, so it only needs a valid signature.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from cryptography.hazmat.primitives.asymmetric import ec

from skerry.lib import pki
from skerry.lib.errors import SkerryError
from skerry.manager.services import hosts
from skerry.manager.services.centre import Centre, event
from skerry.manager.store.protocol import AnyResource, NotFound, WriteSet
from skerry.model.kinds import Approval
from skerry.wire import httpsig

_REPLAY_EVERY = timedelta(hours=1)


class ChannelRefused(SkerryError):
    """A channel request is refused with an HTTP status."""

    def __init__(self, status: int, reason: str, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint, reason=reason)
        self.status = status


@dataclass(frozen=True, slots=True)
class Sender:
    """The host behind a request, and the request's counter."""

    host: AnyResource
    counter: int


async def identify(centre: Centre, message: httpsig.Message, *, counted: bool) -> Sender:
    """The approved host that signed this request. Raises ChannelRefused."""
    uid = message.headers.get(httpsig.HOST_HEADER, "")
    try:
        host = await centre.store.get_by_uid("Host", uid)
    except NotFound:
        raise await _gone(centre, message, uid) from None
    counter = check_signature(message, pki.load_host_public(host.status.public_key))
    if host.spec.revoked:
        raise await _gone(centre, message, uid)
    if host.spec.approval is not Approval.APPROVED:
        raise ChannelRefused(403, "AwaitingApproval", f"host {host.name} is not approved")
    if counted:
        try:
            check_counter(centre, uid, counter, durable=host.status.counter)
        except ChannelRefused as exc:
            await _tell_replay(centre, host, exc.message)
            raise
    return Sender(host, counter)


async def _tell_replay(centre: Centre, host: AnyResource, message: str) -> None:
    """People see a copied disk at the centre too; once an hour, however often it calls."""
    now = centre.clock.now()
    before = centre.live.replays.get(host.uid)
    if before is not None and now - before < _REPLAY_EVERY:
        return
    centre.live.replays[host.uid] = now
    told = event(
        centre,
        host,
        "RequestReplayed",
        f"{message}; the host's disk was copied or set back, or somebody repeats its requests",
        severity="warning",
    )
    await centre.store.commit(WriteSet(events=(told,)))


def check_signature(message: httpsig.Message, key: ec.EllipticCurvePublicKey) -> int:
    """The counter of a request that this key signed. Raises ChannelRefused."""
    try:
        return httpsig.verify_request(message, key)
    except httpsig.MessageRefused as exc:
        raise ChannelRefused(
            401,
            "SignatureInvalid",
            exc.message,
            hint="the request was changed on its way, or another key signed it",
        ) from exc


def check_counter(centre: Centre, who: str, counter: int, *, durable: int = 0) -> None:
    """Remember the counter. Raises ChannelRefused when it is not above the last one."""
    last = max(centre.live.counters.get(who, 0), durable)
    if counter <= last:
        raise ChannelRefused(
            409,
            "RequestReplayed",
            f"request {counter} is not newer than {last}",
            hint="if this host's disk was copied to another machine, register that one anew",
        )
    centre.live.counters[who] = counter


async def _gone(centre: Centre, message: httpsig.Message, uid: str) -> ChannelRefused:
    """The refusal for a host that is unknown, revoked or deleted; who did it is told to it only."""
    stone = await hosts.find_stone(centre, uid)
    if stone is None:
        return ChannelRefused(
            404, "HostUnknown", "this manager does not know this host", hint="register it again"
        )
    try:
        check_signature(message, pki.load_host_public(stone.public_key))
    except SkerryError:
        return ChannelRefused(401, "SignatureInvalid", "the request is not signed by this host")
    return ChannelRefused(
        403,
        "Revoked",
        f"host {stone.name} was removed by {stone.by} at {stone.at:%Y-%m-%d %H:%M} UTC",
        hint="register it again if that was a mistake",
    )
