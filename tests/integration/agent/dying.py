"""Runs agents that die at the Nth change of their disk, and agents that come after them.

A script of its own, because each agent is a real process: it is forked from here, kills itself
with SIGKILL, and another one is started on what it left. Prints one JSON object per death.

    python -m tests.integration.agent.dying upgrade FOLDER HOW BAD
    python -m tests.integration.agent.dying os FOLDER HOW
    python -m tests.integration.agent.dying enrol FOLDER HOW URL CA-FILE TOKEN

HOW is `torn` (killed halfway through a write, the kernel lives on) or `power` (power is lost after
the change: what was not fsynced is forgotten).
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import msgspec
import structlog
from tests.unit.agent.os_machine import OsMachine
from tests.unit.agent.test_work import NEW, OLD, Bench
from tests.unit.lib.forgetful import ForgetfulDisk

from skerry.agent import accept, paths
from skerry.agent.causes import ChannelFailed
from skerry.agent.core import Parts, run_agent
from skerry.agent.facts import architecture
from skerry.agent.identity import Identity, load_identity, save_identity
from skerry.agent.osengine.fake import FakeOsEngine
from skerry.agent.register import prepare
from skerry.agent.sync import LocalStatus
from skerry.lib.clock import SystemClock
from skerry.lib.files import DiskRoot
from skerry.model.reasons import why
from skerry.sim.engine import KeptEngine
from skerry.sim.machines import Machine, MachineRunner, shape_files, shapes

LIMIT_S = 30
NEW_OS = "2.0.0"
_SPEED = 400.0
Done = Callable[[LocalStatus], bool]


class FastClock(SystemClock):
    """Pauses take no time; the hour is the true one. `speed` is how fast waiting goes by."""

    def __init__(self, speed: float = 1.0) -> None:
        self.speed = speed

    def monotonic(self) -> float:
        return super().monotonic() * self.speed

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(min(seconds, 0.002))


class DyingRoot:
    """A disk whose owner dies at its Nth change. `at` 0 lets it live."""

    def __init__(self, root: DiskRoot, *, at: int, die: Callable[[], None], torn: bool) -> None:
        self._root = root
        self._at = at
        self._die = die
        self._torn = torn
        self.changes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._root, name)

    def write(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        self.write_chunks(path, (data,), mode=mode)

    def write_chunks(self, path: str, chunks: Iterable[bytes], *, mode: int = 0o644) -> int:
        if self._now() and self._torn:
            data = b"".join(chunks)
            half = data[: len(data) // 2]

            def until_half() -> Iterable[bytes]:
                yield half
                self._die()

            return self._root.write_chunks(path, until_half(), mode=mode)
        written = self._root.write_chunks(path, chunks, mode=mode)
        self._after()
        return written

    def append(self, path: str, data: bytes) -> None:
        if self._now() and self._torn:
            self._root.append(path, data[: len(data) // 2])
            self._die()
        self._root.append(path, data)
        self._after()

    def mkdir(self, path: str, *, mode: int = 0o755) -> None:
        self._simple(lambda: self._root.mkdir(path, mode=mode))

    def remove(self, path: str) -> None:
        self._simple(lambda: self._root.remove(path))

    def rename(self, old: str, new: str) -> None:
        self._simple(lambda: self._root.rename(old, new))

    def link(self, path: str, target: str) -> None:
        self._simple(lambda: self._root.link(path, target))

    def _simple(self, change: Callable[[], None]) -> None:
        if self._now() and self._torn:
            self._die()  # these are whole or not at all: here, not at all
        change()
        self._after()

    def _now(self) -> bool:
        self.changes += 1
        return self.changes == self._at

    def _after(self) -> None:
        if self.changes == self._at:
            self._die()


class NoLine:
    """The manager is away."""

    def _away(self) -> ChannelFailed:
        return ChannelFailed("no connection", reason="ManagerUnreachable")

    async def enrol(self, request: object) -> Any:
        raise self._away()

    sync = renew = enrol

    async def content(self, digest: str, *, start: int) -> AsyncIterator[bytes]:
        raise self._away()
        yield b""

    async def close(self) -> None:
        return None


@dataclass(frozen=True)
class Scene:
    """What an agent does and when it is done."""

    done: Done
    machine: Machine
    online: bool = False
    bad: bool = False
    system: bool = False


def live(scene: Scene, folder: Path, *, at: int, how: str, left: Path) -> int:
    """Fork an agent on the folder; its exit status. Dies at change `at`, or lives until done."""
    child = os.fork()
    if child == 0:
        try:
            anyio.run(_live, scene, folder, at, how, left)
            os._exit(0)
        except BaseException:  # a forked child must not go back into the parent's code
            import traceback

            traceback.print_exc()
            os._exit(1)
    return os.waitpid(child, 0)[1]


async def _live(scene: Scene, folder: Path, at: int, how: str, left: Path) -> None:
    disk = ForgetfulDisk(folder) if how == "power" and at else None

    def die() -> None:
        if disk is not None:
            disk.write_out(left)
        os.kill(os.getpid(), signal.SIGKILL)

    if disk is not None:
        disk.watch()
    root = DyingRoot(DiskRoot(str(folder)), at=at, die=die, torn=how == "torn")
    clock = FastClock(_SPEED if scene.system else 1.0)
    more: dict[str, Any] = {} if scene.online else {"channel": lambda *_: NoLine()}
    down = [anyio.Event()]
    if scene.system:
        more["os_engine"] = lambda _: loader(root)
    parts = Parts(
        root=root,
        runner=MachineRunner(scene.machine, lambda: down[0].set()),
        clock=clock,
        engine=lambda _: KeptEngine(root, clock, bad_updates=scene.bad, step_s=0),
        idle_s=0.01,
        hold_s=0,
        **more,
    )
    limit = time.monotonic() + LIMIT_S

    async def machine_runs() -> None:
        while True:
            async with anyio.create_task_group() as boot:
                boot.start_soon(run_agent, parts)
                await down[0].wait()
                boot.cancel_scope.cancel()
            down[0] = anyio.Event()
            loader(DiskRoot(str(folder))).start()

    async with anyio.create_task_group() as tg:
        tg.start_soon(machine_runs)
        while True:
            await anyio.sleep(0.005)
            status = status_of(folder)
            if status is not None and scene.done(status):
                break
            if time.monotonic() > limit:
                raise TimeoutError(f"not done after {LIMIT_S} s: {status}")
        tg.cancel_scope.cancel()


def loader(root: Any) -> FakeOsEngine:
    """The machine's slots, and what starts of them."""
    return FakeOsEngine(root, architecture=architecture())


