"""Two texts side by side as one column of lines, for people. Pure."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

_CONTEXT = 3


@dataclass(frozen=True, slots=True)
class Line:
    """One line. `sign` is "+", "-", " " or "@" (lines that are the same were left out)."""

    sign: str
    text: str
    old: int = 0
    new: int = 0


def diff(before: str, after: str) -> list[Line]:
    """What changed, with a little of what stayed around it."""
    old, new = before.splitlines(), after.splitlines()
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    lines: list[Line] = []
    for number, group in enumerate(matcher.get_grouped_opcodes(_CONTEXT)):
        if number or group[0][1] > 0:
            lines.append(Line("@", ""))
        for tag, i1, i2, j1, j2 in group:
            if tag == "equal":
                pairs = zip(range(i1, i2), range(j1, j2), strict=True)
                lines += [Line(" ", old[i], i + 1, j + 1) for i, j in pairs]
                continue
            lines += [Line("-", old[i], old=i + 1) for i in range(i1, i2)]
            lines += [Line("+", new[j], new=j + 1) for j in range(j1, j2)]
    return lines
