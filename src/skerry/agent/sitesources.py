"""Reads site data from wherever this machine can have it, and keeps what may be kept.

A source that is absent is nothing; one that cannot be read, or holds something wrong, is a problem
that is told with its place, and nothing of it is used.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from skerry.agent import paths
from skerry.agent.mounting import Mounts
from skerry.lib.errors import SkerryError
from skerry.lib.files import FileMissing, Root
from skerry.lib.proc import CommandFailed, Runner
from skerry.model.problems import Problem, under
from skerry.plan import sitedata
from skerry.plan.sitedata import MAX_SITE_BYTES, SiteData, Source
from skerry.plan.sitetext import Read, read_command_line, read_yaml

IMAGE_FILE = "/etc/skerry/site.yaml"
STICK_FILE = "skerry.yaml"
USER_DATA = "user-data"
CREDENTIAL = "skerry.site"
VOLUMES = ("SKERRY", "skerry", "cidata", "CIDATA")

_SYSTEM_CREDENTIALS = "/run/credentials/@system"
# Whoever can plug in a stick chooses what the kernel parses: simple file systems only.
_FILE_SYSTEMS = ("vfat", "exfat", "iso9660")
_MAX_STICKS = 8


@dataclass(frozen=True, slots=True)
class Layer:
    """What one place told."""

    source: Source
    place: str
    data: SiteData


@dataclass(frozen=True, slots=True)
class SiteFound:
    """All that was told, least first, and everything that is wrong."""

    layers: tuple[Layer, ...] = ()
    problems: tuple[Problem, ...] = ()

    @property
    def data(self) -> SiteData:
        return sitedata.merge(layer.data for layer in self.layers)

    def data_from(self, *sources: Source) -> SiteData:
        """What these sources told, with the permission to keep secrets from wherever it came."""
        data = sitedata.merge(layer.data for layer in self.layers if layer.source in sources)
        return msgspec.structs.replace(data, keep_secrets=self.data.keep_secrets)

    def places(self) -> list[str]:
        return [f"{layer.source.value} ({layer.place})" for layer in self.layers]


async def find_site_data(
    root: Root,
    runner: Runner,
    mounts: Mounts,
    *,
    media: Sequence[tuple[str, Root]] = (),
    credentials: str = "",
) -> SiteFound:
    """Everything but what a person types. `media` are file systems that are open already and count
    as sticks; `credentials` is the folder of the unit's credentials ($CREDENTIALS_DIRECTORY)."""
    layers: list[Layer] = []
    problems: list[Problem] = []

    def take(source: Source, place: str, read: Read) -> None:
        data, wrong = read
        if wrong:
            problems.extend(under(place, wrong))
        elif not data.empty:
            layers.append(Layer(source, place, data))

    for source, path in ((Source.IMAGE, IMAGE_FILE), (Source.INSTALLED, paths.SITE)):
        if root.exists(path):
            take(source, path, _file(root, path))
    for device, inside in media:
        for name, read in _stick_files(inside):
            take(Source.STICK, f"{device}:{name}", read)
    for device, kind in await _volumes(runner):
        try:
            async with mounts.opened(device, kind) as inside:
                reads = _stick_files(inside)
        except CommandFailed as exc:
            why = exc.message.splitlines()[-1]
            reads = [("", (SiteData(), [Problem(path="", message=f"cannot be mounted: {why}")]))]
        for name, read in reads:
            take(Source.STICK, f"{device}:{name}".rstrip(":"), read)
    # The unit's own is the system's, where both are there.
    for folder in (credentials, _SYSTEM_CREDENTIALS):
        path = f"{folder}/{CREDENTIAL}"
        if folder and root.exists(path):
            take(Source.CREDENTIAL, path, _file(root, path))
            break
    take(Source.COMMAND_LINE, "kernel command line", _command_line(root))
    return SiteFound(tuple(layers), tuple(problems))


def credentials_folder() -> str:
    """Where systemd put this unit's credentials (systemd.exec(5)), or ""."""
    return os.environ.get("CREDENTIALS_DIRECTORY", "")


def keep(root: Root, data: SiteData) -> None:
    """Keep on the state partition what may lie there, and write only when it changed."""
    text = sitedata.render(sitedata.to_keep(data)).encode()
    try:
        same = root.read(paths.SITE) == text
    except FileMissing:
        same = False
    if not same:
        root.write(paths.SITE, text, mode=0o600)


def scrub(root: Root) -> None:
    """The host is registered: forget the secrets that were kept. Does nothing for a file that
    cannot be read as site data, for then it was never used either."""
    if not root.exists(paths.SITE):
        return
    data, problems = _file(root, paths.SITE)
    plain = sitedata.without_secrets(data)
    if not problems and plain != data:
        root.write(paths.SITE, sitedata.render(plain).encode(), mode=0o600)


def _file(root: Root, path: str, *, key: str = "") -> Read:
    try:
        if root.size(path) > MAX_SITE_BYTES:
            return SiteData(), [Problem(path="", message=f"is larger than {MAX_SITE_BYTES} bytes")]
        return read_yaml(root.read(path), key=key)
    except (FileMissing, OSError) as exc:
        said = getattr(exc, "strerror", None) or str(exc)
        return SiteData(), [Problem(path="", message=f"cannot be read: {said}")]


def _command_line(root: Root) -> Read:
    try:
        return read_command_line(root.read("/proc/cmdline").decode(errors="replace"))
    except (FileMissing, OSError):
        return SiteData(), []


def _stick_files(inside: Root) -> list[tuple[str, Read]]:
    found = []
    for name, key in ((USER_DATA, "skerry"), (STICK_FILE, "")):
        path = f"/{name}"
        # A link on somebody's stick could lead into this system.
        if inside.exists(path) and not inside.is_dir(path) and inside.read_link(path) is None:
            found.append((name, _file(inside, path, key=key)))
    return found


async def _volumes(runner: Runner) -> list[tuple[str, str]]:
    """Devices with one of the names, and their file systems."""
    try:
        argv = ["blkid", "-c", "/dev/null", "-o", "export"]
        result = await runner.run(argv, timeout_s=60, check=False)
    except SkerryError:
        return []
    found: dict[str, str] = {}
    for block in result.stdout.split("\n\n"):
        fields: dict[str, str] = {}
        for line in block.splitlines():
            key, _, value = line.partition("=")
            fields[key] = value
        device, kind = fields.get("DEVNAME", ""), fields.get("TYPE", "")
        named = fields.get("LABEL") in VOLUMES or fields.get("LABEL_FATBOOT") in VOLUMES
        if named and kind in _FILE_SYSTEMS and device.startswith("/dev/"):
            found[device] = kind
    return sorted(found.items())[:_MAX_STICKS]
