"""YAML of people is read strictly and written readably."""

from __future__ import annotations

import pytest
import yaml

from skerry.lib.yamltext import PlainLoader, StrictLoader, dump


@pytest.mark.parametrize("loader", [StrictLoader, PlainLoader])
@pytest.mark.parametrize("text", ["a: 1\na: 2\n", "- b: {c: 1, c: 2}\n"])
def test_a_key_that_stands_twice_is_refused_with_its_line(
    loader: type[yaml.SafeLoader], text: str
) -> None:
    with pytest.raises(yaml.YAMLError, match=r"stands twice[\s\S]*line"):
        yaml.load(text, Loader=loader)


def test_aliases_are_refused_where_documents_must_stay_small() -> None:
    text = "a: &x [1]\nb: *x\n"

    assert yaml.load(text, Loader=StrictLoader) == {"a": [1], "b": [1]}
    with pytest.raises(yaml.YAMLError, match="aliases are not supported"):
        yaml.load(text, Loader=PlainLoader)


def test_a_merge_may_be_overridden() -> None:
    text = "a: &x {k: 1}\nb: {<<: *x, k: 2}\n"

    assert yaml.load(text, Loader=StrictLoader)["b"] == {"k": 2}


def test_long_texts_are_blocks_and_equal_values_are_written_out() -> None:
    shared = ["x"]

    text = dump({"z": "one\ntwo\n", "a": shared, "b": shared})

    assert text == "z: |\n  one\n  two\na:\n- x\nb:\n- x\n"
