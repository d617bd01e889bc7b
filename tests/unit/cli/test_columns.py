"""What the list of hosts says about an operating system."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from skerry.cli.columns import columns_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SLOTS = [{"name": "a", "state": "good"}]


@pytest.mark.parametrize(
    ("status", "shown"),
    [
        ({}, ""),
        ({"os": {"version": "1.3.0", "slots": SLOTS}}, "1.3.0"),
        ({"os": {"version": "1.3.0", "slots": SLOTS}, "desiredOs": "1.4.0"}, "1.3.0 > 1.4.0"),
        ({"os": {"version": "1.4.0", "slots": SLOTS}, "desiredOs": "1.4.0"}, "1.4.0"),
        (
            {"os": {"version": "1.4.0", "slots": SLOTS, "onTrial": True}, "desiredOs": "1.4.0"},
            "1.4.0 (trial)",
        ),
        # A distribution's own version is no image of ours.
        ({"os": {"engine": "package", "version": "debian 13"}, "desiredOs": "1.4.0"}, "- > 1.4.0"),
        ({"os": {"engine": "package", "version": "debian 13"}}, ""),
    ],
)
def test_the_os_image_is_shown_with_what_is_wanted(status: dict[str, Any], shown: str) -> None:
    column = next(
        item for item in columns_of("Host", wide=True, projects=False) if item.title == "OS IMAGE"
    )

    assert column.cell({"status": status}, NOW) == shown
