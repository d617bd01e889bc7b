"""A simulated Kairos host: its files in memory, and a kairos-agent that behaves as the real one.

`test_kairos.py` holds the simulated agent to a trace that the real one left (tests/lab/
test_kairos.py records it). Image files are a few words of JSON.
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import yaml
from tests.contract.osengine.kairosgrub import BOOTS, block, choose
from tests.contract.osengine.made import Image

from skerry.agent.osengine.kairos import RECORD, KairosEngine
from skerry.agent.osengine.kairos_state import KairosRecord, Known, Verdict, parse_env
from skerry.lib.digest import sha256
from skerry.lib.memory_files import MemoryRoot
from skerry.lib.oci import Descriptor, new_manifest
from skerry.lib.proc import CommandFailed, Result
from skerry.lib.savedimage import scan
from skerry.model.kairosimage import (
    KAIROS_ARTIFACT_TYPE,
    KAIROS_CONFIG_TYPE,
    KAIROS_IMAGE_TYPE,
    KairosImageInfo,
    kairos_version,
    wanted_of_tar,
)
from skerry.model.osimage import OsBlob

STATE = "/run/initramfs/cos-state"
FOLDER = f"{STATE}/cOS"
GRUBENV = "/oem/grubenv"
ASSESSMENT = f"{STATE}/boot_assessment"
MOUNTS = {"/": "/dev/loop0", STATE: "/dev/vda4", "/oem": "/dev/vda2", "/usr/local": "/dev/vda5"}
LABELS = {"/dev/vda4": "COS_STATE", "/dev/vda2": "COS_OEM", "/dev/vda5": "COS_PERSISTENT"}


class Slot(msgspec.Struct, frozen=True):
    """An image file."""

    uuid: str
    label: str
    version: str
    whole: bool = True


def kairos_blobs(image: Image) -> dict[str, bytes]:
    """A Kairos image of the same name and version; its manifest goes under the name that the
    suite knows."""
    version = image.ref.version
    tar = saved_image(f"v{version}")
    found = scan([tar], wanted_of_tar)
    info = KairosImageInfo(
        name=image.ref.name,
        version=version,
        architecture="amd64",
        kairos_version=f"v{version}",
        image=OsBlob(digest=sha256(tar), size_bytes=len(tar)),
        unpacked_bytes=found.unpacked_bytes,
    ).encode()
    manifest = new_manifest(
        artifact_type=KAIROS_ARTIFACT_TYPE,
        config=Descriptor(media_type=KAIROS_CONFIG_TYPE, digest=sha256(info), size=len(info)),
        layers=(Descriptor(media_type=KAIROS_IMAGE_TYPE, digest=sha256(tar), size=len(tar)),),
    ).encode()
    return {image.ref.digest: manifest, sha256(info): info, sha256(tar): tar}


def saved_image(version: str, *, without: str = "", name: str = "layer.tar") -> bytes:
    """What `docker save` writes, of one layer."""
    files = {
        "etc/kairos-release": f'KAIROS_VERSION="{version}"\n'.encode(),
        "boot/vmlinuz-6.1": b"kernel",
        "boot/initrd": b"initrd",
    }
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        for path, data in files.items():
            if path != without:
                add_file(archive, path, data)
        link = tarfile.TarInfo("boot/vmlinuz")
        link.type, link.linkname = tarfile.SYMTYPE, "vmlinuz-6.1"
        archive.addfile(link)
    outer = io.BytesIO()
    with tarfile.open(fileobj=outer, mode="w") as archive:
        add_file(archive, name, gzip.compress(layer.getvalue(), mtime=0))
        manifest = [{"Config": "c.json", "RepoTags": [], "Layers": [name]}]
        add_file(archive, "c.json", b"{}")
        add_file(archive, "manifest.json", json.dumps(manifest).encode())
    return outer.getvalue()


def add_file(archive: tarfile.TarFile, path: str, data: bytes) -> None:
    entry = tarfile.TarInfo(path)
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))


@dataclass(slots=True)
class KairosRoot(MemoryRoot):
    """The host's files. The kernel shows the file behind the root's loop device by the name that
    it has now."""

    backing: str = ""

    def read(self, path: str) -> bytes:
        if path == "/sys/block/loop0/loop/backing_file":
            return self.backing.encode()
        return MemoryRoot.read(self, path)

    def rename(self, old: str, new: str) -> None:
        MemoryRoot.rename(self, old, new)
        if self.backing == old:
            self.backing = new

    def slot(self, name: str) -> Slot | None:
        path = f"{FOLDER}/{name}.img"
        return msgspec.json.decode(self.files[path], type=Slot) if path in self.files else None

    def put_slot(self, name: str, slot: Slot) -> None:
        self.write(f"{FOLDER}/{name}.img", msgspec.json.encode(slot))


@dataclass
class SimulatedAgent:
    """kairos-agent and the few other programs that the engine calls."""

    root: KairosRoot
    mounts: dict[str, str] = field(default_factory=lambda: dict(MOUNTS))
    calls: list[tuple[str, ...]] = field(default_factory=list)
    busy: frozenset[str] = frozenset()
    # The version that an upgrade leaves instead of the wanted one.
    spoil: str = ""
    made: int = 0

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
        words = tuple(argv)
        self.calls.append(words)
        if words[0] == "flock":
            words = words[3:]
        code, said = self.act(words)
        result = Result(tuple(argv), code, said, "")
        if check and code:
            raise CommandFailed(result)
        return result

    def act(self, words: tuple[str, ...]) -> tuple[int, str]:
        """Exit code and standard output."""
        match words:
            case ("findmnt", *_):
                rows = [
                    {"target": target, "source": source, "options": "rw,relatime"}
                    for target, source in self.mounts.items()
                ]
                return 0, json.dumps({"filesystems": rows})
            case ("blkid", *_):
                rows = [f"DEVNAME={d}\nLABEL={n}\nTYPE=ext4\n" for d, n in LABELS.items()]
                return 0, "\n".join(rows)
            case ("dumpe2fs", "-h", file) | ("debugfs", "-R", _, file):
                return self._ext2(words, file)
            case ("tune2fs", "-L", label, file):
                name = file.rsplit("/", 1)[-1].removesuffix(".img")
                slot = self.root.slot(name)
                if slot is not None:
                    self.root.put_slot(name, msgspec.structs.replace(slot, label=label))
                return (0, "") if slot else (1, "no such file")
            case ("umount", *_, target):
                if target in self.busy:
                    return 32, "target is busy"
                self.mounts.pop(target, None)
                return 0, ""
            case ("kairos-agent", *rest):
                return self.kairos_agent(tuple(rest))
        return 0, ""

    def kairos_agent(self, words: tuple[str, ...]) -> tuple[int, str]:
        match words:
            case ("upgrade", "--source", source):
                return self._upgrade(source)
            case ("grubedit", "--grub-file", file, "set", text):
                self._set(file, *text.split("=", 1))
            case ("grubedit", "set", text):
                self._set(GRUBENV, *text.split("=", 1))
            case ("bootentry", "--select", entry):
                if entry not in BOOTS:
                    return 1, f"entry {entry} does not exist"
                self._set(GRUBENV, "next_entry", entry)
        return 0, ""

    def _set(self, file: str, name: str, value: str) -> None:
        known = self.root.files.get(file, b"").decode()
        self.root.write(file, block({**parse_env(known), name: value}).encode())

    def _ext2(self, words: tuple[str, ...], file: str) -> tuple[int, str]:
        slot = self.root.slot(file.rsplit("/", 1)[-1].removesuffix(".img"))
        if slot is None:
            return 1, ""
        if words[0] == "dumpe2fs":
            named = f"Filesystem volume name:   {slot.label}\nFilesystem UUID:          {slot.uuid}"
            return 0, named
        if words[2].startswith("cat"):
            return 0, f'KAIROS_VERSION="{slot.version}"\n'
        whole = "Inode: 12   Type: regular    Mode:  0644\nUser: 0   Group: 0   Size: 9\n"
        return 0, whole if slot.whole else ""

    def _upgrade(self, source: str) -> tuple[int, str]:
        """The steps of pkg/action/upgrade.go, v2.31.4, in their order."""
        kind, _, path = source.partition(":")
        if kind != "ocifile":
            return 1, "no such source"
        version = kairos_version(scan([self.root.files[path]], wanted_of_tar))[1]
        version = self.spoil or version
        booted = self.root.files["/proc/cmdline"].decode()
        self.made += 1
        name = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{version} {self.made}"))
        new = Slot(name, "COS_ACTIVE", version)
        self.root.put_slot("transition", msgspec.structs.replace(new, whole=False))
        self.root.put_slot("transition", new)
        self._stage("after-upgrade-chroot")
        if "COS_PASSIVE" not in booted:
            if self.root.slot("active") is None:
                self.root.remove(f"{FOLDER}/transition.img")
                return 1, "rename active.img passive.img: no such file or directory"
            self.root.rename(f"{FOLDER}/active.img", f"{FOLDER}/passive.img")
            self.act(("tune2fs", "-L", "COS_PASSIVE", f"{FOLDER}/passive.img"))
        self.root.rename(f"{FOLDER}/transition.img", f"{FOLDER}/active.img")
        self._set(GRUBENV, "next_entry", "cos")
        return 0, ""

    def _stage(self, name: str) -> None:
        for file in self.root.list("/oem"):
            if not file.endswith(".yaml"):
                continue
            loaded: Any = yaml.safe_load(self.root.files[f"/oem/{file}"])
            for step in loaded.get("stages", {}).get(name, []):
                for command in step["commands"]:
                    self.act(tuple(command.removeprefix("chroot /proc/1/root ").split()))


class KairosShelf:
    """The content store: every image is there at once."""

    def __init__(self, root: KairosRoot, images: Sequence[Image]) -> None:
        self._root = root
        self.blobs: dict[str, bytes] = {}
        for image in images:
            self.blobs |= kairos_blobs(image)

    async def ensure(self, digest: str, *, size: int = 0) -> str:
        path = f"/var/lib/skerry/content/sha256/{digest.removeprefix('sha256:')}"
        # Past the count of changes: a download is not what these tests interrupt.
        self._root.files[path] = self.blobs[digest]
        return path

    def drop(self, digest: str) -> None:
        path = f"/var/lib/skerry/content/sha256/{digest.removeprefix('sha256:')}"
        self._root.files.pop(path, None)


class KairosMachine:
    """A host that runs the first image, confirmed, in its active slot; the passive one is a copy,
    as Kairos' installer leaves it."""

    tries = 1

    def __init__(self, *images: Image) -> None:
        self.root = KairosRoot()
        self.agent = SimulatedAgent(self.root)
        self.shelf = KairosShelf(self.root, images)
        self.broken: set[str] = set()
        self._boots = 0
        first = images[0].ref
        identity = str(uuid.uuid5(uuid.NAMESPACE_OID, "installed"))
        slot = Slot(identity, "COS_ACTIVE", f"v{first.version}")
        self.root.put_slot("active", slot)
        self.root.put_slot("passive", msgspec.structs.replace(slot, label="COS_PASSIVE"))
        known = Known(image=first.digest, version=first.version, verdict=Verdict.GOOD)
        record = KairosRecord(known={identity: known})
        self.root.write(RECORD, msgspec.json.encode(record))
        self.boot()

    @property
    def engine(self) -> KairosEngine:
        return KairosEngine(self.root, self.agent, content=self.shelf, architecture="amd64")

    def never_starts(self, image: Image) -> None:
        self.broken.add(f"v{image.ref.version}")

    def boot(self, *, lost: int = 0) -> str:
        """Start until a slot runs, and name it; `lost` starts of an image other than the fallback
        lose their power."""
        self.root.power_on()
        for _ in range(9):
            entry = self._grub()
            if entry in ("recovery", "statereset"):
                return self._run(entry, "recovery")
            name = BOOTS[entry][1].removesuffix(".img")
            slot = self.root.slot(name)
            assert slot is not None
            # immucore finds the root by its label; where there is none the kernel restarts.
            if slot.label != BOOTS[entry][2] or slot.version in self.broken or not slot.whole:
                continue
            if entry == "cos" and lost:
                lost -= 1
                continue
            return self._run(entry, name)
        raise AssertionError("the host does not come up")

    def _grub(self) -> str:
        env = parse_env(self.root.files.get(GRUBENV, b"").decode())
        marks = parse_env(self.root.files.get(ASSESSMENT, b"").decode())
        choice = choose(env, marks, lambda image: f"{FOLDER}/{image}" in self.root.files)
        self.root.files[GRUBENV] = block(choice.variables).encode()
        if marks:
            self.root.files[ASSESSMENT] = block(choice.assessment).encode()
        return choice.entry

    def _run(self, entry: str, name: str) -> str:
        self._boots += 1
        root, files = self.root, self.root.files
        for path in [path for path in files if path.startswith(("/run/skerry/", "/run/cos/"))]:
            del files[path]
        label = BOOTS[entry][2]
        files["/proc/cmdline"] = f"root=LABEL={label} cos-img/filename=/cOS/{name}.img".encode()
        files["/proc/sys/kernel/random/boot_id"] = f"boot-{self._boots}".encode()
        files[f"/run/cos/{name}_mode"] = b"1"
        root.backing = f"{FOLDER}/{name}.img"
        slot = root.slot(name)
        version = slot.version if slot else "recovery"
        files["/etc/kairos-release"] = f'KAIROS_VERSION="{version}"\n'.encode()
        self.agent.mounts = dict(MOUNTS)
        return name if name != "recovery" else ""
