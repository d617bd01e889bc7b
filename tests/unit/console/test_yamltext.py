"""The editor's YAML: where problems lie, and what is refused."""

from __future__ import annotations

import pytest
import yaml

from skerry.console import yamltext
from skerry.model.problems import DocumentInvalid

TEXT = """\
metadata:
  name: shop
spec:
  version: 1.0.0
  layers:
    - name: kubernetes
      type: kubernetes
    - name: network
      type: nonsense
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("metadata.name", 2),
        ("spec.version", 4),
        ("spec.layers[0].type", 7),
        ("spec.layers[1].type", 9),
        ("spec.layers[1].missing", 8),
        ("spec.layers[7]", 5),
        ("elsewhere", 1),
        ("", 1),
    ],
)
def test_a_problem_is_shown_at_its_line_or_at_what_holds_it(path: str, line: int) -> None:
    assert yamltext.read(TEXT).line_of(path) == line


def test_aliases_are_refused_because_they_can_stand_for_gigabytes() -> None:
    with pytest.raises(DocumentInvalid, match="aliases are not supported"):
        yamltext.read("a: &x [1]\nb: *x\n")


@pytest.mark.parametrize(
    "text", ["a: [", "\t- x", "!!python/object:os.system {}", "a: 1\n---\nb: 2\n", "[" * 5000]
)
def test_what_cannot_be_read_is_one_problem_and_no_traceback(text: str) -> None:
    with pytest.raises(DocumentInvalid) as caught:
        yamltext.read(text)

    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].message.startswith("is not YAML")


def test_dates_and_keys_become_text_as_in_json() -> None:
    assert yamltext.read("at: 2026-01-02\n1: x\n").document == {"at": "2026-01-02", "1": "x"}


def test_an_empty_editor_is_no_document() -> None:
    assert yamltext.read("").document is None


def test_what_is_written_reads_back_and_keeps_long_texts_as_blocks() -> None:
    value = {"name": "x", "values": "a: 1\nb: ${{ port }}\n", "empty": "", "none": None}

    text = yamltext.write(value)

    assert "values: |" in text
    assert yaml.safe_load(text) == {"name": "x", "values": "a: 1\nb: ${{ port }}\n"}
