"""Made-up machines: the files and programs through which the agent sees a machine.

A shape's files are made once and shared by all hosts of the shape; a host adds only what makes it
itself. Everything about a host follows from its number and the fleet's seed, so a simulation that
starts again shows the same machines.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import msgspec
import yaml

from skerry.lib.proc import CommandFailed, Result


class Shape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One row of machines.yaml."""

    shape: str
    vendor: str
    product: str
    cpu: str
    threads: int
    memory_kb: int
    disks: list[dict[str, Any]]
    nics: list[str]
    os: dict[str, str]
    gpus: list[dict[str, str]] = []
    resolvers: list[str] = []
    tpm: bool = False
    secure_boot: bool = False
    virtualization: str = ""
    serial: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """One host's hardware. `number` is unique in its fleet."""

    shape: Shape
    name: str
    number: int
    seed: int

    def own_files(self) -> dict[str, bytes]:
        """What differs from other machines of the shape."""
        serial = self.shape.serial or self._digits("serial")[:10].upper()
        return {
            "/etc/hostname": f"{self.name}\n".encode(),
            "/etc/machine-id": f"{self._digits('machine-id')}\n".encode(),
            "/sys/class/dmi/id/product_uuid": f"{_uuid(self._digits('product'))}\n".encode(),
            "/sys/class/dmi/id/product_serial": f"{serial}\n".encode(),
        }

    def boot_id(self, start: str) -> str:
        """Another one for each start of the host."""
        return _uuid(self._digits(f"boot {start}"))

    @property
    def address(self) -> str:
        """A private address that no other host of the fleet has."""
        high, low = divmod(self.number, 250)
        return f"10.{20 + high // 250}.{high % 250}.{low + 2}"

    def links(self) -> list[dict[str, Any]]:
        """As `ip -j address show` prints them; only the first network card has a cable."""
        found: list[dict[str, Any]] = [{"ifname": "lo", "link_type": "loopback"}]
        for index, name in enumerate(self.shape.nics):
            digits = self._digits(f"nic {index}")
            # The second-lowest bit of the first byte marks a locally administered address.
            mac = ":".join(("02", *(digits[i : i + 2] for i in range(0, 10, 2))))
            used = index == 0
            found.append(
                {
                    "ifname": name,
                    "link_type": "ether",
                    "address": mac,
                    "operstate": "UP" if used else "DOWN",
                    "addr_info": [{"family": "inet", "local": self.address, "prefixlen": 24}]
                    if used
                    else [],
                }
            )
        return found

    def _digits(self, what: str) -> str:
        text = f"skerry simulated {self.seed}/{self.number}/{what}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class MachineRunner:
    """The few programs that the agent asks about the machine; no other does anything. `restart`
    is what the machine does when it is told to."""

    machine: Machine
    restart: Callable[[], None] | None = None

    async def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        check: bool = True,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> Result:
        result = Result(tuple(argv), *self._answer(tuple(argv)), "")
        if check and not result.ok:
            raise CommandFailed(result)
        return result

    def _answer(self, argv: tuple[str, ...]) -> tuple[int, str]:
        if argv == ("systemctl", "reboot") and self.restart is not None:
            self.restart()
            return 0, ""
        if argv[:1] == ("systemd-detect-virt",):
            found = "" if "--container" in argv else self.machine.shape.virtualization
            return (0, f"{found}\n") if found else (1, "none\n")
        if argv == ("ip", "-j", "address", "show"):
            return 0, json.dumps(self.machine.links())
        if argv[:4] == ("ip", "-j", "route", "show"):
            gateway = self.machine.address.rpartition(".")[0] + ".1"
            device = self.machine.shape.nics[0]
            return 0, json.dumps([{"dst": "default", "gateway": gateway, "dev": device}])
        return 0, ""


@cache
def shapes() -> tuple[Shape, ...]:
    """The shipped shapes."""
    text = (files("skerry.sim") / "machines.yaml").read_text(encoding="utf-8")
    return tuple(msgspec.convert(yaml.safe_load(text), list[Shape]))


@cache
def shape_files(name: str) -> Mapping[str, bytes]:
    """The files that all machines of a shape have in common."""
    shape = next(item for item in shapes() if item.shape == name)
    dmi, proc = "/sys/class/dmi/id", "/proc"
    made = {
        f"{dmi}/sys_vendor": shape.vendor,
        f"{dmi}/product_name": shape.product,
        f"{proc}/meminfo": f"MemTotal:       {shape.memory_kb} kB",
        f"{proc}/cpuinfo": "\n".join(
            f"processor\t: {index}\nmodel name\t: {shape.cpu}\n" for index in range(shape.threads)
        ),
        f"{proc}/sys/kernel/osrelease": shape.os["kernel"],
        "/etc/os-release": "\n".join(
            f'{key}="{value}"' for key, value in shape.os.items() if key != "kernel"
        ),
    }
    made |= _disk_files(shape)
    if shape.resolvers:
        servers = "\n".join(f"nameserver {address}" for address in shape.resolvers)
        made["/etc/resolv.conf"] = servers
    for gpu in shape.gpus:
        base = f"/sys/bus/pci/devices/{gpu['address']}"
        made |= {
            f"{base}/class": "0x030000",
            f"{base}/vendor": gpu["vendor"],
            f"{base}/device": gpu["device"],
        }
        if "memory" in gpu:
            made[f"{base}/mem_info_vram_total"] = gpu["memory"]
        if "model" in gpu:
            made[f"{base}/product_name"] = gpu["model"]
    if shape.tpm:
        made["/sys/class/tpm/tpm0/tpm_version_major"] = "2"
    found = {path: f"{text}\n".encode() for path, text in made.items()}
    if shape.secure_boot:
        name = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
        found[f"/sys/firmware/efi/efivars/{name}"] = b"\x06\x00\x00\x00\x01"
    return found


def _disk_files(shape: Shape) -> dict[str, str]:
    """Disks, their partitions and what is mounted, as sysfs and mountinfo show them."""
    made: dict[str, str] = {}
    lines: list[str] = []
    for major, disk in enumerate(shape.disks, start=8):
        base = f"/sys/block/{disk['name']}"
        made |= {
            f"{base}/dev": f"{major}:0",
            f"{base}/size": str(disk["sectors"]),
            f"{base}/device/model": disk.get("model", ""),
            f"{base}/device/vendor": disk.get("vendor", ""),
            f"{base}/queue/rotational": "1" if disk.get("rotational") else "0",
        }
        for index, part in enumerate(disk.get("partitions", ()), start=1):
            place = f"{base}/{part['name']}"
            made |= {
                f"{place}/dev": f"{major}:{index}",
                f"{place}/partition": str(index),
                f"{place}/size": str(part["sectors"]),
            }
            if "mount" in part:
                lines.append(
                    f"{30 + len(lines)} 1 {major}:{index} / {part['mount']} rw,relatime shared:1"
                    f" - {part['fs']} /dev/{part['name']} rw"
                )
            elif "fs" in part:
                made[f"/run/udev/data/b{major}:{index}"] = f"E:ID_FS_TYPE={part['fs']}"
    if lines:
        made["/proc/self/mountinfo"] = "\n".join(lines)
    return made


def _uuid(digits: str) -> str:
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:32]))
