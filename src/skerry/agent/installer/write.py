"""Writes a disk: from a mark that says "unfinished" to the boot entry that makes it start.

The order is the safety. First the mark, then the old table goes, so that nothing old can start;
the boot entry comes when all else was read back from the disk and is right; the mark goes last.
Cut off anywhere before the entry, the disk starts nothing and is taken again without asking.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import anyio.to_thread
import msgspec

from skerry.agent.facts import architecture
from skerry.agent.installer.probe import Medium, partitions
from skerry.agent.mounting import Mounts
from skerry.lib.blocks import Blocks
from skerry.lib.digest import sha256_of_chunks
from skerry.lib.errors import SkerryError
from skerry.lib.files import Root
from skerry.lib.proc import CommandMissing, Runner
from skerry.model.osimage import MAX_OS_METADATA_BYTES, OsBlob, OsImageInfo, parse_os_image
from skerry.plan import bootentries, disklayout, installmedium
from skerry.plan.bootentries import BootEntry, EntryName
from skerry.plan.disklayout import MIB, Sizes
from skerry.plan.installmedium import MARK, MARK_OFFSET
from skerry.plan.sitedata import SiteData, render

Say = Callable[[str], None]

FIRST_SLOT = "a"
_SITE = "/lib/skerry/site.yaml"
_HOST_NAME = "/lib/skerry/os/hostname"
_COMMAND_S = 300.0
_STATE_BYTES = 2048 * MIB
_MAX_PARTITION = 64 * 1024 * MIB


class InstallFailed(SkerryError):
    """The disk could not be written, or does not hold what was written."""


@dataclass(frozen=True, slots=True)
class Doors:
    """What the installer works through."""

    root: Root
    runner: Runner
    blocks: Blocks
    mounts: Mounts
    say: Say


@dataclass(frozen=True, slots=True)
class Work:
    """One installation: what goes where. `kept` is site data that the disk may hold."""

    medium: Medium
    info: OsImageInfo
    disk: str
    sizes: Sizes
    kept: SiteData


def sizes_for(info: OsImageInfo) -> Sizes:
    """How large the slots become where the medium does not say it: they never grow, so half as
    much again as the image needs."""
    usual = Sizes()
    root = max(usual.root, _rounded(info.root.size_bytes * 3 // 2))
    verity = max(usual.verity, _rounded(info.verity.size_bytes * 3 // 2, 16 * MIB))
    return msgspec.structs.replace(usual, root=root, verity=verity)


def least_bytes(sizes: Sizes) -> int:
    """Bytes that a disk must have."""
    return disklayout.smallest_disk(sizes, state_bytes=_STATE_BYTES)


async def read_info(doors: Doors, medium: Medium) -> tuple[OsImageInfo, Sizes]:
    """The medium's image, and the partitions that it wants. Raises InstallFailed, OsImageInvalid,
    CommandFailed."""
    async with doors.mounts.opened(medium.esp, "vfat") as esp:
        path = f"/{installmedium.FOLDER}/{installmedium.INFO}"
        if not esp.exists(path) or esp.size(path) > MAX_OS_METADATA_BYTES:
            raise InstallFailed(
                f"the medium has no usable {path}", hint="write the medium again, whole"
            )
        info = parse_os_image(esp.read(path))
        if info.architecture != architecture():
            raise InstallFailed(
                f"the medium's image is for {info.architecture}, this machine is {architecture()}",
                hint="build the medium for this architecture",
            )
        path = f"/{installmedium.FOLDER}/{installmedium.SIZES}"
        return info, _sizes(info, esp.read(path)) if esp.exists(path) else sizes_for(info)


def _sizes(info: OsImageInfo, data: bytes) -> Sizes:
    """Sizes that the medium tells, if the image fits into them. Raises InstallFailed."""
    try:
        sizes = msgspec.json.decode(data[:MAX_OS_METADATA_BYTES], type=Sizes)
    except msgspec.DecodeError as exc:
        raise InstallFailed(f"the medium's {installmedium.SIZES} cannot be read: {exc}") from exc
    told = (sizes.esp, sizes.boot, sizes.root, sizes.verity)
    if not all(MIB <= size <= _MAX_PARTITION and size % MIB == 0 for size in told):
        raise InstallFailed(f"the medium wants partitions of odd sizes: {told}")
    if info.root.size_bytes > sizes.root or info.verity.size_bytes > sizes.verity:
        raise InstallFailed(
            f"the image needs {info.root.size_bytes} bytes, the slots would have {sizes.root}",
            hint="raise spec.sizes.rootMib of the image and build the medium again",
        )
    return sizes


async def write_disk(doors: Doors, work: Work) -> None:
    """Install. What is on the disk is lost. Raises InstallFailed, DeviceFailed, CommandFailed."""
    doors.say(f"{work.disk}: making partitions")
    parts = await _cut(doors, work)
    await _format(doors, parts)
    doors.say(f"{work.disk}: writing site data")
    await _write_state(doors, parts[disklayout.STATE], work.kept)
    await _write_slot(doors, work, parts)
    entry = await _write_boot_image(doors, work, parts[disklayout.BOOT])
    await _write_esp(doors, work, parts[disklayout.ESP])
    await _check_file_systems(doors, parts)
    doors.say(f"{work.disk}: writing the boot entry")
    await _write_entry(doors, parts[disklayout.BOOT], entry)
    doors.blocks.write(work.disk, MARK_OFFSET, [bytes(len(MARK))])
    doors.blocks.flush(work.disk)


async def name_in_firmware(doors: Doors, disk: str, info: OsImageInfo) -> None:
    """Let the firmware start the loader first and recovery second. A firmware that does not let
    us is told, no more: it finds the loader under its usual name."""
    if not doors.root.is_dir("/sys/firmware/efi/efivars"):
        doors.say("firmware: this system was not started by UEFI, so no boot entries are made")
        return
    try:
        listed = await doors.runner.run(["efibootmgr"], timeout_s=60)
        entries = installmedium.firmware_entries(info.architecture)
        for number, name in _firmware_entries(listed.stdout):
            if name in dict(entries):
                argv = ["efibootmgr", "--quiet", "--bootnum", number, "--delete-bootnum"]
                await doors.runner.run(argv, timeout_s=60)
        # Each new entry becomes the first: recovery before the loader.
        for name, loader in reversed(entries):
            argv = ["efibootmgr", "--quiet", "--create", "--disk", disk, "--part", "1"]
            await doors.runner.run([*argv, "--label", name, "--loader", loader], timeout_s=60)
    except SkerryError as exc:
        doors.say(f"firmware: no boot entries were made: {exc.message}")


def _firmware_entries(text: str) -> Iterator[tuple[str, str]]:
    """Numbers and names from efibootmgr's list ("Boot0001* skerry<TAB>HD(...)")."""
    for line in text.splitlines():
        number, _, rest = line.partition(" ")
        if number.startswith("Boot") and len(number.rstrip("*")) == 8:
            yield number[4:8], rest.partition("\t")[0].strip()


