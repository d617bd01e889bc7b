"""A real manager on loopback, in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest

from skerry.manager.app import ServingInfo, serve
from skerry.manager.services import objects
from skerry.manager.services.centre import INTERNAL, Centre
from skerry.manager.settings import Settings
from skerry.manager.store.protocol import AnyResource, Query
from skerry.sim import harbours


@dataclass
class Manager:
    """A running manager, seen from outside by `url` and from inside by `centre`."""

    url: str
    authority_pem: str
    centre: Centre

    async def apply(self, document: dict[str, Any]) -> objects.Applied:
        return await objects.apply(self.centre, INTERNAL, document)

    async def token(self, name: str = "t", **spec: Any) -> str:
        done = await self.apply(
            {
                "apiVersion": "skerry.dev/v1",
                "kind": "RegistrationToken",
                "metadata": {"name": name},
                "spec": spec,
            }
        )
        return done.once["secret"]

    async def list(self, kind: str) -> tuple[AnyResource, ...]:
        return (await self.centre.store.list(Query(kind, limit=1000))).items


@pytest.fixture
async def manager(tmp_path: Path, anyio_backend: str) -> AsyncIterator[Manager]:
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
        data=str(tmp_path / "manager"),
        port=0,
        sync_interval_s=1,
        busy_interval_s=1,
        os_trial_s=8,
    )
    async with anyio.create_task_group() as tg:
        tg.start_soon(lambda: serve(settings, ready=ready, more=more))
        with anyio.fail_after(30):
            await started.wait()
        found = Manager(info[0].url, Path(info[0].ca_file).read_text(), inside[0])
        for place in harbours(20):
            await found.apply({"kind": "Site", "metadata": {"name": place.name}, "spec": {}})
        yield found
        tg.cancel_scope.cancel()
