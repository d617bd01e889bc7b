"""The table of `./dev bench` and its statistics: what is printed is what was measured."""

from __future__ import annotations

import json

import pytest

from bench.figures import Figure, Good, Spread, collect, verdict
from bench.node import step_seconds
from bench.table import as_json, number, render

SIZE = Figure("size", "a file", "MB", target=10)
RATE = Figure("rate", "requests served", "1/s", target=100, good=Good.MORE)
PLAIN = Figure("plain", "just told", "s")


def test_a_spread_holds_lowest_median_and_highest() -> None:
    spread = Spread((5.0, 1.0, 3.0, 4.0))

    assert (spread.low, spread.middle, spread.high) == (1.0, 3.5, 5.0)
    assert spread.values == (5.0, 1.0, 3.0, 4.0)


def test_a_spread_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Spread(())


@pytest.mark.parametrize(
    ("figure", "values", "says"),
    [
        (SIZE, (9.0, 10.0, 30.0), "met"),
        (SIZE, (9.0, 10.1, 30.0), "MISSED"),
        (RATE, (99.0, 100.0, 101.0), "met"),
        (RATE, (1.0, 99.0, 500.0), "MISSED"),
        (PLAIN, (1e9,), ""),
    ],
)
def test_the_median_decides_and_the_direction_counts(
    figure: Figure, values: tuple[float, ...], says: str
) -> None:
    assert verdict(figure, Spread(values)) == says


def test_runs_are_collected_by_figure_in_their_order() -> None:
    runs = [{"size": 2, "rate": 20.0}, {"rate": 10.0, "size": 1}]

    found = collect((SIZE, RATE), runs)

    assert found == {"size": Spread((2.0, 1.0)), "rate": Spread((20.0, 10.0))}


@pytest.mark.parametrize("values", [{"size": 1.0}, {"size": 1.0, "rate": 1.0, "new": 1.0}])
def test_a_run_with_other_figures_than_announced_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="announced"):
        collect((SIZE, RATE), [values])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1234.5, "1234"),
        (99.96, "100.0"),
        (12.345, "12.3"),
        (1.0, "1.00"),
        (0.04567, "0.0457"),
        (-2.5, "-2.50"),
    ],
)
def test_numbers_have_three_significant_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_the_table_has_header_columns_and_a_verdict() -> None:
    rows = [(SIZE, Spread((9.0, 12.0, 11.0))), (PLAIN, Spread((0.5,)))]

    lines = render({"machine": "2 cores", "commit": "abc"}, rows).splitlines()

    assert lines == [
        "machine  2 cores",
        "commit   abc",
        "",
        "figure     unit    min  median    max  runs   target",
        "a file     MB     9.00    11.0   12.0     3  <= 10.0  MISSED",
        "just told  s     0.500   0.500  0.500     1",
    ]


def test_raw_results_hold_every_value() -> None:
    told = json.loads(as_json({"commit": "abc"}, [(RATE, Spread((3.0, 1.0)))]))

    assert told["header"] == {"commit": "abc"}
    assert told["figures"][0]["values"] == [3.0, 1.0]
    assert (told["figures"][0]["target"], told["figures"][0]["good"]) == (100, "more")


def test_steps_are_timed_from_the_agents_log() -> None:
    log = """\
timestamp=2026-01-01T10:00:00.500000Z level=info event=operation.started operation=create
timestamp=2026-01-01T10:00:01.000000Z level=info event=step.started step="unpack it" phase=forward
timestamp=2026-01-01T10:00:03.250000Z level=info event=step.done step="unpack it"
timestamp=2026-01-01T10:00:04.000000Z level=info event=step.started step=again phase=forward
timestamp=2026-01-01T10:00:05.000000Z level=info event=step.done step=again
timestamp=2026-01-01T10:00:06.000000Z level=info event=step.started step=again phase=forward
timestamp=2026-01-01T10:00:06.500000Z level=info event=step.done step=again
timestamp=2026-01-01T10:00:07.000000Z level=info event=step.started step=unfinished phase=forward
"""

    assert step_seconds(log) == {"unpack it": 2.25, "again": 1.5}
