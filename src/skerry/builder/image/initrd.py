"""The initrd: files of packages, a few kernel modules and skerry's own scripts, as one archive.

Nothing is installed in it, so what a package's script would have made is made here. Equal inputs
make equal bytes: owners are root, times zero, names sorted.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO

from skerry.builder.image.errors import ImageBuildFailed
from skerry.builder.image.modules import builtin, closure, copy_modules, kernel_version
from skerry.builder.image.toolbox import Toolbox
from skerry.lib.digest import sha256
from skerry.lib.proc import Runner

_FOLDERS = ("dev", "etc", "proc", "run", "sys", "sysroot", "tmp", "var", "root")
_LINKS = {
    "bin": "usr/bin",
    "sbin": "usr/sbin",
    "lib": "usr/lib",
    "lib64": "usr/lib64",
    "init": "usr/lib/systemd/systemd",
    "usr/bin/sh": "dash",
    "usr/bin/awk": "mawk",
    "var/run": "../run",
    "etc/mtab": "../proc/self/mounts",
}
_USERS = (
    "root:x:0:0:root:/root:/bin/sh\n"
    "tss:x:107:107::/:/bin/false\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n"
)
# Groups that udev's rules name, with Debian's fixed numbers where there are such.
_GROUPS = {
    "root": 0,
    "tty": 5,
    "disk": 6,
    "lp": 7,
    "kmem": 15,
    "dialout": 20,
    "cdrom": 24,
    "tape": 26,
    "audio": 29,
    "video": 44,
    "tss": 107,
    "input": 990,
    "sgx": 991,
    "kvm": 992,
    "render": 993,
    "clock": 994,
    "nogroup": 65534,
}
_PROGRAMS = ("usr/lib/systemd/systemd", "usr/lib/systemd/systemd-udevd", "usr/bin/dash")


class Initrd:
    """What one initrd is made of. `boot` is the tar of unpacked packages, `files` skerry's own."""

    def __init__(
        self,
        *,
        boot: Path,
        files: Path,
        left_out: Sequence[str],
        modules: Sequence[str],
        must_have: Iterable[str] = (),
    ) -> None:
        self.boot = boot
        self.files = files
        self.left_out = [re.compile(pattern) for pattern in left_out]
        self.modules = tuple(modules)
        self.must_have = set(must_have)


async def build_initrd(
    initrd: Initrd,
    out: Path,
    *,
    work: Path,
    tools: Toolbox,
    runner: Runner,
    tell: Callable[[str], None],
) -> None:
    """Write the packed archive to `out`; `work` is an empty folder. Raises ImageBuildFailed."""
    unpacked, tree = work / "packages", work / "initrd"
    unpacked.mkdir()
    await runner.run(["tar", "-xf", str(initrd.boot), "-C", str(unpacked)], timeout_s=300)
    version = kernel_version(unpacked)
    (unpacked / "lib").symlink_to("usr/lib")
    await tools.run(["depmod", "-b", unpacked, version], timeout_s=120)
    source = unpacked / "usr/lib/modules" / version
    paths, missing = closure(
        (source / "modules.dep").read_text(),
        (source / "modules.softdep").read_text(),
        initrd.modules,
    )
    missing = [name for name in missing if name.replace("-", "_") not in builtin(source)]
    if lacking := sorted(initrd.must_have & set(missing)):
        raise ImageBuildFailed(
            f"kernel {version} has no module {', '.join(lacking)}",
            hint="correct spec.drivers.initrdModules, or choose another kernel",
        )
    tell(f"kernel {version}, {len(paths)} modules; it has none of: {' '.join(missing)}")
    _copy_wanted(unpacked, tree, initrd.left_out)
    copy_modules(source, tree / "usr/lib/modules" / version, paths)
    _furnish(tree)
    copy_files(initrd.files, tree)
    await tools.run(["depmod", "-b", tree, version], timeout_s=120)
    lost = [name for name in _PROGRAMS if not (tree / name).exists()]
    if lost:
        raise ImageBuildFailed(
            f"the initrd lacks {', '.join(lost)}", hint="look at initrdLeftOut of the distribution"
        )
    archive = work / "initrd.cpio"
    with archive.open("wb") as writing:
        write_cpio(tree, writing)
    await tools.run(
        ["zstd", "-q", "-f", "-T2", "-12", archive, "-o", out],
        timeout_s=300,
    )


