"""Agents that die at every change of their disk, as real processes, and come back to one end."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.integration.sim.conftest import Manager

from skerry.model.kinds import HostPhase

pytestmark = [pytest.mark.integration, pytest.mark.anyio, pytest.mark.timeout(600)]

PROJECT = Path(__file__).parents[3]
# In memory where that can be: what was synced is watched by the test, not left to the disk.
FAST = "/dev/shm" if Path("/dev/shm").is_dir() else None
END = ("epoch", "journal", "release", "kubelet", "plane", "layers", "failed_digests", "reconciled")


async def deaths(*arguments: str) -> list[dict[str, Any]]:
    done = await anyio.run_process(
        [sys.executable, "-m", "tests.integration.agent.dying", *arguments],
        cwd=PROJECT,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def all_came_back(found: list[dict[str, Any]]) -> None:
    assert [item["at"] for item in found] == list(range(1, len(found) + 1))
    assert [item["died"] for item in found] == [True] * (len(found) - 1) + [False]
    assert [item["at"] for item in found if item["failed"]] == []


@pytest.mark.parametrize(
    ("how", "bad"),
    [
        ("torn", "good"),
        ("power", "bad"),
        pytest.param("torn", "bad", marks=pytest.mark.long),
        pytest.param("power", "good", marks=pytest.mark.long),
    ],
)
async def test_an_upgrade_that_dies_at_any_write_ends_the_same(how: str, bad: str) -> None:
    with tempfile.TemporaryDirectory(dir=FAST) as place:
        found = await deaths("upgrade", f"{place}/d", how, bad)

    all_came_back(found)
    wanted = {key: found[-1][key] for key in END}
    assert wanted["release"] == ("1.35.4" if bad == "bad" else "1.36.3")
    assert wanted["reconciled"] == ("UpgradeReturned" if bad == "bad" else "Reconciled")
    assert not wanted["journal"]
    for item in found:
        assert {key: item[key] for key in END} == wanted, f"died at change {item['at']}"
    assert len(found) > 30


@pytest.mark.parametrize("how", ["power", pytest.param("torn", marks=pytest.mark.long)])
async def test_an_os_update_that_dies_at_any_write_ends_the_same(how: str) -> None:
    with tempfile.TemporaryDirectory(dir=FAST) as place:
        found = await deaths("os", f"{place}/d", how)

    all_came_back(found)
    wanted = {key: found[-1][key] for key in (*END, "os", "os_reason")}
    assert (wanted["os"], wanted["os_reason"]) == (["2.0.0", False, []], "Ready")
    assert not wanted["journal"]
    for item in found:
        assert {key: item[key] for key in wanted} == wanted, f"died at change {item['at']}"
    assert len(found) > 20


@pytest.mark.parametrize("how", ["torn", "power"])
async def test_an_enrolment_that_dies_at_any_write_makes_one_host_and_uses_one_token(
    manager: Manager, tmp_path: Path, how: str
) -> None:
    token = await manager.token(autoApprove=True)
    authority = tmp_path / "authority.pem"
    authority.write_text(manager.authority_pem)

    with tempfile.TemporaryDirectory(dir=FAST) as place:
        found = await deaths("enrol", f"{place}/d", how, manager.url, str(authority), token)

    all_came_back(found)
    hosts = {host.uid: host for host in await manager.list("Host")}
    assert {item["uid"] for item in found} == hosts.keys(), "one host each, none twice"
    assert len(hosts) == len(found) > 8
    assert {host.status.phase for host in hosts.values()} == {HostPhase.READY}
    assert {item["state"] for item in found} == {"approved"}
    assert {item["token"] for item in found} == {False}, "no token stays behind"
    (kept,) = await manager.list("RegistrationToken")
    uses = await manager.centre.store.counter(f"token/{kept.uid}")
    assert uses == len(found), "asking again uses no second one"
