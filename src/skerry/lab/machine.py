"""A real machine in QEMU: firmware, disks by file, serial log, control socket, a root shell.

A power cut is SIGKILL of QEMU: what the guest wrote but did not flush may be there all the same,
so a missing flush is only found by recording writes (`skerry.lab.blocklog`). The machine ends with
the process that started it, also when that one crashes.
"""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio
import anyio.abc
import structlog

from skerry.lab.errors import HostFailed
from skerry.lab.qemu import MachineSpec, firmware_files, qemu_argv
from skerry.lab.qmp import qmp
from skerry.lib.clock import Clock, SystemClock
from skerry.lib.proc import CommandFailed, Result, Runner, SystemRunner

log = structlog.get_logger()

_POLL_S = 0.2
_MAX_ANSWER_BYTES = 8 * 1024 * 1024
_VIRTIOFSD = ("/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd")


class Machine:
    """One machine; off until `start`. An async context that cuts the power at its end."""

    def __init__(
        self,
        spec: MachineSpec,
        *,
        accel: Sequence[str],
        runner: Runner | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.spec = spec
        self._accel = accel
        self._runner = runner or SystemRunner()
        self._clock = clock or SystemClock()
        self._qemu: anyio.abc.Process | None = None
        self._helpers: list[anyio.abc.Process] = []
        self._asked = 0
        self._shell_free = anyio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with anyio.CancelScope(shield=True):
            await self.power_cut()

    @property
    def running(self) -> bool:
        return self._qemu is not None and self._qemu.returncode is None

    @property
    def serial_path(self) -> Path:
        return self.spec.at("serial.log")

    def serial(self) -> str:
        """What the first serial port said since the power came on."""
        try:
            return self.serial_path.read_bytes().decode(errors="replace")
        except FileNotFoundError:
            return ""

    async def start(self) -> None:
        """Switch the power on. Firmware variables stay from the last time. Raises HostFailed."""
        if self.running:
            raise HostFailed(f"machine {self.spec.name} runs already")
        self.spec.folder.mkdir(parents=True, exist_ok=True)
        self._keep_old_log()
        if self.spec.firmware != "direct" and not self.spec.at("vars.fd").exists():
            shutil.copyfile(firmware_files(self.spec.firmware)[1], self.spec.at("vars.fd"))
        for name in ("shell.sock", "qmp.sock", "tpm.sock", "share.sock"):
            self.spec.at(name).unlink(missing_ok=True)
        await self._start_helpers()
        if self.spec.bridge:
            script = self.spec.at("join-bridge")
            script.write_text(
                f'#!/bin/sh\nip link set "$1" master {self.spec.bridge} && ip link set "$1" up\n'
            )
            script.chmod(0o755)
        self._qemu = await self._spawn(qemu_argv(self.spec, accel=self._accel), "qemu.log")
        await self._wait_for_file("qmp.sock")
        log.info("lab.machine.started", machine=self.spec.machine)

    async def power_cut(self) -> None:
        """End the machine as a pulled plug does. Nothing happens when it is off."""
        for process in (self._qemu, *self._helpers):
            if process is not None and process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        self._helpers = []

    async def quit(self) -> None:
        """End the machine, but let QEMU write what it was given (needed for a recording)."""
        if self.running:
            with contextlib.suppress(HostFailed):
                await qmp(self.spec.at("qmp.sock"), "quit")
            with anyio.move_on_after(20):
                await self.wait_off()
        await self.power_cut()

    async def wait_off(self, limit_s: float = 120.0) -> None:
        """Wait until the guest has switched itself off. Raises HostFailed."""
        with anyio.move_on_after(limit_s):
            if self._qemu is not None:
                await self._qemu.wait()
            return
        raise self._failed(f"did not switch off within {limit_s:g} s")

    async def reset(self) -> None:
        """Press the reset button."""
        await qmp(self.spec.at("qmp.sock"), "system_reset")

    async def status(self) -> str:
        """QEMU's word for the machine's state, such as `running`."""
        return str((await qmp(self.spec.at("qmp.sock"), "query-status"))["status"])

    async def picture(self, into: Path) -> None:
        """What the screen shows, as a PNG file."""
        await qmp(self.spec.at("qmp.sock"), "screendump", filename=str(into), format="png")

    async def wait_for(self, text: str, limit_s: float, *, times: int = 1) -> float:
        """Wait until the serial port has said `text` that many times since the power came on;
        the seconds it took. Raises HostFailed with the log's end."""
        begun = self._clock.monotonic()
        while self.serial().count(text) < times:
            if not self.running:
                raise self._failed(f"switched off before it said {text!r}")
            if self._clock.monotonic() - begun > limit_s:
                raise self._failed(f"did not say {text!r} within {limit_s:g} s")
            await self._clock.sleep(_POLL_S)
        return self._clock.monotonic() - begun

    async def wait_for_shell(self, limit_s: float) -> float:
        """Wait until the guest's shell answers; the seconds it took. Raises HostFailed."""
        begun = self._clock.monotonic()
        while True:
            with contextlib.suppress(HostFailed):
                await self.sh("true", timeout_s=5)
                return self._clock.monotonic() - begun
            if not self.running or self._clock.monotonic() - begun > limit_s:
                raise self._failed(f"did not open its shell within {limit_s:g} s")
            await self._clock.sleep(1)

    async def sh(self, script: str, *, timeout_s: float = 60.0, check: bool = True) -> Result:
        """Run a shell script as root in the guest; output and errors come as one text.

        Raises HostFailed when nothing answers, CommandFailed for the script's own code.
        """
        async with self._shell_free:
            self._asked += 1
            mark = f"lab{os.getpid()}x{self._asked}"
            place = f"/tmp/.{mark}"  # noqa: S108 - of the guest
            inner = (
                f"echo {_packed(script)} | base64 -d >{place}; sh {place} >{place}o 2>&1"
                f" </dev/null; code=$?; echo; echo {mark}-BEGIN $code; base64 {place}o;"
                f" echo {mark}-END; rm -f {place} {place}o"
            )
            # One line without quotes or brackets: a part of it that is lost while the shell begins
            # must not swallow the next one. A terminal that echoes does not say the marks.
            asked = f"\necho {_packed(inner)} | base64 -d | sh\n"
            try:
                with anyio.fail_after(timeout_s):
                    answer = await self._ask(asked, mark)
            except (OSError, anyio.EndOfStream, anyio.BrokenResourceError, TimeoutError) as exc:
                raise self._failed(f"does not answer on its shell within {timeout_s:g} s") from exc
        code, _, packed = answer.decode(errors="replace").partition("\n")
        try:
            text = base64.b64decode(packed).decode(errors="replace")
            result = Result(("sh", "-c", script), int(code), text.rstrip("\n"), "")
        except ValueError as exc:
            raise self._failed(f"answers oddly on its shell: {answer[:80]!r}") from exc
        if check and not result.ok:
            raise CommandFailed(result, hint=f"the script ran on machine {self.spec.name}")
        return result

    async def _ask(self, asked: str, mark: str) -> bytes:
        begin, end = f"{mark}-BEGIN".encode(), f"{mark}-END".encode()
        async with await anyio.connect_unix(self.spec.at("shell.sock")) as stream:
            await stream.send(asked.encode())
            said = b""
            while end not in said:
                said += await stream.receive()
                if len(said) > _MAX_ANSWER_BYTES:
                    raise self._failed("says too much on its shell")
        return said.partition(begin)[2].partition(end)[0]

    async def _start_helpers(self) -> None:
        if self.spec.tpm:
            state = self.spec.at("tpm")
            state.mkdir(exist_ok=True)
            self._helpers.append(
                await self._spawn(
                    [
                        *("swtpm", "socket", "--tpm2", "--terminate"),
                        *("--tpmstate", f"dir={state}", "--flags", "not-need-init,startup-clear"),
                        *("--ctrl", f"type=unixio,path={self.spec.at('tpm.sock')}"),
                    ],
                    "tpm.log",
                )
            )
            await self._wait_for_file("tpm.sock")
        if self.spec.share is not None:
            program = next((path for path in _VIRTIOFSD if os.access(path, os.X_OK)), "virtiofsd")
            self._helpers.append(
                await self._spawn(
                    [
                        *(program, f"--socket-path={self.spec.at('share.sock')}"),
                        *("-o", f"source={self.spec.share}", "-o", "cache=always"),
                        *("-o", "sandbox=chroot"),
                    ],
                    "share.log",
                )
            )
            await self._wait_for_file("share.sock")

    async def _spawn(self, argv: list[str], log_name: str) -> anyio.abc.Process:
        with self.spec.at(log_name).open("ab") as out:
            return await anyio.open_process(
                ["setpriv", "--pdeathsig=KILL", "--", *argv],
                stdin=None,
                stdout=out.fileno(),
                stderr=out.fileno(),
                start_new_session=True,
            )

    async def _wait_for_file(self, name: str) -> None:
        for _ in range(100):
            if self.spec.at(name).exists():
                return
            if self._qemu is not None and self._qemu.returncode is not None:
                break
            await self._clock.sleep(0.1)
        await self.power_cut()
        raise self._failed(f"could not be started: {name} is missing")

    def _keep_old_log(self) -> None:
        if not self.serial_path.exists():
            return
        number = len(list(self.spec.folder.glob("serial-*.log"))) + 1
        self.serial_path.rename(self.spec.at(f"serial-{number:02d}.log"))

    def _failed(self, what: str) -> HostFailed:
        said = self.serial()[-1500:]
        with contextlib.suppress(OSError):
            said += self.spec.at("qemu.log").read_text(errors="replace")[-500:]
        return HostFailed(
            f"machine {self.spec.name} {what}\n{said}", hint=f"see {self.spec.folder}"
        )


def _packed(script: str) -> str:
    return base64.b64encode(script.encode()).decode()
