"""The manager's own loops when the database rests, and what a deleted host leaves behind."""

from __future__ import annotations

import dataclasses
from typing import Any

import anyio
import pytest

from skerry.manager.reconcile.loops import Reconciler
from skerry.manager.services import assignments
from skerry.manager.services.centre import CONTACTS
from skerry.manager.store.errors import StoreUnavailable
from skerry.manager.store.protocol import Page, Query

from .conftest import Manager, path_of
from .test_sync import make_cluster

pytestmark = pytest.mark.anyio


class Resting:
    """A store that does not answer lists and commits for a while."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.resting = False
        self.refused = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def _check(self) -> None:
        if self.resting:
            self.refused += 1
            raise StoreUnavailable("the database rests")

    async def list(self, query: Query) -> Page:
        self._check()
        page: Page = await self.inner.list(query)
        return page

    async def commit(self, writes: Any) -> Any:
        self._check()
        return await self.inner.commit(writes)


async def test_loops_go_on_after_the_database_rested(manager: Manager) -> None:
    store = Resting(manager.centre.store)
    centre = dataclasses.replace(manager.centre, store=store)
    reconciler = Reconciler(centre)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tg:
            tg.start_soon(reconciler.run)
            await anyio.wait_all_tasks_blocked()
            store.resting = True
            while store.refused < 3:
                manager.clock.advance(centre.settings.reconcile_s)
                await anyio.wait_all_tasks_blocked()
            store.resting = False
            device = manager.device("shop-1")
            assert (await device.enrol(token=await manager.token())).state == "approved"
            while await centre.store.value(assignments.SPACE, device.uid) is None:
                manager.clock.advance(centre.settings.reconcile_s)
                await anyio.wait_all_tasks_blocked()
            tg.cancel_scope.cancel()


async def test_heartbeats_that_could_not_be_written_are_written_later(manager: Manager) -> None:
    device = await manager.ready_host("shop-1")
    await device.sync()
    store = Resting(manager.centre.store)
    reconciler = Reconciler(dataclasses.replace(manager.centre, store=store))
    store.resting = True

    with pytest.raises(StoreUnavailable):
        await reconciler.flush()
    store.resting = False
    await reconciler.flush()

    assert device.uid in await manager.centre.store.values(CONTACTS)


async def test_reading_an_assignment_does_not_hide_one_that_was_issued_meanwhile(
    manager: Manager,
) -> None:
    device = await make_cluster(manager)
    live = manager.centre.live
    newest = live.assignments.pop(device.uid)
    inner = manager.centre.store

    class Slow(Resting):
        async def value(self, space: str, key: str) -> bytes | None:
            found: bytes | None = await inner.value(space, key)
            live.assignments[device.uid] = newest  # another task issued it just now
            return None if space == assignments.SPACE else found

    centre = dataclasses.replace(manager.centre, store=Slow(inner))

    found = await assignments.current(centre, device.uid)

    assert found == newest
    assert live.assignments[device.uid] == newest


async def test_a_deleted_host_leaves_a_stone_and_nothing_else(manager: Manager) -> None:
    device = await manager.ready_host("shop-1")
    await device.report()
    await manager.reconciler.flush()

    await manager.admin.delete(path_of("hosts", "shop-1"))

    store, live = manager.centre.store, manager.centre.live
    left = {
        space
        for space in ("assignment", "assignment-floor", "host-events", CONTACTS)
        if device.uid in await store.values(space)
    }
    assert left == set()
    assert device.uid not in {*live.contacts, *live.counters, *live.assignments, *live.unflushed}
    assert device.uid in await store.values("revoked-host")
