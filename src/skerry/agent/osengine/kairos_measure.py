"""Looks at a Kairos host and writes nothing: sentinels, mounts, image files, boot variables.

Image files are read with e2fsprogs, which Kairos itself needs; nothing is mounted for it. What
cannot be read is absent from the answer, never an error.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from skerry.agent.osengine import kairos_state as words
from skerry.agent.osengine.kairos_state import ACTIVE, PASSIVE, ImageFacts, KairosFacts, Mount
from skerry.lib.files import FileMissing, Root, text_of
from skerry.lib.proc import CommandMissing, CommandTimedOut, Runner
from skerry.model.kairosimage import VERSION_IN_RELEASE, KairosBoot

RELEASE = "/etc/kairos-release"
COS = "/run/cos"
TRANSITION = f"{COS}/transition"
GRUBENV = "/oem/grubenv"
RESET_MARK = "/usr/local/.skerry-reset"
EFI = "/efi"
_EFIVARS = "/sys/firmware/efi/efivars"
_LOADER = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
_SUPPLIES = "/sys/class/power_supply"
_LOOK_S = 60.0
_AGENTS = ("kairos-agent", "kairos")
_WRITING = {"upgrade", "reset", "install", "manual-install"}


async def measure(root: Root, runner: Runner, architecture: str) -> KairosFacts:
    """Everything at once. `architecture` is this machine's, in the words of OCI."""
    cmdline = text_of(root, "/proc/cmdline")
    boot = KairosBoot.UKI if "rd.immucore.uki" in cmdline else KairosBoot.GRUB
    mounts = words.parse_findmnt(
        await _say(runner, "findmnt", "--json", "--list", "--output", "TARGET,SOURCE,OPTIONS")
    )
    devices = words.parse_blkid(await _say(runner, "blkid", "-c", "/dev/null", "-o", "export"))
    if boot is KairosBoot.UKI:
        state = EFI if any(item.target == EFI for item in mounts) else ""
        images = _uki_images(root)
    else:
        labels = {item.name: item.label for item in devices}
        state = next(
            (item.target for item in mounts if labels.get(item.source) == words.STATE_LABEL), ""
        )
        images = await _grub_images(root, runner, state) if state else {}
    return KairosFacts(
        boot=boot,
        booted=words.boot_state(cmdline, _efi_text(root, f"LoaderEntrySelected-{_LOADER}")),
        boot_id=text_of(root, "/proc/sys/kernel/random/boot_id"),
        architecture=architecture,
        release=words.parse_env(text_of(root, RELEASE)),
        sentinels=frozenset(root.list(COS)),
        mounts=mounts,
        devices=devices,
        root_image=_root_image(root, mounts),
        state=state,
        state_free=root.free_bytes(state) if state else 0,
        images=images,
        grubenv=words.parse_env(text_of(root, GRUBENV)),
        assessment=words.parse_env(text_of(root, f"{state}/boot_assessment")) if state else {},
        transition_mounted=any(item.target == TRANSITION for item in mounts),
        transition_file=bool(state) and root.exists(f"{state}/cOS/transition.img"),
        upgrading=_upgrading(root),
        on_battery_percent=_battery(root),
        reset_asked=words.parse_env(text_of(root, RESET_MARK)).get("boot", ""),
    )


async def _say(runner: Runner, *argv: str) -> str:
    """Standard output, whatever the exit code; empty when the command cannot be run."""
    try:
        return (await runner.run(argv, timeout_s=_LOOK_S, check=False)).stdout
    except (CommandMissing, CommandTimedOut):
        return ""


def _root_image(root: Root, mounts: Sequence[Mount]) -> str:
    """The file behind the loop device that the root file system is on."""
    source = next((item.source for item in reversed(mounts) if item.target == "/"), "")
    name = source.removeprefix("/dev/")
    return text_of(root, f"/sys/block/{name}/loop/backing_file") if "loop" in name else ""


async def _grub_images(root: Root, runner: Runner, state: str) -> dict[str, ImageFacts]:
    found = {}
    for name in (ACTIVE, PASSIVE):
        file = f"{state}/cOS/{name}.img"
        if root.exists(file):
            found[name] = await look_at(runner, file)
    return found


