"""Lists: labels, fields, search, pages, and the numbers beside them."""

from __future__ import annotations

import random

import msgspec
import pytest
from store_objects import host, project

from skerry.lib.errors import SkerryError
from skerry.manager.store import Store
from skerry.manager.store.protocol import Delete, Put, Query, WriteSet
from skerry.model.kinds import (
    Approval,
    ClusterSpec,
    ClusterStatus,
    HostPhase,
    HostSpec,
    HostStatus,
    Pool,
)
from skerry.model.meta import Condition, Metadata, Resource
from skerry.model.selectors import parse_selector

pytestmark = pytest.mark.anyio

HOSTS = (
    host("a1", labels={"site": "north", "tier": "front", "cores": "4"}, site="north"),
    host("a2", labels={"site": "north", "cores": "16"}, site="north", phase=HostPhase.READY),
    host("b1", labels={"site": "south", "tier": "back"}, site="south", phase=HostPhase.READY),
    host("b2", project="other", labels={"site": "South_2"}, site="south", addresses=("10.0.0.9",)),
    host("c1", project="other", finalizers=("cluster/east",)),
)


@pytest.fixture
async def filled(store: Store) -> Store:
    shuffled = random.Random(1).sample(HOSTS, len(HOSTS))
    await store.commit(WriteSet(puts=tuple(Put(item, 0) for item in shuffled)))
    await store.commit(WriteSet(puts=(Put(project("default"), 0),)))
    return store


async def names(store: Store, query: Query) -> list[str]:
    page = await store.list(query)
    assert page.total == len(page.items)
    return [item.name for item in page.items]


async def test_lists_are_of_one_kind_in_order_of_project_and_name(filled: Store) -> None:
    assert await names(filled, Query("Host")) == ["a1", "a2", "b1", "b2", "c1"]
    assert await names(filled, Query("Host", project="other")) == ["b2", "c1"]
    assert await names(filled, Query("Host", project="")) == []
    assert await names(filled, Query("Project", project="")) == ["default"]


@pytest.mark.parametrize(
    "text",
    [
        "site",
        "!site",
        "site=north",
        "site!=north",
        "site in (north,south)",
        "site notin (north,south)",
        "site=north,!tier",
        "site,tier notin (back)",
        "cores>4",
        "cores<16,site=north",
        "cores<5",
        "site=north,site=south",
        "tier=",
    ],
)
async def test_labels_select_what_the_pure_matcher_selects(filled: Store, text: str) -> None:
    selector = parse_selector(text)

    assert await names(filled, Query("Host", labels=text)) == [
        item.name for item in HOSTS if selector.matches(item.metadata.labels)
    ]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"status.phase": "Ready"}, ["a2", "b1"]),
        ({"status.phase": "Pending"}, ["a1", "b2", "c1"]),
        ({"status.phase": "Ready", "spec.site": "south"}, ["b1"]),
        ({"spec.site": ""}, ["c1"]),
        ({"metadata.name": "b1"}, ["b1"]),
        ({"metadata.project": "other", "spec.site": "south"}, ["b2"]),
        ({"metadata.finalizers": "cluster/east"}, ["c1"]),
        ({"metadata.generation": "1", "spec.site": "north"}, ["a1", "a2"]),
        ({"metadata.labels.site": "north"}, ["a1", "a2"]),
        ({"status.addresses": "10.0.0.9"}, ["b2"]),
        ({"status.kubernetes.apiReady": "false", "spec.site": "south"}, ["b1", "b2"]),
        ({"status.inventory.cpuCores": "3"}, []),
        ({"status.progress.operation": ""}, ["a1", "a2", "b1", "b2", "c1"]),
        ({"spec.revoked": "false", "metadata.name": "a1"}, ["a1"]),
    ],
)
async def test_fields_compare_as_text(
    filled: Store, fields: dict[str, str], expected: list[str]
) -> None:
    assert await names(filled, Query("Host", fields=fields)) == expected


async def test_a_field_of_a_list_matches_by_any_item(store: Store) -> None:
    pools = (Pool(name="main", hosts=("h1", "h2")), Pool(name="more", hosts=("h3",)))
    cluster = Resource(
        kind="Cluster",
        metadata=Metadata(name="east", project="default"),
        spec=ClusterSpec(profiles=(), pools=pools),
        status=ClusterStatus(),
    )
    await store.commit(WriteSet(puts=(Put(cluster, 0),)))

    for name, expected in (("h1", ["east"]), ("h3", ["east"]), ("h4", [])):
        assert await names(store, Query("Cluster", fields={"spec.pools.hosts": name})) == expected


