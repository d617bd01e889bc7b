"""Downloads from upstream: limited in size, resumed by range, tried again, checked by digest.

A file is only ever fetched towards a digest that is known before. What has arrived lies under
`downloads/` of the cache: complete files by digest, the others in `partial/`, where the next try
goes on. Proxy (HTTPS_PROXY, NO_PROXY) and authorities (SSL_CERT_FILE, SSL_CERT_DIR) come from
the environment. Nothing is sent or followed without TLS.
"""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import anyio.to_thread
import httpx2

from skerry import __version__
from skerry.builder.cache import Cache
from skerry.lib.clock import Clock
from skerry.lib.digest import hex_of
from skerry.lib.errors import SkerryError

TRIES = 5
_FIRST_WAIT_S = 1.0
_LONGEST_WAIT_S = 120.0
_MAX_REDIRECTS = 5
_TIMEOUT = httpx2.Timeout(60.0, connect=15.0)
_T = TypeVar("_T")


class FetchFailed(SkerryError):
    """Upstream does not give a file. `wait_s` is what it asks for before the next try, `status`
    the HTTP status of its answer or 0."""

    def __init__(
        self,
        message: str,
        *,
        hint: str,
        retryable: bool = False,
        wait_s: float = 0.0,
        status: int = 0,
    ) -> None:
        super().__init__(message, hint=hint, retryable=retryable)
        self.wait_s = wait_s
        self.status = status


class WrongDigest(SkerryError):
    """What upstream gives is not what the lock names. Never tried again, never kept."""


class Told:
    """Hears how a download goes; this one says nothing."""

    def begins(self, what: str, done: int, total: int | None) -> None:
        """A file begins to arrive; `done` bytes of `total` are here from an earlier try."""

    def bytes(self, more: int) -> None:
        """So many bytes more have arrived."""

    def again(self, what: str, why: str, wait_s: float) -> None:
        """A try failed and the next follows."""


