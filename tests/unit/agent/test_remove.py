"""Leaving a host: nothing of the agent stays, a disk of its own stays where it is."""

from __future__ import annotations

import pytest

from skerry.agent import paths
from skerry.agent.kube.fake import FakeKubeEngine
from skerry.agent.remove import remove_agent
from skerry.agent.trial import Trial, begin
from skerry.lib.clock import ManualClock
from skerry.lib.memory_files import MemoryRoot
from skerry.lib.proc import FakeRunner

pytestmark = pytest.mark.anyio


async def test_everything_of_the_agent_goes_also_in_the_middle_of_a_trial() -> None:
    root, runner = MemoryRoot(), FakeRunner()
    root.write("/etc/systemd/system/other.service", b"")
    before = dict(root.files)
    root.write(f"{paths.SLOTS}/a/skerry-agent", b"")
    root.link(paths.CURRENT, "a")
    root.link("/usr/local/bin/skerry-agent", f"{paths.CURRENT}/skerry-agent")
    root.write(f"{paths.UNITS}/{paths.AGENT_UNIT}", b"")
    root.write(paths.IDENTITY, b"{}")
    mark = Trial(new="b", old="a", starts=3, seconds=9, version="0.2.0", digest="sha256:00")
    await begin(root, runner, mark)

    await remove_agent(root, runner, FakeKubeEngine(ManualClock()))

    assert root.files == before
    assert root.links == {}
    assert runner.called("systemctl", "stop", paths.WATCHDOG_TIMER)
    assert runner.called("systemctl", "disable", "--now", paths.AGENT_UNIT)


async def test_a_disk_of_its_own_is_emptied_and_left() -> None:
    root = MemoryRoot()
    place = f"{paths.STATE}/containerd"
    root.write("/proc/self/mountinfo", f"36 35 8:1 / {place} rw - ext4 /dev/sda1 rw\n".encode())
    root.mkdir(place)
    root.write(f"{place}/io.db", b"")
    root.write(paths.IDENTITY, b"{}")

    await remove_agent(root, FakeRunner(), FakeKubeEngine(ManualClock()))

    assert root.list(paths.STATE) == ["containerd"]
    assert root.list(place) == []
