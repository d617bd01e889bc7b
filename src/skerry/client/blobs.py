"""Content by digest to and from the manager; an upload that broke goes on where it stopped."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
import anyio.to_thread
import msgspec

from skerry.client.answers import Uploaded
from skerry.client.api import Api, address
from skerry.client.connection import send, streaming
from skerry.client.errors import ApiFailed, Conflict, Unreachable
from skerry.lib.digest import sha256
from skerry.lib.errors import SkerryError
from skerry.model.kinds import KINDS

Progress = Callable[[int], None]
_CHUNK = 1 << 20
_TRIES = 5
_WAIT_S = 2.0


async def upload_blob(
    api: Api, digest: str, source: Path, *, progress: Progress | None = None
) -> bool:
    """Bring a file to the manager; False when it was there already.

    `progress` is told how many bytes more are there. Raises Unreachable after several tries, and
    whatever the manager refuses.
    """
    size = source.stat().st_size
    tell = progress or _silent
    told = 0
    for attempt in range(_TRIES):
        start = await _offset(api, digest, size)
        if start is None:
            tell(size - told)
            return attempt > 0
        tell(start - told)
        told = start

        def count(read: int) -> None:
            nonlocal told
            told += read
            tell(read)

        try:
            if await _send_rest(api, digest, source, start, size, count):
                return True
        except Conflict as exc:
            # Another upload of the same content moved on; anything else stays refused.
            if exc.reason != "UploadRefused" or attempt == _TRIES - 1:
                raise
        except (Unreachable, ApiFailed) as exc:
            if not exc.retryable or attempt == _TRIES - 1:
                raise
        await api.clock.sleep(_WAIT_S * attempt)
    raise SkerryError(f"content {digest} did not arrive", hint="try again")


async def download_blob(api: Api, digest: str, *, limit: int) -> bytes:
    """Small content, checked against its digest."""
    data = bytearray()
    async with streaming(api.http, _path(digest)) as answer:
        async for chunk in answer.aiter_bytes():
            data += chunk
            if len(data) > limit:
                raise SkerryError(f"content {digest} is larger than {limit} bytes")
    if sha256(bytes(data)) != digest:
        raise SkerryError(f"the manager sent other content than {digest}", hint="try again")
    return bytes(data)


async def save_bundle(
    api: Api, project: str, host: str, target: Path, *, progress: Progress | None = None
) -> int:
    """Write a host's bundle file; its size in bytes. The file appears when it is complete."""
    tell = progress or _silent
    partial = target.with_name(f".{target.name}.part")
    size = 0
    try:
        path = f"{address(KINDS['Host'], project, host)}/bundle"
        with partial.open("wb") as stream:
            async with streaming(api.http, path) as answer:
                async for chunk in answer.aiter_bytes():
                    await anyio.to_thread.run_sync(stream.write, chunk)
                    size += len(chunk)
                    tell(len(chunk))
                wanted = answer.headers.get("content-length", "")
        if wanted.isdigit() and int(wanted) != size:
            raise SkerryError(f"the bundle broke off at {size} of {wanted} bytes", hint="try again")
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return size


async def _offset(api: Api, digest: str, size: int) -> int | None:
    """Where to go on; None when nothing is left to do."""
    answer = await send(api.http, "HEAD", _path(digest), accepts=(404,))
    if answer.status_code == 200:
        return None
    text = answer.headers.get("upload-offset", "0")
    offset = int(text) if text.isascii() and text.isdigit() else 0
    # All of it without having been accepted: the manager stopped just then. Begin again.
    return 0 if offset >= size else offset


async def _send_rest(
    api: Api, digest: str, source: Path, start: int, size: int, count: Progress
) -> bool:
    headers = {"content-type": "application/octet-stream", "content-length": str(size - start)}
    if start < size:
        headers["content-range"] = f"bytes {start}-{size - 1}/{size}"
    answer = await send(
        api.http,
        "PUT",
        _path(digest),
        content=_read(source, start, count),
        headers=headers,
    )
    return msgspec.json.decode(answer.content, type=Uploaded).complete


async def _read(source: Path, start: int, count: Progress) -> AsyncIterator[bytes]:
    async with await anyio.open_file(source, "rb") as stream:
        await stream.seek(start)
        while chunk := await stream.read(_CHUNK):
            yield chunk
            count(len(chunk))


def _path(digest: str) -> str:
    return f"/v1/blobs/{digest}"


def _silent(_more: int) -> None:
    """Progress that nobody watches."""
