"""The page about bad luck stays true: its tests exist, its reasons too, and no item is left out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from skerry.model.reasons import REASONS

PROJECT = Path(__file__).parents[3]
PAGE = (PROJECT / "docs" / "explanation" / "bad-luck.md").read_text()
EVENTS = {"ClockStepped"}
ITEMS = (
    "unknown kind, unknown field, wrong type",
    "cycle in variables",
    "profile without an infra layer",
    "version downgrade, skipped minor",
    "oversize body",
    "wrong signature",
    "missing release signature",
    "older epoch",
    "artifact with a wrong digest",
    "truncated download",
    "disk full while staging",
    "manager killed (-9)",
    "agent killed at any write",
    "what was not fsynced is forgotten",
    "add-on that never becomes ready, image that does not exist",
    "kubelet that dies after an upgrade",
    "clock two years off",
    "DNS that never answers",
    "a proxy that opens TLS",
    "a proxy that refuses",
    "a wrong manager",
    "half-open TCP line",
    "a foreign kubelet or k3s",
)


@pytest.mark.parametrize("item", ITEMS)
def test_every_item_has_its_row(item: str) -> None:
    rows = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| ")]

    assert any(item in row for row in rows)


def test_every_test_that_the_page_names_is_there() -> None:
    named = set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE))

    assert len(named) > 40
    missing = [
        f"{path}::{name}"
        for path, name in sorted(named)
        if not (PROJECT / path).is_file()
        or not re.search(rf"^\s*(async )?def {name}\(", (PROJECT / path).read_text(), re.MULTILINE)
    ]
    assert missing == []


def test_every_row_names_what_proves_it() -> None:
    rows = [line for line in PAGE.splitlines() if re.match(r"\| (?!what )", line)]

    assert len(rows) > 30
    assert [row for row in rows if "`tests/" not in row.split("|")[3]] == []


def test_every_reason_on_the_page_is_one() -> None:
    named = set(re.findall(r"`([A-Z][A-Za-z]+)`", PAGE))

    assert named - REASONS.keys() - EVENTS == set()