def status_of(folder: Path) -> LocalStatus | None:
    place = Path(f"{folder}{paths.STATUS}")
    return msgspec.json.decode(place.read_bytes(), type=LocalStatus) if place.exists() else None


def die_everywhere(
    scene: Scene, base: Path, work: Path, how: str, fresh: Callable[[Path, int], Scene] | None
) -> None:
    """Die at every change in turn until an agent lives to the end; then nothing is left to cut."""
    for at in range(1, 1000):
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        folder, left = work / "host", work / "left"
        shutil.copytree(base, folder, symlinks=True)
        here = fresh(folder, at) if fresh else scene
        status = live(here, folder, at=at, how=how, left=left)
        died = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        if died:
            found = left if how == "power" else folder
            if here.system and how == "power":
                loader(DiskRoot(str(found))).start()
            status = live(here, found, at=0, how=how, left=left)
        else:
            found = folder
        print(json.dumps({"at": at, "died": died, "failed": status, **end_of(found)}), flush=True)
        if not died:
            return
    raise SystemExit("never lived to the end")


def end_of(folder: Path) -> dict[str, Any]:
    """Where an agent ended: all that must be the same however often it died."""
    status = status_of(folder)
    root = DiskRoot(str(folder))
    identity = load_identity(root)
    have = accept.stored(root, identity)
    kubernetes = status.report.kubernetes if status and status.report else None
    reasons = {item.type: item.reason for item in status.conditions} if status else {}
    return {
        "uid": identity.host_uid,
        "state": identity.state,
        "token": root.exists(paths.TOKEN),
        "epoch": have.epoch if have else 0,
        "journal": root.exists(paths.JOURNAL),
        "release": kubernetes.release if kubernetes else "",
        "kubelet": kubernetes.kubelet_version if kubernetes else "",
        "plane": kubernetes.control_plane_version if kubernetes else "",
        "layers": [item.name for item in kubernetes.layers] if kubernetes else [],
        "failed_digests": list(kubernetes.failed) if kubernetes else [],
        "reconciled": reasons.get("Reconciled", ""),
        "os": _system_of(status),
        "os_reason": reasons.get("OsUpdated", ""),
        "cause": why(status.conditions, {}).reason if status else "",
    }


