"""Labels that a host brings follow it, until a person decides about one."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import Device, Manager, path_of

pytestmark = pytest.mark.anyio


async def labels_of(manager: Manager, name: str = "shop-1") -> dict[str, str]:
    found: dict[str, Any] = (await manager.admin.get(path_of("hosts", name))).json()
    return dict(found["metadata"]["labels"])


async def enrolled(manager: Manager, **labels: str) -> Device:
    secret = await manager.token(labels={"tier": "store"})
    device = manager.device("shop-1")
    state = await device.enrol(token=secret, labels=labels)
    assert state.state == "approved"
    return device


async def test_labels_come_with_registration_and_reports_keep_them_current(
    manager: Manager,
) -> None:
    device = await enrolled(manager, rack="4", tier="lab")
    first = await labels_of(manager)

    await device.report(labels={"rack": "5", "tier": "lab", "power": "ups"})
    moved = await labels_of(manager)
    await device.report(labels={"power": "ups"})
    less = await labels_of(manager)

    assert first == {"rack": "4", "tier": "store"}, "what the token says is a person's word"
    assert moved == {"rack": "5", "tier": "store", "power": "ups"}
    assert less == {"tier": "store", "power": "ups"}


async def test_what_a_person_changed_or_took_away_stays_so(manager: Manager) -> None:
    device = await enrolled(manager, rack="4", room="b")
    await manager.admin.patch(
        path_of("hosts", "shop-1"), json={"metadata": {"labels": {"rack": "cellar", "room": None}}}
    )

    await device.report(labels={"rack": "5", "room": "c"})
    await device.report(labels={"rack": "6", "room": "d"})

    assert await labels_of(manager) == {"rack": "cellar", "tier": "store"}


async def test_bad_labels_are_left_out_and_the_host_comes_in(manager: Manager) -> None:
    bad = {"bad key": "x", "skerry.dev/role": "x", "value": "no blanks", "good": "yes"}
    device = await enrolled(manager, **bad)
    await device.report(labels={**bad, **{f"k{index}": "v" for index in range(100)}})

    found = await labels_of(manager)

    assert found["good"] == "yes"
    assert not set(found) & {"bad key", "skerry.dev/role", "value"}
    assert len(found) == 33, "32 of its own and the token's"