# -- the steps ----------------------------------------------------------------------------------


async def _cut(doors: Doors, work: Work) -> dict[str, str]:
    """Mark the disk and replace its table. The new partitions' devices by label."""
    blocks, disk = doors.blocks, work.disk
    blocks.write(disk, MARK_OFFSET, [MARK])
    blocks.flush(disk)
    # What could start or be taken for a slot goes before the table does: partitions of an earlier
    # installation lie at the same places, and would be back with the new table.
    # The boot entries are the first: from then on nothing here starts.
    starts = disklayout.starts(work.sizes)
    blocks.write(disk, starts[disklayout.BOOT], [bytes(MIB)])
    blocks.flush(disk)
    for start in starts.values():
        blocks.write(disk, start, [bytes(MIB)])
    blocks.flush(disk)
    blocks.write(disk, 0, [bytes(MARK_OFFSET)])
    after = MARK_OFFSET + len(MARK)
    blocks.write(disk, after, [bytes(MIB - after)])
    blocks.write(disk, blocks.size(disk) - MIB, [bytes(MIB)])
    blocks.flush(disk)
    argv = ["sfdisk", "--quiet", "--wipe", "always", "--wipe-partitions", "always", disk]
    script = disklayout.sfdisk_script(work.sizes).encode()
    await doors.runner.run(argv, stdin=script, timeout_s=_COMMAND_S)
    blocks.flush(disk)
    await doors.runner.run(["partx", "--update", disk], timeout_s=60, check=False)
    await _settle(doors)
    parts = await partitions(doors.runner, disk)
    wanted = {item.label for item in disklayout.partitions(work.sizes)}
    if set(parts) != wanted or not all(doors.root.exists(part) for part in parts.values()):
        raise InstallFailed(
            f"the new partitions of {disk} did not appear",
            hint="restart the machine and install again",
        )
    for part in parts.values():
        # The places above were computed; whatever sfdisk made of them, nothing old has a name.
        blocks.write(part, 0, [bytes(MIB)])
        blocks.flush(part)
    return parts


