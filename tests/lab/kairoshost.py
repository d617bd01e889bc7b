"""A Kairos host for tests: a real disk with Kairos' five partitions, and the real kairos-agent.

What is real: kairos-agent, the partition table, file systems, image files, loop devices, rsync and
e2fsprogs. What stands in: the kernel (this one goes on running; a "boot" is a fresh mount and PID
namespace whose root is the slot's image, mounted as immucore does it), GRUB (`_chosen` follows the
rules of Kairos' grub.cfg), udev (a script, as no udev runs here), FAT where the kernel has none.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import anyio
from tests.contract.osengine.kairosgrub import BOOTS, block, choose

from skerry.agent.osengine.kairos_state import parse_env
from skerry.lib.files import DiskRoot, Root
from skerry.lib.proc import Result, SystemRunner

T = TypeVar("T")
DISK_BYTES = 4 * 1024**3
_TOOLS = "/run/tools"

_UDEV = """#!/bin/sh
# Nodes of the partitions, links and database entries, by what is on them.
disk=$(cat /run/tools/disk)
partx -u "$disk" 2>/dev/null || partx -a "$disk" 2>/dev/null
mkdir -p /run/udev/data /dev/disk/by-label /dev/disk/by-partlabel
rm -f /dev/disk/by-label/* /dev/disk/by-partlabel/*
partx -g -s -o NR,NAME "$disk" 2>/dev/null | while read -r nr name; do
  p=${disk}p$nr; [ -b "$p" ] || continue
  dev=$(cat "/sys/class/block/${p#/dev/}/dev")
  { blkid -p -o udev "$p" | sed 's/^/E:/'; echo "E:ID_PART_ENTRY_NAME=$name"; } \\
    > "/run/udev/data/b$dev"
  ln -sf "$p" "/dev/disk/by-partlabel/$name"
  label=$(blkid -p -s LABEL -o value "$p")
  [ -z "$label" ] || ln -sf "$p" "/dev/disk/by-label/$label"
done
exit 0
"""

_FAT = """#!/bin/sh
grep -qw vfat /proc/filesystems && exec /usr/sbin/mkfs.vfat "$@"
# A kernel without FAT: the EFI partition becomes ext2 under the same label.
while [ $# -gt 1 ]; do [ "$1" = -n ] && label=$2; shift; done
exec mkfs.ext2 -q -F -L "$label" "$1"
"""

# $1 work folder, $2 disk, $3 command line, $4 the agent, $5 image ("": a live medium), $6 source
_HOLD = """set -e
T=$1/ns; R=$T/root
mkdir -p "$T"; mount -t tmpfs -o size=1g tmpfs "$T"
mkdir -p "$R" "$T/fw/efi" "$T/disk" "$T/etc" "$T/etcw" "$T/up" "$T/work" "$T/oem" "$T/state"
part() { blkid -t "LABEL=$1" -o device "$2"p* 2>/dev/null | head -1; }
if [ -n "$5" ]; then
  state=$(part "$6" "$2"); mount -o ro "$state" "$T/state"
  # immucore looks for the root by its label, not by the file.
  [ "$(blkid -p -s LABEL -o value "$T/state/cOS/$5")" = "$7" ] || { echo "no $7"; exit 7; }
  mount -o ro,loop "$T/state/cOS/$5" "$R"
  for d in usr root; do mount --rbind "/$d" "$R/$d"; done
  mount -t overlay -o "lowerdir=$R/etc:/etc,upperdir=$T/etc,workdir=$T/etcw" etc "$R/etc"
  mount -t tmpfs tmpfs "$R/var"
else
  mount -t overlay -o "lowerdir=/,upperdir=$T/up,workdir=$T/work" overlay "$R"
  mkdir -p "$R/oem"
fi
mount -t proc proc "$R/proc"
mount --rbind /sys "$R/sys"; mount --bind "$T/fw" "$R/sys/firmware"
mount --rbind /dev "$R/dev"; mkdir -p "$R/dev/disk"; mount --bind "$T/disk" "$R/dev/disk"
mount -t tmpfs tmpfs "$R/run"; mount -t tmpfs tmpfs "$R/tmp"
mkdir -p "$R/run/cos" "$R/run/tools" "$R/run/initramfs/cos-state" "$R/run/source"
mount --bind "$1" "$R/run/source"
echo "$2" > "$R/run/tools/disk"
cp "$1/udevadm" "$1/mkfs.vfat" "$R/run/tools/"
touch "$R/run/tools/kairos-agent"; mount --bind "$4" "$R/run/tools/kairos-agent"
echo "$3" > "$T/cmdline"; mount --bind "$T/cmdline" "$R/proc/cmdline"
cat /proc/sys/kernel/random/uuid > "$T/boot-id"
mount --bind "$T/boot-id" "$R/proc/sys/kernel/random/boot_id"
if [ -n "$5" ]; then
  mount --move "$T/state" "$R/run/initramfs/cos-state"
  mount "$(part COS_OEM "$2")" "$R/oem"
  mode=$8; touch "$R/run/cos/$mode"
  if [ "$mode" != recovery_mode ] && [ "$mode" != autoreset_mode ]; then
    mount "$(part COS_PERSISTENT "$2")" "$R/usr/local"
    mkdir -p "$R/usr/local/.state/var-lib-skerry.bind" "$R/var/lib/skerry"
    mount --bind "$R/usr/local/.state/var-lib-skerry.bind" "$R/var/lib/skerry"
  fi
fi
chroot "$R" /run/tools/udevadm trigger
echo ready
exec chroot "$R" sleep 100000
"""

_GRUB = """
menuentry "Kairos" --id cos {
}
menuentry "Kairos (fallback)" --id fallback {
}
menuentry "Kairos recovery" --id recovery {
}
menuentry "Kairos state reset (auto)" --id statereset {
}
"""

_MODES = {
    "cos": "active_mode",
    "fallback": "passive_mode",
    "recovery": "recovery_mode",
    "statereset": "autoreset_mode",
}


class InsideRunner:
    """Runs commands inside the running host."""

    def __init__(self, host: KairosHost) -> None:
        self._host = host
        self.trace: list[Result] = []

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
        path = f"{_TOOLS}:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
        enter = [
            "nsenter",
            "-t",
            str(self._host.pid),
            "-m",
            "-p",
            "-r",
            "-w",
            "env",
            f"PATH={path}",
        ]
        done = await SystemRunner().run(
            [*enter, *argv], timeout_s=timeout_s, check=check, stdin=stdin, env=env
        )
        self.trace.append(Result(tuple(argv), done.code, done.stdout, done.stderr))
        return done


@dataclass(eq=False)
class KairosHost:
    """An async context. `folder` is on a real file system; everything in it goes at the end."""

    folder: Path
    agent: Path
    disk: str = ""
    pid: int = 0
    booted: str = ""
    _launcher: subprocess.Popen[str] | None = None
    runner: InsideRunner = field(init=False)

    def __post_init__(self) -> None:
        self.runner = InsideRunner(self)

    @property
    def root(self) -> Root:
        """The running host's files."""
        return DiskRoot(f"/proc/{self.pid}/root")

    async def __aenter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, text in (("udevadm", _UDEV), ("mkfs.vfat", _FAT)):
            (self.folder / name).write_text(text)
            (self.folder / name).chmod(0o755)
        file = self.folder / "disk.img"
        with file.open("wb") as stream:
            stream.truncate(DISK_BYTES)
        self.disk = _say("losetup", "--find", "--show", "--partscan", str(file)).strip()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.power_off()
        _say("sh", "-c", f"partx -d {self.disk}; losetup -d {self.disk}; true")
        _say("rm", "-rf", "--one-file-system", str(self.folder))

    async def live(self) -> None:
        """Start from an installation medium."""
        await self._start("live:CDLABEL=COS_LIVE", "", "", "", "")

    async def install(self, source: Path) -> list[str]:
        """Install from a folder with the agent; its steps as it reports them.

        kairos-agent v2.31.4 now and then loses the descriptor that leads it out of its chroot
        ("chdir /: bad file descriptor"). A person would start the medium again, so do we.
        """
        config = "#cloud-config\ninstall:\n  nousers: true\n"
        (self.folder / "install.yaml").write_text(config)
        for _ in range(4):
            await self.live()
            done = await self._install_once(source)
            lines = [json.loads(x) for x in done.stdout.splitlines() if x.startswith('{"event')]
            if done.ok:
                return [line["step"] for line in lines]
            assert "bad file descriptor" in done.stdout + done.stderr, done.stdout
        raise AssertionError("kairos-agent does not install")

    async def _install_once(self, source: Path) -> Result:
        return await self.runner.run(
            [
                *("env", "KAIROS_AGENT_PROGRESS=1", "kairos-agent", "manual-install"),
                *("--device", self.disk, "--source", f"dir:/run/source/{source.name}"),
                "/run/source/install.yaml",
            ],
            timeout_s=40,
            check=False,
        )

    async def boot(self, *, broken: frozenset[str] = frozenset()) -> str:
        """Start what GRUB would start; the entry. `broken`: images that crash early in the kernel,
        so that the machine restarts."""
        self.power_off()
        for _ in range(5):
            entry, words = self._chosen()
            part, image, label = BOOTS[entry]
            mode, own = _MODES[entry], "kairos.reset" if entry == "statereset" else ""
            if image not in broken:
                break
        line = f"root=LABEL={label} cos-img/filename=/cOS/{image} {own} {words}".strip()
        if mode == "active_mode":
            # Kairos' own stage boot.before (08_grub.yaml): early userspace is reached.
            self._with_partition("COS_STATE", _clear_assessment)
        await self._start(line, image, part, label, mode)
        self.booted = entry
        return entry

    def power_off(self) -> None:
        """Everything that runs in the host ends at once; so do its mounts."""
        if self._launcher is not None:
            if self.pid:
                _kill(self.pid)
            self._launcher.kill()
            self._launcher.wait()
            if self._launcher.stdout is not None:
                self._launcher.stdout.close()
        self._launcher, self.pid = None, 0
        self._detach()

    def _detach(self) -> None:
        """Take away the loop devices of image files, as the end of a kernel does."""
        name = self.disk.removeprefix("/dev/")
        # A namespace's mounts end a little after its last process.
        end = time.monotonic() + 10
        while list(Path("/sys/fs/ext4").glob(f"{name}p*")) and time.monotonic() < end:
            time.sleep(0.02)
        own = {item.read_text().strip() for item in Path(f"/sys/block/{name}").glob("*p*/dev")}
        listed = json.loads(_say("losetup", "--list", "--json", "-O", "NAME,BACK-MAJ:MIN") or "{}")
        for item in listed.get("loopdevices", []):
            if item["back-maj:min"].strip() in own:
                _say("sh", "-c", f"losetup -d {item['name']} || true")

    def edit(self, label: str, script: str) -> str:
        """Run a shell script in the root of a partition of the switched-off host."""
        return self._with_partition(label, lambda place: _say("sh", "-ec", script, cwd=place))

    # -- GRUB ----------------------------------------------------------------------------------

    def _chosen(self) -> tuple[str, str]:
        """Entry and extra words, by Kairos' grub.cfg and its boot assessment; both rewrite their
        environment blocks."""
        return self._with_partition(
            "COS_OEM", lambda oem: self._with_partition("COS_STATE", lambda st: _grub(oem, st))
        )

    def _with_partition(self, label: str, use: Callable[[Path], T]) -> T:
        device = _say("sh", "-c", f"blkid -p -o export {self.disk}p* | cat; true")
        name = next(
            words["DEVNAME"]
            for words in map(parse_env, device.split("\n\n"))
            if words.get("LABEL") == label
        )
        place = self.folder / f"mnt-{label}"
        place.mkdir(exist_ok=True)
        _say("mount", name, str(place))
        try:
            return use(place)
        finally:
            _say("umount", str(place))

    # -- starting ------------------------------------------------------------------------------

    async def _start(self, line: str, image: str, part: str, label: str, mode: str) -> None:
        self.power_off()
        script = self.folder / "hold.sh"
        script.write_text(_HOLD)
        words = [str(self.folder), self.disk, line, str(self.agent), image, part, label, mode]
        enter = [
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--propagation",
            "private",
        ]
        self._launcher = subprocess.Popen(  # noqa: ASYNC220  # killed by hand, and starts at once
            [*enter, "sh", str(script), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._launcher.stdout is not None
        said = []
        for text in self._launcher.stdout:
            said.append(text)
            if text == "ready\n":
                break
        else:
            self.power_off()
            raise AssertionError(f"the host does not start: {''.join(said)}")
        children = Path(f"/proc/{self._launcher.pid}/task/{self._launcher.pid}/children")
        self.pid = int(children.read_text().split()[0])
        await anyio.sleep(0.05)


def write_source(folder: Path, version: str, *, payload_mib: int = 4) -> Path:
    """A root file system with just what kairos-agent and the stand-in for immucore look for."""
    files = {
        "etc/kairos-release": f'KAIROS_VERSION="{version}"\nKAIROS_FLAVOR="debian"\n'
        'KAIROS_ARCH="amd64"\nKAIROS_TRUSTED_BOOT="false"\n',
        "etc/os-release": "ID=debian\nVERSION_ID=12\n",
        "etc/cos/grub.cfg": _GRUB,
        "etc/cos/bootargs.cfg": "set kernel=/boot/vmlinuz\nset initramfs=/boot/initrd\n",
        "usr/lib/shim/shimx64.efi.signed": "shim",
        "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed": "grub",
        "boot/initrd": f"initrd of {version}" * 1000,
        "boot/vmlinuz-6.1": f"kernel of {version}" * 1000,
    }
    modules = ("loopback", "squash4", "xzio", "gzio", "regexp")
    files |= {f"usr/lib/grub/x86_64-efi/{name}.mod": name for name in modules}
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "boot/vmlinuz").symlink_to("vmlinuz-6.1")
    # For the stages that kairos-agent runs in the new image.
    (folder / "usr/bin").mkdir(parents=True)
    shutil.copy("/usr/bin/busybox", folder / "usr/bin/busybox")
    for name in ("sh", "chroot"):
        (folder / "usr/bin" / name).symlink_to("busybox")
    (folder / "usr/payload").write_bytes(os.urandom(payload_mib * 1024 * 1024))
    for name in ("bin", "sbin", "lib", "lib64"):
        (folder / name).symlink_to(f"usr/{name}")
    for name in ("oem", "var", "root", "home", "system/oem", "efi", "opt", "mnt", "srv"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return folder


def save_image(folder: Path, tar: Path) -> Path:
    """The folder as a saved container image of one layer."""
    layer = tar.with_suffix(".layer")
    with tarfile.open(layer, "w:gz", compresslevel=1) as archive:
        archive.add(folder, arcname=".")
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [_digest_of_unpacked(layer)]},
        }
    ).encode()
    manifest = [{"Config": "config.json", "RepoTags": ["kairos:test"], "Layers": ["layer.tar.gz"]}]
    with tarfile.open(tar, "w") as archive:
        archive.add(layer, arcname="layer.tar.gz")
        for name, data in (
            ("config.json", config),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    layer.unlink()
    return tar


def _digest_of_unpacked(layer: Path) -> str:
    hashing = hashlib.sha256()
    with gzip.open(layer) as stream:
        while piece := stream.read(1 << 20):
            hashing.update(piece)
    return f"sha256:{hashing.hexdigest()}"


def _grub(oem: Path, state: Path) -> tuple[str, str]:
    marks = _read_env(state / "boot_assessment")
    choice = choose(_read_env(oem / "grubenv"), marks, lambda name: (state / "cOS" / name).exists())
    (oem / "grubenv").write_text(block(choice.variables))
    if marks:
        (state / "boot_assessment").write_text(block(choice.assessment))
    return choice.entry, choice.words


def _clear_assessment(state: Path) -> None:
    if (state / "boot_assessment").exists():
        (state / "boot_assessment").write_text(block({}))


def _read_env(file: Path) -> dict[str, str]:
    return parse_env(file.read_text()) if file.exists() else {}


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _say(*argv: str, cwd: Path | None = None) -> str:
    done = subprocess.run(argv, check=False, capture_output=True, text=True, cwd=cwd, timeout=60)
    if done.returncode:
        raise AssertionError(f"{argv} failed: {done.stderr or done.stdout}")
    return done.stdout
