"""Objects: compare-and-set, revisions, what the store stamps, all or nothing."""

from __future__ import annotations

import anyio
import msgspec
import pytest
from store_objects import NOW, audit, event, host, project

from skerry.lib.errors import SkerryError
from skerry.manager.store import Store
from skerry.manager.store.protocol import (
    AnyResource,
    Conflict,
    Delete,
    LimitReached,
    NotFound,
    Put,
    Query,
    SetValue,
    Take,
    WriteSet,
)
from skerry.model.kinds import EmptyStatus, HostPhase, HostSpec, SiteSpec
from skerry.model.meta import Resource

pytestmark = pytest.mark.anyio


async def put(store: Store, resource: AnyResource, seen: int = 0) -> AnyResource:
    committed = await store.commit(WriteSet(puts=(Put(resource, seen),)))
    return committed.written[0]


def with_spec(resource: AnyResource, spec: HostSpec) -> AnyResource:
    return msgspec.structs.replace(resource, spec=spec)


async def test_created_object_is_stamped_and_reads_back_equal(store: Store) -> None:
    written = await put(store, host("h1", labels={"a": "b"}, finalizers=("x/y",)))

    assert written.metadata.uid
    assert (written.metadata.generation, written.metadata.revision) == (1, 1)
    assert written.metadata.created_at == NOW
    assert written.metadata.finalizers == ("x/y",)
    assert await store.get("Host", "default", "h1") == written
    assert await store.get_by_uid("Host", written.metadata.uid) == written


async def test_object_without_project_is_kept_apart_from_those_with_one(store: Store) -> None:
    await put(store, project("default"))

    assert (await store.get("Project", "", "default")).project == ""
    with pytest.raises(NotFound):
        await store.get("Project", "default", "default")


async def test_given_uid_is_kept_and_is_unique(store: Store) -> None:
    await put(store, host("h1", uid="u1"))

    with pytest.raises(Conflict, match="u1"):
        await put(store, host("h2", uid="u1"))
    with pytest.raises(NotFound):
        await store.get_by_uid("Site", "u1")


async def test_creating_what_exists_is_a_conflict(store: Store) -> None:
    await put(store, host("h1"))

    with pytest.raises(Conflict, match="exists already"):
        await put(store, host("h1"))


async def test_write_with_an_old_revision_is_a_conflict_and_changes_nothing(store: Store) -> None:
    first = await put(store, host("h1"))
    second = await put(store, with_spec(first, HostSpec(site="a")), first.metadata.revision)

    with pytest.raises(Conflict, match="revision 2, not 1"):
        await put(store, with_spec(first, HostSpec(site="b")), first.metadata.revision)

    assert await store.get("Host", "default", "h1") == second


async def test_missing_object_can_neither_be_replaced_nor_deleted(store: Store) -> None:
    with pytest.raises(NotFound):
        await put(store, host("h1"), seen=7)
    with pytest.raises(NotFound):
        await store.commit(WriteSet(deletes=(Delete("Host", "default", "h1", 7),)))
    with pytest.raises(NotFound):
        await store.get("Host", "default", "h1")


async def test_generation_counts_changes_of_the_spec_only(store: Store) -> None:
    written = await put(store, host("h1"))
    status = msgspec.structs.replace(written.status, phase=HostPhase.READY)
    written = await put(store, msgspec.structs.replace(written, status=status), 1)
    assert (written.metadata.generation, written.metadata.revision) == (1, 2)

    written = await put(store, with_spec(written, HostSpec(site="north")), 2)
    assert (written.metadata.generation, written.metadata.revision) == (2, 3)


async def test_identity_and_creation_time_survive_a_replacement_that_omits_them(
    store: Store,
) -> None:
    first = await put(store, host("h1"))
    bare = msgspec.structs.replace(first.metadata, uid="", created_at=None)

    written = await put(store, msgspec.structs.replace(first, metadata=bare), 1)

    assert written.metadata.uid == first.metadata.uid
    assert written.metadata.created_at == NOW


