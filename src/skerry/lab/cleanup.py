"""Remove everything a lab run made, by its name alone; also after a crash, and twice.

Nothing here needs the lab that made the things: processes are found by machine name and control
group, interfaces and folders by their names.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from pathlib import Path

import anyio
import structlog

from skerry.lab import cgroups
from skerry.lab.dhcp import PROGRAM as DHCP
from skerry.lab.facts import MachineFacts, probe_facts
from skerry.lab.names import bridge_name, check_label
from skerry.lab.network import bridge_exists, remove_bridge
from skerry.lab.processes import container_leader, matching
from skerry.lab.qemu import PROGRAM as QEMU
from skerry.lab.registry import Registry
from skerry.lib.clock import Clock, SystemClock
from skerry.lib.proc import Runner, SystemRunner

log = structlog.get_logger()

_NSPAWN_FOLDERS = (Path("/run/systemd/nspawn/propagate"), Path("/run/systemd/nspawn/unix-export"))


async def remove_everything(
    run: str,
    base_dir: Path | None = None,
    *,
    keep_disks: bool = False,
    runner: Runner | None = None,
    clock: Clock | None = None,
) -> None:
    """Stop and remove all of a run: processes, groups, bridge, mounts, folders, sysctls.

    `base_dir` is only needed when the computer was restarted since. `keep_disks` leaves the
    run's folder. Safe to call when there is nothing.
    """
    check_label(run, what="run name")
    runner, clock, facts = runner or SystemRunner(), clock or SystemClock(), probe_facts()
    registry = Registry(clock)
    folder = _run_folder(run, base_dir, registry)
    await _kill_processes(run, clock)
    await cgroups.remove(cgroups.folders(run, None, facts), clock)
    await remove_bridge(runner, bridge_name(run))
    if folder is not None:
        for place in mounts_below(Path("/proc/self/mountinfo").read_text(), folder):
            await runner.run(["umount", "--lazy", place], timeout_s=30, check=False)
        left = mounts_below(Path("/proc/self/mountinfo").read_text(), folder)
        if not keep_disks and not left:  # Never delete through a mount.
            await anyio.to_thread.run_sync(shutil.rmtree, folder, True)
    for path in _nspawn_leftovers(run):
        with contextlib.suppress(OSError):
            path.rmdir() if path.is_dir() else path.unlink()
    async with registry.locked():
        registry.leave(run)
    log.info("lab.removed", run=run, keep_disks=keep_disks)


async def list_leftovers(
    run: str, base_dir: Path | None = None, *, runner: Runner | None = None
) -> list[str]:
    """What of a run is still on this computer, one line each; empty when it is clean."""
    runner, facts = runner or SystemRunner(), probe_facts()
    registry = Registry(SystemClock())
    folder = _run_folder(run, base_dir, registry)
    left = [f"process {pid}" for pid in sorted(_processes(run, facts))]
    left += [f"cgroup {path}" for path in cgroups.folders(run, None, facts)]
    if await bridge_exists(runner, bridge_name(run)):
        left.append(f"interface {bridge_name(run)}")
    if folder is not None:
        mounts = mounts_below(Path("/proc/self/mountinfo").read_text(), folder)
        left += [f"mount {place}" for place in mounts]
        if folder.exists():
            left.append(f"folder {folder}")
    left += [f"file {path}" for path in _nspawn_leftovers(run)]
    if run in registry.runs():
        left.append(f"registry entry {run}")
    return left


def mounts_below(mountinfo: str, folder: Path) -> list[str]:
    """Mount points at or below a folder, deepest first, from the text of /proc/self/mountinfo."""
    found = []
    for line in mountinfo.splitlines():
        place = line.split()[4].replace("\\040", " ")
        if Path(place).is_relative_to(folder):
            found.append(place)
    return sorted(found, key=len, reverse=True)


def _run_folder(run: str, base_dir: Path | None, registry: Registry) -> Path | None:
    base = base_dir or registry.base_dir(run)
    return base.absolute() / run if base is not None else None


def _supervisors(run: str) -> list[int]:
    machines = matching("--machine=", program="systemd-nspawn")
    return [pid for pid, name in machines.items() if name.endswith(f".{run}")]


def _machines(run: str) -> list[int]:
    """Machines, and the server that gives them addresses; neither has a control group."""
    guests = matching("guest=", program=QEMU)
    servers = matching("--interface=", program=DHCP)
    return [
        *(pid for pid, name in guests.items() if name.endswith(f".{run}")),
        *(pid for pid, bridge in servers.items() if bridge == bridge_name(run)),
    ]


def _processes(run: str, facts: MachineFacts) -> set[int]:
    found = {*_supervisors(run), *_machines(run)}
    for top in cgroups.folders(run, None, facts):
        found |= cgroups.processes(top)
    return found


async def _kill_processes(run: str, clock: Clock) -> None:
    deadline = clock.monotonic() + 20
    for pid in _machines(run):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    while supervisors := _supervisors(run):
        for supervisor in supervisors:
            # Killing the first process inside ends the rest and lets nspawn tidy up.
            leader = container_leader(supervisor)
            late = clock.monotonic() > deadline - 10
            pid = supervisor if late or leader is None else leader
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if clock.monotonic() > deadline:
            return
        await clock.sleep(0.1)


def _nspawn_leftovers(run: str) -> list[Path]:
    return [
        path
        for folder in _NSPAWN_FOLDERS
        if folder.is_dir()
        for path in folder.iterdir()
        if path.name.endswith(f".{run}")
    ]
