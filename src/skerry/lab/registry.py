"""What all labs of this computer share, under /run/skerry-lab and one lock.

Holds where each run lies (so that it can be removed by name) and the sysctls of the whole
computer that a kubelet changes: the first lab records them, the last one puts them back.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from skerry.lib.clock import Clock

# The kubelet's own list (kubernetes pkg/util/sysctl), and what its protectKernelDefaults checks.
SYSCTLS = (
    "kernel/keys/root_maxbytes",
    "kernel/keys/root_maxkeys",
    "kernel/panic",
    "kernel/panic_on_oops",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
)


class Registry:
    """The labs of this computer. `folder` and `proc_sys` differ only in tests."""

    def __init__(
        self,
        clock: Clock,
        *,
        folder: Path = Path("/run/skerry-lab"),
        proc_sys: Path = Path("/proc/sys"),
    ) -> None:
        self._clock = clock
        self._folder = folder
        self._proc_sys = proc_sys

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        """Hold the lock of all labs; for short work only."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "lock").open("w") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    await self._clock.sleep(0.05)
                else:
                    break
            yield

    def enter(self, run: str, base_dir: Path) -> None:
        """Note a run, and before the first one the computer's sysctls. Call under the lock."""
        if not self.runs():
            values = {name: self._read(name) for name in SYSCTLS}
            self._sysctl_file.write_text(json.dumps({k: v for k, v in values.items() if v}))
        self._run_file(run).write_text(json.dumps({"base_dir": str(base_dir)}))

    def leave(self, run: str) -> None:
        """Forget a run, and after the last one put the sysctls back. Call under the lock."""
        self._run_file(run).unlink(missing_ok=True)
        if self.runs() or not self._sysctl_file.exists():
            return
        for name, value in json.loads(self._sysctl_file.read_text()).items():
            if self._read(name) != value:
                (self._proc_sys / name).write_text(value)
        self._sysctl_file.unlink()

    def runs(self) -> list[str]:
        """Names of the runs that are noted."""
        return sorted(path.name[: -len(".run")] for path in self._folder.glob("*.run"))

    def base_dir(self, run: str) -> Path | None:
        """Where a run lies, or None when it is not noted."""
        with contextlib.suppress(OSError, ValueError, KeyError):
            return Path(json.loads(self._run_file(run).read_text())["base_dir"])
        return None

    @property
    def _sysctl_file(self) -> Path:
        return self._folder / "sysctls.json"

    def _run_file(self, run: str) -> Path:
        return self._folder / f"{run}.run"

    def _read(self, name: str) -> str:
        try:
            return (self._proc_sys / name).read_text().strip()
        except OSError:
            return ""
