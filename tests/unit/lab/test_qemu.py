"""The command line of a machine, and of the server that gives it an address."""

from __future__ import annotations

from ipaddress import IPv4Network
from pathlib import Path

from skerry.lab.dhcp import server_argv
from skerry.lab.qemu import TCG, Disk, MachineSpec, mac_of, qemu_argv, shell_credentials

PLACE = Path("/lab/m")


def words(spec: MachineSpec) -> str:
    return " ".join(qemu_argv(spec, accel=TCG))


def test_a_machine_is_found_by_run_and_name() -> None:
    assert "-name guest=edge.run1 " in words(MachineSpec(run="run1", name="edge", folder=PLACE))


def test_secure_firmware_keeps_its_variables_from_the_system() -> None:
    said = words(MachineSpec(run="r", name="n", folder=PLACE, firmware="secure"))

    assert "q35,smm=on" in said
    assert "driver=cfi.pflash01,property=secure,value=on" in said
    assert "OVMF_CODE_4M.secboot.fd" in said
    assert "unit=1,file=/lab/m/vars.fd" in said


def test_a_recorded_disk_is_written_through_its_recorder() -> None:
    spec = MachineSpec(run="r", name="n", folder=PLACE, disks=(Disk(Path("/d"), log=Path("/l")),))

    said = words(spec)

    assert "driver=blklogwrites,node-name=disk0,file=disk0-plain,log=disk0-log" in said
    assert "virtio-blk-pci,drive=disk0,bootindex=1" in said


def test_without_a_bridge_there_is_no_network_card() -> None:
    assert "netdev" not in words(MachineSpec(run="r", name="n", folder=PLACE))


def test_no_shell_is_opened_unless_asked_for() -> None:
    plain = MachineSpec(run="r", name="n", folder=PLACE)
    asked = MachineSpec(run="r", name="n", folder=PLACE, credentials=shell_credentials())

    assert "type=11" not in words(plain)
    assert "systemd.extra-unit.skerry-lab-shell.service=" in words(asked)


def test_addresses_of_two_machines_differ() -> None:
    macs = {mac_of(run, name) for run in ("a", "b") for name in ("c", "d")}

    assert len(macs) == 4
    assert all(mac.startswith("02:") for mac in macs)


def test_addresses_are_given_on_the_bridge_only_and_lead_nowhere() -> None:
    argv = server_argv("sk-run", IPv4Network("10.200.7.0/24"), Path("/h"))

    assert "--interface=sk-run" in argv
    assert "--bind-interfaces" in argv
    assert "--dhcp-option=option:router" in argv
    assert "--dhcp-option=option:dns-server,10.200.7.1" in argv
