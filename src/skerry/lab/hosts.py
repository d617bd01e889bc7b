"""A real host as a systemd-nspawn container: its own init, network, control groups and disk.

The process tree is the only truth about whether a host runs: the launcher's id lies in a file,
everything else is looked up, so another process can find and enter a host that it did not start.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import anyio
import structlog

from skerry.lab import cgroups, hostfiles, launch
from skerry.lab.errors import HostFailed
from skerry.lab.facts import MachineFacts
from skerry.lab.launch import HostSpec
from skerry.lab.names import machine_id
from skerry.lab.network import gateway_of
from skerry.lab.processes import container_leader, is_alive
from skerry.lab.tree import write_file
from skerry.lib.clock import Clock
from skerry.lib.proc import CommandFailed, CommandTimedOut, Result, Runner

log = structlog.get_logger()

_POLL_S = 0.2
_POWER_OFF_SIGNAL = signal.SIGRTMIN + 4  # systemd(1): starts poweroff.target
_KEPT_ENV = ("PATH", "HOME", "LANG", "TERM")


class ContainerHost:
    """One host. It is made by `Lab.add_host`, which gives it its name and address."""

    def __init__(
        self,
        spec: HostSpec,
        address: IPv4Address,
        *,
        facts: MachineFacts,
        runner: Runner,
        clock: Clock,
    ) -> None:
        self.spec = spec
        self.address = address
        self._facts = facts
        self._runner = runner
        self._clock = clock

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def machine_dir(self) -> Path:
        """The host's folder on this computer: disks, state folders and console.log."""
        return self.spec.folder

    @property
    def pid(self) -> int | None:
        """The host's first process as this computer numbers it, or None when the host is off."""
        launcher = self._launcher()
        return container_leader(launcher) if launcher is not None else None

    def install(self, network: IPv4Network) -> None:
        """Give the host its disk, once. A host that has one keeps it as it is."""
        if (self.machine_dir / "upper/etc/machine-id").exists():
            return
        for folder in ("upper", "work", "root", *(f"state/{n}" for n in launch.STATE_FOLDERS)):
            (self.machine_dir / folder).mkdir(parents=True, exist_ok=True)
        files = hostfiles.host_files(
            name=self.name,
            machine_id=machine_id(self.spec.run, self.name),
            address=self.address,
            network=network,
            gateway=gateway_of(network),
        )
        # The machine id goes last: it is the mark of a complete disk.
        for path, (mode, content) in sorted(files.items(), key=lambda f: f[0].endswith("-id")):
            write_file(self.machine_dir / "upper" / path, content, mode=mode)

    async def start(self, *, timeout_s: float = 120.0) -> None:
        """Boot and wait until systemd is done. Nothing happens when the host runs already.

        Ends well for `degraded` too; `failed_units` says what failed. Raises HostFailed.
        """
        if self._launcher() is None:
            await self._launch()
        deadline = self._clock.monotonic() + timeout_s
        while (state := await self._boot_state()) not in ("running", "degraded"):
            if self._launcher() is None or self._clock.monotonic() > deadline:
                raise HostFailed(
                    f"lab host {self.name} did not boot (state {state or 'off'!r})\n"
                    + self.console()[-2000:],
                    hint=f"see {self.machine_dir / 'console.log'}",
                )
            await self._clock.sleep(_POLL_S)
        log.info("lab.host.started", host=self.name, address=str(self.address), state=state)

    async def stop(self, *, timeout_s: float = 120.0) -> None:
        """Shut down in order; a host that does not end in time is cut off and reported."""
        leader = self.pid
        if leader is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(leader, _POWER_OFF_SIGNAL)
        if not await self._wait_off(timeout_s):
            await self.kill()
            raise HostFailed(f"lab host {self.name} did not shut down within {timeout_s:g} s")
        await self._clean_cgroups()
        log.info("lab.host.stopped", host=self.name)

    async def kill(self) -> None:
        """Cut the power: every process of the host ends at once. The page cache survives."""
        launcher, leader = self._launcher(), self.pid
        for pid in (leader, launcher if leader is None else None):
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if not await self._wait_off(20.0) and launcher is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(launcher, signal.SIGKILL)
        await self._clean_cgroups()
        log.info("lab.host.killed", host=self.name)

    async def destroy(self) -> None:
        """Cut the power and remove the disk."""
        await self.kill()
        await anyio.to_thread.run_sync(shutil.rmtree, self.machine_dir, True)

    async def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        check: bool = True,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> Result:
        """Run a command as root inside the host; the same contract as `Runner.run`.

        Raises HostFailed when the host is off.
        """
        inner = list(argv) if cwd is None else ["env", f"--chdir={cwd}", *argv]
        result = await self._runner.run(
            self.enter_argv(inner, env=env),
            timeout_s=timeout_s,
            check=False,
            stdin=stdin,
            env=launch.inside_env(env),
        )
        shown = Result(tuple(argv), result.code, result.stdout, result.stderr)
        if check and not shown.ok:
            raise CommandFailed(shown, hint=f"the command ran on lab host {self.name}")
        return shown

    def enter_argv(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None) -> list[str]:
        """The command line that runs `argv` inside the host, for a caller with a terminal.

        The caller sets `launch.inside_env(env)` on top of its own environment. Raises HostFailed.
        """
        leader = self.pid
        if leader is None:
            raise HostFailed(f"lab host {self.name} is off", hint="start it first")
        kept = {*_KEPT_ENV, *(env or {})}
        return launch.enter_argv(
            leader,
            argv,
            cgroup_procs=launch.cgroup_places(
                Path(f"/proc/{leader}/cgroup").read_text(), self._facts
            ),
            drop_env=[name for name in os.environ if name not in kept],
        )

    async def copy_in(self, src: Path, dst: str, *, timeout_s: float = 120.0) -> None:
        """Copy a file or the content of a folder to `dst` inside the running host.

        Modes are kept, owner becomes root, folders are made. An existing file is replaced.
        """
        if src.is_dir():
            send = ["tar", "--owner=0", "--group=0", "-C", str(src), "-cf", "-", "."]
            take = ["sh", "-c", 'mkdir -p "$1" && tar -C "$1" -xf -', "sh", dst]
        else:
            send = ["cat", str(src)]
            mode = f"{src.stat().st_mode & 0o7777:o}"
            script = (
                'mkdir -p "$(dirname "$1")" && cat >"$1.new" && '
                'chmod "$2" "$1.new" && mv -T "$1.new" "$1"'
            )
            take = ["sh", "-c", script, "sh", dst, mode]
        pipe = f"set -o pipefail; {shlex.join(send)} | {shlex.join(self.enter_argv(take))}"
        await self._runner.run(
            ["bash", "-c", pipe], timeout_s=timeout_s, env=launch.inside_env(None)
        )

    async def failed_units(self) -> list[str]:
        """Names of units that failed inside the host."""
        listed = await self.run(
            ["systemctl", "list-units", "--failed", "--plain", "--no-legend"], timeout_s=15
        )
        return [line.split()[0] for line in listed.stdout.splitlines() if line.split()]

    def console(self) -> str:
        """What the host has printed since its disk was made."""
        try:
            return (self.machine_dir / "console.log").read_text(errors="replace")
        except FileNotFoundError:
            return ""

    async def _launch(self) -> None:
        await self._clean_cgroups()
        places = []
        if not self._facts.runs_systemd:
            places = cgroups.make(self.spec.run, self.name, self._facts)
        script = self.machine_dir / "launch.sh"
        write_file(script, launch.launch_script(self.spec, self._facts, places), mode=0o755)
        (self.machine_dir / "launcher.pid").unlink(missing_ok=True)
        log_file = shlex.quote(str(self.machine_dir / "console.log"))
        start = f"exec setsid --fork {shlex.quote(str(script))} </dev/null >>{log_file} 2>&1"
        await self._runner.run(["sh", "-c", start], timeout_s=15)
        deadline = self._clock.monotonic() + 10
        while self._launcher() is None and self._clock.monotonic() < deadline:
            await self._clock.sleep(0.02)

    async def _boot_state(self) -> str:
        if self.pid is None:
            return ""
        with contextlib.suppress(HostFailed, CommandTimedOut, OSError):
            asked = await self.run(["systemctl", "is-system-running"], timeout_s=10, check=False)
            return asked.stdout.strip()
        return ""

    async def _wait_off(self, timeout_s: float) -> bool:
        deadline = self._clock.monotonic() + timeout_s
        while self._launcher() is not None:
            if self._clock.monotonic() > deadline:
                return False
            await self._clock.sleep(0.05)
        return True

    async def _clean_cgroups(self) -> None:
        tops = cgroups.folders(self.spec.run, self.name, self._facts)
        await cgroups.remove(tops, self._clock)

    def _launcher(self) -> int | None:
        try:
            pid = int((self.machine_dir / "launcher.pid").read_text())
        except (FileNotFoundError, ValueError):
            return None
        return pid if is_alive(pid, marker=str(self.machine_dir / "launch.sh")) else None
