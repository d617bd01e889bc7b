"""Benchmarks: speed and memory as figures with their spread, never as timed tests.

`./dev bench` runs them and prints one table; docs/explanation/performance.md holds the figures of
one machine and one commit. A module here measures, `figures` and `table` only count and print.
"""
