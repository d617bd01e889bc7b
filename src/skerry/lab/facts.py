"""What this computer can do, as far as the lab behaves differently because of it.

Read once per lab and passed around as a value; nothing else in the lab looks at the machine.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_CAP_SYS_RESOURCE = 24
_CGROUP2_ROOT = Path("/sys/fs/cgroup/cgroup.controllers")


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """Facts about this computer.

    `cgroup_version` is 2 only for the unified hierarchy; hybrid and legacy are 1.
    `can_raise_limits` is CAP_SYS_RESOURCE. `runs_systemd` says whether systemd is process 1.
    """

    cgroup_version: int
    can_raise_limits: bool
    runs_systemd: bool
    has_swap: bool
    is_root: bool


def probe_facts() -> MachineFacts:
    """Look at this computer."""
    return MachineFacts(
        cgroup_version=2 if _CGROUP2_ROOT.exists() else 1,
        can_raise_limits=has_capability(Path("/proc/self/status").read_text(), _CAP_SYS_RESOURCE),
        runs_systemd=Path("/run/systemd/system").is_dir(),
        has_swap=_has_swap(),
        is_root=os.geteuid() == 0,
    )


def has_capability(status: str, number: int) -> bool:
    """Whether the effective set in the text of /proc/PID/status holds capability `number`."""
    for line in status.splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False


def _has_swap() -> bool:
    try:
        return len(Path("/proc/swaps").read_text().splitlines()) > 1
    except OSError:
        return False
