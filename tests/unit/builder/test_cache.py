"""The cache stays small and never loses what is in use."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from skerry.builder.cache import Cache

NOW = datetime(2026, 11, 25, tzinfo=UTC)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path)


def _entry(cache: Cache, name: str, *, days: float, size: int = 1000) -> Path:
    place = cache.base / name
    (place / "deep").mkdir(parents=True)
    (place / "deep/file").write_bytes(b"x" * size)
    used = (NOW - timedelta(days=days)).timestamp()
    os.utime(place, (used, used))
    return place


def test_least_recently_used_entries_go_until_the_rest_fits(cache: Cache) -> None:
    old = _entry(cache, "components/old", days=9)
    middle = _entry(cache, "releases/kubernetes/1.35.4-amd64", days=5)
    new = _entry(cache, "agent/new", days=2)

    gone = cache.trim(NOW, limit_bytes=1500)

    assert gone == [old, middle]
    assert not old.exists()
    assert not middle.exists()
    assert new.exists()


def test_what_was_used_today_stays_whatever_its_size(cache: Cache) -> None:
    used = _entry(cache, "trees/used", days=0.5)

    assert cache.trim(NOW, limit_bytes=0) == []
    assert used.exists()


def test_what_fits_stays_whatever_its_age(cache: Cache) -> None:
    _entry(cache, "components/old", days=400)

    assert cache.trim(NOW, limit_bytes=1000) == []


def test_work_folders_of_dead_builds_go_and_those_of_living_ones_stay(cache: Cache) -> None:
    dead = _entry(cache, "components/.dead.x1", days=2)
    living = _entry(cache, "components/.living.x2", days=0)

    assert cache.trim(NOW) == [dead]
    assert living.exists()


def test_looking_up_an_entry_counts_as_using_it(cache: Cache) -> None:
    place = _entry(cache, "components/wanted", days=9)

    cache.find("components", "wanted")

    assert cache.trim(datetime.now(UTC), limit_bytes=0) == []
    assert place.exists()


def test_downloads_are_entries_too(cache: Cache) -> None:
    place = cache.folder("downloads", "sha256") / "ab"
    place.write_bytes(b"x" * 1000)
    os.utime(place, (1, 1))

    assert cache.trim(NOW, limit_bytes=1000) == []
    assert cache.trim(NOW, limit_bytes=999) == [place]
    assert not place.exists()
