"""The command line of an emulated machine; pure functions.

Nothing of the user's own QEMU settings is read. The second serial port is a raw line that a root
shell of the guest may listen on (see `shell_credentials`); systemd takes units from credentials
that the firmware's tables carry (systemd.io, CREDENTIALS; smbios type 11).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from skerry.lab.names import machine_name

PROGRAM = "qemu-system-x86_64"
TCG = ("-accel", "tcg,thread=multi", "-cpu", "max")
KVM = ("-accel", "kvm", "-cpu", "host")

_OVMF = Path("/usr/share/OVMF")
_CREDENTIAL = "io.systemd.credential.binary"
_SHELL_UNIT = """\
[Unit]
Description=Shell of the lab on the second serial port
DefaultDependencies=no
ConditionPathExists=!/etc/initrd-release
StartLimitIntervalSec=0
[Service]
ExecStart=/bin/sh -c "stty -F /dev/ttyS1 raw -echo && exec /bin/sh </dev/ttyS1 >/dev/ttyS1 2>&1"
Restart=always
RestartSec=1
"""
_SHELL_WANTED = "[Unit]\nWants=skerry-lab-shell.service\n"


@dataclass(frozen=True, slots=True)
class Disk:
    """A file as a disk. `log`: a file into which every write and flush is recorded.

    `serial` is what the guest sees; `usb` a stick instead of a virtio disk.
    """

    path: Path
    form: str = "raw"
    log: Path | None = None
    serial: str = ""
    usb: bool = False
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """What a machine is made of. `folder` holds its sockets, logs and firmware variables.

    `firmware` is `uefi`, `secure` (Secure Boot enforced once keys are enrolled) or `direct`
    (`kernel` and `initrd` are started without firmware). `share` is a folder of this computer
    that the guest may mount by virtiofs under the tag `host`. `bridge` empty: no network.
    """

    run: str
    name: str
    folder: Path
    disks: tuple[Disk, ...] = ()
    firmware: str = "uefi"
    memory_mib: int = 1536
    cpus: int = 2
    tpm: bool = False
    kernel: Path | None = None
    initrd: Path | None = None
    cmdline: str = ""
    share: Path | None = None
    bridge: str = ""
    credentials: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def machine(self) -> str:
        return machine_name(self.run, self.name)

    @property
    def mac(self) -> str:
        return mac_of(self.run, self.name)

    def at(self, name: str) -> Path:
        """A file of the machine's folder: serial.log, shell.sock, qmp.sock, vars.fd, tpm.sock."""
        return self.folder / name


def mac_of(run: str, name: str) -> str:
    """A stable address of the locally administered range."""
    digest = hashlib.sha256(f"skerry lab mac {run}/{name}".encode()).digest()
    return "02:73:6b" + "".join(f":{byte:02x}" for byte in digest[:3])


def shell_credentials() -> dict[str, bytes]:
    """Credentials that make systemd (257 and later) open a root shell for `Machine.sh`."""
    return {
        "systemd.extra-unit.skerry-lab-shell.service": _SHELL_UNIT.encode(),
        # Of the system itself: what the initrd reached already is not wanted again.
        "systemd.unit-dropin.multi-user.target": _SHELL_WANTED.encode(),
    }


def firmware_files(kind: str) -> tuple[Path, Path]:
    """Code and template of the variables of OVMF for `uefi` or `secure`."""
    code = "OVMF_CODE_4M.secboot.fd" if kind == "secure" else "OVMF_CODE_4M.fd"
    return _OVMF / code, _OVMF / "OVMF_VARS_4M.fd"


