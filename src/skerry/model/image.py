"""The definition of an OS image: what a person writes, and what a distribution is made of.

A definition is a file (apiVersion skerry.dev/v1, kind Image) that the builder reads; it is no
object of a manager. Paths of sources are relative to the definition's folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date
from enum import StrEnum
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from skerry.model.kinds import Version
from skerry.model.meta import API_VERSION, NAME_PATTERN, Document, Record
from skerry.model.problems import DocumentInvalid, Problem, under
from skerry.model.shape import problems_of

KIND = "Image"

PackageName = Annotated[str, Meta(pattern=r"\A[a-z0-9][a-z0-9+.-]{1,127}\Z")]
ModuleName = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_-]{1,64}\Z")]
UnitName = Annotated[
    str, Meta(pattern=r"\A[A-Za-z0-9:_.@\\-]{1,200}\.(service|socket|timer|target|mount|path)\Z")
]
UserName = Annotated[str, Meta(pattern=r"\A[a-z_][a-z0-9_-]{0,31}\Z")]
FileMode = Annotated[str, Meta(pattern=r"\A[0-7]{3,4}\Z")]
OwnerText = Annotated[str, Meta(pattern=r"\A[a-z0-9_-]{1,32}(:[a-z0-9_-]{1,32})?\Z")]
KernelArgument = Annotated[str, Meta(pattern=r"\A[!-~]{1,200}\Z")]
Line = Annotated[str, Meta(pattern=r"\A[^\n\r]{1,8192}\Z")]
Mebibytes = Annotated[int, Meta(ge=16, le=1024 * 1024)]

# Arguments that the builder sets and that a definition must not bend.
_OWN_ARGUMENTS = ("roothash", "root", "systemd.verity", "systemd.gpt_auto", "init", "skerry.")


class Enroll(StrEnum):
    """When the loader writes the image's keys into firmware that is in setup mode."""

    VIRTUAL = "virtual"
    ALWAYS = "always"
    NEVER = "never"


class ImageBase(Document, frozen=True, kw_only=True):
    """`as_of` names one fetch of the packages: another date fetches them anew."""

    distribution: Annotated[str, Meta(pattern=NAME_PATTERN)] = "debian"
    release: Annotated[str, Meta(pattern=NAME_PATTERN)] = "trixie"
    as_of: date = date(2026, 1, 1)


class ImageFile(Document, frozen=True, kw_only=True):
    """Exactly one of `content` and `source`."""

    path: str
    mode: FileMode = "0644"
    owner: OwnerText = "root:root"
    content: str | None = None
    source: str | None = None


class ImageUser(Document, frozen=True, kw_only=True):
    """A user with its own group. `password_hash` as crypt(5) writes it; none means no password."""

    name: UserName
    ssh_keys: tuple[Line, ...] = ()
    password_hash: Annotated[str, Meta(pattern=r"\A\$[A-Za-z0-9]+\$[^:\s]{1,250}\Z")] | None = None
    groups: tuple[UserName, ...] = ()
    shell: str = "/bin/sh"


class ImageKernel(Document, frozen=True, kw_only=True):
    """`package` empty: the distribution's usual one. `arguments` come after the built-in ones."""

    package: PackageName | None = None
    arguments: tuple[KernelArgument, ...] = ()


class ImageDrivers(Document, frozen=True, kw_only=True):
    """Firmware and module packages, and modules that the initrd needs to find the disk."""

    packages: tuple[PackageName, ...] = ()
    initrd_modules: tuple[ModuleName, ...] = ()


class ImageUnits(Document, frozen=True, kw_only=True):
    """systemd units to enable and to mask, besides the distribution's list."""

    enable: tuple[UnitName, ...] = ()
    mask: tuple[UnitName, ...] = ()


class TrustRoot(Document, frozen=True, kw_only=True):
    """A CA certificate (PEM) that the whole host trusts. One of `content` and `source`."""

    name: Annotated[str, Meta(pattern=NAME_PATTERN)]
    content: str | None = None
    source: str | None = None


class ImageSizes(Document, frozen=True, kw_only=True):
    """Sizes in MiB. `root` is one slot and cannot grow; `state` only that of the raw disk."""

    esp_mib: Mebibytes = 256
    boot_mib: Mebibytes = 512
    root_mib: Mebibytes = 1024
    state_mib: Mebibytes = 2048


class ImageSpec(Document, frozen=True, kw_only=True):
    version: Version
    architecture: Annotated[str, Meta(pattern=r"\A(amd64|arm64)\Z")] = "amd64"
    base: ImageBase = ImageBase()
    packages: tuple[PackageName, ...] = ()
    files: tuple[ImageFile, ...] = ()
    users: tuple[ImageUser, ...] = ()
    units: ImageUnits = ImageUnits()
    kernel: ImageKernel = ImageKernel()
    drivers: ImageDrivers = ImageDrivers()
    agent: bool = True
    trust_roots: tuple[TrustRoot, ...] = ()
    site_data: dict[str, Any] = {}
    sizes: ImageSizes = ImageSizes()
    enroll_keys: Enroll = Enroll.VIRTUAL


class ImageDefinition(Record, frozen=True, kw_only=True):
    """A definition that was read and is in order."""

    name: str
    spec: ImageSpec


