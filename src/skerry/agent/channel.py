"""The host's line to its manager: signed requests, verified answers, resumable downloads.

TLS is checked against the pinned roots and, because it may end at an inspecting proxy, is not
relied on: each request carries the host's signature and each answer must carry the channel key's.
Content needs no signature, its digest is checked by the content store.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator
from typing import Any, Protocol, TypeVar

import httpx2
import msgspec

from skerry import __version__
from skerry.agent.identity import Counter, HostKeys, Identity
from skerry.lib.errors import SkerryError
from skerry.lib.pki import load_signing_public, public_pem
from skerry.wire import httpsig, messages

AnswerT = TypeVar("AnswerT")
_TIMEOUT_S = 20.0
_CHUNK = 1 << 20


class ChannelFailed(SkerryError):
    """The manager cannot be reached or its answer is not to be believed. Worth trying again."""

    def __init__(self, message: str, *, reason: str, hint: str = "") -> None:
        super().__init__(message, hint=hint, reason=reason, retryable=True)


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
    """The channel over HTTPS. `client` is one that several channels share and its owner closes."""

    def __init__(
        self,
        identity: Identity,
        keys: HostKeys,
        counter: Counter,
        *,
        transport: httpx2.AsyncBaseTransport | None = None,
        client: httpx2.AsyncClient | None = None,
    ) -> None:
        self._identity = identity
        self._keys = keys
        self._counter = counter
        self._shared = client is not None
        if client is not None:
            self._http = client
            return
        arguments: dict[str, Any] = (
            {"transport": transport}
            if transport
            else {
                "verify": _tls_context(identity.authorities),
                "proxy": identity.proxy or None,
                "trust_env": False,
            }
        )
        self._http = httpx2.AsyncClient(
            base_url=identity.manager,
            timeout=httpx2.Timeout(_TIMEOUT_S),
            headers={"user-agent": f"skerry-agent/{__version__}"},
            **arguments,
        )

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
        try:
            async with self._http.stream("GET", url, headers=headers) as answer:
                if answer.status_code == 416 and start:
                    return  # everything is here already
                if answer.status_code not in (200, 206):
                    raise _refused(answer.status_code, await answer.aread())
                if start and answer.status_code == 200:
                    raise ChannelFailed(
                        f"manager ignores byte ranges for {digest}", reason="DownloadInterrupted"
                    )
                async for chunk in answer.aiter_bytes(_CHUNK):
                    yield chunk
        except (httpx2.HTTPError, OSError) as exc:
            raise _unreachable(self._identity, exc) from exc

    async def close(self) -> None:
        if not self._shared:
            await self._http.aclose()

    def _encode(self, request: object) -> bytes:
        """The request as it is signed and sent; other versions send other shapes."""
        return msgspec.json.encode(request)

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
            answer = await self._http.post(
                url, content=body, headers=headers, timeout=_TIMEOUT_S + extra_s
            )
        except (httpx2.HTTPError, OSError) as exc:
            raise _unreachable(self._identity, exc) from exc
        self._check(answer, host, number)
        if answer.status_code != 200:
            raise _refused(answer.status_code, answer.content)
        return messages.decode(answer.content, kind, limit=8 * messages.MAX_MESSAGE_BYTES)

    def _check(self, answer: httpx2.Response, host: str, number: int) -> None:
        keys = self._identity.channel_keys()
        if not keys:
            return
        seen = httpsig.Answer(
            headers=dict(answer.headers), status_code=answer.status_code, body=answer.content
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


def _tls_context(authorities: tuple[str, ...]) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata="\n".join(authorities))
    # A host whose clock is years off must still reach its manager, which answers with the time.
    # Python offers no partial check, so validity dates count unless the agent corrects its clock
    # first (see clockfloor); the roots are pinned either way.
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _refused(status: int, body: bytes) -> SkerryError:
    try:
        refusal = messages.decode(body, messages.Refusal)
    except messages.MessageInvalid:
        return ChannelFailed(
            f"manager answered HTTP {status} without saying why", reason="ManagerUnreachable"
        )
    return ChannelRefused(refusal, status=status)


def _unreachable(identity: Identity, exc: BaseException) -> ChannelFailed:
    """Name the one cause of a connection that did not come about."""
    manager = identity.manager
    # Without what stands before the host: a proxy's password is nobody's business.
    proxy = identity.proxy.rpartition("@")[2].rpartition("//")[2].rstrip("/")
    chain: list[BaseException] = []
    cause: BaseException | None = exc
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    if any(isinstance(item, socket.gaierror) for item in chain):
        return ChannelFailed(
            f"the name in {proxy or manager} cannot be resolved",
            reason="DnsFailed",
            hint="check the host's DNS servers",
        )
    for item in chain:
        if isinstance(item, ssl.SSLCertVerificationError):
            late = item.verify_code in (9, 10)  # not yet valid, expired
            return ChannelFailed(
                f"{manager} shows a certificate that this host does not accept:"
                f" {item.verify_message}",
                reason="ClockWrong" if late else "ManagerUntrusted",
                hint="check this host's clock" if late else "check for a proxy that inspects TLS",
            )
    if any(isinstance(item, httpx2.ProxyError) for item in chain):
        return ChannelFailed(
            f"proxy {proxy} refuses the way to {manager}: {exc}",
            reason="ProxyRefused",
            hint="let the proxy allow CONNECT to the manager, or check its user and password",
        )
    way = f" through proxy {proxy}" if proxy else ""
    return ChannelFailed(
        f"no connection to {manager}{way}: {str(exc) or type(exc).__name__}",
        reason="ManagerUnreachable",
        hint="nothing is lost: the host works on alone and tries again",
    )
