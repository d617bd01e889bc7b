"""One connection pool to a manager: trust, sign-in header, time limits, failures as errors.

The proxy settings of the environment count, except for a manager on this computer.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping

import httpx2

from skerry import __version__
from skerry.client.contexts import Context
from skerry.client.errors import NotTrusted, Refused, Unreachable, failure

_MAX_FAILURE_BYTES = 1024 * 1024
_TIMEOUT = httpx2.Timeout(60.0, connect=10.0)

Parameters = Mapping[str, str | int | bool | None]


def open_client(
    context: Context, *, transport: httpx2.AsyncBaseTransport | None = None, trust: bool = True
) -> httpx2.AsyncClient:
    """A client for the context's manager. Without `trust` any certificate is accepted; nothing
    secret may be sent over it. Raises Refused for an address that is none."""
    server = context.server.rstrip("/")
    url = httpx2.URL(server)
    if url.scheme not in ("https", "http") or not url.host:
        raise Refused(f"{server!r} is no address of a manager", hint="like https://manager:8443")
    headers = {"user-agent": f"skerry/{__version__}", "accept": "application/json"}
    if context.token and trust:
        if url.scheme == "http" and not is_local(url.host):
            raise Refused(f"{server} is not encrypted", hint="use its https address")
        headers["authorization"] = f"Bearer {context.token}"
    return httpx2.AsyncClient(
        base_url=server,
        headers=headers,
        timeout=_TIMEOUT,
        transport=transport,
        trust_env=not is_local(url.host),
        verify=_tls(context, trust=trust) if url.scheme == "https" else True,
    )


def is_local(host: str) -> bool:
    """Whether the name means this computer."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


async def send(
    client: httpx2.AsyncClient,
    method: str,
    path: str,
    *,
    parameters: Parameters | None = None,
    content: bytes | AsyncIterator[bytes] | None = None,
    headers: Mapping[str, str] | None = None,
    accepts: tuple[int, ...] = (),
) -> httpx2.Response:
    """One whole answer. Raises ApiFailed, unless the status is in `accepts`, and Unreachable."""
    with failures(client):
        response = await client.request(
            method, path, params=query(parameters), content=content, headers=dict(headers or {})
        )
    if response.is_success or response.status_code in accepts:
        return response
    raise failure(
        response.status_code,
        response.headers.get("content-type", ""),
        response.content[:_MAX_FAILURE_BYTES],
    )


@contextlib.asynccontextmanager
async def streaming(
    client: httpx2.AsyncClient, path: str, *, parameters: Parameters | None = None
) -> AsyncIterator[httpx2.Response]:
    """An answer that is read as it comes."""
    with failures(client):
        async with client.stream("GET", path, params=query(parameters)) as response:
            if not response.is_success:
                await response.aread()
                raise failure(
                    response.status_code,
                    response.headers.get("content-type", ""),
                    response.content[:_MAX_FAILURE_BYTES],
                )
            yield response


def query(parameters: Parameters | None) -> dict[str, str]:
    """Parameters as they stand in an address; empty ones are left out."""
    found: dict[str, str] = {}
    for name, value in (parameters or {}).items():
        if value is None or value is False or value == "":
            continue
        found[name] = "true" if value is True else str(value)
    return found


@contextlib.contextmanager
def failures(client: httpx2.AsyncClient) -> Iterator[None]:
    """Turns every failure of the transport into the one line that people see."""
    server = str(client.base_url).rstrip("/")
    try:
        yield
    except httpx2.TransportError as exc:
        raise _explained(server, exc) from exc


def _explained(server: str, exc: BaseException) -> Unreachable:
    causes = list(_causes(exc))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return NotTrusted(server, cause.verify_message.rstrip("."))
        if isinstance(cause, ssl.SSLError):
            return Unreachable(server, "it does not speak TLS there", hint="check the port")
        if isinstance(cause, socket.gaierror):
            return Unreachable(
                server, "its name is not known", hint="check the name, or use an IP address"
            )
    for cause in causes:
        if isinstance(cause, ConnectionRefusedError):
            return Unreachable(server, "nothing listens there")
        if isinstance(cause, httpx2.ProxyError):
            return Unreachable(
                server, f"the proxy refuses ({cause})", hint="check HTTPS_PROXY and NO_PROXY"
            )
        if isinstance(cause, httpx2.ConnectTimeout | TimeoutError):
            return Unreachable(server, "no connection in time", hint="check network and firewall")
        if isinstance(cause, httpx2.TimeoutException):
            return Unreachable(server, "no answer in time", hint="try again")
    system = [cause.strerror for cause in causes if isinstance(cause, OSError) and cause.strerror]
    own = [str(cause) for cause in causes if str(cause)]
    text = (system or own or [type(exc).__name__])[0]
    return Unreachable(server, text.splitlines()[0][:200])


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting: list[BaseException | None] = [exc]
    while waiting:
        one = waiting.pop(0)
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions


def _tls(context: Context, *, trust: bool) -> ssl.SSLContext:
    if not trust:
        accepting = ssl.create_default_context()
        accepting.check_hostname = False
        accepting.verify_mode = ssl.CERT_NONE
        return accepting
    try:
        return ssl.create_default_context(cadata=context.ca or None)
    except (ssl.SSLError, ValueError) as exc:
        raise Refused(
            f"the authority of context {context.name} is no certificate",
            hint=f"skerry login {context.server}",
        ) from exc
