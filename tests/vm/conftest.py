"""Fixtures for machines in QEMU. Everything of a machine lies in the test's own folder, and it ends
with the test."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from skerry.builder.cache import default_cache
from skerry.lab.accel import probe_accel
from skerry.lab.guest import GuestKit, ensure_guest
from skerry.lab.machine import Machine
from skerry.lab.qemu import Disk, MachineSpec
from skerry.lib.proc import SystemRunner


@dataclass(frozen=True)
class Bench:
    """The guest of the lab, and how this computer runs machines."""

    kit: GuestKit
    accel: tuple[str, ...]
    folder: Path

    def guest(self, name: str, *disks: Disk, share: bool = False) -> Machine:
        """The lab's guest, off."""
        spec = MachineSpec(
            run=f"vm{os.getpid()}",
            name=name,
            folder=self.folder / name,
            firmware="direct",
            memory_mib=768,
            disks=disks,
            kernel=self.kit.kernel,
            initrd=self.kit.initrd,
            cmdline=self.kit.cmdline,
            share=Path("/") if share else None,
        )
        return Machine(spec, accel=self.accel)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Fixtures outlive a test, and so does their event loop."""
    return "asyncio"


@pytest.fixture(scope="session")
def place() -> Iterator[Path]:
    """Where disks lie. Not below /tmp: the guest sees its own there, and it may be in memory."""
    base = Path("/var/tmp/skerry-vm-tests")
    base.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=base))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
async def bench(anyio_backend: str, place: Path) -> Bench:
    if os.geteuid() != 0:
        pytest.skip("machines need root")
    runner = SystemRunner()
    kit = await ensure_guest(default_cache(os.environ), runner)
    return Bench(kit, await probe_accel(kit, runner), place)
