"""Whether pages can be read and used by everybody: names, contrast, widths, order of headings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page

from .test_screenshots import LOOKS, SHOTS

_CHECK = """
() => {
  const found = [];
  const visible = (item) => item.checkVisibility({ visibilityProperty: true }) &&
    item.getClientRects().length > 0 && !item.closest(".said, .skip");
  // Every control has a name.
  const named = (item) => (item.labels && item.labels.length) || item.getAttribute("aria-label") ||
    item.getAttribute("aria-labelledby") || item.textContent.trim();
  const controls = "input:not([type=hidden]), select, textarea, button, a[href], summary, progress";
  for (const item of document.querySelectorAll(controls))
    if (visible(item) && !named(item)) found.push("no name: " + item.outerHTML.slice(0, 120));
  // Ids are unique, references lead somewhere.
  const seen = new Set();
  for (const item of document.querySelectorAll("[id]")) {
    if (seen.has(item.id)) found.push("id twice: " + item.id);
    seen.add(item.id);
  }
  for (const name of ["aria-labelledby", "aria-describedby", "for", "list"])
    for (const item of document.querySelectorAll(`[${name}]`))
      for (const id of item.getAttribute(name).split(" "))
        if (!seen.has(id)) found.push(`${name} leads nowhere: ${id}`);
  if (document.querySelectorAll("h1").length !== 1) found.push("not one h1");
  if (!document.title.endsWith("skerry")) found.push("title: " + document.title);
  let level = 1;
  for (const item of document.querySelectorAll("main h1, main h2, main h3")) {
    const next = Number(item.tagName[1]);
    if (next > level + 1) found.push("heading skips: " + item.textContent);
    level = next;
  }
  // Nothing is wider than the page.
  if (document.documentElement.scrollWidth > innerWidth + 1) {
    const wide = [...document.querySelectorAll("main *")].find((item) =>
      item.getBoundingClientRect().right > innerWidth + 1);
    found.push("wider than the page: " + (wide ? wide.outerHTML.slice(0, 160) : "?"));
  }
  // Contrast of texts, computed as browsers paint: colours over what lies behind.
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const rgba = (text) => {
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = text;
    context.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = context.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, under) => top.slice(0, 3).map((c, i) => c * top[3] + under[i] * (1 - top[3]));
  const behind = (item) => {
    const layers = [];
    for (let at = item; at; at = at.parentElement) {
      const colour = rgba(getComputedStyle(at).backgroundColor);
      layers.push(colour);
      if (colour[3] === 1) break;
    }
    return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255]);
  };
  const light = (colour) => {
    const [r, g, b] = colour.map((c) => {
      const s = c / 255;
      return s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const told = new Set();
  while (walker.nextNode()) {
    const item = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !visible(item)) continue;
    const style = getComputedStyle(item);
    const under = behind(item);
    const a = light(over(rgba(style.color), under));
    const b = light(under);
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const large = parseFloat(style.fontSize) >= 24;
    if (ratio < (large ? 3 : 4.5)) {
      const words = `contrast ${ratio.toFixed(2)}: ${item.className || item.tagName}`;
      const text = walker.currentNode.textContent.trim().slice(0, 40);
      if (!told.has(words)) found.push(`${words} "${text}"`);
      told.add(words);
    }
  }
  return found;
}
"""


@pytest.mark.parametrize("look", sorted(LOOKS))
def test_pages_are_readable_in_every_look(look: str, visit: Callable[..., Page]) -> None:
    options: Any = LOOKS[look]
    page = visit("admin", **options)
    stranger = visit("", **options)

    found: dict[str, list[str]] = {}
    for name, address in SHOTS.items():
        at = stranger if name == "sign-in" else page
        at.goto(address, wait_until="load")
        wrong = at.evaluate(_CHECK)
        if wrong:
            found[name] = wrong

    assert found == {}


def test_the_check_itself_finds_what_is_wrong(visit: Callable[..., Page]) -> None:
    page = visit("admin")
    page.goto("/account")
    page.evaluate(
        "() => { const m = document.querySelector('main');"
        " const i = document.createElement('input'); m.append(i);"
        " const p = document.createElement('p'); p.textContent = 'pale';"
        " p.style.color = '#ccc'; p.style.width = '3000px'; m.append(p); }"
    )

    wrong = " ".join(page.evaluate(_CHECK))

    assert "no name" in wrong
    assert "contrast" in wrong
    assert "wider" in wrong
