"""The host's line to its manager: signed requests, verified answers, resumable downloads.

TLS is checked against the pinned roots and, because it may end at an inspecting proxy, is not
relied on: each request carries the host's signature and each answer must carry the channel key's.
Content needs no signature, its digest is checked by the content store. Every wait has a limit, and
an answer is cut off when it is longer than any honest one.
"""

from __future__ import annotations

import contextlib
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import anyio
import anyio.streams.tls
import httpx2
import msgspec
from cryptography import x509

from skerry import __version__
from skerry.agent.causes import ChannelFailed, by_dates_only, cause_of, dns_failed
from skerry.agent.identity import Counter, HostKeys, Identity
from skerry.lib.errors import SkerryError
from skerry.lib.pki import load_signing_public, public_pem
from skerry.wire import httpsig, messages

AnswerT = TypeVar("AnswerT")
Resolve = Callable[[str, int], Awaitable[object]]
_CONNECT_S = 10.0
_TIMEOUT_S = 20.0
_DNS_S = 5.0
_CHUNK = 1 << 20
_MAX_ANSWER = 8 * messages.MAX_MESSAGE_BYTES
# OpenSSL's X509_V_FLAG_NO_CHECK_TIME: the chain must still lead to a pinned root, dates aside.
_NO_CHECK_TIME = 0x200000


class ChannelRefused(SkerryError):
    """The manager understood the request and said no."""

    def __init__(self, refusal: messages.Refusal, *, status: int) -> None:
        super().__init__(refusal.message, hint=refusal.hint, reason=refusal.reason)
        self.status = status


class Channel(Protocol):
    """What the agent asks of its manager."""

    async def enrol(self, request: messages.EnrolRequest) -> messages.EnrolState: ...

    async def sync(self, request: messages.SyncRequest) -> messages.SyncAnswer: ...

    async def renew(self, request: messages.RenewRequest) -> messages.RenewAnswer: ...

    def content(self, digest: str, *, start: int) -> AsyncIterator[bytes]: ...

    async def close(self) -> None: ...


