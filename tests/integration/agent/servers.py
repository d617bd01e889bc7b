"""Servers that behave badly on the line: each on loopback, each in this process."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import anyio.abc
import anyio.streams.tls

Handler = Callable[[anyio.abc.ByteStream], Awaitable[None]]


@asynccontextmanager
async def serving(handler: Handler, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Serve on a free port of loopback; the port."""

    async def handle(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            try:
                if context is not None:
                    stream = await anyio.streams.tls.TLSStream.wrap(
                        stream, server_side=True, ssl_context=context, standard_compatible=False
                    )
                await handler(stream)
            except (anyio.BrokenResourceError, anyio.EndOfStream, ssl.SSLError, OSError):
                return  # the client went away, as it must

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tg:
        tg.start_soon(listener.serve, handle)
        yield int(listener.extra(anyio.abc.SocketAttribute.local_port))
        tg.cancel_scope.cancel()


async def request_of(stream: anyio.abc.ByteStream) -> bytes:
    """A request's head."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += await stream.receive()
    return data


async def silent(stream: anyio.abc.ByteStream) -> None:
    """Takes everything and never answers: a half-open line."""
    while True:
        await stream.receive()


async def dripping(stream: anyio.abc.ByteStream) -> None:
    """A header now and then, for ever."""
    await request_of(stream)
    await stream.send(b"HTTP/1.1 200 OK\r\n")
    while True:
        await anyio.sleep(0.05)
        await stream.send(b"x-more: 1\r\n")


async def endless(stream: anyio.abc.ByteStream) -> None:
    """A body without end."""
    await request_of(stream)
    await stream.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n")
    while True:
        await stream.send(b" " * 1_000_000)


async def plain(stream: anyio.abc.ByteStream) -> None:
    """A web server that knows no TLS."""
    await stream.receive()
    await stream.send(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")


def answering(status: str, body: bytes = b"") -> Handler:
    """One answer to everything."""

    async def handler(stream: anyio.abc.ByteStream) -> None:
        await request_of(stream)
        head = f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n"
        await stream.send(head.encode() + body)

    return handler


def opening(context: ssl.SSLContext) -> Handler:
    """A proxy that opens TLS: says yes to CONNECT and shows a certificate of its own."""

    async def handler(stream: anyio.abc.ByteStream) -> None:
        await request_of(stream)
        await stream.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await anyio.streams.tls.TLSStream.wrap(
            stream, server_side=True, ssl_context=context, standard_compatible=False
        )

    return handler


def partly(body: bytes, *, first: int, stall: bool) -> Handler:
    """Content that breaks off after `first` bytes once, then comes by ranges."""
    calls: list[int] = []

    async def handler(stream: anyio.abc.ByteStream) -> None:
        head = (await request_of(stream)).lower()
        start = int(head.split(b"bytes=")[1].split(b"-")[0]) if b"bytes=" in head else 0
        calls.append(start)
        status = "206 Partial Content" if start else "200 OK"
        rest = body[start:]
        await stream.send(f"HTTP/1.1 {status}\r\ncontent-length: {len(rest)}\r\n\r\n".encode())
        if len(calls) > 1:
            await stream.send(rest)
            return
        await stream.send(rest[:first])
        if stall:
            await anyio.sleep(3600)

    return handler
