"""The floor survives restarts, only grows, and moves no clock that is not this machine's own."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from skerry.agent import accept, paths
from skerry.agent.clockfloor import ClockFloor
from skerry.agent.identity import Identity
from skerry.lib import pki
from skerry.lib.clock import ManualClock
from skerry.lib.digest import canonical_json
from skerry.lib.memory_files import MemoryRoot
from skerry.lib.proc import FakeRunner
from skerry.wire import envelope as env
from skerry.wire.messages import Assignment

pytestmark = pytest.mark.anyio

BORN = datetime(1970, 1, 2, tzinfo=UTC)
SIGNED = datetime(2026, 11, 25, tzinfo=UTC)


@dataclass
class Bench:
    root: MemoryRoot = field(default_factory=MemoryRoot)
    runner: FakeRunner = field(default_factory=FakeRunner)
    clock: ManualClock = field(default_factory=lambda: ManualClock(BORN))
    set: list[datetime] = field(default_factory=list)

    def step(self, at: datetime) -> None:
        self.set.append(at)
        self.clock.advance((at - self.clock.now()).total_seconds())

    def floor(self, *, own: bool = True) -> ClockFloor:
        return ClockFloor(self.root, self.runner, self.clock, self.step if own else None)


async def test_a_machine_without_a_battery_is_stepped_to_what_was_signed_last() -> None:
    bench = Bench()
    bench.floor().saw(SIGNED)

    said = await bench.floor().hold()  # after a restart
    again = await bench.floor().hold()

    assert bench.set == [SIGNED]
    assert "1970-01-02" in said
    assert again == ""


async def test_a_clock_that_a_time_service_keeps_is_left_alone() -> None:
    bench = Bench()
    bench.runner.answer("timedatectl", stdout="yes\n")
    floor = bench.floor()
    floor.saw(SIGNED)

    assert await floor.hold() == ""
    assert bench.set == []


async def test_a_containers_clock_is_never_touched_nor_asked_about() -> None:
    bench = Bench()
    floor = bench.floor(own=False)
    floor.saw(SIGNED)

    assert await floor.hold() == ""
    assert bench.runner.calls == []


async def test_a_system_that_forbids_it_is_no_failure() -> None:
    bench = Bench()

    def forbidden(at: datetime) -> None:
        raise PermissionError(1, "not permitted")

    floor = ClockFloor(bench.root, bench.runner, bench.clock, forbidden)
    floor.saw(SIGNED)

    assert await floor.hold() == ""
    assert (found := floor.judge(SIGNED)) is not None
    assert found.reason == "ClockWrong"


async def test_the_floor_only_grows_and_costs_one_write_an_hour() -> None:
    bench = Bench()
    floor = bench.floor()
    for minutes in range(0, 180, 5):
        floor.saw(SIGNED + timedelta(minutes=minutes))
    floor.saw(SIGNED - timedelta(days=800))

    assert floor.floor == SIGNED + timedelta(minutes=175)
    assert bench.root.changes == 3
    assert bench.floor().floor == SIGNED + timedelta(minutes=120)


async def test_an_accepted_assignment_counts_however_it_came() -> None:
    bench = Bench()
    channel = env.SigningKey(role=env.KeyRole.CHANNEL, key=pki.new_signing_key())
    identity = Identity(
        manager="https://m", authorities=(), trusted_keys=(channel.trusted,), host_uid="u"
    )
    assignment = Assignment(host_uid="u", epoch=1, issued_at=SIGNED)
    envelope = env.sign(env.ASSIGNMENT, canonical_json(assignment), [channel])
    accept.accept(bench.root, envelope, identity)

    floor = bench.floor()
    floor.saw_assignment(identity)

    assert floor.floor == SIGNED


@pytest.mark.parametrize("data", [b"", b"no time", b"\xff"])
async def test_a_damaged_floor_is_no_floor(data: bytes) -> None:
    bench = Bench()
    bench.root.write(paths.CLOCK_FLOOR, data)

    assert bench.floor().floor is None
