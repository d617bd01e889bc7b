"""Databases that are missing, locked, damaged, too new; backups and restores."""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool
from store_objects import audit, event, host

from skerry.lib.errors import SkerryError
from skerry.manager.store import Store, StoreTooNew, StoreUnavailable, open_store, schema
from skerry.manager.store.backup import BackupRefused, restore
from skerry.manager.store.chain import verify_chain
from skerry.manager.store.protocol import Put, Query, SetValue, Take, WriteSet
from skerry.manager.store.tables import METADATA

pytestmark = pytest.mark.anyio


def create(name: str) -> WriteSet:
    return WriteSet(puts=(Put(host(name), 0),))


# -- unavailable -------------------------------------------------------------------------------


async def test_unavailable_database_is_a_retryable_error_and_recovers(backend: Any) -> None:
    store = await backend.open(timeout_s=0.3)
    await store.commit(create("h1"))

    with backend.unavailable():
        with pytest.raises(StoreUnavailable, match="does not answer") as caught:
            await store.commit(create("h2"))
        assert caught.value.retryable
        assert caught.value.hint

    await store.commit(create("h2"))
    assert (await store.list(Query("Host"))).total == 2


async def test_closed_store_says_so(store: Store) -> None:
    await store.close()

    with pytest.raises(StoreUnavailable):
        await store.commit(create("h1"))
    with pytest.raises(StoreUnavailable):
        await store.get("Host", "default", "h1")
    await store.close()


async def test_close_waits_for_what_was_handed_in(backend: Any) -> None:
    store = await backend.open()
    async with anyio.create_task_group() as group:
        for number in range(50):
            group.start_soon(store.commit, create(f"h{number}"))
        await anyio.lowlevel.checkpoint()
        await store.close()

    assert (await (await backend.open()).list(Query("Host"))).total == 50


async def test_caller_that_gives_up_leaves_the_store_working(store: Store) -> None:
    async with anyio.create_task_group() as group:
        for number in range(30):
            group.start_soon(store.commit, create(f"h{number}"))
        await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()

    await store.commit(create("last"))
    page = await store.list(Query("Host"))
    assert page.revision == page.total


@pytest.mark.parametrize(
    "url", ["mysql://x/y", "nonsense", "sqlite://", "sqlite:///:memory:", "postgres//:pw"]
)
async def test_bad_url_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(SkerryError) as caught:
        await open_store(url)

    assert "sqlite:///" in caught.value.hint
    assert "pw" not in str(caught.value)


async def test_unreachable_places_are_unavailable_and_hide_the_password(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable):
        await open_store(f"sqlite:///{tmp_path}/missing/store.db")
    with pytest.raises(StoreUnavailable) as caught:
        await open_store(f"postgresql://ann:pa55word@/x?host={tmp_path}", timeout_s=2)
    assert "pa55word" not in str(caught.value)


async def test_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_bytes(b"something else entirely" * 100)

    with pytest.raises(StoreUnavailable, match="damaged"):
        await open_store(f"sqlite:///{tmp_path}/store.db")

    assert (tmp_path / "store.db").read_bytes() == b"something else entirely" * 100


async def test_full_disk_is_named_and_harms_nothing(tmp_path: Path) -> None:
    store = await open_store(f"sqlite:///{tmp_path}/store.db")
    await store.commit(create("h1"))
    # SQLite's own limit of pages stands for the disk's: same error, same moment.
    connection = store.database._connection  # type: ignore[attr-defined]
    connection.execute(
        f"PRAGMA max_page_count={connection.execute('PRAGMA page_count').fetchone()[0]}"
    )
    big = WriteSet(values=(SetValue("s", "k", b"x" * 1_000_000),))

    with pytest.raises(StoreUnavailable, match="no space left") as caught:
        await store.commit(big)
    assert caught.value.reason == "DiskFull"

    connection.execute("PRAGMA max_page_count=1000000")
    await store.commit(big)
    assert await store.value("s", "k") == b"x" * 1_000_000
    await store.close()


