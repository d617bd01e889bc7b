"""axe-core finds no fault with any page (WCAG 2.2, levels A and AA), in every look.

axe-core comes in the wheel of axe-playwright-python; only its script is used.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from typing import Any

import pytest
from playwright.sync_api import Page

from .test_screenshots import LOOKS, SHOTS

AXE = (files("axe_playwright_python") / "axe.min.js").read_text()
_RUN = """
async () => {
  const tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"];
  const found = await axe.run(document, { runOnly: { type: "tag", values: tags } });
  return found.violations.flatMap((rule) => rule.nodes.map((node) =>
    `${rule.id}: ${node.html.slice(0, 160)} (${node.failureSummary.split("\\n")[1] || ""})`));
}
"""


def faults(page: Page) -> list[str]:
    page.evaluate(AXE)
    return list(page.evaluate(_RUN))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("look", sorted(LOOKS))
def test_no_page_has_faults(look: str, visit: Callable[..., Page]) -> None:
    options: Any = LOOKS[look]
    page, stranger = visit("admin", **options), visit("", **options)

    found: dict[str, list[str]] = {}
    for name, address in SHOTS.items():
        at = stranger if name == "sign-in" else page
        at.goto(address, wait_until="load")
        if wrong := faults(at):
            found[name] = wrong

    # As text: pytest shortens what it compares.
    told = "\n".join(f"{name}: {line}" for name, lines in found.items() for line in lines)
    assert not told, told


def test_forms_with_problems_previews_and_dialogs_have_none(visit: Callable[..., Page]) -> None:
    page = visit("admin")
    found: dict[str, list[str]] = {}

    page.goto("/clusters/default/shop-north-pier/change?version-shop=2.0.0")
    page.get_by_role("button", name="Preview").click()
    page.locator("#preview").wait_for()
    found["preview"] = faults(page)
    page.goto("/profiles/new")
    page.locator("#editor").fill("metadata:\n  name: Bad_Name\nspec:\n  version: one\n")
    page.get_by_role("button", name="Check").click()
    page.get_by_role("alert").wait_for()
    found["editor with problems"] = faults(page)
    page.goto("/sites")
    page.get_by_label("Name").last.fill("Bad_Name")
    page.get_by_role("button", name="Add site").click()
    page.get_by_role("alert").wait_for()
    found["form with problems"] = faults(page)
    page.goto("/hosts?labels=%3D%3D")
    found["filter with problems"] = faults(page)
    page.goto("/hosts?q=nothing-is-called-so")
    found["empty list"] = faults(page)
    page.goto("/")
    page.keyboard.press("?")
    page.locator("#help").wait_for()
    found["help"] = faults(page)

    told = "\n".join(f"{name}: {line}" for name, lines in found.items() for line in lines)
    assert not told, told


def test_axe_itself_finds_what_is_wrong(visit: Callable[..., Page]) -> None:
    page = visit("admin")
    page.goto("/account")
    page.evaluate("() => document.querySelector('main').append(document.createElement('input'))")

    assert any(line.startswith("label:") for line in faults(page))
