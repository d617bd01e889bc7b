"""Recordings of a disk's writes, and what a power cut leaves of them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skerry.lab.blocklog import (
    MAGIC,
    BadLog,
    Cut,
    Entry,
    Flag,
    choose_cut,
    last_barrier,
    points,
    read_log,
    replay,
)

SECTOR = 512
FLUSH = (0, b"", 1)


def log_bytes(writes: Sequence[tuple[int, bytes, int]], *, counted: int | None = None) -> bytes:
    """A recording of (sector, data, flags)."""
    head = struct.pack("<QQQI", MAGIC, 1, len(writes) if counted is None else counted, SECTOR)
    out = head.ljust(SECTOR, b"\0")
    for sector, data, flags in writes:
        entry = struct.pack("<QQQQ", sector, len(data) // SECTOR, flags, 0)
        out += entry.ljust(SECTOR, b"\0") + data
    return out


def block(letter: str, sectors: int = 1) -> bytes:
    return letter.encode() * (SECTOR * sectors)


def made(folder: Path, writes: Sequence[tuple[int, bytes, int]]) -> tuple[Path, Path]:
    log, base = folder / "log", folder / "base"
    log.write_bytes(log_bytes(writes))
    base.write_bytes(bytes(16 * SECTOR))
    return log, base


def test_a_recording_is_read_as_it_was_written(tmp_path: Path) -> None:
    log, _ = made(tmp_path, [(2, block("a", 2), 0), FLUSH, (4, block("b"), 2)])

    first, second, third = read_log(log)

    assert (first.offset, first.size, first.flags) == (1024, 1024, 0)
    assert second.flushes
    assert second.size == 0
    assert third.durable


def test_entries_that_were_not_counted_yet_are_read_too(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(log_bytes([(1, block("a"), 0), (2, block("b"), 0)], counted=1))

    assert len(read_log(log)) == 2


def test_a_torn_last_entry_is_left_out(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(log_bytes([(1, block("a"), 0), (2, block("b", 4), 0)], counted=1)[:-SECTOR])

    assert len(read_log(log)) == 1


def test_a_counted_entry_that_is_missing_is_an_error(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(log_bytes([(1, block("a"), 0)], counted=5))

    with pytest.raises(BadLog, match="5 entries were counted, 1 are there"):
        read_log(log)


@settings(max_examples=200, deadline=None)
@given(
    data=st.binary(max_size=4096),
    at=st.integers(0, 3000),
    whole=st.booleans(),
)
def test_odd_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, at: int, whole: bool
) -> None:
    good = bytearray(log_bytes([(1, block("a", 2), 0), FLUSH, (5, block("b"), 0), (9, b"", 4)]))
    good[at : at + len(data)] = data
    log = tmp_path_factory.mktemp("log") / "log"
    log.write_bytes(data if whole else bytes(good))

    try:
        entries = read_log(log)
    except BadLog:
        return
    assert all(entry.size >= 0 and entry.at <= log.stat().st_size + SECTOR for entry in entries)


def test_what_was_flushed_stays_and_what_was_not_may_go(tmp_path: Path) -> None:
    log, base = made(tmp_path, [(1, block("a"), 0), FLUSH, (2, block("b"), 0), (3, block("c"), 2)])
    entries = read_log(log)
    seen = set()

    for seed in range(40):
        cut = choose_cut(entries, 4, seed)
        replay(log, entries, base, cut, tmp_path / "cut")
        data = (tmp_path / "cut").read_bytes()
        assert data[SECTOR : 2 * SECTOR] == block("a")
        assert data[3 * SECTOR : 4 * SECTOR] == block("c"), "FUA is durable by itself"
        seen.add(data[2 * SECTOR : 3 * SECTOR])

    assert seen == {block("b"), bytes(SECTOR)}


def test_a_large_write_can_be_torn_within(tmp_path: Path) -> None:
    log, base = made(tmp_path, [(0, block("a", 8), 0)])
    entries = read_log(log)
    found = set()

    for seed in range(200):
        replay(log, entries, base, choose_cut(entries, 1, seed), tmp_path / "cut")
        found.add((tmp_path / "cut").read_bytes().count(b"a") // SECTOR)

    assert found == set(range(9))


def test_a_discard_leaves_zeros(tmp_path: Path) -> None:
    log, base = made(tmp_path, [(1, block("a", 2), 0), FLUSH])
    raw = log.read_bytes()
    discard = struct.pack("<QQQQ", 1, 1, 4, 0).ljust(SECTOR, b"\0")
    log.write_bytes(raw + discard)
    entries = read_log(log)

    replay(log, entries, base, Cut(len(entries), 1), tmp_path / "cut")

    assert (tmp_path / "cut").read_bytes()[SECTOR : 3 * SECTOR] == bytes(SECTOR) + block("a")


def test_a_write_past_the_end_of_the_disk_is_not_made(tmp_path: Path) -> None:
    log, base = made(tmp_path, [(15, block("a", 4), 0)])
    entries = read_log(log)

    replay(log, entries, base, Cut(1, 1), tmp_path / "cut")

    assert (tmp_path / "cut").stat().st_size == 16 * SECTOR


def test_a_cut_is_the_same_for_the_same_seed() -> None:
    entries = [Entry(i * SECTOR, SECTOR, Flag(0), 0) for i in range(50)]

    assert [choose_cut(entries, 50, s) for s in range(8)] == [
        choose_cut(entries, 50, s) for s in range(8)
    ]


writes = st.lists(
    st.tuples(
        st.integers(0, 12),
        st.integers(1, 3).map(lambda n: block("x", n)),
        st.sampled_from([0, 0, 0, 2]),
    )
    | st.just(FLUSH),
    max_size=30,
)


@settings(max_examples=100, deadline=None)
@given(chosen=writes, seed=st.integers(0, 1000), data=st.data())
def test_no_cut_takes_what_was_durable(
    chosen: list[tuple[int, bytes, int]], seed: int, data: st.DataObject
) -> None:
    entries = [Entry(s * SECTOR, len(d), Flag(f), 0) for s, d, f in chosen]
    upto = data.draw(st.integers(0, len(entries)))

    cut = choose_cut(entries, upto, seed)

    barrier = last_barrier(entries, upto)
    touched = {*cut.lost, *([cut.torn] if cut.torn >= 0 else [])}
    assert all(barrier <= index < upto and not entries[index].durable for index in touched)


@given(chosen=writes, count=st.integers(1, 60))
def test_every_stretch_between_flushes_is_cut(
    chosen: list[tuple[int, bytes, int]], count: int
) -> None:
    entries = [Entry(s * SECTOR, len(d), Flag(f), 0) for s, d, f in chosen]

    given_points = list(points(entries, count, 7))

    assert len(given_points) == min(count, len(entries))
    assert len(set(given_points)) == len(given_points)
    if count >= len(entries):
        assert sorted(given_points) == list(range(1, len(entries) + 1))
