"""What upstream publishes for a release, and the lock: the digests that skerry accepts for it.

Addresses are data in `data/official.yaml`, digests in `data/official.lock.yaml`; a person's own
lock file adds to the latter and never overrules it. Everything here is pure but the reading of
the two data files: which files a release needs, which of them have no locked digest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import Any

import msgspec
import yaml

from skerry.builder.recipes import ReleaseTable, fill
from skerry.lib.digest import is_digest
from skerry.lib.errors import SkerryError
from skerry.lib.yamltext import TextLoader

ARCHITECTURES = ("amd64", "arm64")
ANY = "any"
LOCK_FILE = "official.lock.yaml"

_HEADER = """\
# The digests of upstream's files and images that `skerry release build kubernetes --from official`
# accepts. `from` says where each was learned. Written by `skerry release lock`, which trusts what
# upstream says at that moment: compare new entries with upstream's release pages before you commit.
"""

_MIB = 1 << 20
_HEX = re.compile(r"[0-9a-fA-F]{64}")


class LockInvalid(SkerryError):
    """A lock file cannot be read, or two locks disagree."""


class NotLocked(SkerryError):
    """Files of a release have no locked digest, so nobody knows what they should be."""


class Download(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    """A file at upstream. `checksums` is the address of upstream's digest of it, if any."""

    component: str
    url: str
    checksums: str = ""
    signature: str = ""
    limit_mib: int = msgspec.field(name="limitMiB")


class Placed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of the release: a download, or `member` of a downloaded archive."""

    source: str = msgspec.field(name="from")
    member: str = ""
    executable: bool = True


class Sources(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    """All of `official.yaml`, still with holes for versions and architecture."""

    schema: int
    downloads: dict[str, Download]
    files: dict[str, Placed]
    image_signature: str
    image_limit_mib: int = msgspec.field(name="imageLimitMiB")


class Locked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A digest and where it was learned."""

    digest: str
    origin: str = msgspec.field(name="from")