async def test_database_file_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    store = await open_store(f"sqlite:///{tmp_path}/store.db")
    await store.commit(create("h1"))
    await store.backup(f"{tmp_path}/backup.db")

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    await store.close()

    assert set(modes.values()) == {0o600}
    assert {"store.db", "store.db-wal", "backup.db"} <= set(modes)


async def test_sqlite_is_told_to_survive_loss_of_power(tmp_path: Path) -> None:
    store = await open_store(f"sqlite:///{tmp_path}/store.db")
    connection = store.database._connection  # type: ignore[attr-defined]

    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    await store.close()


# -- schema ------------------------------------------------------------------------------------


async def test_migrations_build_exactly_the_tables(backend: Any) -> None:
    await backend.open()

    def differences(connection: Any) -> list[Any]:
        return list(compare_metadata(MigrationContext.configure(connection), METADATA))

    if backend.name == "sqlite":
        engine = create_engine(backend.url, poolclass=NullPool)
        with engine.connect() as connection:
            found = differences(connection)
    else:
        from sqlalchemy.ext.asyncio import create_async_engine

        url = backend.url.replace("postgresql:", "postgresql+asyncpg:")
        async_engine = create_async_engine(url, poolclass=NullPool)
        async with async_engine.connect() as connection:
            found = await connection.run_sync(differences)

    assert found == []


def test_head_is_the_newest_migration() -> None:
    assert max(schema.known_versions()) == schema.HEAD


async def test_newer_schema_is_used_when_it_only_added(backend: Any) -> None:
    store = await backend.open()
    await store.commit(create("h1"))
    backend.raw("UPDATE alembic_version SET version_num = '9999'")
    backend.raw("ALTER TABLE objects ADD COLUMN later TEXT")

    again = await backend.open()

    await again.commit(create("h2"))
    assert (await again.list(Query("Host"))).total == 2


async def test_newer_schema_that_is_not_usable_is_refused_by_name(backend: Any) -> None:
    await backend.open()
    backend.raw("UPDATE alembic_version SET version_num = '9999'")
    backend.raw("INSERT INTO meta (key, value) VALUES ('usable_from', '9998')")

    with pytest.raises(StoreTooNew, match="9999, usable from 9998"):
        await backend.open()


async def test_terms_are_built_again_when_the_list_of_fields_changed(backend: Any) -> None:
    store = await backend.open()
    item = host("h1", labels={"a": "b"}, site="north")
    await store.commit(WriteSet(puts=(Put(item, 0),)))
    backend.raw("DELETE FROM terms")
    backend.raw("UPDATE meta SET value = 'older' WHERE key = 'index'")

    again = await backend.open()

    page = await again.list(Query("Host", labels="a=b", fields={"spec.site": "north"}))
    assert page.total == 1


# -- backup and restore ------------------------------------------------------------------------


async def fill(store: Store) -> None:
    await store.commit(
        WriteSet(
            takes=(Take("uses", None),),
            puts=(Put(host("h1", labels={"a": "b"}, site="north"), 0),),
            values=(SetValue("s", "k", b"\x00\xfe"),),
            events=(event(),),
            audits=(audit("a"), audit("b")),
        )
    )


async def contents(store: Store) -> list[object]:
    return [
        await store.list(Query("Host", labels="a=b", fields={"spec.site": "north"})),
        await store.revision(),
        await store.counter("uses"),
        await store.values("s"),
        list(await store.events()),
        list(await store.audits()),
    ]


