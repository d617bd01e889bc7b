"""The line to the manager goes wrong in every way: one cause, one next action, and retry works.

The channel is the agent's own, over real sockets; only its time limits are shorter.
"""

from __future__ import annotations

import os
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest
import trustme
from tests.integration.agent import servers
from tests.integration.agent.servers import Handler, serving

from skerry.agent.causes import ChannelFailed
from skerry.agent.channel import HttpChannel, certificate_begins, public_keys
from skerry.agent.content import ContentStore
from skerry.agent.identity import Counter, Identity, load_or_make_keys
from skerry.lib import pki
from skerry.lib.digest import sha256
from skerry.lib.errors import SkerryError
from skerry.lib.memory_files import MemoryRoot
from skerry.model.meta import Condition
from skerry.model.reasons import REASONS, why
from skerry.wire import envelope as env
from skerry.wire import messages

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

CHANNEL = env.SigningKey(role=env.KeyRole.CHANNEL, key=pki.new_signing_key())
LIMIT_S = 0.4


@dataclass
class Host:
    """A host with keys and a line."""

    root: MemoryRoot = field(default_factory=MemoryRoot)

    def channel(
        self, manager: str, authority: str, *, proxy: str = "", registered: bool = True
    ) -> HttpChannel:
        identity = Identity(
            manager=manager,
            authorities=(authority,),
            trusted_keys=(CHANNEL.trusted,) if registered else (),
            state="approved",
            host_uid="uid-1",
            proxy=proxy,
        )
        keys = load_or_make_keys(self.root)
        return HttpChannel(identity, keys, Counter(self.root), timeout_s=LIMIT_S)

    def enrolment(self) -> messages.EnrolRequest:
        public, sealing = public_keys(load_or_make_keys(self.root))
        return messages.EnrolRequest(
            agent_version="0",
            public_key=public,
            sealing_key=sealing,
            facts=messages.HostFacts(hardware_id="board-1"),
            token="planted-token-secret",
        )


def told(error: ChannelFailed) -> str:
    """The reason that a person is told, from the words on the host's screen."""
    condition = Condition(type="Synced", status="False", reason=error.reason, message=error.message)
    cause = why([condition], {"host": "till-1"})
    assert cause.title == REASONS[error.reason].title
    assert cause.next_action.startswith("skerry")
    assert "planted" not in f"{error} {error.hint} {cause}"
    return cause.reason


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def context_of(authority: trustme.CA, name: str = "127.0.0.1") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


def pem(authority: trustme.CA) -> str:
    return authority.cert_pem.bytes().decode()


@pytest.fixture
async def stack(anyio_backend: str) -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as found:
        yield found


@pytest.mark.parametrize("registered", [True, False], ids=["sync", "enrol"])
@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        (servers.silent, "ManagerUnreachable"),
        (servers.dripping, "ManagerUnreachable"),
        (servers.endless, "ManagerUntrusted"),
        (servers.answering("200 OK", b"<html>sign in here</html>"), "ManagerUntrusted"),
        (servers.answering("502 Bad Gateway"), None),
    ],
    ids=["half-open", "drips", "endless", "portal", "gateway"],
)
async def test_a_server_that_is_no_manager(
    authority: trustme.CA, handler: Handler, reason: str | None, registered: bool
) -> None:
    host = Host()
    async with serving(handler, context_of(authority)) as port:
        channel = host.channel(f"https://127.0.0.1:{port}", pem(authority), registered=registered)
        started = time.monotonic()
        asking = (
            channel.sync(messages.SyncRequest()) if registered else channel.enrol(host.enrolment())
        )
        with pytest.raises(ChannelFailed) as caught:
            await asking
        await channel.close()

    assert time.monotonic() - started < 10 * LIMIT_S
    # Without known keys a gateway's error is only no answer; with them it is nobody to believe.
    wanted = reason or ("ManagerUntrusted" if registered else "ManagerUnreachable")
    assert told(caught.value) == wanted


async def test_a_held_request_ends_a_little_after_the_time_it_asked_for(
    authority: trustme.CA,
) -> None:
    async with serving(servers.silent, context_of(authority)) as port:
        channel = Host().channel(f"https://127.0.0.1:{port}", pem(authority))
        started = time.monotonic()
        with pytest.raises(ChannelFailed) as caught:
            await channel.sync(messages.SyncRequest(wait_s=1))
        await channel.close()

    assert 1 <= time.monotonic() - started < 3
    assert told(caught.value) == "ManagerUnreachable"


