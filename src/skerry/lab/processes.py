"""Looking at this computer's processes, read-only, through /proc."""

from __future__ import annotations

from pathlib import Path

_PROC = Path("/proc")


def is_alive(pid: int, *, marker: str) -> bool:
    """Whether `pid` runs and has `marker` among its arguments; ids are used again by others."""
    try:
        words = (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return marker.encode() in words


def children(pid: int) -> list[int]:
    """Ids of the direct children."""
    numbers = [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()]
    return [number for number in numbers if _field(number, "PPid") == str(pid)]


def container_leader(launcher: int) -> int | None:
    """The process below `launcher` that is number 1 in a process namespace of its own."""
    todo = children(launcher)
    while todo:
        pid = todo.pop()
        numbers = _field(pid, "NSpid").split()
        if len(numbers) > 1:
            if numbers[-1] == "1":
                return pid
            continue
        todo += children(pid)
    return None


def matching(argument_prefix: str, *, program: str) -> dict[int, str]:
    """Processes of `program` with an argument that starts so: id -> rest of that argument."""
    found = {}
    for entry in _PROC.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if words[0].rpartition("/")[2] == program:
            for word in words[1:]:
                if word.startswith(argument_prefix):
                    found[int(entry.name)] = word.removeprefix(argument_prefix)
    return found


def _field(pid: int, name: str) -> str:
    try:
        for line in (_PROC / str(pid) / "status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return ""
