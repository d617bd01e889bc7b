"""Counters and small named values."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import anyio
import pytest
from store_objects import NOW

from skerry.lib.clock import ManualClock
from skerry.manager.store import Store
from skerry.manager.store.protocol import LimitReached, SetValue, Take, WriteSet

pytestmark = pytest.mark.anyio


async def test_counter_with_limit_one_is_taken_once_under_1000_parallel_uses(backend: Any) -> None:
    stores = [await backend.open(), await backend.open()]
    outcomes = []

    async def use(number: int) -> None:
        try:
            await stores[number % 2].commit(WriteSet(takes=(Take("token/x", 1),)))
            outcomes.append(True)
        except LimitReached:
            outcomes.append(False)

    async with anyio.create_task_group() as group:
        for number in range(1000):
            group.start_soon(use, number)

    assert (outcomes.count(True), outcomes.count(False)) == (1, 999)
    assert await stores[0].counter("token/x") == 1


async def test_counters_taken_in_opposite_orders_do_not_block_each_other(backend: Any) -> None:
    stores = [await backend.open(), await backend.open()]

    async def use(number: int) -> None:
        takes = [Take(f"c{index}", None) for index in range(20)]
        if number % 2:
            takes.reverse()
        await stores[number % 2].commit(WriteSet(takes=tuple(takes)))

    async with anyio.create_task_group() as group:
        for number in range(40):
            group.start_soon(use, number)

    assert await stores[0].counter("c7") == 40


async def test_counter_stops_exactly_at_its_limit(store: Store) -> None:
    for _ in range(3):
        await store.commit(WriteSet(takes=(Take("c", 3),)))
    with pytest.raises(LimitReached, match="3"):
        await store.commit(WriteSet(takes=(Take("c", 3),)))

    await store.commit(WriteSet(takes=(Take("c", 4), Take("c", None))))
    assert await store.counter("c") == 5


async def test_limit_zero_never_gives_and_unknown_counter_is_zero(store: Store) -> None:
    with pytest.raises(LimitReached):
        await store.commit(WriteSet(takes=(Take("none", 0),)))

    assert await store.counter("none") == 0


async def test_values_are_set_replaced_and_deleted(store: Store) -> None:
    await store.commit(
        WriteSet(
            values=(
                SetValue("a", "k1", b"\x00\xff"),
                SetValue("a", "k2", b""),
                SetValue("b", "k1", b"other"),
            )
        )
    )
    assert await store.values("a") == {"k1": b"\x00\xff", "k2": b""}

    await store.commit(WriteSet(values=(SetValue("a", "k1", b"new"), SetValue("a", "k2", None))))
    assert await store.value("a", "k1") == b"new"
    assert await store.value("a", "k2") is None
    assert await store.value("b", "k1") == b"other"
    assert await store.values("nothing") == {}


async def test_value_ends_at_its_expiry_and_a_new_one_may_live_on(backend: Any) -> None:
    clock = ManualClock(NOW)
    store = await backend.open(clock=clock)
    soon = NOW + timedelta(seconds=10)
    await store.commit(
        WriteSet(values=(SetValue("s", "a", b"1", soon), SetValue("s", "b", b"1", soon)))
    )
    await store.commit(WriteSet(values=(SetValue("s", "b", b"2"),)))

    clock.advance(9.9)
    assert await store.values("s") == {"a": b"1", "b": b"2"}
    clock.advance(0.1)
    assert await store.value("s", "a") is None
    assert await store.values("s") == {"b": b"2"}

    # What has expired is also removed: a clock that goes back does not bring it to life.
    clock.advance(3600)
    await store.commit(WriteSet())
    other = await backend.open(clock=ManualClock(NOW))
    assert await other.values("s") == {"b": b"2"}