async def test_delete_compares_the_revision_and_frees_name_and_uid(store: Store) -> None:
    await put(store, host("h1", uid="u1", labels={"a": "b"}))

    with pytest.raises(Conflict):
        await store.commit(WriteSet(deletes=(Delete("Host", "default", "h1", 9),)))
    committed = await store.commit(WriteSet(deletes=(Delete("Host", "default", "h1", 1),)))

    assert committed.revision == 2
    assert (await store.list(Query("Host", labels="a=b"))).total == 0
    assert (await put(store, host("h1", uid="u1"))).metadata.revision == 3


async def test_every_object_write_has_a_revision_of_its_own(store: Store) -> None:
    committed = await store.commit(
        WriteSet(puts=tuple(Put(host(f"h{number}"), 0) for number in range(3)))
    )

    assert [item.metadata.revision for item in committed.written] == [1, 2, 3]
    assert committed.revision == await store.revision() == 3


@pytest.mark.parametrize("failing", ["take", "put", "delete"])
async def test_a_failing_write_set_leaves_nothing_behind(store: Store, failing: str) -> None:
    await put(store, host("there"))
    writes = WriteSet(
        takes=(Take("uses", 5), Take("full", 0 if failing == "take" else 5)),
        puts=(Put(host("new"), 0), Put(host("there"), 0 if failing == "put" else 1)),
        deletes=(Delete("Host", "default", "gone", 3),) if failing == "delete" else (),
        values=(SetValue("space", "key", b"value"),),
        events=(event(),),
        audits=(audit(),),
    )

    with pytest.raises((Conflict, NotFound, LimitReached)):
        await store.commit(writes)

    assert await store.revision() == 1
    assert await store.counter("uses") == 0
    assert (await store.list(Query("Host"))).total == 1
    assert await store.value("space", "key") is None
    assert await store.events() == []
    assert await store.audits() == []


async def test_one_failing_caller_harms_no_other(store: Store) -> None:
    await put(store, host("taken"))
    outcomes: dict[str, bool] = {}

    async def create(name: str) -> None:
        try:
            await put(store, host(name))
            outcomes[f"{name}-{len(outcomes)}"] = True
        except Conflict:
            outcomes[f"{name}-{len(outcomes)}"] = False

    async with anyio.create_task_group() as group:
        for number in range(60):
            group.start_soon(create, "taken" if number % 3 == 0 else f"n{number}")

    assert sum(outcomes.values()) == 40
    assert all(done == (not name.startswith("taken")) for name, done in outcomes.items())
    assert (await store.list(Query("Host"))).total == 41
    assert await store.revision() == 41


async def test_value_that_cannot_be_stored_harms_no_other_caller(store: Store) -> None:
    refused = []

    async def write(number: int) -> None:
        bad = number % 4 == 0
        count = 2**70 if bad else 1
        values = (SetValue("s", f"k{number}", object() if bad else b"x"),)  # type: ignore[arg-type]
        try:
            await store.commit(WriteSet(values=values, takes=(Take("c", count * 100),)))
        except SkerryError as exc:
            refused.append(exc.retryable)

    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(write, number)

    assert refused == [False] * 5
    assert await store.counter("c") == 15
    assert len(await store.values("s")) == 15


async def test_only_one_of_many_parallel_writers_wins(store: Store) -> None:
    first = await put(store, host("h1"))
    won = []

    async def write(number: int) -> None:
        try:
            await put(store, with_spec(first, HostSpec(site=f"s{number}")), 1)
            won.append(number)
        except Conflict:
            pass

    async with anyio.create_task_group() as group:
        for number in range(30):
            group.start_soon(write, number)

    assert len(won) == 1
    assert (await store.get("Host", "default", "h1")).spec.site == f"s{won[0]}"


async def test_wrong_kinds_are_refused_by_name(store: Store) -> None:
    wrong = Resource(
        kind="Host", metadata=host("h1").metadata, spec=SiteSpec(), status=EmptyStatus()
    )

    with pytest.raises(SkerryError, match="wanted HostSpec"):
        await put(store, wrong)
    with pytest.raises(SkerryError, match="Nonsense"):
        await store.get("Nonsense", "", "x")
    with pytest.raises(SkerryError, match="Nonsense"):
        await store.list(Query("Nonsense"))


async def test_objects_survive_closing_and_opening(backend) -> None:  # type: ignore[no-untyped-def]
    store = await backend.open()
    written = await put(store, host("h1"))
    await store.close()

    again = await backend.open()

    assert await again.get("Host", "default", "h1") == written
    assert await again.revision() == 1
