"""Versions sort as Semantic Versioning says, and what is none has no order."""

from __future__ import annotations

import pytest

from skerry.model.versions import is_newer, version_order

# The example of semver.org, section 11, between two releases.
IN_ORDER = (
    "0.9.9",
    "1.0.0-alpha",
    "1.0.0-alpha.1",
    "1.0.0-alpha.beta",
    "1.0.0-beta",
    "1.0.0-beta.2",
    "1.0.0-beta.11",
    "1.0.0-rc.1",
    "1.0.0",
    "1.0.10",
    "1.2.0",
)


def test_versions_sort_by_number_and_early_ones_come_before_their_release() -> None:
    orders = [version_order(text) for text in IN_ORDER]

    assert None not in orders
    assert sorted(orders) == orders  # type: ignore[type-var]


def test_newer_means_strictly_after() -> None:
    for index, earlier in enumerate(IN_ORDER):
        assert not is_newer(earlier, earlier)
        for later in IN_ORDER[index + 1 :]:
            assert is_newer(later, earlier)
            assert not is_newer(earlier, later)


def test_build_metadata_does_not_count() -> None:
    assert not is_newer("1.0.0+site.2", "1.0.0+site.1")


@pytest.mark.parametrize(
    "text", ["", "1", "1.0", "v1.0.0", "1.0.0.0", "01.0.0", "1.0.0-", "1.0.0 ", "newest", "9" * 80]
)
def test_what_is_no_version_is_neither_newer_nor_older(text: str) -> None:
    assert version_order(text) is None
    assert not is_newer(text, "0.0.1")
    assert not is_newer("99.0.0", text)
