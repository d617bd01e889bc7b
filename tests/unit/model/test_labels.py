"""Labels: what a host may bring, and who decides about one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.model.labels import MAX_HOST_LABELS, MAX_LABELS, check_labels, host_labels, merge


def test_good_labels_pass_and_bad_ones_are_refused_by_name() -> None:
    good, problems = host_labels(
        "labels",
        {"tier": "shop", "bad key": "x", "rack": "no/slash", "deep": {"a": 1}, "skerry.dev/a": "x"},
    )

    assert good == {"tier": "shop"}
    assert {item.path for item in problems} == {
        "labels",
        "labels.rack",
        "labels.deep",
        "labels.skerry.dev/a",
    }
    assert any("'bad key'" in item.message for item in problems)


def test_values_of_a_host_are_never_repeated() -> None:
    _, problems = host_labels("labels", {"password": "hunter2 with a blank"})

    assert problems
    assert "hunter2" not in str(problems)
    assert "hunter2" in str(check_labels("labels", {"password": "hunter2 with a blank"}))


def test_too_many_labels_are_counted_and_the_first_ones_count() -> None:
    raw = {f"k{index}": "v" for index in range(MAX_HOST_LABELS + 3)}

    good, problems = host_labels("labels", raw)

    assert list(good) == list(raw)[:MAX_HOST_LABELS]
    assert [item.message for item in problems] == [
        f"a host has at most {MAX_HOST_LABELS} labels of its own, 3 are left out"
    ]


@pytest.mark.parametrize(
    ("current", "before", "now", "wanted"),
    [
        ({}, {}, {"a": "1"}, {"a": "1"}),
        ({"a": "1"}, {"a": "1"}, {"a": "2"}, {"a": "2"}),
        ({"a": "1"}, {"a": "1"}, {}, {}),
        ({"a": "mine"}, {"a": "1"}, {"a": "2"}, {"a": "mine"}),
        ({"a": "mine"}, {"a": "1"}, {}, {"a": "mine"}),
        ({}, {"a": "1"}, {"a": "2"}, {}),
        ({"b": "token"}, {}, {"b": "host"}, {"b": "token"}),
    ],
    ids=["new", "moved", "gone", "changed-by-person", "kept", "taken-away", "given-by-token"],
)
def test_a_label_follows_its_host_until_a_person_decides(
    current: dict[str, str], before: dict[str, str], now: dict[str, str], wanted: dict[str, str]
) -> None:
    assert merge(current, before=before, now=now) == wanted


SMALL = st.dictionaries(st.sampled_from("abc"), st.sampled_from("12"), max_size=3)


@given(SMALL, SMALL, SMALL)
def test_what_the_host_never_said_is_never_touched(
    current: dict[str, str], before: dict[str, str], now: dict[str, str]
) -> None:
    merged = merge(current, before=before, now=now)

    for key, value in current.items():
        if before.get(key) != value:
            assert merged[key] == value
    assert merge(merged, before=now, now=now) == merged, "saying it again changes nothing"


def test_a_host_cannot_grow_the_labels_beyond_their_limit() -> None:
    current = {f"p{index}": "v" for index in range(MAX_LABELS)}

    assert merge(current, before={}, now={"h": "1"}) == current