class Distribution(Document, frozen=True, kw_only=True):
    """What an image of one release of a distribution is made of, besides the definition.

    `kernels` maps architecture to package. `initrd_left_out`, `root_left_out` and `unprivileged`
    (programs that lose their setuid bit) are regular expressions over paths without first slash.
    """

    schema: int
    distribution: str
    release: str
    packages: tuple[PackageName, ...]
    kernels: dict[str, PackageName]
    initrd_packages: tuple[PackageName, ...]
    initrd_modules: tuple[ModuleName, ...]
    initrd_left_out: tuple[str, ...]
    root_left_out: tuple[str, ...]
    unprivileged: tuple[str, ...] = ()
    tools: tuple[PackageName, ...]
    kernel_arguments: tuple[KernelArgument, ...]
    enable: tuple[UnitName, ...] = ()
    mask: tuple[UnitName, ...] = ()


def read_definition(raw: Any) -> ImageDefinition:
    """The definition in a decoded document. Raises DocumentInvalid with all its problems."""
    problems = list(_check_top(raw)) if isinstance(raw, Mapping) else []
    if not isinstance(raw, Mapping):
        problems.append(Problem(path="", message="an image definition is a mapping"))
        raise DocumentInvalid("image definition", problems)
    spec = raw.get("spec", {})
    wrong = problems_of(spec, ImageSpec)
    problems += under("spec", wrong)
    if not wrong:
        problems += under("spec", _check_meaning(msgspec.convert(spec, ImageSpec)))
    if problems:
        raise DocumentInvalid("image definition", problems)
    return ImageDefinition(name=raw["metadata"]["name"], spec=msgspec.convert(spec, ImageSpec))


def read_distribution(raw: Any, *, what: str) -> Distribution:
    """Raises DocumentInvalid."""
    problems = problems_of(raw, Distribution)
    if problems:
        raise DocumentInvalid(f"distribution {what}", problems)
    return msgspec.convert(raw, Distribution)


def _check_top(raw: Mapping[Any, Any]) -> Iterator[Problem]:
    for key in raw:
        if key not in ("apiVersion", "kind", "metadata", "spec"):
            yield Problem(
                path=str(key)[:100],
                message="unknown field",
                hint="known: apiVersion, kind, metadata, spec",
            )
    if raw.get("apiVersion", API_VERSION) != API_VERSION:
        yield Problem(path="apiVersion", message="unknown version", hint=f"write {API_VERSION}")
    if raw.get("kind") != KIND:
        yield Problem(path="kind", message="is not the kind of an image", hint=f"write {KIND}")
    yield from under("metadata", problems_of(raw.get("metadata", {}), _Named))


class _Named(Document, frozen=True, kw_only=True):
    name: Annotated[str, Meta(pattern=NAME_PATTERN.replace("$", r"\Z"))]
    labels: dict[str, str] = {}


def _check_meaning(spec: ImageSpec) -> Iterator[Problem]:
    """What types cannot say."""
    for index, file in enumerate(spec.files):
        yield from under(f"files[{index}]", _check_file(file))
    for index, root in enumerate(spec.trust_roots):
        yield from under(f"trustRoots[{index}]", _one_of(root.content, root.source))
    yield from _doubles("files", "path", [file.path for file in spec.files])
    yield from _doubles("users", "name", [user.name for user in spec.users])
    yield from _doubles("trustRoots", "name", [root.name for root in spec.trust_roots])
    for index, argument in enumerate(spec.kernel.arguments):
        word = argument.partition("=")[0]
        if any(word == own or (own[-1] in ".y" and word.startswith(own)) for own in _OWN_ARGUMENTS):
            yield Problem(
                path=f"kernel.arguments[{index}]",
                message=f"{word} is set by the builder",
                hint="leave it out",
            )
    for index, user in enumerate(spec.users):
        if user.name in ("root", "nobody", "daemon", "systemd-network"):
            yield Problem(
                path=f"users[{index}].name",
                message=f"{user.name} is a user of the system",
                hint="choose another name",
            )
    both = sorted(set(spec.units.enable) & set(spec.units.mask))
    for name in both:
        yield Problem(path="units", message=f"{name} is to be enabled and masked")


def _check_file(file: ImageFile) -> Iterator[Problem]:
    parts = file.path.split("/")
    if not file.path.startswith("/") or {"", ".", ".."} & set(parts[1:]) or "\0" in file.path:
        yield Problem(
            path="path", message=f"{file.path[:80]!r} is no absolute path", hint="write /etc/motd"
        )
    elif parts[1] in ("proc", "sys", "dev", "run", "tmp", "var", "boot"):
        yield Problem(
            path="path",
            message=f"/{parts[1]} is not part of the image when it runs",
            hint="files belong below /etc, /usr or /opt",
        )
    yield from _one_of(file.content, file.source)


def _one_of(content: str | None, source: str | None) -> Iterator[Problem]:
    if (content is None) == (source is None):
        yield Problem(
            path="", message="needs one of content and source", hint="write exactly one of them"
        )
    if source is not None and (source.startswith("/") or ".." in source.split("/")):
        yield Problem(
            path="source",
            message=f"{source[:80]!r} leads out of the definition's folder",
            hint="paths are relative to the definition",
        )


def _doubles(path: str, field: str, values: list[str]) -> Iterator[Problem]:
    for index, value in enumerate(values):
        if value in values[:index]:
            yield Problem(
                path=f"{path}[{index}].{field}", message=f"{value[:80]!r} stands here twice"
            )
