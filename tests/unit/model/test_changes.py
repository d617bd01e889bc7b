"""Differences name the field and stay short."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from skerry.model.changes import differences, summary

JSON = st.recursive(
    st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(JSON)
def test_equal_values_do_not_differ(value: object) -> None:
    assert differences(value, value) == []


@given(JSON, JSON)
def test_different_values_differ(one: object, two: object) -> None:
    assert bool(differences(one, two)) == (one != two)


def test_fields_are_named_by_their_path() -> None:
    before = {"a": [1, {"b": "x"}], "gone": "y"}
    after = {"a": [1, {"b": "z"}], "new": True}

    found = differences(before, after)

    assert summary(found) == "a[1].b: x -> z\ngone: y -> -\nnew: - -> true"


def test_long_text_is_not_repeated() -> None:
    (only,) = differences({"a": "x" * 5000}, {"a": "line\nline"})

    assert (only.before, only.after) == ("(5000 characters)", "(9 characters)")


def test_what_was_made_is_told_field_by_field_without_what_is_empty() -> None:
    found = differences({"spec": None}, {"spec": {"site": "north", "note": "", "labels": {}}})

    assert [item.path for item in found] == ["spec.labels", "spec.note", "spec.site"]
    assert summary(found) == "spec.site: - -> north"
