"""The machine as the agent reads it, against recorded files of machines."""

from __future__ import annotations

import json

import pytest

from skerry.agent import facts
from skerry.lib.memory_files import MemoryRoot
from skerry.lib.proc import FakeRunner
from skerry.model.inventory import Gpu, Partition

pytestmark = pytest.mark.anyio

GIB = 1024**3

# A server with two GPUs, LVM on the system disk and a second disk without a partition table.
SERVER = {
    "/sys/block/nvme0n1/size": "976773168",
    "/sys/block/nvme0n1/dev": "259:0",
    "/sys/block/nvme0n1/device/model": "Samsung SSD 980 PRO 500GB               ",
    "/sys/block/nvme0n1/queue/rotational": "0",
    "/sys/block/nvme0n1/nvme0n1p1/partition": "1",
    "/sys/block/nvme0n1/nvme0n1p1/dev": "259:1",
    "/sys/block/nvme0n1/nvme0n1p1/size": "1048576",
    "/sys/block/nvme0n1/nvme0n1p2/partition": "2",
    "/sys/block/nvme0n1/nvme0n1p2/dev": "259:2",
    "/sys/block/nvme0n1/nvme0n1p2/size": "975721472",
    "/sys/block/nvme0n1/nvme0n1p2/holders/dm-0": "",
    "/sys/block/nvme0n1/nvme0n1p10/partition": "10",
    "/sys/block/nvme0n1/nvme0n1p10/dev": "259:10",
    "/sys/block/nvme0n1/nvme0n1p10/size": "2048",
    "/run/udev/data/b259:10": "E:DEVTYPE=partition\nE:ID_FS_TYPE=swap\n",
    "/sys/block/dm-0/dev": "254:0",
    "/sys/block/sda/size": "7814037168",
    "/sys/block/sda/dev": "8:0",
    "/sys/block/sda/device/model": "MB004000GWWQU",
    "/sys/block/sda/device/vendor": "ATA     ",
    "/sys/block/sda/queue/rotational": "1",
    "/sys/block/loop0/size": "8",
    "/proc/self/mountinfo": (
        "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/mapper/vg-root rw\n"
        "23 22 259:1 / /boot/efi rw,relatime shared:2 - vfat /dev/nvme0n1p1 rw\n"
        "24 22 8:0 / /srv/big\\040disk rw - xfs /dev/sda rw\n"
        "25 22 254:0 /var/lib /mnt rw - ext4 /dev/mapper/vg-root rw\n"
        "26 22 0:22 / /proc rw - proc proc rw\n"
        "a line that is none\n"
    ),
    "/sys/bus/pci/devices/0000:00:1f.0/class": "0x060100",
    "/sys/bus/pci/devices/0000:17:00.0/class": "0x030200",
    "/sys/bus/pci/devices/0000:17:00.0/vendor": "0x10de",
    "/sys/bus/pci/devices/0000:17:00.0/device": "0x1eb8",
    "/sys/bus/pci/devices/0000:65:00.0/class": "0x030200",
    "/sys/bus/pci/devices/0000:65:00.0/vendor": "0x10de",
    "/sys/bus/pci/devices/0000:65:00.0/device": "0x1eb8",
    "/sys/bus/pci/devices/0000:03:00.0/class": "0x030000",
    "/sys/bus/pci/devices/0000:03:00.0/vendor": "0x1a03",
    "/sys/bus/pci/devices/0000:03:00.0/device": "0x2000",
    "/usr/share/misc/pci.ids": (
        "# comment\n"
        "10de  NVIDIA Corporation\n"
        "\t1eb8  TU104GL [Tesla T4]\n"
        "\t\t10de 12a2  Tesla T4\n"
        "1a03  ASPEED Technology, Inc.\n"
        "\t2000  ASPEED Graphics Family\n"
    ),
    "/proc/driver/nvidia/gpus/0000:17:00.0/information": "Model: \t\t Tesla T4\nIRQ:   1\n",
    "/proc/driver/nvidia/gpus/0000:65:00.0/information": "Model: \t\t Tesla T4\n",
    "/sys/class/tpm/tpm0/tpm_version_major": "2",
    "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c": "\6\0\0\0\1",
    "/etc/os-release": 'ID=ubuntu\nID_LIKE="debian"\nVERSION_ID="24.04"\n',
    "/proc/sys/kernel/osrelease": "6.8.0-87-generic",
    "/run/systemd/resolve/resolv.conf": "# made by systemd\nnameserver 192.0.2.53\n",
    "/etc/resolv.conf": "nameserver 127.0.0.53\n",
    "/run/systemd/netif/links/3": "ADMIN_STATE=configured\nDNS=198.51.100.1 198.51.100.2\n",
    "/sys/class/dmi/id/product_serial": "To be filled by O.E.M.",
    "/sys/class/dmi/id/sys_vendor": "Supermicro",
    "/sys/class/dmi/id/product_name": "Default string",
}
LINKS = [
    {"ifindex": 1, "ifname": "lo", "link_type": "loopback", "address": "00:00:00:00:00:00"},
    {
        "ifindex": 2,
        "ifname": "eno1",
        "link_type": "ether",
        "address": "3c:ec:ef:00:00:01",
        "operstate": "UP",
        "addr_info": [
            {"family": "inet", "local": "192.0.2.17", "prefixlen": 25, "scope": "global"},
            {"family": "inet6", "local": "fe80::1", "prefixlen": 64, "scope": "link"},
        ],
    },
    {
        "ifindex": 3,
        "ifname": "eno2",
        "link_type": "ether",
        "address": "00:00:00:00:00:00",
        "operstate": "DOWN",
        "addr_info": [{"local": "fe80::2", "prefixlen": 64, "scope": "link"}],
    },
    {"ifindex": 9, "ifname": "veth12", "link_type": "ether", "address": "3e:00:00:00:00:02"},
]


