"""The appliance, end to end: a disk that was never logged in to registers, is updated A/B, comes
back from an image that dies, and from power cuts in the middle of an update."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.vm.appliance import PANICS, Works, site_data
from tests.vm.conftest import Bench

from skerry.lab import Lab, onboarding
from skerry.lab.inprocess import Running, running_manager
from skerry.lab.machine import Machine
from skerry.lab.qemu import Disk, MachineSpec, shell_credentials
from skerry.lib.errors import SkerryError
from skerry.lib.proc import SystemRunner
from skerry.manager.settings import Settings
from skerry.model.kinds import KINDS

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(1800)]

_NAME = "shop-1"
_BOOT_S = 600.0
_UPDATE_S = 900.0


@dataclass
class Shop:
    """One machine, its manager, and the images that there are."""

    lab: Lab
    running: Running
    works: Works
    machine: Machine

    async def host(self) -> dict[str, Any]:
        return dict(await self.running.api.get(KINDS["Host"], "default", _NAME))

    async def want(self, version: str) -> None:
        """Make an image the desired one."""
        built = (await self.works.image(version)).artifact
        key = onboarding.release_key(Path(self.running.info.data))
        name = await onboarding.push_artifact(self.running.api, built, key=key)
        host = await self.host()
        spec = {**host["spec"], "osImage": name}
        document = {key: host[key] for key in ("apiVersion", "kind")}
        document |= {"metadata": {"name": _NAME}, "spec": spec}
        await self.running.api.apply(KINDS["Host"], "default", document)

    async def until(
        self, what: str, holds: Callable[[dict[str, Any]], bool], *, limit_s: float
    ) -> dict[str, Any]:
        """Wait for something about the host; its last status is in the failure."""
        begun = time.monotonic()
        status: dict[str, Any] = {}
        while time.monotonic() - begun < limit_s:
            with contextlib.suppress(SkerryError):
                status = (await self.host())["status"]
                if holds(status):
                    print(f"\n  {what}: {time.monotonic() - begun:.0f} s", end="", flush=True)
                    return status
            await anyio.sleep(1)
        shown = {key: status.get(key) for key in ("os", "progress", "conditions", "desiredOs")}
        said = self.machine.serial()[-3000:]
        raise AssertionError(f"{what} did not come about within {limit_s:g} s: {shown}\n{said}")

    async def sh(self, script: str) -> str:
        return (await self.machine.sh(script, timeout_s=60)).stdout


@pytest.fixture(scope="module")
async def shop(bench: Bench, place: Path) -> AsyncIterator[Shop]:
    works = Works(place / "works")
    works.folder.mkdir()
    first = await works.image("1.0.0")
    disk = place / "shop.qcow2"
    await SystemRunner().run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(first.disk), str(disk)],
        timeout_s=60,
    )
    async with Lab(f"vm{os.getpid() % 10000}", place / "lab") as lab:
        settings = Settings(
            data=str(place / "data"),
            host=str(lab.gateway),
            port=9443,
            names=(str(lab.gateway),),
            sync_interval_s=5,
            os_trial_s=300,
        )
        async with running_manager(settings, place / "key") as running:
            token = await onboarding.new_token(running.api, "shops", {"autoApprove": True})
            told = site_data(
                manager=running.info.url,
                trust=Path(running.info.ca_file).read_text(),
                token=str(token["secret"]),
                name=_NAME,
            )

            machine = await lab.add_machine(
                "shop", lambda spec: _with(spec, disk, told), accel=bench.accel
            )
            yield Shop(lab, running, works, machine)


def _with(spec: MachineSpec, disk: Path, told: bytes) -> MachineSpec:
    return replace(
        spec,
        disks=(Disk(disk, form="qcow2"),),
        firmware="secure",
        memory_mib=2048,
        credentials={**shell_credentials(), "skerry.site": told},
    )


def runs(version: str) -> Callable[[dict[str, Any]], bool]:
    """The image runs, is confirmed, and the desired state is acknowledged."""

    def holds(status: dict[str, Any]) -> bool:
        found = status.get("os", {})
        return (
            found.get("version") == version
            and not found.get("onTrial")
            and status.get("desired") == status.get("acknowledged")
        )

    return holds


async def test_a_disk_becomes_a_host_that_nobody_logged_in_to(shop: Shop) -> None:
    await shop.machine.start()

    status = await shop.until("registered", runs("1.0.0"), limit_s=_BOOT_S)

    assert status["os"]["engine"] == "ab"
    assert status["os"]["slot"] == "a"
    assert status["os"].get("problems", []) == []
    assert status["inventory"]["secureBoot"] is True
    assert await shop.sh("systemctl --failed --no-legend --plain") == ""
    assert "dev/mapper/root on / type erofs (ro" in await shop.sh("mount")
    assert "skerry recovery" in await shop.sh("efibootmgr")


async def test_an_update_goes_to_the_other_slot_and_is_confirmed(shop: Shop) -> None:
    await shop.want("1.1.0")

    status = await shop.until("updated", runs("1.1.0"), limit_s=_UPDATE_S)

    assert status["os"]["slot"] == "b"
    states = {slot["name"]: slot["state"] for slot in status["os"]["slots"]}
    assert states == {"a": "good", "b": "good"}
    names = (await shop.sh("ls /boot/loader/entries")).split()
    assert names == ["skerry-000001.conf", "skerry-000002.conf"]


async def test_an_image_that_dies_comes_back_to_the_former_one(shop: Shop) -> None:
    await shop.works.image("1.2.0", PANICS)
    await shop.want("1.2.0")

    def returned(status: dict[str, Any]) -> bool:
        told = {item["type"]: item for item in status["conditions"]}.get("OsUpdated", {})
        return told.get("reason") in ("OsInterrupted", "OsReturned")

    status = await shop.until("returned", returned, limit_s=_UPDATE_S)

    assert status["os"]["version"] == "1.1.0"
    # Before it is tried once more: a person changes their mind.
    await shop.want("1.1.0")
    status = await shop.until("in sync again", runs("1.1.0"), limit_s=_UPDATE_S)
    assert status["os"]["slot"] == "b"


async def test_power_cuts_while_writing_and_while_on_trial_change_nothing(shop: Shop) -> None:
    """Back to the first image, which is an update like any other."""
    await shop.want("1.0.0")
    await shop.until("writing", _doing("write OS image"), limit_s=120)
    await shop.machine.power_cut()
    await shop.machine.start()
    await shop.until("restarting", _doing("restart"), limit_s=_UPDATE_S)
    await shop.machine.wait_for("skerry: what persists is mounted", _BOOT_S, times=2)
    await shop.machine.power_cut()
    await shop.machine.start()

    status = await shop.until("updated", runs("1.0.0"), limit_s=_UPDATE_S)

    assert status["os"]["slot"] == "a"
    assert (await shop.sh("systemctl --failed --no-legend --plain")) == ""


def _doing(words: str) -> Callable[[dict[str, Any]], bool]:
    def holds(status: dict[str, Any]) -> bool:
        return words in (status.get("progress") or {}).get("step", "")

    return holds