async def look_at(runner: Runner, file: str) -> ImageFacts:
    """What is in an ext2 image. No identity when it holds no file system."""
    label, uuid = words.parse_dumpe2fs(await _say(runner, "dumpe2fs", "-h", file))
    release = words.parse_env(await _say(runner, "debugfs", "-R", f"cat {RELEASE}", file))
    return ImageFacts(
        label=label,
        identity=uuid,
        version=release.get("KAIROS_VERSION") or release.get("KAIROS_RELEASE", ""),
        kernel=await _holds(runner, file, "/boot/vmlinuz"),
        initrd=await _holds(runner, file, "/boot/initrd"),
    )


async def _holds(runner: Runner, file: str, path: str) -> bool:
    """Whether a file with content is there; one symbolic link is followed."""
    told = await _say(runner, "debugfs", "-R", f"stat {path}", file)
    if link := re.search(r'^Fast link dest: "(.+)"', told, re.MULTILINE):
        goal = link[1] if link[1].startswith("/") else f"{path.rsplit('/', 1)[0]}/{link[1]}"
        told = await _say(runner, "debugfs", "-R", f"stat {goal}", file)
    size = re.search(r"\bType: regular\b.*?\bSize: (\d+)", told, re.DOTALL)
    return size is not None and int(size[1]) > 0


def _uki_images(root: Root) -> dict[str, ImageFacts]:
    """Images and counters on the EFI partition of a host with trusted boot.

    A signed UKI is hundreds of megabytes; its first one has the headers with the sizes of all
    sections and the release's text, which with the size of the file tells two apart.
    """
    found = {}
    counters = {}
    for file in root.list(f"{EFI}/loader/entries"):
        if entry := words.BOOT_ENTRY.fullmatch(file):
            counters[entry[1]] = None if entry[2] is None else int(entry[2])
    for name in (ACTIVE, PASSIVE):
        path = f"{EFI}/EFI/kairos/{name}.efi"
        if not root.exists(path):
            continue
        try:
            head = next(iter(root.read_chunks(path)), b"")
            size = root.size(path)
        except (FileMissing, OSError):
            head, size = b"", 0
        version = VERSION_IN_RELEASE.search(head)
        whole = head.startswith(b"MZ") and name in counters
        identity = hashlib.sha256(head + size.to_bytes(8, "big")).hexdigest()
        found[name] = ImageFacts(
            identity=identity if whole else "",
            version=version[1].decode(errors="replace") if version else "",
            counter=counters.get(name),
        )
    return found


def _efi_text(root: Root, variable: str) -> str:
    """Text of a variable of the loader: four bytes of attributes, then UTF-16."""
    try:
        data = root.read(f"{_EFIVARS}/{variable}")
    except (FileMissing, OSError):
        return ""
    return data[4:].decode("utf-16-le", errors="replace").rstrip("\0")


def _upgrading(root: Root) -> bool:
    """Whether some kairos-agent writes images right now, whoever started it."""
    for name in root.list("/proc"):
        if not name.isdigit():
            continue
        argv = text_of(root, f"/proc/{name}/cmdline").split("\0")
        ours = any(word.rsplit("/", 1)[-1] in _AGENTS for word in argv[:2])
        if ours and _WRITING & set(argv[1:]):
            return True
    return False


def _battery(root: Root) -> int | None:
    """Charge in per cent while no mains supply is connected; None with mains or no battery."""
    charges = []
    for name in root.list(_SUPPLIES):
        kind = text_of(root, f"{_SUPPLIES}/{name}/type")
        if kind == "Mains" and text_of(root, f"{_SUPPLIES}/{name}/online") == "1":
            return None
        charge = text_of(root, f"{_SUPPLIES}/{name}/capacity")
        # Mice and keyboards have batteries too.
        wide = text_of(root, f"{_SUPPLIES}/{name}/scope") != "Device"
        if kind == "Battery" and wide and charge.isdigit():
            charges.append(int(charge))
    return max(charges) if charges else None
