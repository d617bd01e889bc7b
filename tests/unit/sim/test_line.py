"""Faults hit the same hosts every time, and as many as asked."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from skerry.agent.causes import ChannelFailed
from skerry.lib.clock import ManualClock
from skerry.lib.errors import SkerryError
from skerry.sim.line import Faults, Line

HOSTS = range(2000)


def _offline(percent: int, seed: int = 1) -> set[int]:
    faults = Faults(offline_percent=percent)
    return {number for number in HOSTS if faults.offline(seed=seed, number=number)}


def test_share_of_hosts_with_a_fault_is_near_what_was_asked() -> None:
    assert 160 < len(_offline(10)) < 240
    assert _offline(0) == set()
    assert _offline(100) == set(HOSTS)


def test_the_same_seed_hits_the_same_hosts_and_more_percent_only_adds() -> None:
    assert _offline(10) == _offline(10) < _offline(30)
    assert _offline(10) != _offline(10, seed=2)


def test_kinds_of_fault_hit_independently() -> None:
    faults = Faults(offline_percent=50, bad_updates_percent=50)

    both = sum(
        faults.offline(seed=1, number=n) and faults.bad_updates(seed=1, number=n) for n in HOSTS
    )

    assert 400 < both < 600


@pytest.mark.parametrize("percent", [-1, 101])
def test_a_share_is_a_percentage(percent: int) -> None:
    with pytest.raises(SkerryError, match="percentage"):
        Faults(offline_percent=percent)


@pytest.mark.anyio
async def test_an_offline_host_is_seen_first_then_away_then_back_for_a_while() -> None:
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    line = Line(Faults(offline_percent=100), clock, seed=1, number=1)
    reached = []

    await line.cross("m")
    line.seen()
    for _ in range(300):
        clock.advance(60)
        try:
            await line.cross("m")
        except ChannelFailed:
            reached.append(False)
        else:
            reached.append(True)

    assert reached[0] is False
    assert 0 < reached.count(True) < 60


@pytest.mark.anyio
async def test_a_sound_line_is_never_down() -> None:
    clock = ManualClock()
    line = Line(Faults(), clock, seed=1, number=1)
    line.seen()

    clock.advance(100_000)

    await line.cross("m")
