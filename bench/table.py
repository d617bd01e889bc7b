"""The table that a person reads, as text, and the raw results for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from bench.figures import Figure, Good, Spread, verdict

_HEADINGS = ("figure", "unit", "min", "median", "max", "runs", "target", "")


def render(header: Mapping[str, str], rows: Sequence[tuple[Figure, Spread]]) -> str:
    """Header lines, then one row for each figure; columns are as wide as they must be."""
    width = max((len(name) for name in header), default=0)
    lines = [f"{name:<{width}}  {value}" for name, value in header.items()]
    cells = [_HEADINGS, *(_cells(figure, spread) for figure, spread in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(_HEADINGS))]
    table = []
    for row in cells:
        # Words to the left, numbers to the right.
        words = [
            f"{cell:<{size}}" if column in (0, 1, 7) else f"{cell:>{size}}"
            for column, (cell, size) in enumerate(zip(row, widths, strict=True))
        ]
        table.append("  ".join(words).rstrip())
    return "\n".join([*lines, "", *table])


def number(value: float) -> str:
    """Three significant digits, without an exponent: 1234 -> "1234", 0.04567 -> "0.0457"."""
    if value == 0:
        return "0"
    digits = 0
    while abs(value) * 10**digits < 100 and digits < 6:
        digits += 1
    return f"{value:.{digits}f}"


def as_json(header: Mapping[str, str], rows: Sequence[tuple[Figure, Spread]]) -> str:
    """The header and all values, in the order of the runs."""
    figures = [
        {
            "key": figure.key,
            "figure": figure.what,
            "unit": figure.unit,
            "target": figure.target,
            "good": figure.good.value,
            "values": list(spread.values),
            "min": spread.low,
            "median": spread.middle,
            "max": spread.high,
        }
        for figure, spread in rows
    ]
    return json.dumps({"header": dict(header), "figures": figures}, indent=2)


def _cells(figure: Figure, spread: Spread) -> tuple[str, ...]:
    target = ""
    if figure.target is not None:
        sign = "<=" if figure.good is Good.LESS else ">="
        target = f"{sign} {number(figure.target)}"
    return (
        figure.what,
        figure.unit,
        number(spread.low),
        number(spread.middle),
        number(spread.high),
        str(len(spread.values)),
        target,
        verdict(figure, spread),
    )
