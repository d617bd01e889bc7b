"""Watch, events and audit records: complete, in order, resumable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import anyio
import msgspec
import pytest
from store_objects import NOW, audit, event, host, project

from skerry.lib.clock import ManualClock
from skerry.manager.store import Store
from skerry.manager.store.apply import Retention
from skerry.manager.store.chain import ChainBroken, verify_chain
from skerry.manager.store.protocol import Change, Delete, HistoryGone, Put, WriteSet
from skerry.model.kinds import HostSpec

pytestmark = pytest.mark.anyio


async def put(store: Store, name: str, seen: int = 0, **more: Any) -> int:
    return (await store.commit(WriteSet(puts=(Put(host(name, **more), seen),)))).revision


async def take(store: Store, count: int, *, since: int, kinds: Sequence[str] = ()) -> list[Change]:
    """The first changes after `since`."""
    found: list[Change] = []
    with anyio.fail_after(20):
        async for change in store.watch(kinds, since=since):
            found.append(change)
            if len(found) == count:
                break
    return found


async def test_watch_gives_every_change_in_order_from_where_it_was_left(store: Store) -> None:
    await put(store, "h1")
    await put(store, "h2")
    await put(store, "h1", 1, site="north")
    await store.commit(WriteSet(deletes=(Delete("Host", "default", "h2", 2),)))

    changes = await take(store, 4, since=0)

    shown = [(c.revision, c.deleted, c.resource.name, c.resource.spec.site) for c in changes]
    assert shown == [
        (1, False, "h1", ""),
        (2, False, "h2", ""),
        (3, False, "h1", "north"),
        (4, True, "h2", ""),
    ]
    assert await take(store, 2, since=2) == changes[2:]


async def test_watch_gives_only_the_kinds_asked_for(store: Store) -> None:
    await put(store, "h1")
    await store.commit(WriteSet(puts=(Put(project("p1"), 0),)))
    await put(store, "h2")

    changes = await take(store, 2, since=0, kinds=["Host"])

    assert [change.revision for change in changes] == [1, 3]


async def test_waiting_watch_is_woken_by_a_commit_of_its_own_process(backend: Any) -> None:
    store = await backend.open(poll_s=3600)
    seen: list[int] = []
    async with anyio.create_task_group() as group:

        async def follow() -> None:
            async for change in store.watch(["Host"], since=0):
                seen.append(change.revision)
                if change.revision == 20:
                    return

        group.start_soon(follow)
        with anyio.fail_after(20):
            for number in range(20):
                await put(store, f"h{number}")

    assert seen == list(range(1, 21))


class _CommitsBehindTheRead:
    """A database on which something is committed between a read and its answer, once."""

    def __init__(self, store: Any) -> None:
        self.inner = store.database
        self.store = store
        self.done = False

    async def read(self, steps: Any) -> Any:
        result = await self.inner.read(steps)
        if not self.done:
            self.done = True
            await put(self.store, "h1")
        return result

    async def write(self, steps: Any) -> Any:
        return await self.inner.write(steps)


async def test_commit_between_reading_and_waiting_is_not_slept_through(backend: Any) -> None:
    store = await backend.open(poll_s=3600)
    real, store.database = store.database, _CommitsBehindTheRead(store)

    changes = await take(store, 1, since=0)

    store.database = real
    assert changes[0].resource.name == "h1"


async def test_waiting_watch_sees_the_commit_of_another_process(backend: Any) -> None:
    store, other = await backend.open(poll_s=0.05), await backend.open()
    async with anyio.create_task_group() as group:

        async def write_soon() -> None:
            await anyio.sleep(0.2)
            await put(other, "h1")

        group.start_soon(write_soon)
        changes = await take(store, 1, since=0)

    assert changes[0].resource.name == "h1"


async def test_a_slow_transaction_is_neither_skipped_nor_out_of_order(backend: Any) -> None:
    store = await backend.open(poll_s=0.02)
    changes: list[Change] = []

    async def follow() -> None:
        changes.extend(await take(store, 2, since=0))

    with backend.slow_commit(WriteSet(puts=(Put(host("slow"), 0),))) as let_it_commit:
        async with anyio.create_task_group() as group:
            group.start_soon(follow)
            group.start_soon(put, store, "fast")
            await anyio.sleep(0.3)
            assert changes == []
            let_it_commit()

    assert [(c.revision, c.resource.name) for c in changes] == [(1, "slow"), (2, "fast")]


async def test_watch_under_parallel_writers_misses_nothing_and_repeats_nothing(
    backend: Any,
) -> None:
    writers = [await backend.open(), await backend.open()]
    store = await backend.open(poll_s=0.02)
    followed: list[list[Change]] = []

    async def follow() -> None:
        followed.append(await take(store, 100, since=0, kinds=["Host"]))

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(follow)
        for number in range(100):
            group.start_soon(put, writers[number % 2], f"h{number}")

    for changes in followed:
        assert [change.revision for change in changes] == list(range(1, 101))
        assert len({change.resource.name for change in changes}) == 100


async def test_watch_from_before_what_is_kept_is_told_to_list_again(backend: Any) -> None:
    store = await backend.open(retention=Retention(changes=10))
    for number in range(40):
        await put(store, f"h{number}")

    with pytest.raises(HistoryGone, match="after revision 0"):
        await take(store, 1, since=0)
    assert [change.revision for change in await take(store, 10, since=30)] == list(range(31, 41))


async def test_watch_from_the_future_is_told_to_list_again(store: Store) -> None:
    await put(store, "h1")

    with pytest.raises(HistoryGone):
        await take(store, 1, since=2)


async def test_quiet_watch_is_not_overtaken_by_the_history_of_other_kinds(backend: Any) -> None:
    store = await backend.open(retention=Retention(changes=10), poll_s=0.05)
    found: list[Change] = []

    async def follow() -> None:
        found.extend(await take(store, 1, since=0, kinds=["Project"]))

    async with anyio.create_task_group() as group:
        group.start_soon(follow)
        await anyio.sleep(0.1)
        for number in range(40):
            await put(store, f"h{number}")
            await anyio.sleep(0.01)
        await store.commit(WriteSet(puts=(Put(project("p1"), 0),)))

    assert found[0].revision == 41


# -- events ------------------------------------------------------------------------------------


async def test_events_come_newest_first_by_object_and_page_downwards(store: Store) -> None:
    for number in range(6):
        await store.commit(WriteSet(events=(event(f"h{number % 2}", f"R{number}"),)))

    everything = await store.events()
    assert [item.event.reason for item in everything] == ["R5", "R4", "R3", "R2", "R1", "R0"]
    assert everything[-1].event == event("h0", "R0")

    page = await store.events(kind="Host", project="default", name="h1", limit=2)
    rest = await store.events(kind="Host", name="h1", limit=2, after=page[-1].sequence)
    assert [item.event.reason for item in (*page, *rest)] == ["R5", "R3", "R1"]
    assert await store.events(kind="Site") == []


async def test_events_and_audits_take_any_text(store: Store) -> None:
    odd = "a\x00b\udc80c\n\u2028é"
    await store.commit(
        WriteSet(events=(replace(event(), message=odd),), audits=(replace(audit(), change=odd),))
    )

    assert (await store.events())[0].event.message == "a\ufffdb?c\n\u2028é"
    records = await store.audits()
    assert records[0].audit.change == "a\ufffdb?c\n\u2028é"
    verify_chain(records)


async def test_events_are_forgotten_by_number_and_age(backend: Any) -> None:
    clock = ManualClock(NOW)
    retention = Retention(events=3, events_age=timedelta(days=2))
    store = await backend.open(clock=clock, retention=retention)
    for number in range(5):
        at = NOW + timedelta(days=number == 4)
        await store.commit(WriteSet(events=(event(reason=f"R{number}", at=at),)))

    clock.advance(3600)
    await store.commit(WriteSet())
    assert [item.event.reason for item in await store.events()] == ["R4", "R3", "R2"]

    clock.advance(2 * 86400)
    await store.commit(WriteSet())
    assert [item.event.reason for item in await store.events()] == ["R4"]


# -- audit records -----------------------------------------------------------------------------


async def test_audit_records_are_chained_and_read_back_exactly(store: Store) -> None:
    await store.commit(WriteSet(audits=(audit("create"), audit("update"))))
    await store.commit(WriteSet(audits=(audit("delete"),)))

    records = await store.audits()

    assert [(item.sequence, item.audit.verb) for item in records] == [
        (1, "create"),
        (2, "update"),
        (3, "delete"),
    ]
    assert records[0].audit == audit("create")
    assert verify_chain(records) == (3, records[2].hash)
    assert await store.audits(after=1, limit=1) == [records[1]]
    verify_chain(records[1:], sequence=1, last_hash=records[0].hash)


async def test_audit_chain_has_no_gap_or_fork_under_parallel_writers(backend: Any) -> None:
    stores = [await backend.open(), await backend.open()]
    async with anyio.create_task_group() as group:
        for number in range(60):
            group.start_soon(stores[number % 2].commit, WriteSet(audits=(audit(f"v{number}"),)))

    records = await stores[0].audits()

    assert verify_chain(records)[0] == 60


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE audits SET actor = 'user:eve' WHERE sequence = 2",
        "UPDATE audits SET at = at + 1 WHERE sequence = 2",
        "DELETE FROM audits WHERE sequence = 2",
        "UPDATE audits SET hash = 'sha256:0' WHERE sequence = 2",
        "UPDATE audits SET sequence = 9 WHERE sequence = 3",
    ],
)
async def test_rewritten_audit_record_is_found(backend: Any, change: str) -> None:
    store = await backend.open()
    await store.commit(WriteSet(audits=(audit("a"), audit("b"), audit("c"))))
    backend.raw(change)

    with pytest.raises(ChainBroken, match=r"audit record (2|3|9)"):
        verify_chain(await store.audits())


async def test_record_with_every_field_is_covered_by_the_hash(store: Store) -> None:
    await store.commit(WriteSet(audits=(audit(),)))
    record = (await store.audits())[0]

    for name in record.audit.__slots__:
        old = getattr(record.audit, name)
        new = old + timedelta(seconds=1) if name == "at" else old + "x"
        with pytest.raises(ChainBroken):
            verify_chain([replace(record, audit=replace(record.audit, **{name: new}))])


async def test_change_holds_the_object_as_it_was_then(store: Store) -> None:
    await put(store, "h1", labels={"a": "1"})
    first = await store.get("Host", "default", "h1")
    later = msgspec.structs.replace(first, spec=HostSpec(site="x"))
    await store.commit(WriteSet(puts=(Put(later, 1),)))

    assert (await take(store, 1, since=0))[0].resource == first


async def test_an_object_is_found_as_it_was_at_a_revision_of_its_own(store: Store) -> None:
    first = await store.commit(WriteSet(puts=(Put(host("h1", site="north"), 0),)))
    other = await store.commit(WriteSet(puts=(Put(host("h2"), 0),)))
    await store.commit(WriteSet(puts=(Put(host("h1", site="south"), first.revision),)))

    then = await store.at_revision("Host", "default", "h1", first.revision)

    assert then is not None
    assert then.spec.site == "north"
    assert await store.at_revision("Host", "default", "h1", other.revision) is None
    assert await store.at_revision("Host", "default", "h1", 99) is None
