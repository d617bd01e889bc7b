"""Where and when figures were measured: a number without its machine says little."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path


def describe(checkout: Path, command: str) -> dict[str, str]:
    """The header of a table, in the order in which it is shown."""
    return {
        "machine": f"{os.cpu_count()} cores ({_cpu()}), {_memory_gib():.0f} GiB memory",
        "system": f"{platform.system()} {platform.release()}, {_distribution()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "commit": commit(checkout),
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "command": command,
    }


def load() -> str:
    """The machine's load averages: what else ran is part of what was measured."""
    return " ".join(f"{value:.2f}" for value in os.getloadavg())


def commit(checkout: Path) -> str:
    """The commit of the checkout; says when files differ from it."""
    try:
        name = _git(checkout, "rev-parse", "--short=12", "HEAD")
        changed = _git(checkout, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return "unknown (no git)"
    return f"{name} with uncommitted changes" if changed else name


def cores() -> tuple[int, int] | None:
    """One core for what is measured and one for what drives it, or None on a single core."""
    usable = sorted(os.sched_getaffinity(0))
    return (usable[0], usable[1]) if len(usable) > 1 else None


def python() -> str:
    """The interpreter for further processes."""
    return sys.executable


def child_environment(checkout: Path, env: Mapping[str, str]) -> dict[str, str]:
    """The environment of a measuring process, which must find this package."""
    return {**env, "PYTHONPATH": str(checkout)}


def _git(checkout: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(checkout), *words], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return "unknown distribution"