async def test_a_line_that_is_half_open_before_tls(authority: trustme.CA) -> None:
    async with serving(servers.silent) as port:
        channel = Host().channel(f"https://127.0.0.1:{port}", pem(authority))
        with pytest.raises(ChannelFailed) as caught:
            await channel.sync(messages.SyncRequest())
        await channel.close()

    assert told(caught.value) == "ManagerUnreachable"


async def test_nobody_listens(authority: trustme.CA) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        channel = Host().channel(f"https://127.0.0.1:{port}", pem(authority))
        with pytest.raises(ChannelFailed) as caught:
            await channel.sync(messages.SyncRequest())
        await channel.close()

    assert told(caught.value) == "ManagerUnreachable"


async def test_another_authority_a_name_that_is_not_its_own_and_no_tls(
    authority: trustme.CA, stack: AsyncExitStack
) -> None:
    other = await stack.enter_async_context(serving(servers.silent, context_of(trustme.CA())))
    named = await stack.enter_async_context(
        serving(servers.silent, context_of(authority, "other.test"))
    )
    plain = await stack.enter_async_context(serving(servers.plain))

    for port in (other, named, plain):
        channel = Host().channel(f"https://127.0.0.1:{port}", pem(authority))
        with pytest.raises(ChannelFailed) as caught:
            await channel.sync(messages.SyncRequest())
        await channel.close()
        assert told(caught.value) == "ManagerUntrusted"


@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        (servers.answering("407 Proxy Authentication Required"), "ProxyRefused"),
        (servers.answering("403 Forbidden"), "ProxyRefused"),
        (servers.opening(context_of(trustme.CA())), "ManagerUntrusted"),
        (servers.silent, "ManagerUnreachable"),
    ],
    ids=["wants-a-password", "forbids", "opens-tls", "silent"],
)
async def test_a_proxy_in_the_way(authority: trustme.CA, handler: Handler, reason: str) -> None:
    async with serving(handler) as port:
        channel = Host().channel(
            "https://manager.test:8443",
            pem(authority),
            proxy=f"http://user:planted-password@127.0.0.1:{port}",
        )
        with pytest.raises(ChannelFailed) as caught:
            await channel.sync(messages.SyncRequest())
        await channel.close()

    assert told(caught.value) == reason
    if reason != "ManagerUntrusted":
        assert f"127.0.0.1:{port}" in caught.value.message, "the proxy is named"


