"""Clocks two years off, the host's or the manager's: what each side says, and that work goes on.

TLS reads this computer's clock, so it is the manager's clock that is moved: a manager two years
ahead is, for the host, the same as a host two years behind.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest
from tests.integration.agent.agents import Agent, HastyClock
from tests.integration.sim.conftest import Manager

from skerry.lib.clock import SystemClock
from skerry.manager.app import ServingInfo, serve
from skerry.manager.services.centre import INTERNAL, Centre
from skerry.manager.services.why import why_host
from skerry.manager.settings import Settings

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

YEARS = timedelta(days=730)


class OffClock(SystemClock):
    """A clock that is somewhere else and else like the true one."""

    def __init__(self, offset: timedelta) -> None:
        self._offset = offset

    def now(self) -> datetime:
        return super().now() + self._offset


@dataclass
class Place:
    """A manager's folder and port, so that it can come back with another clock."""

    data: Path
    port: int = 0

    @asynccontextmanager
    async def manager(self, offset: timedelta = timedelta()) -> AsyncIterator[Manager]:
        inside: list[Centre] = []
        info: list[ServingInfo] = []
        started = anyio.Event()

        def ready(found: ServingInfo) -> None:
            info.append(found)
            started.set()

        def more(centre: Centre) -> tuple[()]:
            inside.append(centre)
            return ()

        settings = Settings(
            data=str(self.data), port=self.port, sync_interval_s=1, busy_interval_s=1
        )
        async with anyio.create_task_group() as tg:
            tg.start_soon(lambda: serve(settings, ready=ready, more=more, clock=OffClock(offset)))
            with anyio.fail_after(30):
                await started.wait()
            found = Manager(info[0].url, Path(info[0].ca_file).read_text(), inside[0])
            self.port = int(found.url.rpartition(":")[2])
            yield found
            tg.cancel_scope.cancel()


async def _centre_says(manager: Manager, name: str, reason: str) -> str:
    with anyio.fail_after(20):
        while True:
            cause = await why_host(manager.centre, INTERNAL, "default", name)
            if cause.reason == reason:
                return cause.message
            await anyio.sleep(0.05)


@pytest.mark.parametrize(
    ("offset", "reason"), [(YEARS, "ClockWrong"), (-YEARS, "ManagerClockWrong")]
)
async def test_both_sides_name_the_clock_in_the_same_words_and_the_line_holds(
    tmp_path: Path, offset: timedelta, reason: str
) -> None:
    place = Place(tmp_path / "manager")
    async with place.manager() as manager:
        token = await manager.token(autoApprove=True)
        agent = Agent(manager.url, manager.authority_pem, token=token)
        agent.register()
        async with agent.running():
            await agent.until_synced()
    name = agent.identity.host_name

    async with place.manager(offset) as manager, agent.running():
        await agent.until_reason(reason)
        await agent.until_synced()
        told = await _centre_says(manager, name, reason)
        assert told == agent.cause.message
        assert agent.cause.title in agent.screen

    async with place.manager() as manager, agent.running():
        # The clocks agree again: nothing is left of it, on either side.
        await agent.until(lambda _: agent.cause.reason == "")
        await _centre_says(manager, name, "")


async def test_a_machine_without_a_battery_is_put_right_by_its_managers_answer(
    tmp_path: Path,
) -> None:
    place = Place(tmp_path / "manager")
    async with place.manager() as manager:
        token = await manager.token(autoApprove=True)
        agent = Agent(manager.url, manager.authority_pem, token=token)
        agent.register()
        async with agent.running():
            await agent.until_synced()

        agent.clock = HastyClock(offset=datetime(1970, 1, 1, tzinfo=UTC) - datetime.now(UTC))
        agent.own_clock = True
        async with agent.running():
            with anyio.fail_after(20):  # the floor was kept on disk: no answer is needed
                while abs(agent.clock.offset) > timedelta(hours=1):  # noqa: ASYNC110
                    await anyio.sleep(0.01)

        agent.root.remove("/var/lib/skerry/identity/clock-floor")
        agent.root.remove("/var/lib/skerry/desired/current.json")
        agent.clock = HastyClock(offset=datetime(1970, 1, 1, tzinfo=UTC) - datetime.now(UTC))
        async with agent.running():
            with anyio.fail_after(20):
                while abs(agent.clock.offset) > timedelta(hours=1):  # noqa: ASYNC110
                    await anyio.sleep(0.05)
            await agent.until(lambda _: agent.cause.reason == "")
            told = 0
            with anyio.fail_after(20):
                while told < 2:  # one by its own floor, one by the answer
                    await anyio.sleep(0.05)
                    found = await manager.centre.store.events(limit=100)
                    told = sum(item.event.reason == "ClockStepped" for item in found)


async def test_a_new_machine_that_is_years_behind_is_stepped_to_the_certificate(
    tmp_path: Path,
) -> None:
    place = Place(tmp_path / "manager")
    async with place.manager():
        pass  # its authority is of today, as the install line pinned it
    async with place.manager(YEARS) as manager:
        agent = Agent(manager.url, manager.authority_pem, token=await manager.token())
        agent.own_clock = True
        agent.register()
        async with agent.running():
            await agent.until_reason("ClockWrong")
            with anyio.fail_after(20):
                while agent.clock.offset < YEARS - timedelta(days=3):  # noqa: ASYNC110
                    await anyio.sleep(0.05)

    # The certificate counts from a day before it was made: no later than the manager's own time.
    assert agent.clock.offset <= YEARS
