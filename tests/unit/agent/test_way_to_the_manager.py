"""A proxy between host and manager: each way it can fail is one cause, and no password is told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import anyio.abc
import pytest

from skerry.agent.channel import ChannelFailed, HttpChannel
from skerry.agent.identity import Counter, Identity, load_or_make_keys
from skerry.lib import pki
from skerry.lib.clock import SystemClock
from skerry.lib.memory_files import MemoryRoot
from skerry.wire.messages import SyncRequest

pytestmark = pytest.mark.anyio

MANAGER = "https://manager.example:8443"
Answer = Callable[[anyio.abc.SocketStream], Awaitable[None]]


@asynccontextmanager
async def proxy(answer: bytes) -> AsyncIterator[int]:
    """A proxy on loopback that answers every CONNECT alike; its port."""

    async def serve(client: anyio.abc.SocketStream) -> None:
        async with client:
            await client.receive()
            await client.send(answer)

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tg,
    ):
        tg.start_soon(listener.serve, serve)
        yield listener.extra(anyio.abc.SocketAttribute.local_port)
        tg.cancel_scope.cancel()


async def failure(proxy_url: str) -> ChannelFailed:
    root = MemoryRoot()
    authority = pki.new_authority("m", now=SystemClock().now()).certificate_pem
    identity = Identity(manager=MANAGER, authorities=(authority,), host_uid="u", proxy=proxy_url)
    channel = HttpChannel(identity, load_or_make_keys(root), Counter(root))
    try:
        with pytest.raises(ChannelFailed) as caught:
            await channel.sync(SyncRequest())
    finally:
        await channel.close()
    return caught.value


@pytest.mark.parametrize(
    "status", [b"403 Forbidden", b"407 Proxy Authentication Required", b"502 Bad Gateway"]
)
async def test_a_proxy_that_refuses_is_named_with_its_words(status: bytes) -> None:
    async with proxy(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\n\r\n") as port:
        found = await failure(f"http://till:secret@127.0.0.1:{port}")

    assert found.reason == "ProxyRefused"
    assert f"proxy 127.0.0.1:{port} refuses the way to {MANAGER}" in found.message
    assert status.decode()[:3] in found.message
    assert "secret" not in found.message
    assert "CONNECT" in found.hint


async def test_a_proxy_that_is_not_there_is_named_too() -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)

    found = await failure(f"http://till:secret@127.0.0.1:{port}/")

    assert found.reason == "ManagerUnreachable"
    assert f"no connection to {MANAGER} through proxy 127.0.0.1:{port}: " in found.message
    assert "secret" not in found.message