@pytest.fixture
def target(fresh: Any, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """An empty place of the same back end."""
    if fresh.name == "sqlite":
        return f"sqlite:///{tmp_path}/restored.db"
    server = request.getfixturevalue("postgres_server")
    return str(server.url(server.create()))


async def test_restored_backup_equals_the_store_and_goes_on(
    backend: Any, target: str, tmp_path: Path
) -> None:
    store = await backend.open()
    await fill(store)
    before = await contents(store)

    await store.backup(f"{tmp_path}/backup.db")
    await store.commit(create("later"))
    await restore(f"{tmp_path}/backup.db", target)

    restored = await open_store(target)
    assert await contents(restored) == before
    committed = await restored.commit(WriteSet(puts=(Put(host("h2"), 0),), audits=(audit("c"),)))
    assert committed.revision == 2
    assert verify_chain(await restored.audits())[0] == 3
    await restored.close()


async def test_backup_of_one_back_end_restores_into_the_other(
    backend: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    store = await backend.open()
    await fill(store)
    await store.backup(f"{tmp_path}/backup.db")
    if backend.name == "sqlite":
        server = request.getfixturevalue("postgres_server")
        target = server.url(server.create())
    else:
        target = f"sqlite:///{tmp_path}/other.db"

    await restore(f"{tmp_path}/backup.db", target)

    restored = await open_store(target)
    assert await contents(restored) == await contents(store)
    await restored.close()


async def test_backup_while_writing_is_one_moment(backend: Any, tmp_path: Path) -> None:
    store = await backend.open()
    done = anyio.Event()

    async def write() -> None:
        number = 0
        while not done.is_set():
            pair = (Put(host(f"a{number}"), 0), Put(host(f"b{number}"), 0))
            await store.commit(WriteSet(puts=pair, takes=(Take("pairs", None),)))
            number += 1

    async with anyio.create_task_group() as group:
        group.start_soon(write)
        for number in range(3):
            await anyio.sleep(0.1)
            await store.backup(f"{tmp_path}/{number}.db")
        done.set()

    sizes = []
    for number in range(3):
        url = f"sqlite:///{tmp_path}/restored{number}.db"
        await restore(f"{tmp_path}/{number}.db", url)
        restored = await open_store(url)
        page = await restored.list(Query("Host", limit=0))
        pairs = await restored.counter("pairs")
        assert page.total == page.revision == 2 * pairs
        sizes.append(pairs)
        await restored.close()
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2]
    assert {path.suffix for path in tmp_path.iterdir()} <= {".db", ".db-wal", ".db-shm"}


async def test_restore_never_overwrites_a_store(backend: Any, target: str, tmp_path: Path) -> None:
    store = await backend.open()
    await fill(store)
    await store.backup(f"{tmp_path}/backup.db")
    await restore(f"{tmp_path}/backup.db", target)

    with pytest.raises(BackupRefused, match=r"exists|holds a store"):
        await restore(f"{tmp_path}/backup.db", target)


async def test_restore_refuses_a_left_over_log(tmp_path: Path) -> None:
    store = await open_store(f"sqlite:///{tmp_path}/store.db")
    await store.backup(f"{tmp_path}/backup.db")
    await store.close()
    (tmp_path / "restored.db-wal").write_bytes(b"old")

    with pytest.raises(BackupRefused, match=r"restored\.db-wal exists"):
        await restore(f"{tmp_path}/backup.db", f"sqlite:///{tmp_path}/restored.db")


@pytest.mark.parametrize("damage", ["cut", "missing", "text", "foreign", "flipped"])
async def test_bad_backup_is_refused_and_leaves_nothing(tmp_path: Path, damage: str) -> None:
    store = await open_store(f"sqlite:///{tmp_path}/store.db")
    for number in range(200):
        await store.commit(create(f"h{number}"))
    backup = tmp_path / "backup.db"
    await store.backup(str(backup))
    await store.close()
    if damage == "cut":
        os.truncate(backup, backup.stat().st_size // 2)
    elif damage == "missing":
        backup.unlink()
    elif damage == "text":
        backup.write_text("not a database at all")
    elif damage == "flipped":
        data = bytearray(backup.read_bytes())
        data[8192:-8192:997] = bytes(255 for _ in data[8192:-8192:997])
        backup.write_bytes(data)
    else:
        backup.unlink()
        with sqlite3.connect(backup) as connection:
            connection.execute("CREATE TABLE other (a)")
        connection.close()

    with pytest.raises(SkerryError) as caught:
        await restore(str(backup), f"sqlite:///{tmp_path}/restored.db")

    assert isinstance(caught.value, (BackupRefused, StoreUnavailable))
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("restored")]


async def test_backup_to_an_impossible_place_is_an_error_and_leaves_the_store(
    backend: Any, tmp_path: Path
) -> None:
    store = await backend.open()

    with pytest.raises(StoreUnavailable):
        await store.backup(f"{tmp_path}/missing/backup.db")

    await store.commit(create("h1"))
