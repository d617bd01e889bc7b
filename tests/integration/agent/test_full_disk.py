"""A disk without space: one cause on both sides, nothing lost, and it goes on by itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import anyio
import pytest
from tests.integration.agent.agents import Agent
from tests.integration.agent.stacks import push_profile, push_release, put_cluster
from tests.integration.sim.conftest import Manager

from skerry.agent import paths
from skerry.lib.files import DiskFull
from skerry.lib.memory_files import MemoryRoot
from skerry.manager.services.centre import INTERNAL
from skerry.manager.services.why import why_host

pytestmark = [pytest.mark.integration, pytest.mark.anyio]


@dataclass
class FullRoot(MemoryRoot):
    """/var takes no more bytes; /run lies in memory and does."""

    full: bool = False

    def write_chunks(self, path: str, chunks: Iterable[bytes], *, mode: int = 0o644) -> int:
        if self.full and path.startswith("/var"):
            raise DiskFull(path)
        return MemoryRoot.write_chunks(self, path, chunks, mode=mode)

    def append(self, path: str, data: bytes) -> None:
        if self.full and path.startswith("/var"):
            raise DiskFull(path)
        MemoryRoot.append(self, path, data)


async def test_a_full_disk_is_said_on_both_sides_and_work_goes_on_after(manager: Manager) -> None:
    token = await manager.token(autoApprove=True)
    root = FullRoot()
    agent = Agent(manager.url, manager.authority_pem, token=token, root=root)
    agent.register()
    async with agent.running():
        await agent.until_synced()
        name = agent.identity.host_name
        await push_release(manager, "1.36.3")
        await push_profile(manager, "1.0.0", kubernetes="1.36.3")
        root.full = True
        await put_cluster(manager, name, "1.0.0")

        await agent.until_reason("DiskFull")
        assert root.exists(paths.STATUS_ASIDE), "the status went where there is room"
        assert "next  skerry describe host" in agent.screen
        with anyio.fail_after(20):
            reason = ""
            while reason != "DiskFull":
                await anyio.sleep(0.05)
                reason = (await why_host(manager.centre, INTERNAL, "default", name)).reason

        root.full = False
        status = await agent.until(
            lambda now: now.report is not None and now.report.kubernetes.node_ready
        )
        assert status.report is not None
        await agent.until(lambda _: agent.cause.reason == "")
        assert not root.exists(paths.STATUS_ASIDE)


async def test_a_disk_that_is_full_from_the_start_still_registers_when_there_is_room(
    manager: Manager,
) -> None:
    token = await manager.token(autoApprove=True)
    root = FullRoot()
    agent = Agent(manager.url, manager.authority_pem, token=token, root=root)
    agent.register()
    # Keys and the first numbers are there; the answer to the registration finds no room.
    async with agent.running():
        await agent.until_synced()
    for path in (paths.STATUS, paths.IDENTITY):
        root.remove(path)
    agent.token = ""
    agent.register()
    root.full = True

    async with agent.running():
        await agent.until_reason("DiskFull")
        root.full = False
        await agent.until_synced()

    assert len(await manager.list("Host")) == 1
