"""Uploads that resume and downloads that are checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import msgspec
import pytest

from skerry.client.api import Api
from skerry.client.blobs import download_blob, save_bundle, upload_blob
from skerry.client.errors import Conflict, Unreachable
from skerry.client.fake import CONTEXT, QuickClock
from skerry.lib.digest import sha256
from skerry.lib.errors import SkerryError

pytestmark = pytest.mark.anyio
DATA = bytes(range(256)) * 12_000
DIGEST = sha256(DATA)


@dataclass
class Shelf:
    """Keeps uploads like the manager; the line breaks after `break_after` bytes, `breaks` times."""

    break_after: int = 0
    breaks: int = 0
    there: bytearray = field(default_factory=bytearray)
    complete: bool = False
    puts: list[str] = field(default_factory=list)

    async def handle(self, request: httpx2.Request) -> httpx2.Response:
        if request.method == "HEAD":
            headers = {"upload-offset": str(len(self.there))} if self.there else {}
            return httpx2.Response(200 if self.complete else 404, headers=headers)
        if request.method == "GET":
            return httpx2.Response(200, content=bytes(self.there))
        self.puts.append(request.headers.get("content-range", ""))
        body = await request.aread()
        if not request.headers.get("content-range", "").startswith(f"bytes {len(self.there)}-"):
            self.there.clear()
        if self.breaks:
            self.breaks -= 1
            self.there += body[: self.break_after]
            raise httpx2.WriteError("broken pipe")
        self.there += body
        self.complete = sha256(bytes(self.there)) == DIGEST
        if not self.complete:
            refusal = {"detail": "other digest", "reason": "DigestMismatch", "status": 409}
            return httpx2.Response(
                409,
                content=msgspec.json.encode(refusal),
                headers={"content-type": "application/problem+json"},
            )
        done = {"digest": DIGEST, "complete": True, "offset": len(self.there)}
        return httpx2.Response(201, content=msgspec.json.encode(done))

    def api(self) -> Api:
        return Api(CONTEXT, transport=httpx2.MockTransport(self.handle), clock=QuickClock())


@pytest.fixture
def source(tmp_path: Path) -> Path:
    place = tmp_path / "blob"
    place.write_bytes(DATA)
    return place


async def test_a_broken_upload_goes_on_where_it_stopped(source: Path) -> None:
    shelf = Shelf(break_after=1 << 20, breaks=2)
    told: list[int] = []

    async with shelf.api() as api:
        sent = await upload_blob(api, DIGEST, source, progress=told.append)

    total = len(DATA)
    assert sent
    assert bytes(shelf.there) == DATA
    assert shelf.puts == [f"bytes {start}-{total - 1}/{total}" for start in (0, 1 << 20, 2 << 20)]
    assert sum(told) == total


async def test_an_upload_that_came_whole_but_was_not_accepted_begins_again(source: Path) -> None:
    shelf = Shelf(there=bytearray(DATA))

    async with shelf.api() as api:
        assert await upload_blob(api, DIGEST, source)

    assert shelf.puts == [f"bytes 0-{len(DATA) - 1}/{len(DATA)}"]
    assert shelf.complete


async def test_content_that_is_there_is_not_sent_again(source: Path) -> None:
    shelf = Shelf(there=bytearray(DATA), complete=True)
    told: list[int] = []

    async with shelf.api() as api:
        sent = await upload_blob(api, DIGEST, source, progress=told.append)

    assert not sent
    assert shelf.puts == []
    assert sum(told) == len(DATA)


async def test_a_line_that_never_holds_ends_as_unreachable(source: Path) -> None:
    shelf = Shelf(break_after=0, breaks=100)

    async with shelf.api() as api:
        with pytest.raises(Unreachable):
            await upload_blob(api, DIGEST, source)


async def test_content_that_is_not_what_its_digest_says_is_refused_once(source: Path) -> None:
    source.write_bytes(b"something else")
    shelf = Shelf()

    async with shelf.api() as api:
        with pytest.raises(Conflict, match="other digest"):
            await upload_blob(api, DIGEST, source)

    assert len(shelf.puts) == 1


async def test_a_download_with_another_digest_is_refused() -> None:
    shelf = Shelf(there=bytearray(b"forged"))

    async with shelf.api() as api:
        with pytest.raises(SkerryError, match="other content"):
            await download_blob(api, DIGEST, limit=1000)
        with pytest.raises(SkerryError, match="larger than 3"):
            await download_blob(api, DIGEST, limit=3)


async def test_a_bundle_that_broke_off_leaves_no_file(tmp_path: Path) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(
            200, headers={"content-length": "10"}, stream=httpx2.ByteStream(b"short")
        )

    transport = httpx2.MockTransport(answer)
    target = tmp_path / "b.tar"
    async with Api(CONTEXT, transport=transport) as api:
        with pytest.raises(SkerryError, match="broke off at 5 of 10"):
            await save_bundle(api, "p", "h", target)

    assert list(tmp_path.iterdir()) == []