class HttpChannel:
    """The channel over HTTPS. `client` is one that several channels share and its owner closes.

    A host whose clock is years off must still hear its manager, which answers with the time. So
    once it knows channel keys, a certificate that is refused for its dates only is taken from the
    next try on: what is believed is signed, and bound to this request by its counter.
    """

    def __init__(
        self,
        identity: Identity,
        keys: HostKeys,
        counter: Counter,
        *,
        transport: httpx2.AsyncBaseTransport | None = None,
        client: httpx2.AsyncClient | None = None,
        resolve: Resolve = anyio.getaddrinfo,
        timeout_s: float = _TIMEOUT_S,
    ) -> None:
        self._identity = identity
        self._keys = keys
        self._counter = counter
        self._resolve = resolve
        self._timeout_s = timeout_s
        self._shared = client is not None
        self._plain = client is None and transport is None
        self._dates = True
        self._closing: list[httpx2.AsyncClient] = []
        if client is not None:
            self._http = client
        elif transport is not None:
            self._http = self._client(transport=transport)
        else:
            self._http = self._client(**self._tls())

    def _client(self, **arguments: Any) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(
            base_url=self._identity.manager,
            headers={"user-agent": f"skerry-agent/{__version__}"},
            **arguments,
        )

    def _tls(self) -> dict[str, Any]:
        return {
            "verify": _tls_context(self._identity.authorities, dates=self._dates),
            "proxy": self._identity.proxy or None,
            "trust_env": False,
        }

    def adopt(self, identity: Identity) -> None:
        """Use what a newer registration says (uid, keys)."""
        self._identity = identity

    async def enrol(self, request: messages.EnrolRequest) -> messages.EnrolState:
        """Raises ChannelFailed, ChannelRefused.

        The answer's signature is checked when channel keys are known; the very first answer
        introduces them, protected by the roots that the install line pinned.
        """
        return await self._call(
            messages.ENROL_PATH, request, messages.EnrolState, host=self._keys.fingerprint
        )

    async def sync(self, request: messages.SyncRequest) -> messages.SyncAnswer:
        """Raises ChannelFailed, ChannelRefused."""
        return await self._call(
            messages.SYNC_PATH,
            request,
            messages.SyncAnswer,
            host=self._identity.host_uid,
            extra_s=request.wait_s,
        )

    async def renew(self, request: messages.RenewRequest) -> messages.RenewAnswer:
        """Raises ChannelFailed, ChannelRefused."""
        return await self._call(
            messages.RENEW_PATH, request, messages.RenewAnswer, host=self._identity.host_uid
        )

    async def content(self, digest: str, *, start: int) -> AsyncIterator[bytes]:
        """The bytes of a blob from `start`. Raises ChannelFailed, ChannelRefused."""
        url = f"{self._identity.manager}{messages.CONTENT_PATH}{digest}"
        headers = self._sign("GET", url, b"", self._identity.host_uid)[0]
        if start:
            headers["range"] = f"bytes={start}-"
        received = 0
        try:
            async with self._http.stream(
                "GET", url, headers=headers, timeout=self._limits()
            ) as answer:
                if answer.status_code == 416 and start:
                    return  # everything is here already
                if answer.status_code not in (200, 206):
                    raise _refused(answer.status_code, await _bounded(answer, self._identity))
                if start and answer.status_code == 200:
                    raise ChannelFailed(
                        f"manager ignores byte ranges for {digest}", reason="DownloadInterrupted"
                    )
                async for chunk in answer.aiter_bytes(_CHUNK):
                    received += len(chunk)
                    yield chunk
        except (httpx2.HTTPError, OSError) as exc:
            if received:
                raise ChannelFailed(
                    f"download of {digest[:19]}… stopped after {start + received} bytes",
                    reason="DownloadInterrupted",
                    hint="it goes on there by itself",
                ) from exc
            raise await self.failed(exc) from exc

    async def close(self) -> None:
        for client in self._closing:
            await client.aclose()
        if not self._shared:
            await self._http.aclose()

    def _encode(self, request: object) -> bytes:
        """The request as it is signed and sent; other versions send other shapes."""
        return msgspec.json.encode(request)

    def _limits(self, extra_s: float = 0) -> httpx2.Timeout:
        limit_s = self._timeout_s + extra_s
        return httpx2.Timeout(limit_s, connect=min(_CONNECT_S, self._timeout_s))

    def _sign(self, method: str, url: str, body: bytes, host: str) -> tuple[dict[str, str], int]:
        number = self._counter.take()
        headers = httpsig.sign_request(
            httpsig.Message(headers={}, method=method, url=url, body=body),
            self._keys.identity,
            host=host,
            counter=number,
        )
        return headers, number

    async def _call(
        self, path: str, request: object, kind: type[AnswerT], *, host: str, extra_s: float = 0
    ) -> AnswerT:
        body = self._encode(request)
        url = f"{self._identity.manager}{path}"
        headers, number = self._sign("POST", url, body, host)
        headers["content-type"] = "application/json"
        try:
            # The client's limits are per read: a line that drips would keep them content.
            with anyio.fail_after(2 * self._timeout_s + extra_s):
                async with self._http.stream(
                    "POST", url, content=body, headers=headers, timeout=self._limits(extra_s)
                ) as answer:
                    content = await _bounded(answer, self._identity)
        except (httpx2.HTTPError, OSError) as exc:
            raise await self.failed(exc) from exc
        self._check(answer, content, host, number)
        if answer.status_code != 200:
            raise _refused(answer.status_code, content)
        try:
            return messages.decode(content, kind, limit=_MAX_ANSWER)
        except messages.MessageInvalid as exc:
            known = bool(self._identity.channel_keys())
            raise ChannelFailed(
                f"{self._identity.manager} gave an answer that this agent cannot read",
                reason="Unsupported" if known else "ManagerUntrusted",
                hint="update the agent" if known else "check the address and any proxy between",
            ) from exc

    async def failed(self, exc: BaseException) -> ChannelFailed:
        """The one cause of a failed request; prepares the next try where that helps."""
        proxy = _without_password(self._identity.proxy)
        if isinstance(exc, httpx2.ConnectTimeout | TimeoutError):
            unresolved = await self._unresolved(proxy or self._identity.manager)
            if unresolved is not None:
                return unresolved
        if self._plain and self._dates and by_dates_only(exc) and self._identity.channel_keys():
            self._dates = False
            self._closing.append(self._http)
            self._http = self._client(**self._tls())
        return cause_of(self._identity.manager, exc, proxy=proxy)

    async def _unresolved(self, where: str) -> ChannelFailed | None:
        """Whether the name that is dialled has no address; asked only after a time limit."""
        parts = urlsplit(self._identity.proxy or self._identity.manager)
        if not parts.hostname or _is_address(parts.hostname):
            return None
        with anyio.move_on_after(_DNS_S):
            try:
                await self._resolve(parts.hostname, parts.port or 443)
            except OSError as exc:
                return cause_of(where, exc)
            return None
        return dns_failed(where, silent=True)

    def _check(self, answer: httpx2.Response, content: bytes, host: str, number: int) -> None:
        keys = self._identity.channel_keys()
        if not keys:
            return
        seen = httpsig.Answer(
            headers=dict(answer.headers), status_code=answer.status_code, body=content
        )
        problem = "no channel key"
        for key in keys:
            try:
                httpsig.verify_answer(
                    seen, load_signing_public(key.public_pem), host=host, counter=number
                )
            except httpsig.MessageRefused as exc:
                problem = exc.message
            else:
                return
        raise ChannelFailed(
            f"{self._identity.manager} answered with HTTP {answer.status_code} and without a valid"
            f" signature of this host's manager ({problem})",
            reason="ManagerUntrusted",
            hint="check the address and any proxy between with 'skerry-agent status'",
        )