async def _settle(doors: Doors) -> None:
    try:
        await doors.runner.run(["udevadm", "settle", "--timeout=30"], timeout_s=60, check=False)
    except CommandMissing:
        return


async def _format(doors: Doors, parts: dict[str, str]) -> None:
    for argv in (
        ["mkfs.vfat", "-F", "32", "-n", "SKERRY-ESP", parts[disklayout.ESP]],
        ["mkfs.vfat", "-F", "32", "-n", "SKERRY-BOOT", parts[disklayout.BOOT]],
        ["mkfs.ext4", "-q", "-F", "-L", disklayout.STATE, parts[disklayout.STATE]],
    ):
        await doors.runner.run(argv, timeout_s=_COMMAND_S)


async def _write_state(doors: Doors, device: str, kept: SiteData) -> None:
    async with doors.mounts.opened(device, "ext4", writable=True) as state:
        state.mkdir("/lib/skerry", mode=0o755)
        state.write(_SITE, render(kept).encode(), mode=0o600)
        if kept.host_name:
            state.write(_HOST_NAME, f"{kept.host_name}\n".encode())


async def _write_slot(doors: Doors, work: Work, parts: dict[str, str]) -> None:
    for what, source, target, blob in (
        ("system", work.medium.root, disklayout.data_label(FIRST_SLOT), work.info.root),
        ("hashes", work.medium.verity, disklayout.verity_label(FIRST_SLOT), work.info.verity),
    ):
        doors.say(f"{work.disk}: writing the {what} ({blob.size_bytes // MIB} MiB)")
        await anyio.to_thread.run_sync(_copy_blob, doors, source, parts[target], blob)


def _copy_blob(doors: Doors, source: str, target: str, blob: OsBlob) -> None:
    blocks = doors.blocks
    if blocks.size(target) < blob.size_bytes:
        raise InstallFailed(f"{target} is smaller than the image's {blob.size_bytes} bytes")
    report = _Percent(doors.say, target, blob.size_bytes)
    blocks.write(target, 0, _counted(blocks.chunks(source, blob.size_bytes), report))
    blocks.flush(target)
    _same(target, sha256_of_chunks(blocks.chunks(target, blob.size_bytes)), blob.digest)


async def _write_boot_image(doors: Doors, work: Work, device: str) -> BootEntry:
    info = work.info
    uki = bootentries.uki_name(FIRST_SLOT, info.root_hash)
    doors.say(f"{work.disk}: writing the boot image ({info.uki.size_bytes // MIB} MiB)")
    async with (
        doors.mounts.opened(work.medium.esp, "vfat") as esp,
        doors.mounts.opened(device, "vfat", writable=True) as boot,
    ):
        source = _from_medium(esp, installmedium.SLOT_IMAGE)
        await anyio.to_thread.run_sync(boot.write_chunks, f"/{uki}", esp.read_chunks(source))
    async with doors.mounts.opened(device, "vfat") as boot:
        _same(f"/{uki}", _digest_of(boot, f"/{uki}"), info.uki.digest)
    return BootEntry(
        generation=1,
        slot=FIRST_SLOT,
        name=info.name,
        version=info.version,
        root_hash=info.root_hash,
        root_uuid=info.root_uuid,
        verity_uuid=info.verity_uuid,
        uki=uki,
        policy_generation=info.generation,
        uki_digest=info.uki.digest,
    )


