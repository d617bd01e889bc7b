"""YAML that came from anywhere: plain values or one kind of error, soon."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from skerry.lib import yamltext

_PIECES = st.sampled_from(
    ["[", "]", "{", "}", ":", "- ", "? ", "&a ", "*a", "!!binary ", "!!set ", "!x ", "---\n", "...",
     "|\n", ">\n", "'", '"', "\n", " ", "a", "2020-13-45", "0x", "1:60", "<<: ", "%YAML 9\n", "\t",
     "\ufeff", "é", "\x00", "\x85", "~", ".nan", "1e999", "=", "@", "`", "#"]
)  # fmt: skip


@given(st.lists(_PIECES, max_size=60).map("".join) | st.text(max_size=200))
def test_any_text_is_a_value_or_a_yaml_error(text: str) -> None:
    for read in (yamltext.load, yamltext.load_all):
        try:
            read(text)
        except yaml.YAMLError:
            continue


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: &x [1]\nb: *x", "aliases"),
        ("a: 2020-13-45", "month"),
        ("a: 2001-02-30", "day"),
        ("[" * 100_000 + "]" * 100_000, "nested"),
        ("- " * 5_000, "nested"),
        ("{a: " * 101 + "}" * 101, "nested"),
        ("- !!python/object:os.system x", "constructor"),
    ],
)
def test_what_is_refused(text: str, says: str) -> None:
    for read in (yamltext.load, yamltext.load_all):
        with pytest.raises(yaml.YAMLError, match=says):
            read(text)


def test_plain_documents_are_read() -> None:
    assert yamltext.load("") is None
    assert yamltext.load("a: [1, x]") == {"a": [1, "x"]}
    assert yamltext.load_all("a: 1\n---\n---\nb: 2") == [{"a": 1}, None, {"b": 2}]


@pytest.mark.parametrize(
    "text", ["a: 1\na: 2\n", "- b: {c: 1, c: 2}\n", "a: {x: {y: 1}, z: [1]}\nb: 1\na: 3\n"]
)
def test_a_key_that_stands_twice_is_refused(text: str) -> None:
    for read in (yamltext.load, yamltext.load_all):
        with pytest.raises(yaml.YAMLError, match="stands twice"):
            read(text)


def test_equal_keys_of_different_mappings_and_equal_values_are_fine() -> None:
    text = "a: {k: v, w: v}\nb: {k: a, w: b}\nc: [k, k]\n? [d, d]\n: e\n"

    with pytest.raises(yaml.YAMLError, match=r"unhashable|cannot be read"):
        yamltext.load(text)
    assert yamltext.load(text.split("?")[0])["c"] == ["k", "k"]
