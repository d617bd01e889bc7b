"""Small pure parts of the console: differences, labels, ages, names, addresses."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from skerry.console import render
from skerry.console.difftext import diff
from skerry.console.door import local_path
from skerry.console.labels import labels_text, parse_labels

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


def test_a_difference_shows_both_sides_with_their_line_numbers() -> None:
    lines = diff("a\nb\nc\n", "a\nB\nc\n")

    assert [(line.sign, line.text, line.old, line.new) for line in lines] == [
        (" ", "a", 1, 1),
        ("-", "b", 2, 0),
        ("+", "B", 0, 2),
        (" ", "c", 3, 3),
    ]


def test_equal_texts_have_no_difference() -> None:
    assert diff("a\nb\n", "a\nb\n") == []


def test_what_stayed_far_away_is_left_out() -> None:
    before = "\n".join(str(number) for number in range(100))

    lines = diff(before, before.replace("50", "fifty"))

    assert lines[0].sign == "@"
    assert len(lines) == 9


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("", {}),
        ("tier=edge, rack=4", {"tier": "edge", "rack": "4"}),
        ("tier=edge rack=4\nold", {"tier": "edge", "rack": "4", "old": ""}),
        ("example.org/a=b=c", {"example.org/a": "b=c"}),
    ],
)
def test_labels_are_read_as_people_type_them(text: str, labels: dict[str, str]) -> None:
    assert parse_labels(text) == labels
    assert parse_labels(labels_text(labels)) == labels


@pytest.mark.parametrize(
    ("delta", "words"),
    [
        (timedelta(0), "now"),
        (timedelta(seconds=59), "59 s ago"),
        (timedelta(minutes=3), "3 min ago"),
        (timedelta(hours=47), "47 h ago"),
        (timedelta(days=2), "2 d ago"),
        (-timedelta(hours=5), "in 5 h"),
    ],
)
def test_an_age_is_said_in_one_unit_with_the_exact_time_beside_it(
    delta: timedelta, words: str
) -> None:
    text = render.age(NOW - delta, NOW)

    assert f">{words}</time>" in text
    assert "UTC" in text


def test_a_long_name_is_shortened_in_its_middle_and_kept_whole_as_title() -> None:
    name = "kiosk-" + "x" * 40 + "-0017"

    text = render.middle(name, 20)

    assert f'title="{name}"' in text
    assert ">kiosk-xxxxx…xxx-0017<" in text


def test_a_name_is_never_markup() -> None:
    assert "<b>" not in render.middle("<b>" * 20, 20)
    assert "<b>" not in render.middle("<b>", 20)


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 B"), (999, "999 B"), (1024, "1 KiB"), (16 * 1024**3, "16 GiB")]
)
def test_bytes_are_said_in_three_digits(count: int, words: str) -> None:
    assert render.size(count) == words


@pytest.mark.parametrize(
    "text",
    [
        "//evil.example",
        "/\\evil.example",
        "https://evil.example/",
        "javascript:alert(1)",
        "/a\\b",
        "",
        "hosts",
        "/ok\r\nset-cookie: x",
    ],
)
def test_a_form_leads_to_no_other_site(text: str) -> None:
    assert local_path(text) == "/"


def test_a_form_leads_back_to_its_page() -> None:
    assert local_path("/hosts?labels=tier%3Dedge") == "/hosts?labels=tier%3Dedge"
