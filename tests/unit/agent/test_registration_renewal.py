"""The registration certificate: renewed with the host's key, also long after it expired."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from skerry.agent.channel import ChannelFailed
from skerry.agent.clockfloor import ClockFloor
from skerry.agent.identity import Identity, load_identity, load_or_make_keys
from skerry.agent.journal import EventLog
from skerry.agent.register import renewal_due_at
from skerry.agent.sync import Syncer
from skerry.agent.work import Standing
from skerry.lib import pki
from skerry.lib.clock import ManualClock
from skerry.lib.memory_files import MemoryRoot
from skerry.lib.proc import FakeRunner
from skerry.wire import envelope as env
from skerry.wire import messages

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 1, 1, tzinfo=UTC)
AUTHORITY = pki.new_authority("skerry", now=NOW)
RELEASE = env.SigningKey(role=env.KeyRole.RELEASE, key=pki.new_signing_key())
FOREIGN = env.SigningKey(role=env.KeyRole.RELEASE, key=pki.new_signing_key())


@dataclass
class FakeManager:
    """Answers every sync, and renews with another release key in its answer."""

    clock: ManualClock
    uid: str
    refuse: bool = False
    renewals: list[str] = field(default_factory=list)

    async def sync(self, request: messages.SyncRequest) -> messages.SyncAnswer:
        return messages.SyncAnswer(status_digest=request.status_digest)

    async def renew(self, request: messages.RenewRequest) -> messages.RenewAnswer:
        self.renewals.append(request.public_key)
        if self.refuse:
            raise ChannelFailed("cut", reason="ManagerUnreachable")
        key = pki.load_host_public(request.public_key)
        fresh = pki.issue_host_certificate(AUTHORITY, key, host_uid=self.uid, now=self.clock.now())
        return messages.RenewAnswer(
            certificate=pki.certificate_pem(fresh),
            trusted_keys=(FOREIGN.trusted,),
            authorities=("another",),
        )


@dataclass
class Bench:
    """A syncing half whose certificate was issued some days ago."""

    issued_days_ago: int
    root: MemoryRoot = field(default_factory=MemoryRoot)
    clock: ManualClock = field(default_factory=lambda: ManualClock(NOW))

    def __post_init__(self) -> None:
        keys = load_or_make_keys(self.root)
        self.own_public = pki.public_pem(keys.identity.public_key())
        certificate = pki.issue_host_certificate(
            AUTHORITY,
            keys.identity.public_key(),
            host_uid="uid-1",
            now=NOW - timedelta(days=self.issued_days_ago),
        )
        identity = Identity(
            manager="https://m",
            authorities=("pinned",),
            trusted_keys=(RELEASE.trusted,),
            state="approved",
            host_uid="uid-1",
            certificate=pki.certificate_pem(certificate),
        )
        self.manager = FakeManager(self.clock, "uid-1")
        self.syncer = Syncer(
            root=self.root,
            runner=FakeRunner(),
            clock=self.clock,
            floor=ClockFloor(self.root, FakeRunner(), self.clock),
            channel=self.manager,  # type: ignore[arg-type]  # only what is asked here
            identity=identity,
            keys=keys,
            events=EventLog(self.root),
            standing=Standing(),
            on_assignment=lambda: None,
            on_revoked=self._revoked,
        )

    async def _revoked(self, message: str) -> None:
        raise AssertionError(message)


@pytest.mark.parametrize("days", [61, 89, 400], ids=["last month", "last day", "long expired"])
async def test_it_is_renewed_with_the_same_key_whether_it_still_counts_or_not(days: int) -> None:
    bench = Bench(days)

    await bench.syncer.turn()
    await bench.syncer.turn()

    assert bench.manager.renewals == [bench.own_public]
    assert renewal_due_at(load_identity(bench.root)) > NOW + timedelta(days=50)
    assert bench.syncer.identity == load_identity(bench.root)


async def test_a_young_one_is_left_alone_until_its_last_month() -> None:
    bench = Bench(10)

    await bench.syncer.turn()
    assert bench.manager.renewals == []
    bench.clock.advance(timedelta(days=51).total_seconds())
    await bench.syncer.turn()

    assert len(bench.manager.renewals) == 1


async def test_a_failed_renewal_leaves_the_line_working_and_is_tried_again() -> None:
    bench = Bench(400)
    bench.manager.refuse = True

    pauses = [await bench.syncer.turn() for _ in range(3)]
    assert len(bench.manager.renewals) == 1
    assert max(pauses) < 60
    bench.manager.refuse = False
    bench.clock.advance(61)
    await bench.syncer.turn()

    assert renewal_due_at(load_identity(bench.root)) > NOW


async def test_a_renewal_brings_in_no_keys_and_no_roots() -> None:
    """Who holds the channel key could otherwise make itself a release key."""
    bench = Bench(400)

    await bench.syncer.turn()

    after = load_identity(bench.root)
    assert after.trusted_keys == (RELEASE.trusted,)
    assert after.authorities == ("pinned",)
    assert msgspec.structs.replace(after, certificate="") == msgspec.structs.replace(
        bench.syncer.identity, certificate=""
    )
