"""What processes use, read from /proc: CPU, memory, and bytes given to disks.

A tree's counters include those of its children that have ended and were waited for (proc(5),
`cutime` and `cstime`; the kernel adds a reaped child's I/O to its parent's). So the difference of
two readings of one tree also holds what came and went between them. CPU time comes in ticks of
10 ms, which bounds how short a window may be.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Used:
    """Counters of a set of processes at one moment. `written_bytes` are page-cache bytes made
    dirty for a disk, less those that were dropped before they got there."""

    cpu_s: float
    written_bytes: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident and proportional memory: shared pages count fully in `rss_kb`, in `pss_kb` only
    with this process' share. The kernel counts in KiB, targets are in MB of 1,000,000 bytes."""

    rss_kb: int
    pss_kb: int

    @property
    def rss_mb(self) -> float:
        return self.rss_kb * 1024 / 1e6

    @property
    def pss_mb(self) -> float:
        return self.pss_kb * 1024 / 1e6


def tree(top: int) -> list[int]:
    """A process and everything below it."""
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int(_stat(int(entry.name))[1])
                children.setdefault(parent, []).append(int(entry.name))
    found = [top]
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def used(pids: Iterable[int]) -> Used:
    """The counters of these processes and of their ended children, added up."""
    ticks = written = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = _stat(pid)
            ticks += sum(int(field) for field in fields[11:15])
            counters = _numbers(_PROC / str(pid) / "io")
            written += counters["write_bytes"] - counters["cancelled_write_bytes"]
    return Used(cpu_s=ticks / _TICKS, written_bytes=written)


def memory(pids: Iterable[int]) -> Memory:
    """The memory of these processes, added up; kernel threads and what has just ended have none."""
    rss = pss = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            counters = _numbers(_PROC / str(pid) / "smaps_rollup")
            rss += counters.get("Rss", 0)
            pss += counters.get("Pss", 0)
    return Memory(rss_kb=rss, pss_kb=pss)


def find(pids: Iterable[int], program: str) -> int:
    """The one process that runs `program` (the name of its file). Raises LookupError."""
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            if os.path.basename(os.readlink(_PROC / str(pid) / "exe")) == program:
                found.append(pid)
    if len(found) != 1:
        raise LookupError(f"{len(found)} processes run {program}, wanted one")
    return found[0]


def traffic(pid: int, interface: str) -> tuple[int, int]:
    """Bytes received and sent by an interface of the process' network, frames included."""
    for line in (_PROC / str(pid) / "net" / "dev").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name.strip() == interface:
            fields = rest.split()
            return int(fields[0]), int(fields[8])
    raise LookupError(f"process {pid} sees no interface {interface}")


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name, which may hold blanks and parentheses:
    [0] is the state, [1] the parent, [11:15] utime, stime, cutime, cstime."""
    text = (_PROC / str(pid) / "stat").read_text()
    return text[text.rindex(")") + 2 :].split()


def _numbers(place: Path) -> dict[str, int]:
    found = {}
    for line in place.read_text().splitlines():
        name, colon, rest = line.partition(":")
        words = rest.split()
        if colon and words and words[0].isdigit():
            found[name] = int(words[0])
    return found
