"""What is measured, and the statistics over several runs.

A figure that has a target says in which direction it is good; what is missed is said, not hidden.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from statistics import median


class Good(StrEnum):
    """In which direction a figure gets better."""

    LESS = "less"
    MORE = "more"


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table. `key` names it in raw results; no target, no verdict."""

    key: str
    what: str
    unit: str
    target: float | None = None
    good: Good = Good.LESS


@dataclass(frozen=True, slots=True)
class Spread:
    """The values of one figure over all runs, in the order in which they were measured."""

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("a spread needs at least one value")

    @property
    def low(self) -> float:
        return min(self.values)

    @property
    def middle(self) -> float:
        return float(median(self.values))

    @property
    def high(self) -> float:
        return max(self.values)


Values = Mapping[str, float]
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a benchmark may use: the checkout, a folder of its own, and a line to say how far
    it is."""

    checkout: Path
    folder: Path
    tell: Tell


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One module's work: `run` measures every figure once."""

    name: str
    about: str
    figures: tuple[Figure, ...]
    run: Callable[[Surroundings], Awaitable[Values]]
    needs_root: bool = False


def verdict(figure: Figure, spread: Spread) -> str:
    """ "met" or "MISSED" by the median, "" without a target."""
    if figure.target is None:
        return ""
    if figure.good is Good.LESS:
        return "met" if spread.middle <= figure.target else "MISSED"
    return "met" if spread.middle >= figure.target else "MISSED"


def collect(figures: Sequence[Figure], runs: Sequence[Values]) -> dict[str, Spread]:
    """The spread of each figure, by key. Raises ValueError when a run left a figure out, or
    measured one that nobody announced: a silent gap would look like a result."""
    known = {figure.key for figure in figures}
    for values in runs:
        if set(values) != known:
            odd = ", ".join(sorted(known ^ set(values)))
            raise ValueError(f"a run's figures differ from the announced ones: {odd}")
    return {
        figure.key: Spread(tuple(float(values[figure.key]) for values in runs))
        for figure in figures
    }
