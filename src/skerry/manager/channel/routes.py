"""Routes of the channel. Bodies are limited while they are read, never after."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import msgspec
import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Route

from skerry.lib import pki
from skerry.lib.clock import Clock
from skerry.lib.digest import is_digest
from skerry.lib.errors import SkerryError
from skerry.manager.auth.decide import Principal
from skerry.manager.channel.verify import (
    ChannelRefused,
    Sender,
    check_counter,
    check_signature,
    identify,
)
from skerry.manager.services import assignments, enrol, hosts, syncing
from skerry.manager.services.centre import Caller, Centre, audit, event
from skerry.manager.services.credentials import Asking
from skerry.manager.store.protocol import Put, WriteSet
from skerry.wire import httpsig, messages

log = structlog.get_logger("skerry.channel")

_Handler = Callable[[Request, httpsig.Message], Awaitable[object]]


@dataclass
class Throttle:
    """Tokens per key that refill with time; forgets the keys that were not seen longest."""

    clock: Clock
    per_s: float
    burst: float
    max_keys: int = 10_000
    _buckets: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)

    def allows(self, key: str) -> bool:
        """Take one token."""
        now = self.clock.monotonic()
        left, then = self._buckets.pop(key, (self.burst, now))
        left = min(self.burst, left + (now - then) * self.per_s)
        allowed = left >= 1
        self._buckets[key] = (left - 1 if allowed else left, now)
        if len(self._buckets) > self.max_keys:
            self._buckets.popitem(last=False)
        return allowed


class Routes:
    """The channel's routes over one centre."""

    def __init__(self, centre: Centre) -> None:
        self._centre = centre
        self._throttle = Throttle(
            centre.clock, centre.settings.enrol_per_s, centre.settings.enrol_burst
        )

    def routes(self) -> list[BaseRoute]:
        return [
            Route(messages.ENROL_PATH, self._serve(self._enrol), methods=["POST"]),
            Route(messages.SYNC_PATH, self._serve(self._sync), methods=["POST"]),
            Route(messages.RENEW_PATH, self._serve(self._renew), methods=["POST"]),
            Route(messages.CONTENT_PATH + "{digest}", self._content, methods=["GET"]),
        ]

    def _serve(self, handler: _Handler) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            try:
                message = await read_message(request)
                answer = await handler(request, message)
                return self._signed(request, 200, msgspec.json.encode(answer))
            except ClientDisconnect:
                raise
            except SkerryError as exc:
                return self._refusal(request, exc)

        return endpoint

    async def _enrol(self, request: Request, message: httpsig.Message) -> object:
        address = request.client.host if request.client else ""
        if not self._throttle.allows(address):
            raise ChannelRefused(
                429, "TooManyRequests", f"too many registrations from {address}; try again later"
            )
        body = messages.decode(message.body, messages.EnrolRequest)
        if body.protocol < messages.PROTOCOL - 1:
            raise ChannelRefused(
                400,
                "Unsupported",
                f"agent speaks protocol {body.protocol}, this manager {messages.PROTOCOL}",
                hint="install a newer agent",
            )
        fingerprint = enrol.check_keys(body)
        if message.headers.get(httpsig.HOST_HEADER) != fingerprint:
            raise ChannelRefused(401, "SignatureInvalid", "the request names another key")
        counter = check_signature(message, pki.load_host_public(body.public_key))
        known = await enrol.host_of_key(self._centre, fingerprint)
        who = known.uid if known else fingerprint
        check_counter(self._centre, who, counter, durable=known.status.counter if known else 0)
        if known is None and len(self._centre.live.counters) > 100_000:
            self._centre.live.counters.clear()  # in memory only; durable ones stay in the store
        return await enrol.enrol(self._centre, Asking(body, fingerprint, address, counter))

    async def _sync(self, request: Request, message: httpsig.Message) -> object:
        sender = await identify(self._centre, message, counted=True)
        body = messages.decode(message.body, messages.SyncRequest)
        return await syncing.sync(self._centre, sender.host, body, counter=sender.counter)

    async def _renew(self, request: Request, message: httpsig.Message) -> object:
        centre = self._centre
        sender = await identify(centre, message, counted=True)
        body = messages.decode(message.body, messages.RenewRequest)
        fingerprint = await _renewed_key(centre, sender, body)
        pem, ends = hosts.issue_certificate(centre, body.public_key, sender.host.uid)
        status = msgspec.structs.replace(
            sender.host.status,
            public_key=body.public_key,
            fingerprint=fingerprint,
            certificate_expires_at=ends,
            counter=sender.counter,
        )
        host = msgspec.structs.replace(sender.host, status=status)
        await centre.store.commit(
            WriteSet(
                puts=(Put(host, sender.host.metadata.revision),),
                events=(event(centre, host, "CertificateRenewed", f"until {ends:%F}"),),
                audits=(
                    audit(
                        centre,
                        Caller(Principal(f"host:{host.name}")),
                        "renew",
                        host,
                        f"key {fingerprint[:16]} until {ends:%F}",
                    ),
                ),
            )
        )
        return messages.RenewAnswer(
            certificate=pem,
            trusted_keys=centre.keys.trusted,
            authorities=centre.keys.authorities,
        )

    async def _content(self, request: Request) -> Response:
        digest = request.path_params["digest"]
        try:
            message = await read_message(request)
            sender = await identify(self._centre, message, counted=False)
            allowed = is_digest(digest) and await assignments.may_fetch(
                self._centre, sender.host.uid, digest
            )
            # One answer for both: a host must not learn what other hosts have.
            if not allowed or not self._centre.blobs.has(digest):
                raise ChannelRefused(
                    404,
                    "ArtifactMissing",
                    f"content {digest[:80]} is not in this host's assignment",
                )
        except ClientDisconnect:
            raise
        except SkerryError as exc:
            return self._refusal(request, exc)
        return FileResponse(
            self._centre.blobs.host_path(digest), media_type="application/octet-stream"
        )

    def _refusal(self, request: Request, exc: SkerryError) -> Response:
        status = exc.status if isinstance(exc, ChannelRefused) else _status_of(exc)
        reason = exc.reason or ("MessageInvalid" if status == 400 else "Refused")
        log.info("channel.refused", path=request.url.path, status=status, reason=reason)
        refusal = messages.Refusal(reason=reason, message=exc.message, hint=exc.hint)
        return self._signed(request, status, msgspec.json.encode(refusal))

    def _signed(self, request: Request, status: int, body: bytes) -> Response:
        counter = request.headers.get(httpsig.COUNTER_HEADER, "")
        headers = httpsig.sign_answer(
            httpsig.Answer(
                headers={"content-type": "application/json"}, status_code=status, body=body
            ),
            self._centre.keys.channel.key,
            host=_plain(request.headers.get(httpsig.HOST_HEADER, "")),
            counter=int(counter)
            if counter.isascii() and counter.isdigit() and len(counter) < 19
            else 0,
        )
        return Response(body, status_code=status, headers=headers)


