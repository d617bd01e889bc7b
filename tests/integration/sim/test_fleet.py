"""A simulated fleet against a real manager over HTTPS."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from tests.integration.agent.machines import push_os
from tests.integration.sim.conftest import Manager

from skerry.lib.files import DiskRoot
from skerry.model.kinds import HostPhase
from skerry.sim import Faults, Fleet, FleetCount

pytestmark = [pytest.mark.integration, pytest.mark.anyio]


@asynccontextmanager
async def running(fleet: Fleet) -> AsyncIterator[Fleet]:
    async with anyio.create_task_group() as tg:
        tg.start_soon(fleet.run)
        yield fleet
        tg.cancel_scope.cancel()


async def until(fleet: Fleet, *, limit_s: float = 30, **wanted: int) -> FleetCount:
    with anyio.fail_after(limit_s):
        while True:
            now = fleet.count()
            if all(getattr(now, name) == value for name, value in wanted.items()):
                return now
            await anyio.sleep(0.1)


def _fleet(
    manager: Manager, token: str = "", *, hosts: int = 20, folder: Path | None = None
) -> Fleet:
    return Fleet(
        manager=manager.url,
        authority_pem=manager.authority_pem,
        hosts=hosts,
        sites=5,
        token=token,
        state=DiskRoot(str(folder)) if folder else None,
    )


async def test_hosts_register_by_token_and_report_what_they_are(manager: Manager) -> None:
    token = await manager.token(autoApprove=True)

    async with running(_fleet(manager, token)) as fleet:
        await until(fleet, registered=20, online=20)

    hosts = await manager.list("Host")
    assert {host.status.phase for host in hosts} == {HostPhase.READY}
    assert Counter(host.spec.site for host in hosts) == {place.name: 4 for place in fleet.places()}
    assert len({host.status.hardware_id for host in hosts}) == 20
    assert len({host.status.public_key for host in hosts}) == 20
    assert all(host.status.inventory.memory_bytes for host in hosts)
    assert "rotterdam-1" in {host.name for host in hosts}
    assert all(host.metadata.labels["coast"] for host in hosts)


async def test_the_same_hosts_come_back_after_a_restart(manager: Manager, tmp_path: Path) -> None:
    token = await manager.token(autoApprove=True)
    async with running(_fleet(manager, token, folder=tmp_path)) as fleet:
        await until(fleet, registered=20, online=20)
    before = {host.name: host.status.public_key for host in await manager.list("Host")}

    async with running(_fleet(manager, folder=tmp_path)) as fleet:
        await until(fleet, registered=20, online=20)

    after = {host.name: host.status.public_key for host in await manager.list("Host")}
    assert after == before


async def test_without_a_token_hosts_wait_for_approval(manager: Manager) -> None:
    async with running(_fleet(manager, hosts=3)) as fleet:
        count = await until(fleet, pending=3)

    assert count.registered == 0
    hosts = await manager.list("Host")
    assert {host.status.phase for host in hosts} == {HostPhase.PENDING}
    assert all(host.status.registration_code for host in hosts)


async def test_offline_hosts_are_known_and_then_silent(manager: Manager) -> None:
    token = await manager.token(autoApprove=True)
    fleet = _fleet(manager, token)
    fleet.faults = Faults(offline_percent=30, first_contact_s=2)
    away = sum(fleet.faults.offline(seed=1, number=number) for number in range(20))

    async with running(fleet):
        await until(fleet, registered=20)
        await until(fleet, online=20 - away)

    assert 0 < away < 20


@pytest.mark.parametrize(
    ("bad_percent", "version", "reason"), [(0, "2.0.0", "Ready"), (100, "1.0.0", "OsInterrupted")]
)
async def test_simulated_hosts_restart_into_another_os_and_come_back_from_a_bad_one(
    manager: Manager, bad_percent: int, version: str, reason: str
) -> None:
    token = await manager.token(autoApprove=True)
    fleet = _fleet(manager, token, hosts=3)
    fleet.faults = Faults(bad_updates_percent=bad_percent)
    await push_os(manager, "2.0.0")

    async with running(fleet):
        await until(fleet, registered=3, online=3)
        for host in await manager.list("Host"):
            spec = {"site": host.spec.site, "approval": "approved", "osImage": "edge-2-0-0"}
            labels = {"labels": host.metadata.labels}
            await manager.apply(
                {"kind": "Host", "metadata": {"name": host.name, **labels}, "spec": spec}
            )
        with anyio.fail_after(60):
            while True:
                hosts = await manager.list("Host")
                told = [
                    (host.status.os.version, item.reason)
                    for host in hosts
                    for item in host.status.conditions
                    if item.type == "OsUpdated"
                ]
                if told == [(version, reason)] * 3:
                    break
                await anyio.sleep(0.2)

    assert all(host.status.os.engine == "fake" for host in hosts)
