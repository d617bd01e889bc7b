"""A container host behaves like a machine, and nothing of it stays behind."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import anyio
import pytest

from skerry.lab import ContainerHost, Lab, find_hosts, list_leftovers, remove_everything
from skerry.lab.errors import HostFailed
from skerry.lab.facts import has_capability
from skerry.lib.proc import CommandFailed, CommandTimedOut

pytestmark = [pytest.mark.lab, pytest.mark.anyio, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
async def host(lab: Lab) -> ContainerHost:
    made = await lab.add_host("n1")
    await made.start()
    return made


async def test_booted_host_has_no_failed_units(host: ContainerHost) -> None:
    assert await host.failed_units() == []


async def test_command_runs_with_its_own_environment_input_and_exit_code(
    host: ContainerHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUTSIDE_SECRET", "leak")

    result = await host.run(
        ["sh", "-c", "hostname; cat; echo $WANTED; env; exit 3"],
        timeout_s=10,
        check=False,
        stdin=b"from-stdin\n",
        env={"WANTED": "given"},
    )

    assert result.code == 3
    assert result.stdout.splitlines()[:3] == ["n1", "from-stdin", "given"]
    assert "leak" not in result.stdout


async def test_failed_command_raises_with_the_command_line_of_the_host(
    host: ContainerHost,
) -> None:
    with pytest.raises(CommandFailed, match=r"exit code 1: false$"):
        await host.run(["false"], timeout_s=10)


async def test_command_over_its_limit_is_killed_inside(host: ContainerHost) -> None:
    with pytest.raises(CommandTimedOut):
        await host.run(["sleep", "4321"], timeout_s=0.5)

    found = await host.run(["pgrep", "-f", "sleep 4321"], timeout_s=10, check=False)
    assert found.stdout == ""


async def test_control_groups_are_writable_and_mounts_are_shared(
    lab: Lab, host: ContainerHost
) -> None:
    memory = "/sys/fs/cgroup" + ("" if lab.facts.cgroup_version == 2 else "/memory")

    await host.run(["mkdir", f"{memory}/probe"], timeout_s=10)
    await host.run(["rmdir", f"{memory}/probe"], timeout_s=10)
    mounts = await host.run(["findmnt", "-no", "PROPAGATION", "/"], timeout_s=10)

    assert mounts.stdout.strip() == "shared"


async def test_host_reaches_the_bridge_and_has_no_route_elsewhere(
    lab: Lab, host: ContainerHost
) -> None:
    await host.run(["ping", "-c1", "-W2", "manager"], timeout_s=10)
    routes = json.loads((await host.run(["ip", "-json", "route"], timeout_s=10)).stdout)

    assert [route["dst"] for route in routes] == [str(lab.network)]


async def test_names_of_others_are_refused_at_once(host: ContainerHost) -> None:
    with anyio.fail_after(2):
        found = await host.run(["getent", "hosts", "example.com"], timeout_s=10, check=False)

    assert found.code == 2


@pytest.mark.parametrize("process", ["1", "self"])
async def test_host_cannot_set_the_clock_of_the_computer(host: ContainerHost, process: str) -> None:
    # Read, never tried: a failing test would move the clock under everything that runs here.
    status = (await host.run(["cat", f"/proc/{process}/status"], timeout_s=10)).stdout

    assert has_capability(status, 21)  # CAP_SYS_ADMIN, which a kubelet needs
    assert not has_capability(status, 25)  # CAP_SYS_TIME


async def test_copied_files_keep_their_mode(host: ContainerHost, tmp_path: Path) -> None:
    folder = tmp_path / "release"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/tool").write_text("#!/bin/sh\necho works\n")
    (folder / "bin/tool").chmod(0o755)

    await host.copy_in(folder, "/opt/some/where")
    await host.copy_in(folder / "bin/tool", "/opt/other/tool")

    for path in ("/opt/some/where/bin/tool", "/opt/other/tool"):
        assert (await host.run([path], timeout_s=10)).stdout == "works\n"


async def test_stop_and_start_keep_state_disk_and_identity(host: ContainerHost) -> None:
    facts = "cat /etc/machine-id /var/lib/skerry/probe /etc/probe; ip -br -4 address show host0"
    await host.run(["sh", "-c", "echo 1 >/var/lib/skerry/probe; echo 2 >/etc/probe"], timeout_s=10)
    before = (await host.run(["sh", "-c", facts], timeout_s=10)).stdout

    await host.stop()
    with pytest.raises(HostFailed, match="off"):
        await host.run(["true"], timeout_s=10)
    await host.start()

    assert (await host.run(["sh", "-c", facts], timeout_s=10)).stdout.split()[:3] == (
        before.split()[:3]
    )
    assert str(host.address) in before


async def test_host_comes_back_after_a_power_cut_and_after_its_own_reboot(
    host: ContainerHost,
) -> None:
    boots = [await _boot_id(host)]

    await host.kill()
    assert host.pid is None
    await host.start()
    boots.append(await _boot_id(host))
    first_process = host.pid
    await host.run(["systemctl", "reboot"], timeout_s=10, check=False)
    with anyio.fail_after(30):
        while host.pid in (first_process, None):  # noqa: ASYNC110  # nothing to wait on
            await anyio.sleep(0.1)
    await host.start()
    boots.append(await _boot_id(host))

    assert len(set(boots)) == 3


async def test_another_process_finds_a_running_host_by_run_name(
    lab: Lab, host: ContainerHost
) -> None:
    found = find_hosts(lab.run)["n1"]

    assert found.pid == host.pid
    assert (await found.run(["hostname"], timeout_s=10)).stdout == "n1\n"


async def test_two_labs_do_not_meet_and_leave_nothing(lab: Lab, lab_base: Path) -> None:
    run = f"{lab.run}-b"
    async with Lab(run, lab_base) as other:
        twin = await other.add_host("n1")
        await twin.start()
        assert not other.network.overlaps(lab.network)
        reached = await twin.run(
            ["ping", "-c1", "-W1", str(lab.gateway)], timeout_s=10, check=False
        )
        assert reached.code != 0
        assert await list_leftovers(run, lab_base) != []

    assert await list_leftovers(run, lab_base) == []


async def test_kept_lab_comes_back_with_its_hosts_at_their_addresses(
    lab: Lab, lab_base: Path
) -> None:
    run = f"{lab.run}-k"
    try:
        async with Lab(run, lab_base, keep=True) as first:
            one = await first.add_host("n1")
            await one.start()
            await one.run(["touch", "/var/lib/etcd/mark", "/etc/mark"], timeout_s=10)
        assert await list_leftovers(run, lab_base) == [f"folder {lab_base / run}"]

        async with Lab(run, lab_base) as second:
            again = await second.add_host("n1")
            await again.start()
            assert again.address == one.address
            await again.run(["ls", "/var/lib/etcd/mark", "/etc/mark"], timeout_s=10)
    finally:
        await remove_everything(run, lab_base)

    assert await list_leftovers(run, lab_base) == []


_CRASHING_LAB = """
import sys, anyio
from pathlib import Path
from skerry.lab import Lab

async def main():
    async with Lab(sys.argv[1], Path(sys.argv[2])) as lab:
        host = await lab.add_host("n1")
        await host.start()
        print("up", flush=True)
        await anyio.sleep(600)

anyio.run(main)
"""


async def test_everything_is_removed_by_name_after_a_crash(lab: Lab, lab_base: Path) -> None:
    run = f"{lab.run}-c"
    argv = [sys.executable, "-c", _CRASHING_LAB, run, str(lab_base)]
    async with await anyio.open_process(argv, stderr=None) as process:
        assert process.stdout is not None
        with anyio.fail_after(60):
            while b"up" not in await process.stdout.receive():
                pass
        os.kill(process.pid, signal.SIGKILL)
    kinds = {line.split()[0] for line in await list_leftovers(run)}

    await remove_everything(run)
    await remove_everything(run)

    assert {"process", "interface", "folder", "registry"} <= kinds
    assert await list_leftovers(run, lab_base) == []


async def _boot_id(host: ContainerHost) -> str:
    return (await host.run(["cat", "/proc/sys/kernel/random/boot_id"], timeout_s=10)).stdout