class Lock(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`files`: download -> component version -> architecture; `images`: reference -> digest of
    what the tag names, usually an index over all architectures."""

    schema: int = 1
    files: dict[str, dict[str, dict[str, Locked]]] = {}
    images: dict[str, Locked] = {}

    def file(self, name: str, version: str, architecture: str) -> Locked | None:
        """What is locked for a download."""
        return self.files.get(name, {}).get(version, {}).get(architecture)

    def with_file(self, name: str, version: str, architecture: str, locked: Locked) -> Lock:
        """The lock with one more download."""
        files = {key: dict(versions) for key, versions in self.files.items()}
        versions = files.setdefault(name, {})
        versions[version] = {**versions.get(version, {}), architecture: locked}
        return msgspec.structs.replace(self, files=files)

    def with_image(self, reference: str, locked: Locked) -> Lock:
        """The lock with one more image."""
        return msgspec.structs.replace(self, images={**self.images, reference: locked})


class FileNeed(msgspec.Struct, frozen=True, kw_only=True):
    """One file to fetch, all holes filled. `architecture` is ANY for what serves every one."""

    name: str
    version: str
    architecture: str
    url: str
    checksums: str
    signature: str
    limit_bytes: int

    @property
    def key(self) -> tuple[str, str, str]:
        """What a lock knows it by."""
        return (self.name, self.version, self.architecture)

    @property
    def title(self) -> str:
        """Words for people: "kubeadm 1.36.3 (amd64)"."""
        return f"{self.name} {self.version} ({self.architecture})"


class Needs(msgspec.Struct, frozen=True, kw_only=True):
    """Everything of one release for one architecture. `placed` maps a path in the release to
    its download, `images` a component to its reference."""

    version: str
    architecture: str
    files: dict[str, FileNeed]
    placed: dict[str, Placed]
    images: dict[str, str]
    image_signature: str
    image_limit_bytes: int

    def unchecked(self) -> list[str]:
        """What upstream signs and nobody here checks yet, as "how: what, what"."""
        found: dict[str, list[str]] = {}
        for need in self.files.values():
            if need.signature:
                found.setdefault(need.signature, []).append(need.name)
        if self.image_signature:
            found.setdefault(self.image_signature, []).append("all images")
        return [f"{how}: {', '.join(what)}" for how, what in found.items()]


def needs_of(table: ReleaseTable, architecture: str, *, sources: Sources | None = None) -> Needs:
    """What a release is made of."""
    own = sources or official_sources()
    values = {**table.components, "architecture": architecture}
    found = {
        name: FileNeed(
            name=name,
            version=table.components[item.component],
            architecture=architecture if "{architecture}" in item.url else ANY,
            url=fill(item.url, values),
            checksums=fill(item.checksums, values),
            signature=item.signature,
            limit_bytes=item.limit_mib * _MIB,
        )
        for name, item in own.downloads.items()
    }
    return Needs(
        version=table.version,
        architecture=architecture,
        files=found,
        placed={
            path: msgspec.structs.replace(item, member=fill(item.member, values))
            for path, item in own.files.items()
        },
        images={name: image.name for name, image in table.images.items()},
        image_signature=own.image_signature,
        image_limit_bytes=own.image_limit_mib * _MIB,
    )


def require_locked(needs: Needs, lock: Lock) -> None:
    """Raises NotLocked with the name of every file and image whose digest is not known."""
    missing = [need.title for need in needs.files.values() if lock.file(*need.key) is None]
    missing += [f"image {name}" for name in needs.images.values() if name not in lock.images]
    if not missing:
        return
    count = len(needs.files) + len(needs.images)
    told = (
        f"{len(missing)} of {count} files of Kubernetes {needs.version} for"
        f" {needs.architecture} have no locked digest; nothing was fetched"
    )
    raise NotLocked(
        "\n".join([told, *missing]),
        hint=f"skerry release lock {needs.version} --architecture {needs.architecture}",
    )


def parse_lock(text: str, *, where: str) -> Lock:
    """Raises LockInvalid."""
    try:
        lock = msgspec.convert(_load(text) or {}, type=Lock, strict=False)
    except (yaml.YAMLError, msgspec.ValidationError) as exc:
        raise LockInvalid(
            f"lock file {where} cannot be read: {exc}", hint="correct it, or remove it"
        ) from exc
    if lock.schema != 1:
        raise LockInvalid(
            f"lock file {where} has schema {lock.schema}, wanted 1", hint="update skerry"
        )
    for title, locked in entries(lock):
        if not is_digest(locked.digest):
            raise LockInvalid(
                f"lock file {where}: digest of {title} is not sha256:<64 hex digits>,"
                f" found {locked.digest[:80]!r}",
                hint="correct it, or remove the entry and lock it again",
            )
    return lock


def encode_lock(lock: Lock) -> str:
    """The text of a lock file, sorted so that a change shows as few lines as it has."""
    plain = msgspec.to_builtins(lock)
    return _HEADER + yaml.safe_dump(plain, sort_keys=True, width=1000, default_flow_style=False)


def merged(lock: Lock, more: Lock, *, where: str) -> Lock:
    """Both together. Raises LockInvalid when they name different digests for one thing."""
    known = dict(entries(lock))
    for title, locked in entries(more):
        if title in known and known[title].digest != locked.digest:
            raise LockInvalid(
                f"{title} has two digests: {locked.digest} in {where},"
                f" {known[title].digest} in skerry's own lock ({known[title].origin})",
                hint=f"find out which is right before anything else; then correct {where}",
            )
    result = lock
    for name, versions in more.files.items():
        for version, machines in versions.items():
            for architecture, locked in machines.items():
                if result.file(name, version, architecture) is None:
                    result = result.with_file(name, version, architecture, locked)
    for reference, locked in more.images.items():
        if reference not in result.images:
            result = result.with_image(reference, locked)
    return result


def entries(lock: Lock) -> Iterable[tuple[str, Locked]]:
    """Everything in a lock with its title."""
    for name, versions in lock.files.items():
        for version, machines in versions.items():
            for architecture, locked in machines.items():
                yield f"{name} {version} ({architecture})", locked
    for reference, locked in lock.images.items():
        yield f"image {reference}", locked


def digest_in(text: str, *, name: str) -> str | None:
    """The digest of file `name` in a checksum file.

    Takes a bare digest and coreutils' `digest  name` or `digest *name`; any other line, such as
    those of an OpenPGP clear-signed file, is passed over. A name may carry folders.
    """
    lines = [line.split() for line in text.splitlines() if line.strip()]
    if len(lines) == 1 and len(lines[0]) == 1 and _HEX.fullmatch(lines[0][0]):
        return f"sha256:{lines[0][0].lower()}"
    for words in lines:
        if len(words) == 2 and _HEX.fullmatch(words[0]):
            listed = words[1].removeprefix("*").rpartition("/")[2]
            if listed == name:
                return f"sha256:{words[0].lower()}"
    return None


@cache
def official_sources() -> Sources:
    """The addresses that come with skerry."""
    return msgspec.convert(_load(_data("official.yaml")), type=Sources, strict=False)


@cache
def own_lock() -> Lock:
    """The digests that come with skerry."""
    return parse_lock(_data(LOCK_FILE), where=f"skerry's {LOCK_FILE}")


def _data(name: str) -> str:
    return (files("skerry.builder") / "data" / name).read_text(encoding="utf-8")


def _load(text: str) -> Any:
    return yaml.load(text, Loader=TextLoader)  # noqa: S506  # a safe loader
