"""Expansion replaces names and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.model.kinds import Variable, VariableFormat
from skerry.model.problems import DocumentInvalid
from skerry.model.template import (
    check_variables,
    expand,
    never,
    references,
    resolve_variables,
)

HELM = """
a: {{ .Values.image }}
b: "{{- if eq $x 1 }}{{ end }}"
c: ${{ .Values.price }} ${HOME} $(date) {{`${x}`}} ${{}} ${{ }} $ {{ name }} %s \\n \t
"""


def test_everything_else_passes_byte_for_byte() -> None:
    assert expand(HELM, {"name": "x"}) == HELM


@given(st.text().filter(lambda text: "${{" not in text))
def test_text_without_a_reference_is_untouched(text: str) -> None:
    assert expand(text, {"a": "b"}) == text


@given(st.text(), st.text(), st.text())
def test_a_value_is_put_in_once_and_never_looked_at_again(
    before: str, value: str, after: str
) -> None:
    if "${{" in before + after or before.endswith("$"):
        return
    text = before + "${{ name }}" + after

    assert expand(text, {"name": value}) == before + value + after


def test_value_that_looks_like_a_reference_stays_text() -> None:
    assert expand("${{ a }}", {"a": "${{ b }}", "b": "secret"}) == "${{ b }}"


def test_all_unknown_names_come_at_once() -> None:
    with pytest.raises(DocumentInvalid) as caught:
        expand("${{ one }} ${{two}} ${{ one }} ${{ three-x }}", {"four": ""})

    assert [problem.message for problem in caught.value.problems] == [
        "unknown variable 'one'",
        "unknown variable 'two'",
        "unknown variable 'three-x'",
    ]


def test_facts_and_secrets_stay_until_the_host_knows_them() -> None:
    text = "${{ host.name }} ${{ secret.db.password }}"

    assert expand(text, {}) == text
    with pytest.raises(DocumentInvalid):
        expand(text, {}, keep=never)
    with pytest.raises(DocumentInvalid):
        expand("${{ host.colour }}", {})


def test_references_are_listed_once_in_order() -> None:
    assert references("${{ b }}${{ a }}${{b}}") == ("b", "a")


def test_defaults_may_refer_to_each_other_in_any_order() -> None:
    variables = [
        Variable(name="url", default="https://${{ host }}:${{ port }}"),
        Variable(name="host", default="${{ site }}.example"),
        Variable(name="port", default="443", format=VariableFormat.NUMBER),
        Variable(name="site", required=True),
    ]

    assert resolve_variables(variables, {"site": "north"})["url"] == "https://north.example:443"


def test_given_values_are_plain_text() -> None:
    variables = [Variable(name="a"), Variable(name="b", default="x")]

    assert resolve_variables(variables, {"a": "${{ b }}"})["a"] == "${{ b }}"


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (VariableFormat.NUMBER, "-1.5", "1e3"),
        (VariableFormat.BOOLEAN, "true", "yes"),
        (VariableFormat.IPV4, "192.0.2.1", "192.0.2.256"),
        (VariableFormat.IPV4_CIDR, "192.0.2.0/24", "192.0.2.1/24"),
        (VariableFormat.IPV4_CIDR, "10.0.0.0/8", "10.0.0.0"),
        (VariableFormat.VERSION, "1.36.3", "1.36"),
        (VariableFormat.STRING, "anything", "two\nlines"),
    ],
)
def test_formats(kind: VariableFormat, good: str, bad: str) -> None:
    variables = [Variable(name="v", format=kind)]

    assert resolve_variables(variables, {"v": good}) == {"v": good}
    with pytest.raises(DocumentInvalid):
        resolve_variables(variables, {"v": bad})


def test_regex_must_match_the_whole_value() -> None:
    variables = [Variable(name="v", regex="[a-z]+")]

    with pytest.raises(DocumentInvalid, match="does not match"):
        resolve_variables(variables, {"v": "abc1"})


def test_cycle_is_named() -> None:
    problems = check_variables(
        [
            Variable(name="a", default="${{ b }}"),
            Variable(name="b", default="${{ c }}"),
            Variable(name="c", default="${{ a }}"),
        ]
    )

    assert len(problems) == 1
    assert "circle" in problems[0].message
    assert all(name in problems[0].message for name in "abc")


def test_examples_stand_in_for_required_values() -> None:
    variables = [Variable(name="v", required=True, format=VariableFormat.IPV4)]

    assert resolve_variables(variables, {}, examples=True) == {"v": "192.0.2.1"}
    with pytest.raises(DocumentInvalid, match="required"):
        resolve_variables(variables, {})
