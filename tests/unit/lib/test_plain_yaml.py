"""YAML that came from anywhere: plain values or one kind of error, soon."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from skerry.lib import plain_yaml

_PIECES = st.sampled_from(
    ["[", "]", "{", "}", ":", "- ", "? ", "&a ", "*a", "!!binary ", "!!set ", "!x ", "---\n", "...",
     "|\n", ">\n", "'", '"', "\n", " ", "a", "2020-13-45", "0x", "1:60", "<<: ", "%YAML 9\n", "\t",
     "\ufeff", "é", "\x00", "\x85", "~", ".nan", "1e999", "=", "@", "`", "#"]
)  # fmt: skip


@given(st.lists(_PIECES, max_size=60).map("".join) | st.text(max_size=200))
def test_any_text_is_a_value_or_a_yaml_error(text: str) -> None:
    for read in (plain_yaml.load, plain_yaml.load_all):
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
    for read in (plain_yaml.load, plain_yaml.load_all):
        with pytest.raises(yaml.YAMLError, match=says):
            read(text)


def test_plain_documents_are_read() -> None:
    assert plain_yaml.load("") is None
    assert plain_yaml.load("a: [1, x]") == {"a": [1, "x"]}
    assert plain_yaml.load_all("a: 1\n---\n---\nb: 2") == [{"a": 1}, None, {"b": 2}]
