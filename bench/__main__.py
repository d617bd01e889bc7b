"""`./dev bench [NAME...] [--runs N] [--json FILE]`: run benchmarks and print one table."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import anyio

from bench import agent, fleet, image, machine, node, sync, table, up
from bench.figures import Benchmark, Figure, Spread, Surroundings, Values, collect
from skerry.lab.cleanup import mounts_below

BENCHMARKS = (
    agent.BENCHMARK,
    sync.BENCHMARK,
    fleet.BENCHMARK,
    node.BENCHMARK,
    up.BENCHMARK,
    image.BENCHMARK,
)
_RUNS = 5
# Not /tmp, which may be a memory file system that overlayfs refuses.
_BASE = Path("/var/tmp")  # noqa: S108  # each run makes a folder of its own there


def main(argv: Sequence[str]) -> int:
    """The exit code: 0 also when a target is missed, because a figure is no test."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    unknown = set(arguments.names) - {item.name for item in BENCHMARKS}
    if unknown:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    if arguments.runs < 1:
        parser.error(f"--runs {arguments.runs}: at least one")
    checkout = Path(__file__).resolve().parent.parent
    chosen = [item for item in BENCHMARKS if not arguments.names or item.name in arguments.names]
    command = " ".join(["./dev bench", *argv])
    header = {**machine.describe(checkout, command), "load before": machine.load()}
    rows: list[tuple[Figure, Spread]] = []
    left_out = []
    for benchmark in chosen:
        if benchmark.needs_root and os.geteuid() != 0:
            left_out.append(benchmark.name)
            continue
        runs = [_run(benchmark, checkout, number, arguments.runs) for number in _to(arguments.runs)]
        spreads = collect(benchmark.figures, runs)
        rows += [(figure, spreads[figure.key]) for figure in benchmark.figures]
    header["load after"] = machine.load()
    if left_out:
        header["left out"] = f"{', '.join(left_out)}: needs root"
    print(table.render(header, rows))
    if arguments.json:
        arguments.json.write_text(table.as_json(header, rows) + "\n")
    return 0


def _run(benchmark: Benchmark, checkout: Path, number: int, runs: int) -> Values:
    def tell(text: str) -> None:
        print(f"{benchmark.name} {number}/{runs}: {text}", file=sys.stderr, flush=True)

    folder = Path(tempfile.mkdtemp(prefix="skerry-bench-", dir=_BASE))
    try:
        return anyio.run(benchmark.run, Surroundings(checkout, folder, tell))
    finally:
        # Never delete through a mount that a lab host may have left.
        left = mounts_below(Path("/proc/self/mountinfo").read_text(), folder)
        if left:
            tell(f"{folder} stays: {', '.join(left)} is still mounted")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _to(runs: int) -> range:
    return range(1, runs + 1)


def _parser() -> argparse.ArgumentParser:
    about = "\n".join(f"  {item.name:<8} {item.about}" for item in BENCHMARKS)
    parser = argparse.ArgumentParser(
        prog="./dev bench",
        description="Measure speed and memory and print one table with spread.",
        epilog=f"benchmarks:\n{about}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    parser.add_argument("--runs", type=int, default=_RUNS, metavar="N", help="default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write raw results there")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
