"""Site data from hostile texts: never an exception, never half a document."""

from __future__ import annotations

from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from skerry.plan import sitecheck, sitetext
from skerry.plan.sitedata import SiteData, merge, render, to_keep
from skerry.plan.sitetext import read_command_line, read_yaml

KEYS = st.sampled_from(
    [*sitecheck._TOP, *sitecheck._INSTALL, *sitecheck._DISK, *sitecheck._NETWORK, *sitecheck._NIC]
)
WORDS = st.sampled_from(
    [
        "https://centre.example:8443",
        "https://[::1]:1",
        "https://[::1",
        "sha256:" + "0" * 64,
        "192.0.2.5/24",
        "192.0.2.1",
        "fe80::1%eth0",
        "20GiB",
        "smallest",
        "reboot",
        "/dev/vda",
        "till-7",
        "*",
    ]
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=12)
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=5), inner, max_size=5)
    ),
    max_leaves=25,
)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    found, problems = read_yaml(data)

    assert not problems or found == SiteData()


@given(st.dictionaries(KEYS, TREES, max_size=8))
def test_any_tree_is_read_or_refused_and_reads_back(raw: dict[str, Any]) -> None:
    found, problems = sitecheck.check(raw)

    if problems:
        assert found == SiteData()
        return
    assert read_yaml(render(found).encode()) == (found, [])
    kept = render(to_keep(found))
    if not found.keep_secrets:
        assert "token:" not in kept
        assert "pairingKey:" not in kept


@given(TREES)
def test_any_yaml_is_read_or_refused(raw: Any) -> None:
    read_yaml(yaml.safe_dump(raw).encode())


@given(st.lists(st.tuples(st.sampled_from([*sitetext._WORDS, "x"]), WORDS | st.text(max_size=9))))
def test_any_command_line_is_read_or_refused(words: list[tuple[str, str]]) -> None:
    found, problems = read_command_line(" ".join(f"skerry.{name}={text}" for name, text in words))

    assert not problems or found == SiteData()


SMALL = st.builds(
    SiteData,
    site=st.none() | st.sampled_from(["a", "b"]),
    ntp=st.none() | st.sampled_from([(), ("a",), ("b", "c")]),
    labels=st.none() | st.dictionaries(st.sampled_from("xyz"), st.sampled_from("12")),
)


@given(SMALL, SMALL, SMALL)
def test_merging_can_be_done_in_parts(one: SiteData, two: SiteData, three: SiteData) -> None:
    assert merge([merge([one, two]), three]) == merge([one, two, three])
    assert merge([one, one]) == merge([one])
    for name in ("site", "ntp"):
        told = [
            getattr(item, name) for item in (one, two, three) if getattr(item, name) is not None
        ]
        assert getattr(merge([one, two, three]), name) == (told[-1] if told else None)