def qemu_argv(spec: MachineSpec, *, accel: Sequence[str] = TCG) -> list[str]:
    """The machine's command line."""
    argv = [
        *(PROGRAM, "-name", f"guest={spec.machine}", *accel),
        *("-smp", str(spec.cpus), "-m", f"{spec.memory_mib}M"),
        *("-nodefaults", "-no-user-config", "-display", "none"),
        *("-serial", f"file:{spec.at('serial.log')}"),
        *("-serial", f"unix:{spec.at('shell.sock')},server=on,wait=off"),
        *("-qmp", f"unix:{spec.at('qmp.sock')},server=on,wait=off"),
        *("-device", "VGA", "-device", "virtio-rng-pci"),
        *("-device", "i6300esb", "-action", "watchdog=reset"),
        *("-device", "qemu-xhci"),
    ]
    argv += _firmware(spec)
    for number, disk in enumerate(spec.disks):
        argv += _disk(disk, number)
    if spec.share is not None:
        argv += [
            *("-chardev", f"socket,id=share,path={spec.at('share.sock')}"),
            *("-device", "vhost-user-fs-pci,chardev=share,tag=host"),
            *("-object", f"memory-backend-memfd,id=mem,size={spec.memory_mib}M,share=on"),
            *("-numa", "node,memdev=mem"),
        ]
    if spec.tpm:
        argv += [
            *("-chardev", f"socket,id=tpm,path={spec.at('tpm.sock')}"),
            *("-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-tis,tpmdev=tpm0"),
        ]
    if spec.bridge:
        # The device is gone with QEMU; a tap that was made before would have to be removed.
        argv += [
            *("-netdev", f"tap,id=net0,script={spec.at('join-bridge')},downscript=no"),
            *("-device", f"virtio-net-pci,netdev=net0,mac={spec.mac},romfile="),
        ]
    for name, value in spec.credentials.items():
        text = base64.b64encode(value).decode()
        argv += ["-smbios", f"type=11,value={_CREDENTIAL}:{name}={text}"]
    return argv


def _firmware(spec: MachineSpec) -> list[str]:
    if spec.firmware == "direct":
        argv = ["-machine", "q35", "-kernel", str(spec.kernel), "-append", spec.cmdline]
        return argv + (["-initrd", str(spec.initrd)] if spec.initrd is not None else [])
    code, _ = firmware_files(spec.firmware)
    argv = ["-machine", "q35"]
    if spec.firmware == "secure":
        # Variables that the system itself cannot write behind the firmware's back.
        argv = ["-machine", "q35,smm=on"]
        argv += ["-global", "driver=cfi.pflash01,property=secure,value=on"]
    return [
        *argv,
        *("-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={code}"),
        *("-drive", f"if=pflash,format=raw,unit=1,file={spec.at('vars.fd')}"),
    ]


def _disk(disk: Disk, number: int) -> list[str]:
    argv = block_chain(disk, f"disk{number}")
    serial = f",serial={disk.serial}" if disk.serial else ""
    if disk.usb:
        return [*argv, "-device", f"usb-storage,drive=disk{number},removable=on{serial}"]
    return [*argv, "-device", f"virtio-blk-pci,drive=disk{number},bootindex={number + 1}{serial}"]


def block_chain(disk: Disk, name: str) -> list[str]:
    """`-blockdev` words for QEMU and its storage daemon; the topmost node is `name`.

    Flushes do not reach this computer's disk: a killed QEMU loses nothing that it was given.
    """
    only = ",read-only=on" if disk.read_only else ""
    cache = "cache.no-flush=on"
    argv = [
        *("-blockdev", f"driver=file,node-name={name}-file,filename={disk.path},{cache}{only}"),
    ]
    top = f"driver={disk.form},node-name={name}%s,file={name}-file,{cache}{only}"
    if disk.log is None:
        return [*argv, "-blockdev", top % ""]
    return [
        *argv,
        *("-blockdev", top % "-plain"),
        *("-blockdev", f"driver=file,node-name={name}-log,filename={disk.log},{cache}"),
        "-blockdev",
        f"driver=blklogwrites,node-name={name},file={name}-plain,log={name}-log,log-sector-size=512",
    ]
