"""A guest of the lab's own: Debian's kernel and a first program that takes orders.

It starts without firmware in seconds and opens the same shell as an appliance with the lab's
credentials. With `share` it sees this computer's files (read-only) below /host, so that skerry's
own code runs against file systems that this computer's kernel may not have.
"""

from __future__ import annotations

import datetime as dt
import shutil
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import anyio

from skerry.builder.cache import Cache, content_id
from skerry.builder.gomodules import machine_architecture
from skerry.builder.image.modules import closure, copy_modules, kernel_version
from skerry.builder.image.trees import Origin, unpack_packages
from skerry.lab.errors import TreeFailed
from skerry.lib.proc import Runner

_SUITE = "trixie"
_MODULES = (
    *("virtio_blk", "vfat", "nls_cp437", "nls_ascii", "dm_verity", "erofs", "overlay", "loop"),
    *("i6300esb", "virtio_net"),
)
_BUSYBOX = Path("/bin/busybox")
_INIT = """\
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm /tmp /run /host
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
while read -r place; do insmod "$place" 2>/dev/null; done </modules
if mount -t virtiofs -o ro host /host 2>/dev/null; then
  for name in proc sys dev run; do mount --rbind /$name /host/$name; done
fi
echo "lab guest is up"
stty -F /dev/ttyS1 raw -echo
while :; do /bin/sh </dev/ttyS1 >/dev/ttyS1 2>&1; sleep 1; done
"""


@dataclass(frozen=True, slots=True)
class GuestKit:
    """Kernel and initrd of the lab's guest."""

    kernel: Path
    initrd: Path
    cmdline: str = "console=ttyS0 quiet panic=-1 rdinit=/init"


async def ensure_guest(cache: Cache, runner: Runner) -> GuestKit:
    """The kit, made first (half a minute, as root) when it is not there. Raises TreeFailed."""
    if not _BUSYBOX.exists():
        raise TreeFailed(f"{_BUSYBOX} is missing", hint="apt-get install busybox-static")
    architecture = machine_architecture()
    package = f"linux-image-cloud-{architecture}"
    name = "guest-" + content_id([_SUITE, package, _MODULES, _INIT, _BUSYBOX.stat().st_size])
    place = cache.find("trees", name)
    if place is None:
        origin = Origin(_SUITE, architecture, dt.date(2025, 1, 1))
        with cache.fill("trees", name) as work, tempfile.TemporaryDirectory(dir=work) as scratch:
            tar = Path(scratch) / "kernel.tar"
            await unpack_packages([package], origin, tar, runner=runner)
            await anyio.to_thread.run_sync(_unpack, tar, Path(scratch))
            await _make(Path(scratch), work, runner)
        place = cache.base / "trees" / name
    return GuestKit(place / "vmlinuz", place / "initrd")


async def _make(scratch: Path, into: Path, runner: Runner) -> None:
    version = kernel_version(scratch)
    modules = scratch / "usr/lib/modules" / version
    if not (scratch / "lib").exists():
        (scratch / "lib").symlink_to("usr/lib")
    await runner.run(["depmod", "-b", str(scratch), version], timeout_s=120)
    paths, missing = closure(
        (modules / "modules.dep").read_text(), (modules / "modules.softdep").read_text(), _MODULES
    )
    built_in = (modules / "modules.builtin").read_text().replace("-", "_")
    lost = [name for name in missing if f"/{name}.ko" not in built_in]
    if lost:
        raise TreeFailed(f"the guest's kernel {version} lacks modules: {', '.join(lost)}")
    root = scratch / "root"
    for folder in ("bin", "proc", "sys", "dev", "tmp", "run"):
        (root / folder).mkdir(parents=True)
    shutil.copy2(_BUSYBOX, root / "bin/busybox")
    await anyio.to_thread.run_sync(copy_modules, modules, root / "lib/modules", paths)
    order = _in_order(paths, (modules / "modules.dep").read_text())
    (root / "modules").write_text("".join(f"/lib/modules/{one}\n" for one in order))
    (root / "init").write_text(_INIT)
    (root / "init").chmod(0o755)
    pack = 'cd "$1" && find . | cpio --quiet -o -H newc >"$2"'
    await runner.run(["sh", "-c", pack, "sh", str(root), str(into / "initrd")], timeout_s=120)
    shutil.copyfile(scratch / "boot" / f"vmlinuz-{version}", into / "vmlinuz")


def _in_order(paths: list[str], dependencies: str) -> list[str]:
    """Modules so that each comes after what it needs; unpacked names."""
    needs = {
        path: rest.split()
        for path, _, rest in (line.partition(":") for line in dependencies.splitlines())
    }
    done: list[str] = []

    def visit(path: str) -> None:
        for one in needs.get(path, []):
            visit(one)
        if path not in done:
            done.append(path)

    for path in paths:
        visit(path)
    return [path.removesuffix(".xz").removesuffix(".zst") for path in done]


def _unpack(tar: Path, into: Path) -> None:
    with tarfile.open(tar) as archive:
        wanted = [
            member
            for member in archive
            if member.name.removeprefix("./").startswith(("boot/vmlinuz-", "usr/lib/modules/"))
        ]
        archive.extractall(into, members=wanted, filter="tar")
