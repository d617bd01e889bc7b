"""Media and disks in files, behind loop devices, and vfat without the kernel's help.

Some kernels that run tests have no vfat and read no partition tables: mtools and partx do it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from skerry.agent.mounting import KernelMounts
from skerry.lib.files import DiskRoot, Root
from skerry.lib.proc import CommandFailed, Result, SystemRunner
from skerry.model.osimage import OsBlob, OsImageInfo
from skerry.plan.installmedium import MEDIUM_ESP, MEDIUM_ROOT, MEDIUM_VERITY

MIB = 1 << 20
ROOT_UUID = "11111111-2222-4333-8444-555555555555"
VERITY_UUID = "66666666-7777-4888-9999-aaaaaaaaaaaa"
PROGRAMS = ("losetup", "partx", "sfdisk", "mcopy", "mkfs.vfat", "mkfs.erofs", "veritysetup")


def run(*argv: str | Path, stdin: str | None = None) -> str:
    done = subprocess.run(
        [str(word) for word in argv], input=stdin, text=True, capture_output=True, timeout=120
    )
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
    return done.stdout


@contextmanager
def loop(path: Path) -> Iterator[str]:
    """A loop device with its partitions."""
    device = run("losetup", "--find", "--show", path).strip()
    try:
        subprocess.run(["partx", "--update", device], capture_output=True, timeout=60)
        yield device
    finally:
        subprocess.run(["partx", "--delete", device], capture_output=True, timeout=60)
        run("losetup", "--detach", device)


@dataclass(frozen=True)
class MtoolsMounts:
    """vfat is copied out and, when it may be written, back in; the rest is mounted. `opened_as`
    remembers who was opened for writing."""

    kernel: KernelMounts = KernelMounts(DiskRoot("/"), SystemRunner())
    opened_as: list[tuple[str, bool]] = field(default_factory=list)

    @asynccontextmanager
    async def opened(
        self, device: str, kind: str, *, writable: bool = False
    ) -> AsyncIterator[Root]:
        self.opened_as.append((device, writable))
        if kind != "vfat":
            async with self.kernel.opened(device, kind, writable=writable) as inside:
                yield inside
            return
        with tempfile.TemporaryDirectory() as folder:
            try:
                copy_out(device, Path(folder))
            except AssertionError as exc:
                raise CommandFailed(Result(("mount", device), 32, "", str(exc))) from exc
            before = _tree(Path(folder))
            yield DiskRoot(folder)
            if writable:
                for path, digest in _tree(Path(folder)).items():
                    if before.get(path) != digest:
                        copy_in(device, Path(folder), path)
                fd = os.open(device, os.O_RDWR)
                os.fsync(fd)
                os.close(fd)


def copy_out(device: str, folder: Path) -> None:
    """All files of a vfat file system. Raises for one that is none."""
    run("minfo", "-i", device)
    # Fails for an empty file system: nothing matches there.
    subprocess.run(
        ["mcopy", "-s", "-n", "-m", "-i", device, "::/*", folder], capture_output=True, timeout=60
    )


def copy_in(device: str, folder: Path, path: str) -> None:
    for parent in reversed(Path(path).parents[:-1]):
        subprocess.run(["mmd", "-D", "s", "-i", device, f"::/{parent}"], capture_output=True)
    run("mcopy", "-o", "-i", device, folder / path, f"::/{path}")


def _tree(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@dataclass(frozen=True)
class BuiltMedium:
    """A medium in a file, and what it carries."""

    path: Path
    info: OsImageInfo
    files: Path


def blob(path: Path) -> OsBlob:
    data = path.read_bytes()
    return OsBlob(digest=f"sha256:{hashlib.sha256(data).hexdigest()}", size_bytes=len(data))


def build_medium(folder: Path, *, site: str = "", seed: int = 7) -> BuiltMedium:
    """A medium with a small real root, its real tree of hashes, and noise for programs."""
    noise = random.Random(seed)
    system, files = folder / "system", folder / "esp" / "skerry"
    (system / "usr").mkdir(parents=True)
    (system / "usr" / "noise").write_bytes(noise.randbytes(3 * MIB))
    root, verity = folder / "root.erofs", folder / "verity.img"
    run("mkfs.erofs", "-U", ROOT_UUID, root, system)
    printed = run(
        *("veritysetup", "format", root, verity, "--uuid", VERITY_UUID, "--salt", "00" * 32)
    )
    hash_line = next(line for line in printed.splitlines() if line.startswith("Root hash:"))
    (files / "keys" / "auto").mkdir(parents=True)
    for name, size in (("slot.efi", 2 * MIB), ("recovery.efi", MIB), ("systemd-bootx64.efi", 9999)):
        (files / name).write_bytes(noise.randbytes(size))
    (files / "loader.conf").write_text("timeout 3\n")
    (files / "keys" / "auto" / "db.auth").write_bytes(noise.randbytes(900))
    info = OsImageInfo(
        name="edge",
        version="1.2.3",
        architecture="amd64",
        root_hash=hash_line.split()[-1],
        root_uuid=ROOT_UUID,
        verity_uuid=VERITY_UUID,
        root=blob(root),
        verity=blob(verity),
        uki=blob(files / "slot.efi"),
    )
    (files / "image.json").write_bytes(info.encode())
    if site:
        (files.parent / "skerry.yaml").write_text(site)
    path = folder / "medium.img"
    _assemble(path, folder, (root, verity))
    return BuiltMedium(path, info, files)


def _assemble(path: Path, folder: Path, bodies: Sequence[Path]) -> None:
    esp = folder / "esp.img"
    with esp.open("wb") as stream:
        stream.truncate(16 * MIB)
    run("mkfs.vfat", esp)
    run("mcopy", "-s", "-i", esp, *sorted((folder / "esp").iterdir()), "::/")
    parts = ((MEDIUM_ESP, esp), (MEDIUM_ROOT, bodies[0]), (MEDIUM_VERITY, bodies[1]))
    with path.open("wb") as stream:
        stream.truncate(48 * MIB)
    script = "label: gpt\n" + "".join(f'size=12MiB, name="{name}"\n' for name, _ in parts[1:])
    script = script.replace("gpt\n", f'gpt\nsize=16MiB, name="{MEDIUM_ESP}"\n', 1)
    run("sfdisk", "--quiet", path, stdin=script)
    table = msgspec.json.decode(run("sfdisk", "--json", path))["partitiontable"]["partitions"]
    with path.open("r+b") as stream:
        for (_, body), part in zip(parts, table, strict=True):
            stream.seek(part["start"] * 512)
            stream.write(body.read_bytes())


def blank(path: Path, size_gib: int = 6) -> Path:
    with path.open("wb") as stream:
        stream.truncate(size_gib << 30)
    return path


def changed_byte(path: Path, offset: int) -> None:
    with path.open("r+b") as stream:
        stream.seek(offset)
        old = stream.read(1)
        stream.seek(offset)
        stream.write(bytes([old[0] ^ 1]))


def missing_programs() -> list[str]:
    found = []
    for name in PROGRAMS:
        with contextlib.suppress(FileNotFoundError):
            subprocess.run([name, "--version"], capture_output=True, timeout=20)
            continue
        found.append(name)
    return found