def _system_of(status: LocalStatus | None) -> list[Any]:
    """Version, whether it is on trial, and what failed; which slot it is in may differ."""
    if status is None or status.report is None:
        return []
    os_state = status.report.os
    return [os_state.version, os_state.on_trial, list(os_state.failed)]


def machine(number: int) -> Machine:
    return Machine(shape=shapes()[0], name=f"till-{number}", number=number, seed=1)


def put_machine(folder: Path, which: Machine) -> None:
    root = DiskRoot(str(folder))
    for path, data in {**shape_files(which.shape.shape), **which.own_files()}.items():
        root.write(path, data)


def upgrade(base: Path, *, bad: bool) -> Scene:
    """A host that runs OLD and was told NEW."""
    bench = Bench()
    bench.assign(OLD)
    root = DiskRoot(str(base))
    _lay_down(bench, root)
    first = Scene(done=lambda s: s.acknowledged_epoch == 1 and _rests(s), machine=machine(0))
    put_machine(base, first.machine)
    if live(first, base, at=0, how="", left=base):
        raise SystemExit("the host does not come up")
    bench.assign(NEW)
    _lay_down(bench, root)

    def done(status: LocalStatus) -> bool:
        reasons = {item.type: item.reason for item in status.conditions}
        ended = (
            reasons.get("Reconciled") == "UpgradeReturned"
            if bad
            else status.acknowledged_epoch == 2
        )
        return ended and _rests(status)

    return Scene(done=done, machine=first.machine, bad=bad)


def os_update(base: Path) -> Scene:
    """A host that runs its disk's OS and was told another."""
    bench = OsMachine()
    root = DiskRoot(str(base))
    bench.assign(None)
    _lay_down(bench, root)
    first = Scene(
        done=lambda s: s.acknowledged_epoch == 1 and _rests(s), machine=machine(0), system=True
    )
    put_machine(base, first.machine)
    if live(first, base, at=0, how="", left=base):
        raise SystemExit("the host does not come up")
    bench.assign(bench.image(NEW_OS))
    _lay_down(bench, root)
    return Scene(
        done=lambda s: s.acknowledged_epoch == 2 and _rests(s), machine=first.machine, system=True
    )


def _rests(status: LocalStatus) -> bool:
    return status.report is not None and status.report.progress is None


def _lay_down(bench: Bench | OsMachine, root: DiskRoot) -> None:
    """What a bundle and a registration would have left on the host's disk."""
    for path, data in bench.root.files.items():
        root.write(path, data, mode=0o600)
    save_identity(root, bench.identity)


def main(argv: list[str]) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    what, folder, how = argv[0], Path(argv[1]), argv[2]
    base, work = folder / "base", folder / "work"
    base.mkdir(parents=True)
    if what == "upgrade":
        die_everywhere(upgrade(base, bad=argv[3] == "bad"), base, work, how, None)
        return
    if what == "os":
        die_everywhere(os_update(base), base, work, how, None)
        return
    url, authority, token = argv[3], Path(argv[4]).read_text(), argv[5]

    def fresh(place: Path, number: int) -> Scene:
        """Another new machine each time."""
        root = DiskRoot(str(place))
        put_machine(place, machine(number))
        prepare(root, Identity(manager=url, authorities=(authority,)), token=token)
        return Scene(done=_registered, machine=machine(number), online=True)

    die_everywhere(fresh(folder / "unused", 0), base, work, how, fresh)


def _registered(status: LocalStatus) -> bool:
    synced = any(item.type == "Synced" and item.status == "True" for item in status.conditions)
    return status.identity_state == "approved" and synced


if __name__ == "__main__":
    main(sys.argv[1:])
