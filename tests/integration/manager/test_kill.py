"""The whole manager process is killed again and again while hosts register, report and acknowledge.

What it answered must be there afterwards: registrations, reports, acknowledgements and events.
"""

from __future__ import annotations

import random
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest

from skerry.agent.channel import HttpChannel, public_keys
from skerry.agent.identity import Counter, Identity, load_or_make_keys
from skerry.lib.clock import SystemClock
from skerry.lib.digest import canonical_json, sha256
from skerry.lib.errors import SkerryError
from skerry.lib.memory_files import MemoryRoot
from skerry.manager.app import open_centre
from skerry.manager.services import objects
from skerry.manager.services.centre import INTERNAL
from skerry.manager.settings import Settings
from skerry.manager.store import open_store
from skerry.manager.store.chain import verify_chain
from skerry.manager.store.protocol import Query, Store
from skerry.wire import messages

pytestmark = [pytest.mark.integration, pytest.mark.anyio, pytest.mark.timeout(300)]

CHILD = Path(__file__).with_name("serve_child.py")
HOSTS = 8


@dataclass
class Writer:
    """A host's side of the channel that remembers what it was answered."""

    number: int
    manager: str
    authority: str
    token: str
    root: MemoryRoot = field(default_factory=MemoryRoot)
    uid: str = ""
    reported: int = 0
    told_through: int = 0
    acknowledged: int = 0
    said: int = 0

    async def run(self) -> None:
        """Register, then report for ever."""
        identity = Identity(manager=self.manager, authorities=(self.authority,))
        keys = load_or_make_keys(self.root)
        counter = Counter(self.root)
        channel = HttpChannel(identity, keys, counter, timeout_s=5)
        public, sealing = public_keys(keys)
        request = messages.EnrolRequest(
            agent_version="0",
            public_key=public,
            sealing_key=sealing,
            facts=messages.HostFacts(
                hardware_id=f"board-{self.number:04}", host_name=f"till-{self.number}"
            ),
            token=self.token,
        )
        have = (0, "")
        while True:
            try:
                if not self.uid:
                    state = await channel.enrol(request)
                    assert state.state == "approved", state
                    self.uid = state.host_uid
                    identity = Identity(
                        manager=self.manager,
                        authorities=(self.authority,),
                        trusted_keys=state.trusted_keys,
                        host_uid=self.uid,
                    )
                    channel.adopt(identity)
                have = await self._sync(channel, have)
            except SkerryError as exc:
                if not exc.retryable:
                    raise  # only a line may break; a refusal would mean that something is lost
                await anyio.sleep(0.02)

    async def _sync(self, channel: HttpChannel, have: tuple[int, str]) -> tuple[int, str]:
        self.said += 1
        report = messages.HostReport(agent_version="0", boot_id=str(self.said))
        happened = messages.HostEvent(
            sequence=self.said, at=datetime.now(UTC), reason="Tick", message=str(self.said)
        )
        answer = await channel.sync(
            messages.SyncRequest(
                have_epoch=have[0],
                have_digest=have[1],
                acknowledged_epoch=have[0],
                acknowledged_digest=have[1],
                status_digest=sha256(canonical_json(report)),
                report=report,
                events=(happened,),
            )
        )
        self.reported = self.said
        self.told_through = max(self.told_through, answer.events_through)
        self.acknowledged = max(self.acknowledged, have[0])
        if answer.assignment is not None:
            payload = messages.decode(answer.assignment.payload, messages.Assignment)
            have = (payload.epoch, answer.assignment.payload_digest)
        return have


async def serve_until_killed(data: Path, port: int, *, after_s: float) -> None:
    async with await anyio.open_process(
        [sys.executable, str(CHILD), str(data), str(port)], stderr=None
    ) as process:
        assert process.stdout is not None
        try:
            with anyio.fail_after(60):
                line = b""
                while b"ready " not in line:
                    line = await process.stdout.receive()
            await anyio.sleep(after_s)
        finally:
            with suppress(ProcessLookupError):
                process.kill()


async def all_events(store: Store, name: str) -> list[int]:
    found: list[int] = []
    after = 0
    while page := await store.events(kind="Host", name=name, limit=1000, after=after):
        found += [int(item.event.message) for item in page if item.event.reason == "Tick"]
        after = page[-1].sequence
    return found


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.mark.parametrize("rounds", [4, pytest.param(30, marks=pytest.mark.long)])
async def test_what_a_killed_manager_answered_is_there_when_it_comes_back(
    tmp_path: Path, rounds: int
) -> None:
    data, port = tmp_path / "manager", free_port()
    settings = Settings(data=str(data), port=port)
    async with open_centre(settings, clock=SystemClock()) as centre:
        document = {
            "kind": "RegistrationToken",
            "metadata": {"name": "t"},
            "spec": {"autoApprove": True, "maximumUses": HOSTS},
        }
        token = (await objects.apply(centre, INTERNAL, document)).once["secret"]
        authority = centre.keys.authority.certificate_pem
    writers = [
        Writer(number, f"https://127.0.0.1:{port}", authority, token) for number in range(HOSTS)
    ]
    chance = random.Random(rounds)

    async with anyio.create_task_group() as tg:
        for writer in writers:
            tg.start_soon(writer.run)
        for round_ in range(rounds):
            # The first one dies while hosts register.
            after_s = 0.15 if not round_ else chance.uniform(0.1, 1.5)
            await serve_until_killed(data, port, after_s=after_s)
        tg.cancel_scope.cancel()

    store = await open_store(settings.database)
    try:
        hosts = {host.uid: host for host in (await store.list(Query("Host", limit=1000))).items}
        assert len(hosts) == HOSTS, "every machine is one host, and the token held"
        for writer in writers:
            assert writer.reported, "it got through"
            host = hosts[writer.uid]
            assert int(host.status.boot_id) >= writer.reported, "an answered report was lost"
            assert host.status.acknowledged.epoch >= writer.acknowledged > 0
            ticks = await all_events(store, host.name)
            assert len(ticks) == len(set(ticks)), "an event was told twice"
            answered = {tick for tick in ticks if tick <= writer.told_through}
            assert writer.told_through in answered
        records = []
        while more := await store.audits(after=len(records)):
            records += more
        verify_chain(records)
    finally:
        await store.close()
