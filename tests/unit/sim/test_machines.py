"""Made-up machines are read by the agent's own facts code."""

from __future__ import annotations

import pytest

from skerry.agent import facts
from skerry.agent.facts import architecture
from skerry.sim.disk import FleetDisk, HostRoot
from skerry.sim.machines import Machine, MachineRunner, Shape, shape_files, shapes
from skerry.sim.places import harbours


def _host(shape: Shape, *, number: int = 7, seed: int = 1) -> tuple[HostRoot, MachineRunner]:
    machine = Machine(shape=shape, name=f"cork-{number}", number=number, seed=seed)
    root = FleetDisk().mount(machine.name, shape_files(shape.shape), machine.own_files())
    return root, MachineRunner(machine)


@pytest.mark.anyio
@pytest.mark.parametrize("shape", shapes(), ids=lambda shape: shape.shape)
async def test_agent_reads_every_shape_as_it_is_described(shape: Shape) -> None:
    found = await facts.inventory(*_host(shape))

    assert (found.vendor, found.product, found.cpu_model) == (
        shape.vendor,
        shape.product,
        shape.cpu,
    )
    assert (found.cpu_cores, found.memory_bytes) == (shape.threads, shape.memory_kb * 1024)
    assert [disk.name for disk in found.disks] == [disk["name"] for disk in shape.disks]
    assert all(disk.size_bytes > 30 * 10**9 for disk in found.disks)
    assert [nic.name for nic in found.nics] == shape.nics
    assert [nic.is_default for nic in found.nics] == [True] + [False] * (len(shape.nics) - 1)
    assert [len(disk.partitions) for disk in found.disks] == [
        len(disk.get("partitions", ())) for disk in shape.disks
    ]
    assert found.nics[0].subnet.endswith(".0/24")
    assert found.nics[0].gateway == found.nics[0].addresses[0].rpartition(".")[0] + ".1"
    assert list(found.nics[0].dns) == shape.resolvers
    assert sum(gpu.count for gpu in found.gpus) == len(shape.gpus)
    assert (found.tpm, found.secure_boot) == (shape.tpm, shape.secure_boot)
    assert found.virtualization == shape.virtualization
    assert (found.os_name, found.architecture) == (shape.os["ID"], architecture())


@pytest.mark.anyio
async def test_machines_of_one_shape_differ_in_all_that_identifies() -> None:
    shape = shapes()[0]

    one = await facts.host_facts(*_host(shape, number=1))
    two = await facts.host_facts(*_host(shape, number=2))

    assert one.hardware_id != two.hardware_id
    assert one.serial != two.serial
    assert not set(one.macs) & set(two.macs)
    assert not set(one.addresses) & set(two.addresses)


@pytest.mark.anyio
async def test_a_machine_is_the_same_after_a_restart_of_the_simulation() -> None:
    shape = shapes()[0]

    assert await facts.host_facts(*_host(shape)) == await facts.host_facts(*_host(shape))


@pytest.mark.anyio
async def test_fillers_of_firmware_identify_nobody() -> None:
    shape = next(item for item in shapes() if item.serial == "Not Specified")

    found = await facts.host_facts(*_host(shape))

    assert found.serial == ""


def test_names_and_addresses_are_unique_in_a_large_fleet() -> None:
    addresses = {
        Machine(shape=shapes()[0], name="x", number=number, seed=1).address
        for number in range(50_000)
    }
    sites = harbours(500)

    assert len(addresses) == 50_000
    assert len({site.name for site in sites}) == 500
    assert all(site.name.isascii() for site in sites)
