"""An own control group per host, so that hosts do not share one `kubepods.slice`.

Needed where no systemd gives the container a scope. On cgroup v1 each controller is a hierarchy
of its own and a new cpuset is empty until it gets processors and memory nodes; on v2 the
controllers are switched on downwards. The functions take the mount folder, so tests need no root.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from pathlib import Path

from skerry.lab.facts import MachineFacts
from skerry.lab.names import cgroup_name
from skerry.lib.clock import Clock

MOUNT = Path("/sys/fs/cgroup")


def hierarchies(facts: MachineFacts, mount: Path = MOUNT) -> list[Path]:
    """The roots below which a process can be placed: one on v2, one per controller on v1."""
    if facts.cgroup_version == 2:
        return [mount]
    return sorted(
        folder
        for folder in mount.iterdir()
        # "cpu,cpuacct" may also be reachable by links named after its parts.
        if folder.is_dir() and not folder.is_symlink() and (folder / "cgroup.procs").exists()
    )


def make(run: str, host: str, facts: MachineFacts, mount: Path = MOUNT) -> list[Path]:
    """Make the host's groups; returns the `cgroup.procs` files to write a process id into."""
    places = []
    for root in hierarchies(facts, mount):
        parent = root
        for name in (cgroup_name(run), host):
            if facts.cgroup_version == 2:
                _enable_controllers(parent)
            child = parent / name
            child.mkdir(exist_ok=True)
            for setting in ("cpuset.cpus", "cpuset.mems"):
                if facts.cgroup_version == 1 and (child / setting).exists():
                    (child / setting).write_text((parent / setting).read_text())
            parent = child
        places.append(parent / "cgroup.procs")
    return places


def folders(run: str, host: str | None, facts: MachineFacts, mount: Path = MOUNT) -> list[Path]:
    """The groups of a run, or of one of its hosts, that exist now."""
    tail = Path(cgroup_name(run), host) if host else Path(cgroup_name(run))
    return [root / tail for root in hierarchies(facts, mount) if (root / tail).is_dir()]


def processes(top: Path) -> set[int]:
    """Ids of all processes in a group and below."""
    found: set[int] = set()
    for folder, _, _ in os.walk(top):
        with contextlib.suppress(OSError):
            found.update(int(line) for line in Path(folder, "cgroup.procs").read_text().split())
    return found - {0}


async def remove(tops: list[Path], clock: Clock, *, timeout_s: float = 10.0) -> None:
    """Kill what runs in the groups and remove them. What stays busy is left for a later try."""
    deadline = clock.monotonic() + timeout_s
    while alive := {pid for top in tops for pid in processes(top)}:
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if clock.monotonic() > deadline:
            break
        await clock.sleep(0.05)
    # The kernel frees a group a moment after its last process is gone.
    busy = list(tops)
    while (busy := [top for top in busy if not _rmdir_below(top)]) and clock.monotonic() < deadline:
        await clock.sleep(0.05)


def _rmdir_below(top: Path) -> bool:
    for folder, _, _ in os.walk(top, topdown=False):
        try:
            Path(folder).rmdir()
        except FileNotFoundError:
            continue
        except OSError as exc:
            if exc.errno != errno.EBUSY:
                raise
    return not top.exists()


def _enable_controllers(group: Path) -> None:
    wanted = (group / "cgroup.controllers").read_text().split()
    with contextlib.suppress(OSError):
        (group / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in wanted))
