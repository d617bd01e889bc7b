"""Every relative link of the documents leads to a file, and its anchor to a heading there."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGES = sorted(
    path.relative_to(ROOT) for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))
)
_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)")
_HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)


def plain(text: str) -> str:
    """Without blocks of code."""
    return _FENCE.sub("", text)


@cache
def anchors(page: Path) -> frozenset[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in _HEADING.findall(plain(page.read_text())):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-")
        number, unique = 0, slug
        while unique in found:
            number += 1
            unique = f"{slug}-{number}"
        found.add(unique)
    return frozenset(found)


def broken(page: Path) -> list[str]:
    wrong = []
    for target in _LINK.findall(_CODE.sub("", plain(page.read_text()))):
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page.resolve()
        if not place.exists() or not place.is_relative_to(ROOT):
            wrong.append(f"{target}: no such file")
        elif anchor and anchor not in anchors(place):
            wrong.append(f"{target}: no such heading")
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    assert broken(ROOT / page) == []


def test_every_page_is_reached_from_the_readme() -> None:
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page.is_dir():
            # A link to a folder shows what lies in it.
            waiting += page.glob("*.md")
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        links = _LINK.findall(_CODE.sub("", plain(page.read_text())))
        waiting += [
            (page.parent / link.partition("#")[0]).resolve()
            for link in links
            if not re.match(r"[a-z][a-z0-9+.-]*:|#", link)
        ]

    wanted = {ROOT / page for page in PAGES if page.parts[0] == "docs" and "adr" not in page.parts}
    assert {str(page.relative_to(ROOT)) for page in wanted - reached} == set()


def test_the_check_itself_finds_what_is_wrong(tmp_path: Path) -> None:
    page = ROOT / "docs" / "tutorial" / "first-cluster.md"
    here = tmp_path / "page.md"
    here.write_text("# One `two` thing\n\n[a](#one-two-thing) [b](#three) [c](nowhere.md)\n")

    assert "1-start" in anchors(page)
    assert [line.partition(":")[0] for line in broken(here)] == [
        "#one-two-thing",
        "#three",
        "nowhere.md",
    ]