def machine(files: dict[str, str]) -> tuple[MemoryRoot, FakeRunner]:
    root = MemoryRoot(capacity=400 * GIB + 10 * 1024**2)
    for path, text in files.items():
        root.write(path, text.encode())
    runner = FakeRunner()
    runner.answer("systemd-detect-virt", stdout="none\n", exit_code=1)
    runner.answer("ip", "-j", "address", stdout=json.dumps(LINKS))
    default = [{"dst": "default", "gateway": "192.0.2.1", "dev": "eno1"}]
    runner.answer("ip", "-j", "route", "show", "default", stdout=json.dumps(default))
    runner.answer(
        "nvidia-smi", stdout="00000000:17:00.0, 15360\n00000000:65:00.0, 15360\n[N/A], [N/A]\n"
    )
    return root, runner


async def test_partitions_are_found_on_disks_through_lvm_and_unmounted() -> None:
    found = await facts.inventory(*machine(SERVER))

    system, data = found.disks
    free = 975721472 * 512 // 20
    assert system.model == "Samsung SSD 980 PRO 500GB"
    assert system.partitions == (
        Partition(
            name="nvme0n1p1",
            size_bytes=GIB // 2,
            file_system="vfat",
            mount_point="/boot/efi",
            free_bytes=system.partitions[0].free_bytes,
        ),
        Partition(
            name="nvme0n1p2",
            size_bytes=975721472 * 512,
            file_system="ext4",
            mount_point="/",
            free_bytes=400 * GIB // free * free,
        ),
        Partition(name="nvme0n1p10", size_bytes=1024**2, file_system="swap"),
    )
    assert data.rotational
    assert [(part.name, part.file_system, part.mount_point) for part in data.partitions] == [
        ("sda", "xfs", "/srv/big disk")
    ]


async def test_free_space_is_coarse_so_that_a_busy_disk_makes_no_report_each_time() -> None:
    root, runner = machine(SERVER)
    before = await facts.inventory(root, runner)

    root.write("/var/log/one", b"x" * 100_000)

    assert await facts.inventory(root, runner) == before


async def test_equal_gpus_are_counted_with_name_memory_and_addresses() -> None:
    found = await facts.inventory(*machine(SERVER))

    assert found.gpus == (
        Gpu(
            vendor="ASPEED",
            model="ASPEED Graphics Family",
            addresses=("0000:03:00.0",),
        ),
        Gpu(
            vendor="NVIDIA",
            model="Tesla T4",
            count=2,
            memory_bytes=15 * GIB,
            addresses=("0000:17:00.0", "0000:65:00.0"),
        ),
    )


async def test_without_driver_and_name_list_a_gpu_is_its_numbers() -> None:
    files = {
        path: text
        for path, text in SERVER.items()
        if not path.startswith(("/proc/driver", "/usr/share"))
    }
    root, runner = machine(files)

    found = await facts.inventory(root, runner)

    assert [(gpu.vendor, gpu.model, gpu.memory_bytes) for gpu in found.gpus] == [
        ("ASPEED", "0x2000", 0),
        ("NVIDIA", "0x1eb8", 0),
    ]
    assert not runner.called("nvidia-smi"), "no driver, no question"


async def test_network_cards_know_subnet_gateway_and_servers() -> None:
    found = await facts.inventory(*machine(SERVER))

    first, second = found.nics
    assert (first.subnet, first.gateway, first.is_default) == ("192.0.2.0/25", "192.0.2.1", True)
    assert first.dns == ("192.0.2.53",), "the servers behind the stub"
    assert (second.mac, second.subnet, second.gateway) == ("", "", "")
    assert second.dns == ("198.51.100.1", "198.51.100.2")


async def test_system_security_and_kind_of_host() -> None:
    found = await facts.inventory(*machine(SERVER))
    kairos = await facts.inventory(*machine({**SERVER, "/etc/kairos-release": "KAIROS_ID=x"}))

    assert (found.os_family, found.os_name, found.os_version) == ("debian", "ubuntu", "24.04")
    assert (found.kernel, found.virtualization) == ("6.8.0-87-generic", "")
    assert (found.tpm, found.tpm_version, found.secure_boot) == (True, "2", True)
    assert (found.host_type, kairos.host_type) == ("agent-mode", "appliance")
    assert (found.vendor, found.product, found.serial) == ("Supermicro", "", "")


async def test_a_machine_that_shows_nothing_is_an_empty_inventory_and_no_error() -> None:
    runner = FakeRunner()
    runner.fail("ip")
    runner.fail("systemd-detect-virt")

    found = await facts.inventory(MemoryRoot(), runner)

    assert (found.disks, found.nics, found.gpus) == ((), (), ())
    assert (found.cpu_cores, found.memory_bytes, found.serial) == (0, 0, "")
    assert not found.tpm
    assert not found.secure_boot


@pytest.mark.parametrize(
    "junk",
    ["", "0", "None", "Not Specified", "System Serial Number", "0123456789", "N/A", "xxxx"],
)
async def test_junk_of_firmware_identifies_nobody(junk: str) -> None:
    root, runner = machine({**SERVER, "/sys/class/dmi/id/product_serial": junk})

    assert (await facts.host_facts(root, runner)).serial == ""
    assert (await facts.inventory(root, runner)).serial == ""