async def _renewed_key(centre: Centre, sender: Sender, body: messages.RenewRequest) -> str:
    """Fingerprint of the key that a host goes on with. Raises ChannelRefused, BadKey."""
    key = pki.load_host_public(body.public_key)
    fingerprint = pki.fingerprint(key)
    if fingerprint == sender.host.status.fingerprint:
        return fingerprint
    statement = messages.renewal(sender.host.uid, sender.counter)
    if not pki.verify_es256(key, body.proof, statement):
        raise ChannelRefused(
            401, "SignatureInvalid", "the new key does not prove that this host holds it"
        )
    if await enrol.host_of_key(centre, fingerprint) is not None:
        raise ChannelRefused(409, "HardwareIdTaken", "the new key belongs to another host")
    return fingerprint


async def read_message(request: Request) -> httpsig.Message:
    """A request as its signature sees it. Raises ChannelRefused for a body that is too large."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > messages.MAX_MESSAGE_BYTES:
            raise ChannelRefused(
                413, "TooLarge", f"the request is larger than {messages.MAX_MESSAGE_BYTES} bytes"
            )
    return httpsig.Message(
        headers=dict(request.headers),
        method=request.method,
        url=str(request.url),
        body=bytes(body),
    )


def _plain(text: str) -> str:
    return text if text.isascii() and text.isprintable() and len(text) <= 128 else ""


def _status_of(exc: SkerryError) -> int:
    if isinstance(exc, enrol.TooManyWaiting):
        return 429
    if isinstance(exc, messages.MessageInvalid | pki.BadKey):
        return 400
    return 503 if exc.retryable else 400
