"""What the machine tests share: small images, and a disk as the installer leaves it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import msgspec
from tests.contract.osengine.made import Image, assemble

from skerry.lab.blocklog import Entry
from skerry.lab.gpt import read_table
from skerry.plan.bootentries import FOLDER, IMAGES, BootEntry, EntryName, render, uki_name
from skerry.plan.disklayout import MIB, Sizes, sfdisk_script, smallest_disk

CHECKOUT = Path(__file__).parents[2]
# FAT32 needs 65525 clusters, and the real one is FAT32.
SIZES = Sizes(esp=4 * MIB, boot=40 * MIB, root=3 * MIB, verity=MIB)
STATE_BYTES = 24 * MIB


def run(*argv: str, stdin: str = "", limit_s: float = 120) -> str:
    done = subprocess.run(
        argv, input=stdin, capture_output=True, text=True, check=False, timeout=limit_s
    )
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
    return done.stdout


def build_image(folder: Path, version: str) -> Image:
    """An image from a small tree, by the tools that the builder uses; its boot image is bytes."""
    tree = folder / version
    tree.mkdir(parents=True)
    (tree / "program").write_bytes(os.urandom(MIB))
    (tree / "version").write_text(version)
    root, hashes = folder / f"{version}.erofs", folder / f"{version}.verity"
    run("mkfs.erofs", "-zlz4", str(root), str(tree))
    said = run("veritysetup", "format", str(root), str(hashes))
    root_hash = re.search(r"Root hash:\s*([0-9a-f]{64})", said)
    hash_uuid = re.search(r"UUID:\s*([0-9a-f-]{36})", said)
    assert root_hash is not None
    assert hash_uuid is not None
    root_uuid = run("blkid", "-p", "-o", "value", "-s", "UUID", str(root)).strip()
    return assemble(
        version,
        files=(root.read_bytes(), hashes.read_bytes(), b"MZ" + os.urandom(300_000)),
        names=(root_hash[1], root_uuid, hash_uuid[1]),
    )


def make_disk(disk: Path, image: Image, scratch: Path) -> None:
    """A disk as the installer leaves it: slot a, an entry without a counter."""
    scratch.mkdir(parents=True, exist_ok=True)
    disk.touch()
    os.truncate(disk, smallest_disk(SIZES, state_bytes=STATE_BYTES))
    run("sfdisk", "-q", "--no-reread", "--no-tell-kernel", str(disk), stdin=sfdisk_script(SIZES))
    parts = read_table(disk).parts
    uki = uki_name("a", image.info.root_hash)
    entry = BootEntry(
        generation=1,
        slot="a",
        name="edge",
        version=image.info.version,
        root_hash=image.info.root_hash,
        root_uuid=image.info.root_uuid,
        verity_uuid=image.info.verity_uuid,
        uki=uki,
        image=image.ref.digest,
        uki_digest=image.info.uki.digest,
    )
    (scratch / "uki").write_bytes(image.uki)
    (scratch / "entry").write_text(render(entry))
    for label in ("skerry-esp", "skerry-boot", "skerry-state"):
        place = scratch / label
        place.write_bytes(b"")
        os.truncate(place, parts[label].size)
        if label == "skerry-state":
            run("mkfs.ext4", "-q", "-F", str(place))
        else:
            run("mkfs.vfat", *(("-F", "32", "-s", "1") if "boot" in label else ()), str(place))
        if label == "skerry-boot":
            for folder in ("EFI", IMAGES, "loader", FOLDER):
                run("mmd", "-i", str(place), f"::/{folder}")
            run("mcopy", "-i", str(place), str(scratch / "uki"), f"::/{uki}")
            name = EntryName(generation=1).file
            run("mcopy", "-i", str(place), str(scratch / "entry"), f"::/{FOLDER}/{name}")
    with disk.open("r+b") as target:
        for label, data in (
            ("skerry-a", image.root),
            ("skerry-a-verity", image.verity),
            *((x, (scratch / x).read_bytes()) for x in ("skerry-esp", "skerry-boot")),
            ("skerry-state", (scratch / "skerry-state").read_bytes()),
        ):
            target.seek(parts[label].start)
            target.write(data)


def write_job(folder: Path, images: list[Image]) -> None:
    """Images for the program inside the guest."""
    folder.mkdir(parents=True)
    for image in images:
        for digest, data in image.blobs.items():
            (folder / digest.removeprefix("sha256:")).write_bytes(data)
    (folder / "refs.json").write_bytes(msgspec.json.encode([image.ref for image in images]))
    names = [_config_of(image) for image in images]
    (folder / "infos.json").write_text(json.dumps(names))


def _config_of(image: Image) -> str:
    data = image.info.encode()
    return next(d for d, blob in image.blobs.items() if blob == data).removeprefix("sha256:")


@dataclass(frozen=True)
class Phase:
    """Where in the story a request of the recording lies."""

    name: str
    number: int


def mark_of(data: bytes) -> Phase | None:
    """The phase that a marking sector begins; None for other sectors."""
    if not data.startswith(b"MARK "):
        return None
    words = data[5:].replace(b"\0", b" ").decode().split()
    return Phase(words[0], int(words[1]) if len(words) > 1 else 0)


def mark_at(log: Path, entry: Entry, where: int) -> Phase | None:
    """The mark that a request of a recording is, written at byte `where` of the disk."""
    if entry.offset != where or entry.size != 512:
        return None
    with log.open("rb") as file:
        file.seek(entry.at)
        return mark_of(file.read(512))