@dataclass(frozen=True, slots=True)
class Small:
    """A small answer, whole. `headers` by lower-case name."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def open_http(*, verify: ssl.SSLContext | bool = True) -> httpx2.AsyncClient:
    """A client for upstream's servers, with the environment's proxy and authorities."""
    return httpx2.AsyncClient(
        headers={"user-agent": f"skerry/{__version__}"},
        timeout=_TIMEOUT,
        follow_redirects=True,
        max_redirects=_MAX_REDIRECTS,
        event_hooks={"request": [_only_tls]},
        verify=verify,
    )


class Fetcher:
    """Fetches into the cache. One per command; its HTTP client is closed by who made it."""

    def __init__(
        self, http: httpx2.AsyncClient, cache: Cache, clock: Clock, *, told: Told | None = None
    ) -> None:
        self._http = http
        self._cache = cache
        self.clock = clock
        self.told = told or Told()

    def have(self, digest: str) -> Path | None:
        """A file that was fetched and checked before."""
        place = self._place(digest)
        if not place.is_file():
            return None
        os.utime(place)
        return place

    async def file(
        self,
        url: str,
        digest: str,
        *,
        what: str,
        limit_bytes: int,
        headers: Mapping[str, str] | None = None,
    ) -> Path:
        """A file with exactly this digest. Raises FetchFailed, WrongDigest."""
        if (found := self.have(digest)) is not None:
            return found
        partial = self._cache.folder("downloads", "partial") / hex_of(digest)

        async def once() -> bool:
            return await self._rest(url, partial, what, limit_bytes, headers or {})

        resumed = await self._trying(what, once)
        found_digest = await anyio.to_thread.run_sync(_digest_of, partial)
        if found_digest != digest and resumed:
            # What was left of an earlier try may itself be damaged: once more, from the start.
            partial.unlink()
            await self._trying(what, once)
            found_digest = await anyio.to_thread.run_sync(_digest_of, partial)
        if found_digest != digest:
            partial.unlink()
            raise WrongDigest(
                f"{what} from {url} has the wrong content: found {found_digest}, locked {digest}",
                hint="do not use it: compare with upstream's release page before you change a lock",
            )
        partial.chmod(0o644)
        return partial.rename(self._place(digest))

    async def unlocked(self, url: str, *, what: str, limit_bytes: int) -> str:
        """The digest of a file that upstream has no digest of; the file is kept by it."""
        partial = self._cache.folder("downloads", "partial") / f"new-{_name_of(url)}"
        partial.unlink(missing_ok=True)
        await self._trying(what, lambda: self._rest(url, partial, what, limit_bytes, {}))
        digest = await anyio.to_thread.run_sync(_digest_of, partial)
        partial.rename(self._place(digest))
        return digest

    async def small(
        self,
        url: str,
        *,
        what: str,
        limit_bytes: int,
        headers: Mapping[str, str] | None = None,
        accepts: tuple[int, ...] = (),
    ) -> Small:
        """A small answer; statuses in `accepts` are no failure. Raises FetchFailed."""

        async def once() -> Small:
            body = bytearray()
            async with self._answer(url, what, headers or {}, (200, *accepts)) as answer:
                async for chunk in answer.aiter_bytes():
                    body += chunk
                    if len(body) > limit_bytes:
                        raise _too_large(what, url, limit_bytes)
                return Small(answer.status_code, dict(answer.headers), bytes(body))

        return await self._trying(what, once)

    async def _rest(
        self, url: str, partial: Path, what: str, limit_bytes: int, headers: Mapping[str, str]
    ) -> bool:
        """Fetch what is missing of a file; whether it began with bytes of an earlier try."""
        start = partial.stat().st_size if partial.exists() else 0
        asked = {**headers, "accept-encoding": "identity"}
        if start:
            asked["range"] = f"bytes={start}-"
        async with self._answer(url, what, asked, (200, 206, 416)) as answer:
            if answer.status_code == 416:
                # Complete already, or longer than upstream's: its digest will tell.
                return True
            if answer.status_code == 206 and not _continues(answer, start):
                partial.unlink(missing_ok=True)
                raise FetchFailed(
                    f"{what}: {url} answered with another range than it was asked for",
                    hint="try again",
                    retryable=True,
                )
            resumed = answer.status_code == 206
            size = start if resumed else 0
            self.told.begins(what, size, _total(answer, size))
            with partial.open("ab" if resumed else "wb") as writing:
                # As it comes: chunks of a fixed size would lose what a broken one had of it.
                async for chunk in answer.aiter_bytes():
                    size += len(chunk)
                    if size > limit_bytes:
                        partial.unlink()
                        raise _too_large(what, url, limit_bytes)
                    await anyio.to_thread.run_sync(writing.write, chunk)
                    self.told.bytes(len(chunk))
        return resumed

    @contextlib.asynccontextmanager
    async def _answer(
        self, url: str, what: str, headers: Mapping[str, str], accepts: tuple[int, ...]
    ) -> AsyncIterator[httpx2.Response]:
        try:
            async with self._http.stream("GET", url, headers=dict(headers)) as answer:
                if answer.status_code not in accepts:
                    raise _refused(answer, what, url, self.clock)
                yield answer
        except httpx2.TooManyRedirects as exc:
            raise FetchFailed(
                f"{what}: {url} leads on more than {_MAX_REDIRECTS} times",
                hint="check for a proxy that redirects to a sign-in page",
            ) from exc
        except httpx2.TransportError as exc:
            raise _broken(exc, what, url) from exc

    async def _trying(self, what: str, once: Callable[[], Awaitable[_T]]) -> _T:
        for attempt in range(TRIES):
            try:
                return await once()
            except FetchFailed as exc:
                if not exc.retryable or attempt == TRIES - 1:
                    raise
                wait_s = exc.wait_s or _FIRST_WAIT_S * 2**attempt
                self.told.again(what, exc.message, wait_s)
                await self.clock.sleep(wait_s)
        raise AssertionError("unreachable: the last try returns or raises")

    def _place(self, digest: str) -> Path:
        return self._cache.folder("downloads", "sha256") / hex_of(digest)


async def _only_tls(request: httpx2.Request) -> None:
    if request.url.scheme != "https":
        raise FetchFailed(
            f"{request.url} is not encrypted and is not followed",
            hint="check for a proxy that redirects to a sign-in page",
        )


def _refused(answer: httpx2.Response, what: str, url: str, clock: Clock) -> FetchFailed:
    status = answer.status_code
    told = f"{what}: {url} answered HTTP {status}"
    if status == 404:
        return FetchFailed(
            f"{what}: upstream has nothing at {url} (HTTP 404)",
            hint="check that this version was released for this architecture",
        )
    if status in (401, 403, 407):
        return FetchFailed(
            told, hint="check HTTPS_PROXY, and whether the network lets you there", status=status
        )
    if status == 429 or status >= 500:
        wait_s = _retry_after(answer, clock)
        if wait_s > _LONGEST_WAIT_S:
            return FetchFailed(
                f"{told} and asks to wait {wait_s:.0f} s", hint="run the same command again then"
            )
        return FetchFailed(
            told,
            hint="run the same command again later; what has arrived is kept",
            retryable=True,
            wait_s=wait_s,
        )
    return FetchFailed(told, hint="open the address in a browser to see what it says")


def _retry_after(answer: httpx2.Response, clock: Clock) -> float:
    """Seconds of a Retry-After header (RFC 9110, 10.2.3): a number or a date; 0 without one."""
    text = answer.headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        then = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    return max((then - clock.now()).total_seconds(), 0.0)


def _broken(exc: httpx2.TransportError, what: str, url: str) -> FetchFailed:
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return FetchFailed(
                f"{what}: the certificate of {url} is not accepted: {cause.verify_message}",
                hint="behind a proxy that opens TLS, put its authority into SSL_CERT_FILE",
            )
        cause = cause.__cause__ or cause.__context__
    if isinstance(exc, httpx2.ProxyError):
        return FetchFailed(
            f"{what}: the proxy refuses the way to {url}: {exc}",
            hint="check HTTPS_PROXY and NO_PROXY",
        )
    return FetchFailed(
        f"{what}: the line to {url} broke: {str(exc) or type(exc).__name__}",
        hint="run the same command again; what has arrived is kept",
        retryable=True,
    )


def _too_large(what: str, url: str, limit: int) -> FetchFailed:
    return FetchFailed(
        f"{what}: {url} is larger than {limit} bytes",
        hint="check for a proxy that answers in upstream's place",
    )


def _total(answer: httpx2.Response, start: int) -> int | None:
    text = answer.headers.get("content-length", "")
    return start + int(text) if text.isascii() and text.isdigit() else None


def _continues(answer: httpx2.Response, start: int) -> bool:
    return bool(answer.headers.get("content-range", "").startswith(f"bytes {start}-"))


def _digest_of(path: Path) -> str:
    with path.open("rb") as reading:
        return f"sha256:{hashlib.file_digest(reading, 'sha256').hexdigest()}"


def _name_of(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()[:32]
