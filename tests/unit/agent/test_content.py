"""Content on the host: verified before it is seen, resumed after a cut, bounded by the disk."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from skerry.agent import paths
from skerry.agent.causes import ChannelFailed
from skerry.agent.content import ContentStore, DigestMismatch
from skerry.lib.digest import hex_of, sha256
from skerry.lib.errors import SkerryError
from skerry.lib.files import DiskFull
from skerry.lib.memory_files import MemoryRoot
from skerry.wire import messages

pytestmark = pytest.mark.anyio
DATA = bytes(range(256)) * 100
DIGEST = sha256(DATA)


@dataclass
class FakeChannel:
    """Serves one blob in chunks; may cut the line or send other bytes."""

    data: bytes = DATA
    cut_after: int = 0
    starts: list[int] = field(default_factory=list)

    async def content(self, digest: str, *, start: int) -> AsyncIterator[bytes]:
        self.starts.append(start)
        sent = 0
        for at in range(start, len(self.data), 1000):
            chunk = self.data[at : at + 1000]
            if self.cut_after and sent + len(chunk) > self.cut_after:
                raise ChannelFailed("cut", reason="DownloadInterrupted")
            sent += len(chunk)
            yield chunk

    async def enrol(self, request: messages.EnrolRequest) -> messages.EnrolState:
        raise NotImplementedError

    async def sync(self, request: messages.SyncRequest) -> messages.SyncAnswer:
        raise NotImplementedError

    async def renew(self, request: messages.RenewRequest) -> messages.RenewAnswer:
        raise NotImplementedError

    async def close(self) -> None:
        return None


async def test_a_blob_appears_under_its_digest() -> None:
    root = MemoryRoot()
    store = ContentStore(root, FakeChannel())

    path = await store.ensure(DIGEST, size=len(DATA))

    assert root.read(path) == DATA
    assert root.list(paths.PARTIAL) == []


async def test_a_cut_download_goes_on_where_it_stopped() -> None:
    root = MemoryRoot()
    channel = FakeChannel(cut_after=5000)
    store = ContentStore(root, channel)

    with pytest.raises(ChannelFailed):
        await store.ensure(DIGEST)
    assert not store.has(DIGEST)
    channel.cut_after = 0
    await store.ensure(DIGEST)

    assert channel.starts == [0, 5000]
    assert root.read(store.path(DIGEST)) == DATA


@pytest.mark.parametrize("bad", [DATA[:-1], DATA[:-1] + b"x", b""], ids=["short", "other", "none"])
async def test_wrong_bytes_are_thrown_away_and_the_next_try_starts_afresh(bad: bytes) -> None:
    root = MemoryRoot()
    channel = FakeChannel(data=bad)
    store = ContentStore(root, channel)

    with pytest.raises(DigestMismatch) as caught:
        await store.ensure(DIGEST)
    assert caught.value.reason == "DigestMismatch"
    assert not store.has(DIGEST)

    channel.data = DATA
    await store.ensure(DIGEST)
    assert channel.starts == [0, 0]


async def test_too_little_disk_is_told_before_the_download_and_retry_works_after() -> None:
    root = MemoryRoot(capacity=1000)
    channel = FakeChannel()
    store = ContentStore(root, channel)

    with pytest.raises(DiskFull):
        await store.ensure(DIGEST, size=len(DATA))
    assert channel.starts == []

    root.capacity = 1 << 30
    await store.ensure(DIGEST, size=len(DATA))
    assert store.has(DIGEST)


async def test_what_is_here_is_not_fetched_again_and_can_be_dropped() -> None:
    channel = FakeChannel()
    store = ContentStore(MemoryRoot(), channel)
    await store.ensure(DIGEST)
    await store.ensure(DIGEST)
    assert len(channel.starts) == 1

    store.drop(DIGEST)
    assert not store.has(DIGEST)


async def test_without_a_line_missing_content_is_named() -> None:
    store = ContentStore(MemoryRoot(), None)
    with pytest.raises(SkerryError, match="not on this host") as caught:
        await store.ensure(DIGEST)
    assert caught.value.reason == "ArtifactMissing"

    store.put(DIGEST, DATA)
    assert (await store.ensure(DIGEST)).endswith(hex_of(DIGEST))
    with pytest.raises(DigestMismatch):
        store.put(DIGEST, b"other")
