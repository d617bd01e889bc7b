"""Why a connection did not come about: one cause, from the chain of exceptions behind it."""

from __future__ import annotations

import socket
import ssl

import httpx2

from skerry.lib.errors import SkerryError

# OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED.
_NOT_YET, _EXPIRED = 9, 10


class ChannelFailed(SkerryError):
    """The manager cannot be reached or its answer is not to be believed. Worth trying again."""

    def __init__(self, message: str, *, reason: str, hint: str = "") -> None:
        super().__init__(message, hint=hint, reason=reason, retryable=True)


def cause_of(where: str, exc: BaseException, *, proxy: str = "") -> ChannelFailed:
    """The one cause. `where` is the manager's address, `proxy` the proxy's without a password."""
    chain = _chain(exc)
    by = f" through proxy {proxy}" if proxy else ""
    for item in chain:
        if isinstance(item, socket.gaierror):
            return dns_failed(proxy or where, silent=item.errno == socket.EAI_AGAIN)
    for item in chain:
        if isinstance(item, ssl.SSLCertVerificationError):
            return _certificate(where, item)
        if isinstance(item, ssl.SSLError) and not isinstance(
            item, ssl.SSLEOFError | ssl.SSLZeroReturnError | ssl.SSLWantReadError
        ):
            return ChannelFailed(
                f"what answers at {where}{by} does not speak TLS as the manager does",
                reason="ManagerUntrusted",
                hint="check the address, and for a portal or proxy between",
            )
    if any(isinstance(item, httpx2.ProxyError) for item in chain):
        return ChannelFailed(
            f"proxy {proxy} refuses the way to {where}: {exc}",
            reason="ProxyRefused",
            hint="let the proxy allow CONNECT to the manager, or check its user and password",
        )
    if any(isinstance(item, httpx2.TimeoutException | TimeoutError) for item in chain):
        return ChannelFailed(
            f"no answer from {where}{by} in time",
            reason="ManagerUnreachable",
            hint="nothing is lost: the host works on alone and tries again",
        )
    return ChannelFailed(
        f"no connection to {where}{by}: {str(exc) or type(exc).__name__}",
        reason="ManagerUnreachable",
        hint="nothing is lost: the host works on alone and tries again",
    )


def dns_failed(where: str, *, silent: bool) -> ChannelFailed:
    """No address for a name; `silent`: because no name server answered."""
    because = ": the name servers do not answer" if silent else ""
    return ChannelFailed(
        f"the name in {where} cannot be resolved{because}",
        reason="DnsFailed",
        hint="check the host's DNS servers",
    )


def by_dates_only(exc: BaseException) -> bool:
    """Whether a certificate was refused for its dates and nothing else.

    OpenSSL checks dates only after the chain led to a trusted root (X509_verify_cert).
    """
    return any(
        isinstance(item, ssl.SSLCertVerificationError) and item.verify_code in (_NOT_YET, _EXPIRED)
        for item in _chain(exc)
    )


def _certificate(where: str, exc: ssl.SSLCertVerificationError) -> ChannelFailed:
    if exc.verify_code in (_NOT_YET, _EXPIRED):
        return ChannelFailed(
            f"by this host's clock the certificate of {where} does not count: {exc.verify_message}",
            reason="ClockWrong",
            hint="set this host's clock",
        )
    return ChannelFailed(
        f"{where} shows a certificate that this host does not accept: {exc.verify_message}",
        reason="ManagerUntrusted",
        hint="check the address, and for a proxy that opens TLS",
    )


def _chain(exc: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    cause: BaseException | None = exc
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    return chain