def entries_of(source: Path) -> list[tuple[str, str, str]]:
    """A folder of skerry's own files as (path, kind, content), sorted.

    Kind is "folder", "link" with the target as content, or "0755" or "0644" with the file's
    digest. A file `.keep` stands for the folder that it is in. What lies in a `.wants` or
    `.requires` folder is a link to the unit beside the folder, also where an archive format lost
    the link.
    """
    found = []
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source).as_posix()
        if path.is_symlink():
            found.append((name, "link", str(path.readlink())))
        elif path.is_dir():
            found.append((name, "folder", ""))
        elif path.parent.suffix in (".wants", ".requires"):
            found.append((name, "link", f"../{path.name}"))
        elif path.name != ".keep":
            mode = "0755" if path.stat().st_mode & stat.S_IXUSR else "0644"
            found.append((name, mode, sha256(path.read_bytes())))
    return found


def copy_files(source: Path, into: Path) -> None:
    """Copy a folder of skerry's own files over a tree, as `entries_of` names them."""
    for name, kind, content in entries_of(source):
        place = into / name
        if kind == "folder":
            place.mkdir(parents=True, exist_ok=True)
            continue
        if place.is_symlink() or place.exists():
            place.unlink()
        if kind == "link":
            place.symlink_to(content)
        else:
            shutil.copyfile(source / name, place)
            place.chmod(int(kind, 8))


def write_cpio(tree: Path, out: IO[bytes]) -> None:
    """Write a folder in the kernel's format (initramfs buffer format, "newc")."""
    paths = sorted(tree.rglob("*"), key=lambda path: path.relative_to(tree).as_posix())
    for number, path in enumerate(paths, 1):
        info = path.lstat()
        data = b""
        if stat.S_ISLNK(info.st_mode):
            data = os.readlink(path).encode()
        elif stat.S_ISREG(info.st_mode):
            data = path.read_bytes()
        elif not stat.S_ISDIR(info.st_mode):
            continue
        _write_entry(out, number, path.relative_to(tree).as_posix(), info.st_mode, data)
    _write_entry(out, 0, "TRAILER!!!", 0, b"")


def _write_entry(out: IO[bytes], number: int, name: str, mode: int, data: bytes) -> None:
    encoded = name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(mode) else 1
    fields = (number, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
    out.write(head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4))


def _copy_wanted(source: Path, into: Path, left_out: list[re.Pattern[str]]) -> None:
    into.mkdir()
    for folder, names, files in os.walk(source):
        base = Path(folder).relative_to(source)
        kept = []
        for name in names:
            path = (base / name).as_posix()
            if (source / path).is_symlink():
                files.append(name)
            elif not any(pattern.match(f"{path}/") for pattern in left_out):
                kept.append(name)
                (into / path).mkdir()
        names[:] = kept
        for name in files:
            path = (base / name).as_posix()
            if any(pattern.match(path) for pattern in left_out):
                continue
            shutil.copy2(source / path, into / path, follow_symlinks=False)
    for place in sorted(into.rglob("*"), reverse=True):
        if place.is_dir() and not place.is_symlink() and not any(place.iterdir()):
            place.rmdir()


def _furnish(tree: Path) -> None:
    for name in _FOLDERS:
        (tree / name).mkdir(exist_ok=True)
    for name, target in _LINKS.items():
        link = tree / name
        link.parent.mkdir(parents=True, exist_ok=True)
        if link.is_symlink() or link.is_file():
            link.unlink()
        if not link.exists():
            link.symlink_to(target)
    groups = "".join(f"{name}:x:{number}:\n" for name, number in _GROUPS.items())
    release = 'NAME="skerry initrd"\nID=skerry-initrd\nPRETTY_NAME="skerry initrd"\n'
    for path, text in {
        "etc/passwd": _USERS,
        "etc/group": groups,
        "etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\n",
        "etc/initrd-release": release,
        "etc/os-release": release,
    }.items():
        (tree / path).write_text(text)
