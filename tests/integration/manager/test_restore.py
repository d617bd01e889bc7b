"""A manager that came back from a backup, and the signed heads that give such a one away."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import msgspec
import pytest

from skerry.cli.chains import check_heads, read_chain
from skerry.console.app import console_routes
from skerry.console.door import SESSION_COOKIE, Door
from skerry.lib.clock import ManualClock
from skerry.lib.files import DiskRoot
from skerry.manager.app import build_app, open_centre
from skerry.manager.auth.accounts import set_password
from skerry.manager.reconcile.loops import Reconciler
from skerry.manager.services import heads
from skerry.manager.settings import Settings
from skerry.manager.store.backup import restore
from skerry.manager.store.chain import ChainBroken

from .conftest import BASE, Address, Device, Manager, condition, path_of, running
from .test_access import key_for
from .test_sync import make_cluster

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def came_back(manager: Manager, backup: Path, device: Device) -> AsyncIterator[Manager]:
    """A second manager on another disk, from a backup of the first, its keys and its content."""
    old = manager.centre.settings
    data = backup.parent / "restored"
    data.mkdir()
    for folder in ("keys", "blobs"):
        shutil.copytree(Path(old.data) / folder, data / folder)
    settings = Settings(data=str(data), url=old.url, login_per_minute=6000)
    await restore(str(backup), settings.database)
    key = manager.admin.headers["authorization"].partition(" ")[2]
    clock = ManualClock()
    async with open_centre(settings, clock=clock) as centre:
        app = build_app(centre)
        found = Manager(centre, app, clock, Reconciler(centre), None, [])  # type: ignore[arg-type]
        found.admin = found.client(key=key)
        device.http = found.client(address="192.0.2.20")
        yield found
        for client in found.clients:
            await client.aclose()


@pytest.fixture
async def both(manager: Manager, tmp_path: Path) -> AsyncIterator[tuple[Manager, Device, Manager]]:
    """(manager, its host, the manager restored from a backup made before the last change)."""
    robot = await key_for(manager, "admin")  # sessions do not come back, keys of programs do
    manager.admin = manager.client(key=robot)
    device = await make_cluster(manager)
    await device.sync()
    await device.report(kubernetes=running("shop"))
    await manager.centre.store.backup(str(tmp_path / "backup.db"))
    await manager.profile(version="1.0.1", description="after the backup")
    await manager.cluster("shop", "shop-1", version="1.0.1")
    await manager.reconciler.settle()
    await device.sync()
    await device.report(kubernetes=running("shop"))
    async with came_back(manager, tmp_path / "backup.db", device) as restored:
        yield manager, device, restored


async def test_restored_manager_learns_and_publishes_nothing_until_confirmed(
    both: tuple[Manager, Device, Manager],
) -> None:
    _, device, restored = both
    ahead = device.have

    before = (await restored.admin.get("/v1/restore")).json()
    answer = await device.sync()
    await restored.reconciler.settle()
    again = await device.sync()

    ready = await restored.client().get("/readyz")
    view = (await restored.admin.get("/v1/restore")).json()
    cluster = (await restored.admin.get(path_of("clusters", "shop"))).json()
    assert "heard" not in before["hosts"][0]
    assert (answer.assignment, again.assignment) == (None, None)
    assert (ready.status_code, "skerry backup confirm" in ready.text) == (200, True)
    assert view["observing"] is True
    assert view["hosts"][0]["heard"]["epoch"] == ahead[0] > view["hosts"][0]["issuedEpoch"]
    assert view["hosts"][0]["heard"]["digest"] == ahead[1]
    assert condition(cluster, "Ready") == "ManagerRestored"


async def test_after_the_confirmation_everything_is_issued_above_what_hosts_have(
    both: tuple[Manager, Device, Manager],
) -> None:
    _, device, restored = both
    ahead = device.have
    await device.sync()

    done = await restored.admin.post("/v1/restore/confirm")
    await restored.reconciler.settle()
    answer = await device.sync()

    assert done.json() == {"confirmed": True}
    assert answer.assignment is not None
    assert device.have[0] == ahead[0] + 1
    assert (await restored.admin.get("/v1/restore")).json() == {"observing": False}
    assert (await restored.client().get("/readyz")).text == "ok\n"
    audits = await restored.centre.store.audits(limit=1000)
    assert ("serviceaccount:robot-admin-all", "confirm", "Manager") in {
        (item.audit.actor, item.audit.verb, item.audit.object_kind) for item in audits
    }


async def test_a_host_that_calls_after_the_confirmation_is_told_above_its_epoch(
    both: tuple[Manager, Device, Manager],
) -> None:
    _, device, restored = both
    ahead = device.have
    await restored.admin.post("/v1/restore/confirm")
    await restored.reconciler.settle()

    await device.sync()
    await restored.reconciler.settle()
    await device.sync()

    assert device.have[0] == ahead[0] + 1


async def test_a_host_with_our_epoch_and_another_content_is_told_above_it(
    both: tuple[Manager, Device, Manager],
) -> None:
    """The restored manager gives the same number to another content; the host refuses that."""
    _, device, restored = both
    ahead = device.have
    await restored.admin.post("/v1/restore/confirm")
    await restored.profile(version="1.0.2", description="another after the backup")
    await restored.cluster("shop", "shop-1", version="1.0.2")
    await restored.reconciler.settle()

    await device.sync()
    await restored.reconciler.settle()
    await device.sync()

    assert device.have[0] > ahead[0]


async def test_the_console_says_so_on_every_page_and_confirms(
    both: tuple[Manager, Device, Manager],
) -> None:
    _, device, restored = both
    await device.sync()
    centre = restored.centre
    key = restored.admin.headers["authorization"].partition(" ")[2]
    app = build_app(centre, more=console_routes(centre))
    cookie = {"cookie": f"{SESSION_COOKIE}={key}"}
    async with httpx2.AsyncClient(
        transport=Address(app, "192.0.2.30").transport, base_url=BASE, headers=cookie
    ) as browser:
        overview = await browser.get("/hosts")
        page = await browser.get("/restore")
        forged = await browser.post("/restore", data={"csrf": "x"})
        still = centre.live.restored
        done = await browser.post("/restore", data={"csrf": Door(centre).token(key)})
        after = await browser.get("/restore")

    assert "only observes" in overview.text
    assert f"epoch {device.have[0]}" in page.text
    assert "was told more" in page.text
    assert (forged.status_code, done.status_code) == (403, 303)
    assert still is not None
    assert "only observes" not in after.text
    assert "Nothing to confirm" in after.text


@pytest.mark.parametrize("role", ["viewer", "operator", "auditor", ""])
async def test_only_an_administrator_confirms(
    both: tuple[Manager, Device, Manager], role: str
) -> None:
    _, _, restored = both
    client = restored.client(
        key=await key_for(restored, role or "admin", "" if role else "default")
    )

    answer = await client.post("/v1/restore/confirm")

    assert answer.status_code == 403
    assert (await restored.admin.get("/v1/restore")).json()["observing"] is True


async def test_nobody_comes_in_by_a_secret_while_the_manager_only_observes(
    both: tuple[Manager, Device, Manager],
) -> None:
    """Uses of the token after the backup are not counted in it."""
    _, _, restored = both
    secret = await restored.token("once", maximumUses=1)
    stranger = restored.device("stranger")

    meanwhile = await stranger.enrol(token=secret)
    await restored.admin.post("/v1/restore/confirm")
    after = await stranger.enrol(token=secret)

    assert (meanwhile.state, meanwhile.reason) == ("pending", "ManagerRestored")
    assert after.state == "approved"


async def test_sessions_do_not_come_back(manager: Manager, tmp_path: Path) -> None:
    device = await manager.ready_host("shop-1")
    await manager.centre.store.backup(str(tmp_path / "backup.db"))

    async with came_back(manager, tmp_path / "backup.db", device) as restored:
        answer = await restored.admin.get("/v1/whoami")

    assert answer.status_code == 401


async def test_head_is_signed_and_finds_a_chain_that_was_rewritten_or_cut(
    manager: Manager, tmp_path: Path
) -> None:
    await manager.apply("Site", "sites", "north", {})
    assert await heads.export(manager.centre)
    assert not await heads.export(manager.centre), "nothing happened since"
    await manager.apply("Site", "sites", "south", {})
    signed = tmp_path / "heads"
    signed.write_bytes((await manager.admin.get("/v1/audit/heads")).content)
    key = Path(manager.centre.settings.data) / "audit/channel.pub"
    items = (await manager.admin.get("/v1/audit")).json()["items"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.write_bytes(b"\n".join(msgspec.json.encode(item) for item in items))
    cut.write_bytes(b"\n".join(msgspec.json.encode(item) for item in items[:2]))

    assert check_heads(read_chain(whole), signed, key) == 1
    with pytest.raises(ChainBroken, match="hash that was signed"):
        check_heads(read_chain(cut), signed, key)


async def test_a_torn_line_does_not_hide_the_heads_around_it(manager: Manager) -> None:
    await heads.export(manager.centre)
    root = DiskRoot(manager.centre.settings.data)
    root.append(heads.HEADS, b'{"payloadType":"appl')
    await manager.apply("Site", "sites", "north", {})

    await heads.export(manager.centre)

    whole = root.read(heads.HEADS).splitlines()
    assert [line.endswith(b"}") for line in whole if line] == [True, False, True]
    assert await heads.set_back(manager.centre) == ""
    assert manager.centre.live.head == (await manager.centre.store.audit_head())[0]


async def test_a_database_older_than_its_signed_heads_only_observes(
    settings: Settings, tmp_path: Path
) -> None:
    """Somebody copied an old file back, without 'skerry backup restore'."""
    async with open_centre(settings, clock=ManualClock()) as centre:
        await centre.store.backup(str(tmp_path / "old.db"))
        await set_password(
            centre.store, "admin", "a-new-password", actor="user:admin", now=centre.clock.now()
        )
        await heads.export(centre)
    database = Path(settings.data) / "skerry.db"
    for left in database.parent.glob("skerry.db*"):
        left.unlink()
    shutil.copy(tmp_path / "old.db", database)

    async with open_centre(settings, clock=ManualClock()) as centre:
        mark = centre.live.restored

    assert mark is not None
    assert "set back" in mark.source
