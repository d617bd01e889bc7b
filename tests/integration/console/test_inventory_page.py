"""The host's page shows what the machine is, as its agent found it."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest

from skerry.agent import facts
from skerry.console.app import console_routes
from skerry.console.door import SESSION_COOKIE
from skerry.manager.app import build_app, first_password, open_centre
from skerry.manager.auth import accounts
from skerry.manager.settings import Settings
from skerry.manager.store.protocol import Put, WriteSet
from skerry.model import kinds as k
from skerry.model.meta import Metadata, Resource
from skerry.sim.disk import FleetDisk
from skerry.sim.machines import Machine, MachineRunner, shape_files, shapes

pytestmark = pytest.mark.anyio


async def test_partitions_networks_and_gpus_are_on_the_page(tmp_path: Path) -> None:
    shown: dict[str, str] = {}
    async with open_centre(Settings(data=str(tmp_path))) as centre:
        for shape in (item for item in shapes() if item.shape in ("nuc", "vision")):
            machine = Machine(shape=shape, name=shape.shape, number=1, seed=1)
            root = FleetDisk().mount(machine.name, shape_files(shape.shape), machine.own_files())
            found = await facts.inventory(root, MachineRunner(machine))
            host = Resource(
                kind="Host",
                metadata=Metadata(name=shape.shape, project="default", uid=f"uid-{shape.shape}"),
                spec=k.HostSpec(approval=k.Approval.APPROVED),
                status=k.HostStatus(phase=k.HostPhase.READY, inventory=found),
            )
            await centre.store.commit(WriteSet(puts=(Put(host, 0),)))
        password = first_password(str(tmp_path))
        assert password is not None
        key, _ = await accounts.sign_in(
            centre.store,
            centre.root,
            "admin",
            password,
            now=centre.clock.now(),
            hours=2,
            source="127.0.0.1",
        )
        app = build_app(centre, more=console_routes(centre))
        async with httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app=app), base_url="https://manager.test"
        ) as http:
            for name in ("nuc", "vision"):
                answer = await http.get(
                    f"/hosts/default/{name}", headers={"cookie": f"{SESSION_COOKIE}={key}"}
                )
                assert answer.status_code == 200, answer.text[:400]
                shown[name] = answer.text

    for words in ("nvme0n1p2", "ext4", "/boot/efi", "DNS 10.20.0.1", "agent-mode", "yes 2"):
        assert words in shown["nuc"]
    assert "2 \u00d7 Radeon PRO W6800" in shown["vision"]