async def _write_esp(doors: Doors, work: Work, device: str) -> None:
    doors.say(f"{work.disk}: writing the loader and recovery")
    wanted: dict[str, str] = {}
    async with (
        doors.mounts.opened(work.medium.esp, "vfat") as esp,
        doors.mounts.opened(device, "vfat", writable=True) as target,
    ):
        for name in _key_files(esp):
            source = f"/{installmedium.FOLDER}/{installmedium.KEYS}/{name}"
            wanted[f"/{installmedium.KEYS_TARGET}/{name}"] = source
        for item in installmedium.esp_files(work.info.architecture):
            wanted[f"/{item.target}"] = _from_medium(esp, item.source)
        for path, source in wanted.items():
            await anyio.to_thread.run_sync(target.write_chunks, path, esp.read_chunks(source))
        digests = {path: _digest_of(esp, source) for path, source in wanted.items()}
    async with doors.mounts.opened(device, "vfat") as target:
        for path, expected in digests.items():
            _same(path, _digest_of(target, path), expected)


async def _check_file_systems(doors: Doors, parts: dict[str, str]) -> None:
    for argv in (
        ["fsck.vfat", "-n", parts[disklayout.ESP]],
        ["fsck.vfat", "-n", parts[disklayout.BOOT]],
        ["e2fsck", "-f", "-n", parts[disklayout.STATE]],
    ):
        await doors.runner.run(argv, timeout_s=_COMMAND_S)


async def _write_entry(doors: Doors, device: str, entry: BootEntry) -> None:
    name = EntryName(generation=entry.generation).file
    text = bootentries.render(entry)
    async with doors.mounts.opened(device, "vfat", writable=True) as boot:
        boot.write(f"/{bootentries.FOLDER}/{name}", text.encode())
    doors.blocks.flush(device)
    async with doors.mounts.opened(device, "vfat") as boot:
        if boot.read(f"/{bootentries.FOLDER}/{name}") != text.encode():
            raise InstallFailed(f"the boot entry {name} reads back as something else")


# -- small parts --------------------------------------------------------------------------------


def _from_medium(esp: Root, name: str) -> str:
    path = f"/{installmedium.FOLDER}/{name}"
    if not esp.exists(path):
        raise InstallFailed(f"the medium has no {path}", hint="write the medium again, whole")
    if not 0 < esp.size(path) <= installmedium.MAX_FILE_BYTES:
        raise InstallFailed(f"{path} on the medium has {esp.size(path)} bytes")
    return path


def _key_files(esp: Root) -> list[str]:
    """Secure Boot keys for a firmware in setup mode: loader/keys/NAME/{PK,KEK,db}.auth."""
    base = f"/{installmedium.FOLDER}/{installmedium.KEYS}"
    found = []
    for name in esp.list(base):
        inner = [f"{name}/{item}" for item in esp.list(f"{base}/{name}")]
        found += inner if esp.is_dir(f"{base}/{name}") else [name]
    return list(islice(found, installmedium.MAX_KEY_FILES))


def _digest_of(root: Root, path: str) -> str:
    return sha256_of_chunks(root.read_chunks(path))


def _same(what: str, found: str, wanted: str) -> None:
    if found != wanted:
        raise InstallFailed(
            f"{what} reads back as {found[:19]}…, it should be {wanted[:19]}…",
            hint="the medium or the disk is broken: try another of either",
            retryable=True,
        )


class _Percent:
    """Says how far a long write is, at most every tenth."""

    def __init__(self, say: Say, what: str, whole: int) -> None:
        self._say, self._what, self._whole = say, what, whole
        self._done = 0
        self._said = 0

    def __call__(self, count: int) -> None:
        self._done += count
        tenth = 10 * self._done // self._whole
        if tenth > self._said:
            self._said = tenth
            self._say(f"{self._what}: {tenth * 10} %")


def _counted(chunks: Iterator[bytes], report: _Percent) -> Iterator[bytes]:
    for chunk in chunks:
        yield chunk
        report(len(chunk))


def _rounded(size: int, to: int = 256 * MIB) -> int:
    return -(-size // to) * to
