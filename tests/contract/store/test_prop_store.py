"""The store against a dictionary: the same steps give the same answers, whatever they are.

Hypothesis has no asynchronous machines, so this one is synchronous over a private event loop.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from store_objects import NOW, audit, host

from skerry.lib.clock import ManualClock
from skerry.lib.errors import SkerryError
from skerry.manager.store import open_store
from skerry.manager.store.chain import verify_chain
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
from skerry.model.kinds import HostPhase
from skerry.model.selectors import parse_selector

_names = st.sampled_from(["a", "b", "b-1", "c"])
_projects = st.sampled_from(["", "p", "q"])
_labels = st.dictionaries(st.sampled_from(["x", "y"]), st.sampled_from(["", "1", "20", "z"]))
_selectors = st.sampled_from(
    ["", "x", "!x", "x=1", "x!=1", "x in (1,z)", "y notin (,z)", "x>3", "x<30,y", "x=1,y=1"]
)
_sites = st.sampled_from(["", "n", "s"])
_phases = st.sampled_from([HostPhase.PENDING, HostPhase.READY])

Key = tuple[str, str]


class StoreMachine(RuleBasedStateMachine):
    """Every rule does one thing to the store and to the dictionary and compares."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self.portal_context = start_blocking_portal()
        self.portal = self.portal_context.__enter__()
        self.clock = ManualClock(NOW)
        self.objects: dict[Key, AnyResource] = {}
        self.log: list[tuple[int, bool, AnyResource]] = []
        self.counters: dict[str, int] = {}
        self.values: dict[str, bytes] = {}
        self.audits = 0

    def run(self, method: str, *args: Any, **more: Any) -> Any:
        return self.portal.call(lambda: getattr(self.store, method)(*args, **more))

    def commit(self, **fields: Any) -> Any:
        return self.run("commit", WriteSet(**fields))

    @initialize()
    def open(self) -> None:
        self.store = self.portal.call(lambda: open_store(self.url, clock=self.clock))

    @rule()
    def reopen(self) -> None:
        self.run("close")
        self.open()

    @property
    def revision(self) -> int:
        return self.log[-1][0] if self.log else 0

    @rule(
        project=_projects,
        name=_names,
        labels=_labels,
        site=_sites,
        phase=_phases,
        drift=st.sampled_from([0, 0, 0, -1, 1]),
    )
    def put(
        self, project: str, name: str, labels: dict[str, str], site: str, phase: Any, drift: int
    ) -> None:
        old = self.objects.get((project, name))
        seen = max(0, (old.metadata.revision if old else 0) + drift)
        new = host(name, project=project, labels=labels, site=site, phase=phase)

        try:
            written = self.commit(puts=(Put(new, seen),), audits=(audit(),)).written[0]
        except Conflict:
            assert old is not None
            assert seen != old.metadata.revision
            return
        except NotFound:
            assert old is None
            assert seen != 0
            return

        assert seen == (old.metadata.revision if old else 0)
        generation = 1 if old is None else old.metadata.generation + (old.spec != new.spec)
        expected = msgspec.structs.replace(
            new.metadata,
            uid=old.uid if old else written.uid,
            revision=self.revision + 1,
            generation=generation,
        )
        assert written == msgspec.structs.replace(new, metadata=expected)
        assert written.uid
        self.audits += 1
        self.objects[project, name] = written
        self.log.append((written.metadata.revision, False, written))

    @rule(project=_projects, name=_names, drift=st.sampled_from([0, 0, 1]))
    def delete(self, project: str, name: str, drift: int) -> None:
        old = self.objects.get((project, name))
        seen = (old.metadata.revision if old else 5) + drift

        try:
            self.commit(deletes=(Delete("Host", project, name, seen),))
        except NotFound:
            assert old is None
            return
        except Conflict:
            assert old is not None
            assert drift
            return

        assert old is not None
        assert not drift
        del self.objects[project, name]
        self.log.append((self.revision + 1, True, old))

    @rule(keys=st.lists(st.tuples(_projects, _names), min_size=2, max_size=3))
    def put_several(self, keys: list[Key]) -> None:
        """All or nothing: the set fails when any of its objects exists or comes twice."""
        puts = tuple(Put(host(name, project=project), 0) for project, name in keys)
        works = len(set(keys)) == len(keys) and not set(keys) & set(self.objects)

        try:
            written = self.commit(puts=puts, takes=(Take("sets", None),)).written
        except Conflict:
            assert not works
            return

        assert works
        self.counters["sets"] = self.counters.get("sets", 0) + 1
        for key, item in zip(keys, written, strict=True):
            self.objects[key] = item
            self.log.append((self.revision + 1, False, item))

    @rule(counter=st.sampled_from(["c1", "c2"]), limit=st.sampled_from([None, 0, 1, 3]))
    def take(self, counter: str, limit: int | None) -> None:
        used = self.counters.get(counter, 0)
        try:
            self.commit(takes=(Take(counter, limit),))
        except LimitReached:
            assert limit is not None
            assert used >= limit
            return
        assert limit is None or used < limit
        self.counters[counter] = used + 1

    @rule(
        key=st.sampled_from(["k1", "k2"]),
        value=st.one_of(st.none(), st.binary(max_size=3)),
    )
    def set_value(self, key: str, value: bytes | None) -> None:
        self.commit(values=(SetValue("s", key, value),))
        self.values.pop(key, None)
        if value is not None:
            self.values[key] = value

    @rule(
        project=st.one_of(st.none(), _projects),
        labels=_selectors,
        site=st.one_of(st.none(), _sites),
        phase=st.one_of(st.none(), _phases),
        limit=st.integers(1, 4),
    )
    def list(self, project: str | None, labels: str, site: Any, phase: Any, limit: int) -> None:
        selector = parse_selector(labels)
        expected = [
            item
            for _key, item in sorted(self.objects.items())
            if (project is None or item.project == project)
            and selector.matches(item.metadata.labels)
            and (site is None or item.spec.site == site)
            and (phase is None or item.status.phase == phase)
        ]
        fields = {"spec.site": site, "status.phase": phase}
        found: list[AnyResource] = []
        after = ""
        while True:
            page = self.run(
                "list",
                Query(
                    "Host",
                    project,
                    labels,
                    {path: str(text) for path, text in fields.items() if text is not None},
                    limit=limit,
                    after=after,
                ),
            )
            assert page.total == len(expected)
            assert page.revision == self.revision
            found += page.items
            after = page.after
            if not after:
                break
        assert found == expected

    @rule(back=st.integers(0, 5))
    def watch(self, back: int) -> None:
        since = max(0, self.revision - back)
        expected = [entry for entry in self.log if entry[0] > since]

        async def follow() -> list[tuple[int, bool, AnyResource]]:
            found: list[tuple[int, bool, AnyResource]] = []
            if not expected:
                return found
            with anyio.fail_after(10):
                async for change in self.store.watch(["Host"], since=since):
                    found.append((change.revision, change.deleted, change.resource))
                    if len(found) == len(expected):
                        break
            return found

        assert self.portal.call(follow) == expected

    @invariant()
    def numbers_agree(self) -> None:
        if not hasattr(self, "store"):
            return
        assert self.run("revision") == self.revision
        assert self.run("values", "s") == self.values
        for name in ("c1", "c2", "sets"):
            assert self.run("counter", name) == self.counters.get(name, 0)
        for (project, name), item in self.objects.items():
            assert self.run("get", "Host", project, name) == item

    def teardown(self) -> None:
        try:
            if hasattr(self, "store"):
                assert verify_chain(self.run("audits"))[0] == self.audits
                self.run("close")
        except SkerryError:  # the failure that matters was raised already
            pass
        finally:
            self.portal_context.__exit__(None, None, None)


def profile(examples: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=25,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.parametrize("examples", [15, pytest.param(400, marks=pytest.mark.long)])
def test_sqlite_store_behaves_as_the_dictionary(examples: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        numbers = iter(range(1_000_000))

        def machine() -> StoreMachine:
            return StoreMachine(f"sqlite:///{Path(folder) / str(next(numbers))}.db")

        run_state_machine_as_test(machine, settings=profile(examples))


@pytest.mark.parametrize("examples", [5, pytest.param(100, marks=pytest.mark.long)])
def test_postgres_store_behaves_as_the_dictionary(
    postgres_server: Any, postgres_template: str, examples: int
) -> None:
    def machine() -> StoreMachine:
        return StoreMachine(postgres_server.url(postgres_server.create(postgres_template)))

    run_state_machine_as_test(machine, settings=profile(examples))
