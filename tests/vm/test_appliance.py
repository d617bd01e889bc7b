"""The appliance on a machine: it starts, joins by a stick, is updated A to B, survives power cuts,
and returns from an image that does not start. One story, because each chapter needs the one before.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.vm.appliance import (
    BAD,
    FIRST,
    SECOND,
    START_S,
    Built,
    Story,
    build_images,
    telling,
    until,
)
from tests.vm.conftest import Bench

from skerry.lab.machine import Machine

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(2400)]


@pytest.fixture(scope="session")
def images(place: Path) -> dict[str, Built]:
    return build_images(place)


@pytest.fixture
async def story(bench: Bench, place: Path, images: dict[str, Built]) -> AsyncIterator[Story]:
    async with telling(bench, place, images) as told:
        yield told


async def test_the_appliance_joins_is_updated_and_returns(story: Story) -> None:
    machine = story.machine
    async with story.chapter("power on to shell, keys enrolled on the way"):
        await machine.start()
        await machine.wait_for_shell(START_S)
    async with story.chapter("the host joins by its stick"):
        await until("the host", lambda: story.runs(FIRST, "a"), limit_s=START_S)
        await secure_boot_is_on(machine)
        await nothing_failed(machine)
    async with story.chapter("images are pushed"):
        await story.push_images()
    async with story.chapter("update from slot a to b"):
        await story.wants(SECOND)
        await until("the second image", lambda: story.runs(SECOND, "b"), limit_s=3 * START_S)
        assert await story.release() == SECOND
    async with story.chapter("a power cut in the running system"):
        await cut_and_start(story, SECOND)
    async with story.chapter("a power cut while the other slot is written"):
        await story.wants(BAD)
        await until("staging", lambda: staging(machine), limit_s=START_S)
        await cut_and_start(story, SECOND)
    async with story.chapter("an image that does not start returns"):
        await until("the verdict", lambda: story.refused(BAD), limit_s=5 * START_S)
        await until("the second image", lambda: story.runs(SECOND, "b"), limit_s=START_S)
        assert await story.release() == SECOND


async def secure_boot_is_on(machine: Machine) -> None:
    done = await machine.sh("od -An -tu1 -j4 /sys/firmware/efi/efivars/SecureBoot-*")
    assert done.stdout.strip() == "1"


async def nothing_failed(machine: Machine) -> None:
    done = await machine.sh("systemctl --failed --no-legend --plain")
    assert done.stdout.strip() == ""


async def staging(machine: Machine) -> bool:
    """Whether the idle slot lost its name, which is how staging begins."""
    done = await machine.sh(
        "dd if=/dev/disk/by-partlabel/skerry-a bs=512 skip=2 count=1 status=none | od -An -tx1",
        timeout_s=20,
    )
    return not done.stdout.strip().startswith("e2 e1 f5 e0")


async def cut_and_start(story: Story, version: str) -> None:
    await story.machine.power_cut()
    await story.machine.start()
    await story.machine.wait_for_shell(START_S)
    assert await story.release() == version
