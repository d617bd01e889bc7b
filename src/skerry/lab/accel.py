"""Whether this computer's processor can carry a machine: asked by starting one.

A device /dev/kvm that opens proves nothing: nested and paravirtual kinds make a machine and then
fail on the first instruction that they do not emulate.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from skerry.lab.errors import HostFailed
from skerry.lab.guest import GuestKit
from skerry.lab.machine import Machine
from skerry.lab.qemu import KVM, TCG, MachineSpec
from skerry.lib.proc import Runner

_LIMIT_S = 20.0
# Kept until this computer restarts, which may bring another kernel or another host below.
_ANSWER = Path("/run/skerry-lab/accel.json")


async def probe_accel(kit: GuestKit, runner: Runner, *, answer: Path = _ANSWER) -> tuple[str, ...]:
    """The words for QEMU: KVM where the lab's guest starts with it, else emulation."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return TCG
    try:
        return KVM if json.loads(answer.read_text())["kvm"] else TCG
    except (OSError, ValueError, KeyError, TypeError):
        works = await _starts(kit, runner)
    answer.parent.mkdir(parents=True, exist_ok=True)
    fresh = answer.with_suffix(f".{os.getpid()}")
    fresh.write_text(json.dumps({"kvm": works}))
    fresh.rename(answer)
    return KVM if works else TCG


async def _starts(kit: GuestKit, runner: Runner) -> bool:
    with tempfile.TemporaryDirectory(prefix="skerry-accel-") as folder:
        spec = MachineSpec(
            run=f"probe-{os.getpid()}",
            name="kvm",
            folder=Path(folder),
            firmware="direct",
            memory_mib=512,
            cpus=1,
            kernel=kit.kernel,
            initrd=kit.initrd,
            cmdline=kit.cmdline,
        )
        async with Machine(spec, accel=KVM, runner=runner) as machine:
            try:
                await machine.start()
                await machine.wait_for("lab guest is up", _LIMIT_S)
            except HostFailed:
                return False
    return True
