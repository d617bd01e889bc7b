"""What stories of the appliance share: images, a machine on a lab's bridge, and its manager.

What a person would read is read from the manager; the shell of the lab only looks.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
import httpx2
import yaml
from tests.vm.conftest import Bench
from tests.vm.world import CHECKOUT, run

from skerry.builder.cache import default_cache
from skerry.builder.layout import BuiltArtifact, describe
from skerry.client.api import Api
from skerry.lab import Lab, onboarding
from skerry.lab.blocklog import copy_range
from skerry.lab.inprocess import Running, running_manager
from skerry.lab.machine import Machine
from skerry.lab.qemu import Disk, MachineSpec, shell_credentials
from skerry.lib.errors import SkerryError
from skerry.manager.settings import Settings
from skerry.model.kinds import KINDS

HOST = "edge-1"
FIRST, SECOND, BAD = "1.0.0", "1.1.0", "1.2.0"
# A start under emulation takes a minute, and twice that when two cores carry more than it.
START_S = 300.0


@dataclass(frozen=True)
class Built:
    """One image as `skerry image build` left it."""

    disk: Path
    artifact: BuiltArtifact


@dataclass
class Story:
    """The machine, its manager, and the seconds of each chapter."""

    machine: Machine
    running: Running
    images: dict[str, Built]
    base: Path
    log: Path | None = None
    chapters: list[tuple[str, float]] = field(default_factory=list)

    @property
    def api(self) -> Api:
        return self.running.api

    @contextlib.asynccontextmanager
    async def chapter(self, name: str) -> AsyncIterator[None]:
        begun = time.monotonic()
        try:
            yield
        finally:
            self.chapters.append((name, time.monotonic() - begun))

    async def host(self) -> dict[str, Any]:
        return dict(await self.api.get(KINDS["Host"], "default", HOST))

    async def runs(self, version: str, slot: str) -> bool:
        """Whether the host itself says so."""
        found = (await self.host())["status"].get("os") or {}
        here = (found.get("version"), found.get("slot"), found.get("onTrial", False))
        assert here == (version, slot, False), found
        return True

    async def wants(self, version: str) -> None:
        """Name an image for the host."""
        name = onboarding.artifact_name(self.images[version].artifact)
        await self.api.patch(KINDS["Host"], "default", HOST, {"spec": {"osImage": name}})

    async def push_images(self) -> None:
        key = onboarding.release_key(Path(self.running.info.data))
        for built in self.images.values():
            await onboarding.push_artifact(self.api, built.artifact, key=key)

    async def refused(self, version: str) -> bool:
        """Whether the host reports that an image failed there."""
        found = (await self.host())["status"]
        digest = self.images[version].artifact.digest
        assert digest in (found.get("os") or {}).get("failed", ()), (
            found.get("os"),
            [item["reason"] for item in found["conditions"]],
        )
        return True

    async def release(self) -> str:
        done = await self.machine.sh(". /etc/os-release; echo $IMAGE_VERSION", timeout_s=30)
        return done.stdout.strip()


async def until(what: str, check: Callable[[], Awaitable[Any]], *, limit_s: float) -> None:
    """Wait for an async condition; its last error or value is the failure's text."""
    seen: object = None
    with anyio.move_on_after(limit_s):
        while True:
            try:
                seen = await check()
                if seen:
                    return
            except (SkerryError, httpx2.HTTPError, AssertionError) as exc:
                seen = exc
            await anyio.sleep(1)
    raise AssertionError(f"{what} did not come about within {limit_s:g} s; last seen: {seen}")


def build_images(place: Path) -> dict[str, Built]:
    """Two images that differ in their version, and one that cannot start its first program."""
    cache = default_cache(os.environ)
    keys = cache.folder("vm-tests") / "keys"
    skerry = str(Path(sys.executable).parent / "skerry")
    if not keys.exists():
        run(skerry, "keys", "create", str(keys))
    document = yaml.safe_load((CHECKOUT / "examples/appliance.yaml").read_text())
    found = {}
    for version in (FIRST, SECOND, BAD):
        document["spec"]["version"] = version
        if version == BAD:
            document["spec"]["kernel"]["arguments"] = ["init=/usr/bin/false"]
        definition = place / f"{version}.yaml"
        definition.write_text(yaml.safe_dump(document))
        out = place / version
        lock = CHECKOUT / "requirements/dev.txt"
        words = ["--keys", str(keys), "--out", str(out), "--lock", str(lock)]
        run(skerry, "image", "build", str(definition), *words, limit_s=900)
        found[version] = Built(next(out.glob("*.raw")), describe(out / "artifact"))
        if version != FIRST:
            found[version].disk.unlink()
    return found


@contextlib.asynccontextmanager
async def telling(
    bench: Bench, place: Path, images: dict[str, Built], *, record: bool = False
) -> AsyncIterator[Story]:
    """A machine with the first image on its disk, off, and a manager that it can join. With
    `record` every write of its disk lands in `Story.log`, from the copy `Story.base` on."""
    async with Lab(f"vm{os.getpid()}", place) as lab:
        settings = Settings(
            data=str(lab.folder / "data"),
            host=str(lab.gateway),
            port=9443,
            names=(str(lab.gateway),),
            sync_interval_s=5,
        )
        async with running_manager(settings, lab.folder / "key") as running:
            disk, stick = lab.folder / "disk.raw", lab.folder / "stick.img"
            log = lab.folder / "disk.log" if record else None
            first = images[FIRST].disk
            copy_range(first, disk, start=0, size=first.stat().st_size)
            if log is not None:
                log.touch()
            token = await onboarding.new_token(running.api, "lab", {"autoApprove": True})
            make_stick(stick, str(lab.gateway), running, str(token["secret"]))

            def equip(spec: MachineSpec) -> MachineSpec:
                disks = (Disk(disk, log=log), Disk(stick, read_only=True))
                credentials = shell_credentials()
                return replace(spec, firmware="secure", disks=disks, credentials=credentials)

            machine = await lab.add_machine(HOST, equip, accel=bench.accel)
            told = Story(machine, running, images, base=first, log=log)
            try:
                yield told
            finally:
                keep_logs(machine, place)
                for name, seconds in told.chapters:
                    print(f"\n{seconds:7.1f} s  {name}", end="")


def make_stick(stick: Path, gateway: str, running: Running, secret: str) -> None:
    """A second stick with site data."""
    site = {
        "manager": [f"https://{gateway}:9443"],
        "trust": Path(running.info.ca_file).read_text(),
        "token": secret,
        "hostName": HOST,
    }
    text = stick.with_suffix(".yaml")
    text.write_text(yaml.safe_dump(site))
    stick.touch()
    os.truncate(stick, 16 << 20)
    run("mkfs.vfat", "-n", "SKERRY", str(stick))
    run("mcopy", "-i", str(stick), str(text), "::/skerry.yaml")


def keep_logs(machine: Machine, place: Path) -> None:
    """What the serial port said outlives the machine."""
    kept = Path(os.environ.get("SKERRY_VM_LOGS", place.parent / "last"))
    kept.mkdir(parents=True, exist_ok=True)
    for log in machine.spec.folder.glob("*.log"):
        (kept / log.name).write_bytes(log.read_bytes())