def server_context(tmp_path: Path, made: pki.Authority, now: datetime) -> ssl.SSLContext:
    key = pki.new_host_key()
    certificate = pki.issue_server_certificate(made, key.public_key(), names=["127.0.0.1"], now=now)
    (tmp_path / "key.pem").write_bytes(pki.private_pem(key))
    (tmp_path / "cert.pem").write_text(pki.certificate_pem(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    return context


@pytest.mark.parametrize("days", [-730, 730], ids=["host-ahead", "host-behind"])
async def test_a_clock_two_years_off_is_named_and_a_registered_host_gets_through(
    tmp_path: Path, days: int
) -> None:
    now = datetime.now(UTC)
    made = pki.new_authority("skerry", now=now - timedelta(days=1000))
    context = server_context(tmp_path, made, now + timedelta(days=days))
    stranger, known = Host(), Host()
    async with serving(servers.answering("200 OK", b"{}"), context) as port:
        address = f"https://127.0.0.1:{port}"
        new = stranger.channel(address, made.certificate_pem, registered=False)
        old = known.channel(address, made.certificate_pem)
        reasons: list[str] = []
        for channel, times in ((new, 2), (old, 2)):
            for _ in range(times):
                asking = (
                    channel.enrol(stranger.enrolment())
                    if channel is new
                    else channel.sync(messages.SyncRequest())
                )
                with pytest.raises(ChannelFailed) as caught:
                    await asking
                reasons.append(told(caught.value))
            await channel.close()
        begins = await certificate_begins(
            Identity(manager=address, authorities=(made.certificate_pem,))
        )

    # The last one got through TLS; what answered is just not its manager's channel key.
    assert reasons == ["ClockWrong", "ClockWrong", "ClockWrong", "ManagerUntrusted"]
    assert begins is not None
    assert abs(begins - (now + timedelta(days=days - 1))) < timedelta(seconds=5)


async def test_a_certificate_of_another_authority_vouches_for_no_time(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    context = server_context(tmp_path, pki.new_authority("other", now=now), now)
    mine = pki.new_authority("skerry", now=now)
    async with serving(servers.silent, context) as port:
        identity = Identity(
            manager=f"https://127.0.0.1:{port}", authorities=(mine.certificate_pem,)
        )
        assert await certificate_begins(identity) is None


@pytest.mark.parametrize("stall", [False, True], ids=["truncated", "half-open"])
async def test_a_download_that_breaks_off_says_so_and_goes_on_there(
    authority: trustme.CA, stall: bool
) -> None:
    body = os.urandom(3_000_000)
    handler = servers.partly(body, first=1_200_000, stall=stall)
    host = Host()
    async with serving(handler, context_of(authority)) as port:
        channel = host.channel(f"https://127.0.0.1:{port}", pem(authority))
        store = ContentStore(host.root, channel)
        with pytest.raises(ChannelFailed) as caught:
            await store.ensure(sha256(body), size=len(body))
        path = await store.ensure(sha256(body), size=len(body))
        await channel.close()

    assert told(caught.value) == "DownloadInterrupted"
    assert host.root.read(path) == body


async def test_more_bytes_than_there_are_do_not_fill_the_disk(authority: trustme.CA) -> None:
    host = Host()
    async with serving(servers.endless, context_of(authority)) as port:
        channel = host.channel(f"https://127.0.0.1:{port}", pem(authority))
        store = ContentStore(host.root, channel)
        with pytest.raises(SkerryError) as caught:
            await store.ensure(sha256(b"x"), size=5_000_000)
        await channel.close()

    assert caught.value.reason == "DigestMismatch"
    assert sum(len(data) for data in host.root.files.values()) < 100_000


async def test_a_name_without_address_and_one_without_answer(authority: trustme.CA) -> None:
    """The resolver is passed in; the real one is in the next test."""

    async def never(name: str, port: int) -> object:
        await anyio.sleep(3600)
        return None

    async def missing(name: str, port: int) -> object:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    messages_: list[str] = []
    for resolve in (never, missing):
        host = Host()
        identity = Identity(
            manager="https://manager.test", authorities=(pem(authority),), host_uid="uid-1"
        )
        channel = HttpChannel(
            identity,
            load_or_make_keys(host.root),
            Counter(host.root),
            resolve=resolve,
            timeout_s=LIMIT_S,
        )
        failure = await channel.failed(TimeoutError())
        await channel.close()
        assert told(failure) == "DnsFailed"
        messages_.append(failure.message)
    assert ["do not answer" in message for message in messages_] == [True, False]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a resolv.conf of its own")
async def test_name_servers_that_never_answer_leave_the_agent_awake(tmp_path: Path) -> None:
    """The real agent core and the real resolver, in a mount namespace whose server is deaf."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        deaf.bind(("127.0.0.53", 53))  # bound, read by nobody
        (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.53\noptions timeout:2\n")
        (tmp_path / "nsswitch.conf").write_text("hosts: dns\n")
        script = (
            f"mount --bind {tmp_path}/resolv.conf /etc/resolv.conf && "
            f"mount --bind {tmp_path}/nsswitch.conf /etc/nsswitch.conf && "
            f'exec "$@"'
        )
        done = await anyio.run_process(
            [
                *("unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"),
                *(sys.executable, "-m", "tests.integration.agent.lost", str(tmp_path / "host")),
            ],
            cwd=Path(__file__).parents[3],
            check=False,
        )

    assert done.returncode == 0, done.stderr.decode()[-2000:]
    reason, longest_s, text = done.stdout.decode().split("\n", 2)
    assert reason == "DnsFailed"
    assert float(longest_s) < 0.5, "the agent never stood still"
    assert "Name cannot be resolved" in text
    assert "do not answer" in text
    assert "next  skerry-agent status" in text