def public_keys(keys: HostKeys) -> tuple[str, str]:
    """PEM of the identity and the sealing key."""
    return public_pem(keys.identity.public_key()), public_pem(keys.sealing.public_key())


async def certificate_begins(identity: Identity) -> datetime | None:
    """When the certificate at the manager's address began to count, if a pinned root vouches.

    For a host that is not registered yet and whose clock lies before that. None when it cannot be
    had: no answer, another root, or a proxy in the way.
    """
    parts = urlsplit(identity.manager)
    if identity.proxy or not parts.hostname:
        return None
    context = _tls_context(identity.authorities, dates=False)
    with anyio.move_on_after(_TIMEOUT_S), contextlib.suppress(OSError, anyio.BrokenResourceError):
        async with await anyio.connect_tcp(
            parts.hostname, parts.port or 443, ssl_context=context, tls_standard_compatible=False
        ) as stream:
            attribute = anyio.streams.tls.TLSAttribute.peer_certificate_binary
            shown = stream.extra(attribute, None)  # noqa: S610  # anyio's, not Django's
            if shown is not None:
                return x509.load_der_x509_certificate(shown).not_valid_before_utc
    return None


def _tls_context(authorities: tuple[str, ...], *, dates: bool = True) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata="\n".join(authorities))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not dates:
        context.verify_flags = ssl.VerifyFlags(context.verify_flags | _NO_CHECK_TIME)
    return context


async def _bounded(answer: httpx2.Response, identity: Identity) -> bytes:
    body = bytearray()
    async for chunk in answer.aiter_bytes(_CHUNK):
        body += chunk
        if len(body) > _MAX_ANSWER:
            raise ChannelFailed(
                f"{identity.manager} gave an answer longer than {_MAX_ANSWER} bytes",
                reason="ManagerUntrusted",
                hint="check the address and any proxy between",
            )
    return bytes(body)


def _without_password(proxy: str) -> str:
    """A proxy's address as it may be shown."""
    if not proxy:
        return ""
    parts = urlsplit(proxy)
    name = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    return f"{name}:{parts.port}" if parts.port else name


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _refused(status: int, body: bytes) -> SkerryError:
    try:
        refusal = messages.decode(body, messages.Refusal)
    except messages.MessageInvalid:
        return ChannelFailed(
            f"manager answered HTTP {status} without saying why", reason="ManagerUnreachable"
        )
    return ChannelRefused(refusal, status=status)
