"""The load of the sync benchmark, in a process of its own.

Hosts register as agents do. Their heartbeats are then signed with their own keys ahead of time, so
that the measured span holds no work of a client but sending and reading: what it shows is what the
manager serves, not what one Python client can sign.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import anyio
import anyio.abc
import msgspec
from anyio.streams.buffered import BufferedByteReceiveStream

from bench import accounting
from skerry import __version__
from skerry.agent import accept, paths
from skerry.agent.identity import Counter, load_identity, load_or_make_keys
from skerry.agent.sync import LocalStatus
from skerry.cli.logs import log_to_stderr
from skerry.lib.clock import SystemClock
from skerry.lib.digest import canonical_json, sha256
from skerry.lib.files import Root
from skerry.lib.pki import load_signing_public
from skerry.sim import Fleet
from skerry.wire import httpsig, messages

_LIMIT_S = 120.0


@dataclass
class Ready:
    """The signed heartbeats of one host, in the order of their counters."""

    root: Root
    requests: list[tuple[int, bytes]] = field(default_factory=list)


async def _main(task: dict[str, Any]) -> None:
    roots = await _register(task)
    server = urlsplit(task["server"])
    hosts = [_sign(root, task["server"], server.netloc, task["each"]) for root in roots]
    print(json.dumps({"ready": sum(len(host.requests) for host in hosts)}), flush=True)
    sys.stdin.readline()
    context = ssl.create_default_context(cadata=task["ca"])
    streams = [
        await anyio.connect_tcp(
            str(server.hostname),
            int(server.port or 443),
            tls=True,
            ssl_context=context,
            tls_standard_compatible=False,
        )
        for _ in range(task["connections"])
    ]
    sizes: list[tuple[int, int]] = []
    clock, me = SystemClock(), [os.getpid()]
    print(json.dumps({"connected": len(streams)}), flush=True)
    sys.stdin.readline()
    cpu, started = accounting.used(me).cpu_s, clock.monotonic()
    async with anyio.create_task_group() as tg:
        for index, stream in enumerate(streams):
            share = hosts[index :: len(streams)]
            tg.start_soon(_send_all, stream, share, sizes)
    took_s = clock.monotonic() - started
    answer = {
        "took_s": took_s,
        "cpu_s": accounting.used(me).cpu_s - cpu,
        "sent": sum(size[0] for size in sizes) / len(sizes),
        "received": sum(size[1] for size in sizes) / len(sizes),
        "count": len(sizes),
    }
    print(json.dumps(answer), flush=True)
    for stream in streams:
        await stream.aclose()


async def _register(task: dict[str, Any]) -> list[Root]:
    """Agents of a fleet that register, sync until all is confirmed, and stop."""
    fleet = Fleet(
        manager=task["server"],
        authority_pem=task["ca"],
        hosts=task["hosts"],
        sites=20,
        token=task["token"],
    )
    async with anyio.create_task_group() as tg:
        tg.start_soon(fleet.run)
        with anyio.fail_after(_LIMIT_S):
            # An assignment without a cluster is the first thing that a new host acknowledges.
            # Agents tell what they know by their files only, so there is no event to wait for.
            while len(fleet.roots) < fleet.hosts or not all(  # noqa: ASYNC110
                _settled(root) for root in fleet.roots.values()
            ):
                await anyio.sleep(0.2)
        await anyio.sleep(task["settle_s"])
        tg.cancel_scope.cancel()
    return list(fleet.roots.values())


def _settled(root: Root) -> bool:
    if not root.exists(paths.STATUS):
        return False
    status = msgspec.json.decode(root.read(paths.STATUS), type=LocalStatus)
    return status.report is not None and 0 < status.have_epoch == status.acknowledged_epoch


def _sign(root: Root, server: str, netloc: str, count: int) -> Ready:
    identity, keys, counter = load_identity(root), load_or_make_keys(root), Counter(root)
    status = msgspec.json.decode(root.read(paths.STATUS), type=LocalStatus)
    have = accept.stored(root, identity)
    assert have is not None
    body = msgspec.json.encode(
        messages.SyncRequest(
            have_epoch=have.epoch,
            have_digest=have.digest,
            acknowledged_epoch=have.epoch,
            acknowledged_digest=have.digest,
            status_digest=sha256(canonical_json(status.report)),
            report=None,
            events=(),
            wait_s=0,
        )
    )
    ready = Ready(root)
    for _ in range(count):
        number = counter.take()
        headers = httpsig.sign_request(
            httpsig.Message(
                headers={}, method="POST", url=f"{server}{messages.SYNC_PATH}", body=body
            ),
            keys.identity,
            host=identity.host_uid,
            counter=number,
        )
        ready.requests.append((number, _raw(headers, netloc, body)))
    return ready


def _raw(headers: dict[str, str], netloc: str, body: bytes) -> bytes:
    """The request as the agent's HTTP client writes it."""
    lines = [
        f"POST {messages.SYNC_PATH} HTTP/1.1",
        f"Host: {netloc}",
        "Accept: */*",
        "Accept-Encoding: gzip, deflate",
        "Connection: keep-alive",
        f"User-Agent: skerry-agent/{__version__}",
        *(f"{name}: {value}" for name, value in headers.items()),
        "content-type: application/json",
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def _send_all(
    stream: anyio.abc.ByteStream, hosts: Sequence[Ready], sizes: list[tuple[int, int]]
) -> None:
    buffered = BufferedByteReceiveStream(stream)
    rounds = max(len(host.requests) for host in hosts)
    for turn in range(rounds):
        for host in hosts:
            number, raw = host.requests[turn]
            await stream.send(raw)
            head = await buffered.receive_until(b"\r\n\r\n", 64 * 1024)
            length = int(_header(head, b"content-length"))
            body = await buffered.receive_exactly(length)
            sizes.append((len(raw), len(head) + 4 + length))
            if turn == 0:
                _check(host.root, number, head, body)
            elif not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"the manager refused a heartbeat: {body[:300]!r}")


def _check(root: Root, number: int, head: bytes, body: bytes) -> None:
    """The first answer to each host, as its agent checks it: signature, and nothing left to do."""
    identity = load_identity(root)
    lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1)[:1] + line.split(": ", 1)[1:] for line in lines[1:])
    answer = httpsig.Answer(headers=headers, status_code=int(lines[0].split()[1]), body=body)
    for key in identity.channel_keys():
        httpsig.verify_answer(
            answer, load_signing_public(key.public_pem), host=identity.host_uid, counter=number
        )
    said = messages.decode(body, messages.SyncAnswer)
    if said.want_report or said.assignment is not None:
        raise RuntimeError(f"the heartbeat of {identity.host_name} was not an idle one: {said}")


def _header(head: bytes, name: bytes) -> bytes:
    for line in head.split(b"\r\n"):
        key, _, value = line.partition(b":")
        if key.strip().lower() == name:
            return value.strip()
    raise RuntimeError(f"an answer has no {name.decode()}")


if __name__ == "__main__":
    log_to_stderr("error")
    anyio.run(_main, json.loads(sys.stdin.readline()))