async def test_selection_follows_changes(filled: Store) -> None:
    old = await filled.get("Host", "default", "a1")
    moved = host("a1", labels={"site": "west"}, site="west", phase=HostPhase.IN_USE)
    await filled.commit(WriteSet(puts=(Put(moved, old.metadata.revision),)))
    gone = await filled.get("Host", "default", "a2")
    await filled.commit(
        WriteSet(deletes=(Delete("Host", "default", "a2", gone.metadata.revision),))
    )

    assert await names(filled, Query("Host", labels="site=north")) == []
    assert await names(filled, Query("Host", labels="site=west")) == ["a1"]
    assert await names(filled, Query("Host", fields={"status.phase": "InUse"})) == ["a1"]
    assert await names(filled, Query("Host", fields={"spec.site": "north"})) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A1", ["a1"]),
        ("south", ["b1", "b2"]),
        ("SOUTH_", ["b2"]),
        ("h%", []),
        ("front", ["a1"]),
        ("Ready", []),
    ],
)
async def test_search_finds_parts_of_names_and_label_values_in_any_case(
    filled: Store, text: str, expected: list[str]
) -> None:
    assert await names(filled, Query("Host", search=text)) == expected


@pytest.mark.parametrize("query", [{}, {"labels": "cores<100000"}, {"labels": "even=yes"}])
async def test_pages_cover_everything_once_and_count_all_matches(
    store: Store, query: dict[str, str]
) -> None:
    wanted = []
    puts = []
    for number in range(120):
        even = number % 2 == 0
        item = host(
            f"h{number:03}",
            project=f"p{number % 3}",
            labels={"even": "yes" if even else "no", "cores": str(number)},
        )
        puts.append(Put(item, 0))
        if even or "even" not in query.get("labels", ""):
            wanted.append((item.project, item.name))
    await store.commit(WriteSet(puts=tuple(puts)))

    found, after = [], ""
    while True:
        page = await store.list(Query("Host", limit=7, after=after, **query))
        assert len(page.items) <= 7
        assert page.total == len(wanted)
        found += [(item.project, item.name) for item in page.items]
        after = page.after
        if not after:
            break

    assert found == sorted(wanted)


async def test_exactly_full_page_is_the_last(filled: Store) -> None:
    assert (await filled.list(Query("Host", limit=5))).after == ""
    assert (await filled.list(Query("Host", limit=4))).after != ""


async def test_limit_zero_only_counts(filled: Store) -> None:
    for labels in ("", "cores>1"):
        page = await filled.list(Query("Host", labels=labels, limit=0))
        assert (page.items, page.after) == ((), "")
        assert page.total == (2 if labels else 5)


async def test_list_carries_the_revision_to_watch_from(filled: Store) -> None:
    assert (await filled.list(Query("Host"))).revision == await filled.revision() == 6


@pytest.mark.parametrize(
    "query",
    [
        Query("Host", labels="site in"),
        Query("Host", fields={"status.nothing": "x"}),
        Query("Host", fields={"phase": "x"}),
        Query("Host", fields={"spec.site.more": "x"}),
        Query("Host", after="nonsense"),
    ],
)
async def test_bad_queries_are_refused_with_a_cause(store: Store, query: Query) -> None:
    with pytest.raises(SkerryError):
        await store.list(query)


async def test_tally_counts_by_value_what_a_list_would_find(filled: Store) -> None:
    assert await filled.tally(Query("Host"), "status.phase") == {"Ready": 2, "Pending": 3}
    assert await filled.tally(Query("Host", project="other"), "spec.site") == {"south": 1, "": 1}
    north = Query("Host", labels="site=north")
    assert await filled.tally(north, "status.phase") == {"Ready": 1, "Pending": 1}
    assert await filled.tally(Query("Host", fields={"spec.site": "none"}), "standing") == {}


async def test_derived_fields_follow_every_change(filled: Store) -> None:
    assert await filled.tally(Query("Host"), "standing") == {"pending": 5}
    old = await filled.get("Host", "default", "a1")
    full = Condition(type="Reconciled", status="False", reason="DiskFull")
    status = HostStatus(phase=HostPhase.READY, conditions=(full,))
    spec = HostSpec(approval=Approval.APPROVED)
    ill = msgspec.structs.replace(old, spec=spec, status=status)
    await filled.commit(WriteSet(puts=(Put(ill, old.metadata.revision),)))

    assert await names(filled, Query("Host", fields={"standing": "attention"})) == ["a1"]
    assert await names(filled, Query("Host", fields={"reason": "DiskFull"})) == ["a1"]
    assert await filled.tally(Query("Host"), "standing") == {"pending": 4, "attention": 1}


@pytest.mark.parametrize(
    ("query", "path"),
    [
        (Query("Host"), "status.hostName"),
        (Query("Host", labels="cores>4"), "status.phase"),
        (Query("Host", fields={"status.hostName": "x"}), "status.phase"),
    ],
)
async def test_what_the_index_cannot_count_is_refused(
    store: Store, query: Query, path: str
) -> None:
    with pytest.raises(SkerryError):
        await store.tally(query, path)
