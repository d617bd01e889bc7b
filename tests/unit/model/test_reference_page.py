"""The page of reasons is generated; it must be current."""

from __future__ import annotations

from pathlib import Path

from skerry.model.reasons import REASONS, reference_page

PAGE = Path(__file__).resolve().parents[3] / "docs/reference/reasons.md"


def test_page_of_reasons_is_current() -> None:
    # To renew it, write what `reference_page()` answers into the file.
    assert PAGE.read_text() == reference_page()


def test_every_reason_has_a_cause_and_a_next_action() -> None:
    for row in REASONS.values():
        assert row.cause.endswith("."), row.name
        assert row.action.startswith(("skerry ", "skerry-agent ")), row.name
