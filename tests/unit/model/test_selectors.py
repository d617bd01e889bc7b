"""Label selectors follow Kubernetes (k8s.io/apimachinery/pkg/labels)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skerry.lib.errors import SkerryError
from skerry.model.selectors import Operator, Requirement, Selector, SelectorInvalid, parse_selector

LABELS = {"site": "a", "tier": "front", "cores": "8", "empty": "", "example.org/owner": "team-1"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "site",
        "site=a",
        "site==a",
        " site = a , tier = front ",
        "tier!=back",
        "absent!=x",
        "site in (a,b)",
        "site in(a)",
        "site notin (b, c)",
        "absent notin (b)",
        "!absent",
        "! absent",
        "cores>7",
        "cores<9",
        "empty=",
        "empty=,site=a",
        "empty in (x,)",
        "example.org/owner=team-1",
        "site=a,tier in (front,back),!absent,cores>1",
        "tier in (in,notin,front)",
    ],
)
def test_selects(text: str) -> None:
    assert parse_selector(text).matches(LABELS)


@pytest.mark.parametrize(
    "text",
    [
        "absent",
        "absent=",
        "absent=a",
        "site=b",
        "site!=a",
        "site in (b,c)",
        "site notin (a,c)",
        "absent in (a)",
        "!site",
        "cores>8",
        "cores<8",
        "tier>1",
        "absent<1",
        "site=a,tier=back",
    ],
)
def test_does_not_select(text: str) -> None:
    assert not parse_selector(text).matches(LABELS)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (",", "expected a label key"),
        ("site=a,", "expected a label key"),
        ("=a", "expected a label key"),
        ("!", "expected a label key"),
        ("in", "expected a label key"),
        ("site a", "found 'a'"),
        ("site=a tier=b", "expected ',' or the end"),
        ("site in a", r"expected '\('"),
        ("site in (a", r"expected ',' or '\)'"),
        ("site in (a b)", r"expected ',' or '\)'"),
        ("site=(", "expected ',' or the end"),
        ("site===a", "found '='"),
        ("cores>many", "needs a whole number"),
        ("cores>", "needs a whole number"),
        ("-site=a", "is not a label key"),
        ("site=a/b", "is not a label value"),
        (f"site={'x' * 64}", "is not a label value"),
        ("a/b/c=1", "is not a label key"),
        ("site=\x00", "is not a label value"),
        ("s" * 9000, "longer than"),
    ],
)
def test_bad_text_is_refused_with_what_was_expected(text: str, problem: str) -> None:
    with pytest.raises(SelectorInvalid, match=problem) as caught:
        parse_selector(text)

    assert caught.value.hint


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(alphabet=st.sampled_from("ab1=!,()<> in\tnot./-é\x00"), max_size=30))
def test_any_text_is_read_or_refused_and_nothing_else(text: str) -> None:
    try:
        parse_selector(text)
    except SkerryError:
        return


_keys = st.sampled_from(["a", "b", "example.org/c"])
_values = st.sampled_from(["", "x", "y-1", "in", "10"])
_requirements = st.one_of(
    st.builds(Requirement, _keys, st.sampled_from([Operator.EXISTS, Operator.NOT_EXISTS])),
    st.builds(
        Requirement,
        _keys,
        st.sampled_from([Operator.IN, Operator.NOT_IN]),
        st.sets(_values, min_size=1).map(lambda found: tuple(sorted(found))),
    ),
    st.builds(
        Requirement, _keys, st.sampled_from([Operator.GREATER, Operator.LESS]), st.just(("5",))
    ),
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(_requirements, max_size=4).map(lambda found: Selector(tuple(found))))
def test_text_of_a_selector_reads_back_as_the_same_selector(selector: Selector) -> None:
    assert parse_selector(str(selector)) == selector
