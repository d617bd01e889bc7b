"""containerd and kubelet as units: which release their links point to, and when to restart.

What a unit was last started with is kept in /run, so it is forgotten by a reboot, which starts
everything afresh anyway. Running containers survive a restart of either.
"""

from __future__ import annotations

from skerry.agent.kube import places, releases
from skerry.agent.kube.engine import EngineFailed, Reason
from skerry.agent.kube.record import Doors
from skerry.lib.digest import sha256
from skerry.lib.errors import SkerryError
from skerry.lib.proc import CommandFailed, CommandTimedOut

_READY_S = 60.0
# Enough for the stack of the one goroutine that panicked.
_LAST_LINES = 80


async def switch_runtime(doors: Doors, version: str) -> None:
    """Point the runtime's links at a release and (re)start it when anything changed."""
    release = releases.release_of(doors, version)
    for name in places.RUNTIME_PROGRAMS:
        doors.root.link(f"{places.LINKS}/{name}", places.program(version, name))
    doors.root.link(f"{places.LINKS}/cni", f"{places.release(version)}/cni")
    wants = _mark(
        doors,
        places.CONTAINERD_CONFIG,
        places.PROXY_ENV,
        f"{places.UNITS}/{places.CONTAINERD_UNIT}",
        release=release.digest,
    )
    await _apply(doors, places.CONTAINERD_UNIT, places.RUNTIME_APPLIED, wants)
    await wait_runtime(doors)


async def start_runtime(doors: Doors) -> None:
    """Start the runtime as it is, when it does not run."""
    await _start(doors, "start", places.CONTAINERD_UNIT)
    await wait_runtime(doors)


async def switch_kubelet(doors: Doors, version: str) -> None:
    """Point the kubelet's links at a release and (re)start it when anything changed."""
    release = releases.release_of(doors, version)
    for name in places.KUBELET_PROGRAMS:
        doors.root.link(f"{places.LINKS}/{name}", places.program(version, name))
    for name in places.OPTIONAL_PROGRAMS:
        if f"bin/{name}" in release.files:
            doors.root.link(f"{places.LINKS}/{name}", places.program(version, name))
        else:
            doors.root.remove(f"{places.LINKS}/{name}")
    wants = _mark(
        doors,
        places.KUBELET_CONFIG,
        places.KUBELET_FLAGS,
        f"{places.KUBELET}/instance-config.yaml",
        places.PROXY_ENV,
        f"{places.UNITS}/{places.KUBELET_UNIT}",
        release=release.digest,
    )
    await _apply(doors, places.KUBELET_UNIT, places.KUBELET_APPLIED, wants)


async def wait_runtime(doors: Doors) -> None:
    """Wait until the runtime answers. Raises EngineFailed."""
    end = doors.clock.monotonic() + _READY_S
    while True:
        try:
            if (await doors.ctr("version", timeout_s=10, check=False)).ok:
                return
        except SkerryError:
            pass  # Not linked or not answering yet; the limit below decides.
        if doors.clock.monotonic() >= end:
            raise EngineFailed(
                Reason.RUNTIME_NOT_READY,
                f"containerd did not answer within {_READY_S:g} s: "
                + await last_words(doors, places.CONTAINERD_UNIT),
                hint=f"see 'journalctl -u {places.CONTAINERD_UNIT}' on the host",
            )
        await doors.clock.sleep(0.5)


async def last_words(doors: Doors, unit: str) -> str:
    """What a unit's own processes logged last, in one line for messages."""
    answer = await doors.run(
        *("journalctl", "--no-pager", "--output", "cat", "--lines", str(_LAST_LINES)),
        *("--boot", f"_SYSTEMD_UNIT={unit}"),
        check=False,
    )
    return telling_line(answer.stdout)[-400:] or "it logged nothing"


def telling_line(log: str) -> str:
    """The last line of a log that says something; of a Go program that panicked, why it did.

    Go prints "panic: REASON" and then a stack for each goroutine (runtime package, GOTRACEBACK).
    """
    lines = [line for line in log.splitlines() if line.strip()]
    panics = [line for line in lines if line.startswith("panic: ")]
    if panics:
        return panics[-1].removeprefix("panic: ").strip()
    return lines[-1].strip() if lines else ""


def _mark(doors: Doors, *paths: str, release: str) -> str:
    return sha256("\0".join([release, *(doors.text(path) for path in paths)]).encode())


async def _apply(doors: Doors, unit: str, mark_path: str, wants: str) -> None:
    if doors.text(mark_path) == wants and await doors.active(unit):
        return
    await _start(doors, "restart", unit)
    doors.root.write(mark_path, wants.encode())


async def _start(doors: Doors, verb: str, unit: str) -> None:
    try:
        await doors.systemctl(verb, unit)
    except (CommandFailed, CommandTimedOut) as exc:
        kubelet = unit == places.KUBELET_UNIT
        raise EngineFailed(
            Reason.KUBELET_NOT_READY if kubelet else Reason.RUNTIME_NOT_READY,
            f"{unit} does not start: {await last_words(doors, unit)}",
            hint=f"see 'journalctl -u {unit}' on the host",
        ) from exc
