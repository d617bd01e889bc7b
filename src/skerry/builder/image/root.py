"""The root file system: packages, skerry's own files, and what the definition adds, as one erofs.

The name of the file system (its UUID) is made from everything that is in it, so that a boot image
finds its root by content.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import yaml

from skerry.builder.image.errors import ImageBuildFailed
from skerry.builder.image.initrd import copy_files
from skerry.builder.image.modules import kernel_version
from skerry.builder.image.toolbox import Toolbox
from skerry.builder.image.users import Accounts
from skerry.lib.proc import Runner
from skerry.model.image import Distribution, ImageDefinition, ImageFile
from skerry.plan.image import uuid_from

SITE_FILE = "etc/skerry/site.yaml"
# A log-in prompt is for those who have a password; without one it is an open question.
_LOGINS = ("getty@.service", "serial-getty@.service")
AGENT_FOLDER = "usr/lib/skerry/agent"
_ENTER = (
    'set -e; tree=$1; shift; mount --rbind /dev "$tree/dev"; mount --rbind /proc "$tree/proc"; '
    'exec chroot "$tree" "$@"'
)
_FOLDERS = ("boot", "dev", "etc/skerry", "home", "opt", "proc", "root", "run", "sys", "tmp", "var")


class RootFacts(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What is known of a built root; lies beside it. `content` is the digest of the tree."""

    content: str
    uuid: str
    kernel: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class RootParts:
    """Where the parts lie. `boot` is the tar that holds the kernel's modules; `agent` the
    archive of the agent or None; `base` the definition's folder."""

    definition: ImageDefinition
    distribution: Distribution
    packages: Path
    boot: Path
    files: Path
    base: Path
    agent: Path | None


async def build_root(
    parts: RootParts, out: Path, *, work: Path, tools: Toolbox, runner: Runner
) -> RootFacts:
    """Write `root.erofs`, `root.json` and `os-release` into `out`. Raises ImageBuildFailed."""
    tree = work / "root"
    tree.mkdir(mode=0o755)
    unpack = ["tar", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-C", str(tree)]
    await runner.run([*unpack, "-xpf", str(parts.packages)], timeout_s=300)
    modules = ["./usr/lib/modules/*", "./boot/config-*"]
    await runner.run([*unpack, "-xpf", str(parts.boot), "--wildcards", *modules], timeout_s=300)
    version = kernel_version(tree)
    # One of the places where kubeadm looks for it (k8s.io/system-validators, kernel_validator.go).
    shutil.move(tree / f"boot/config-{version}", tree / f"usr/lib/modules/{version}/config")
    await tools.run(["depmod", "-b", tree, version], timeout_s=120)
    for name in _FOLDERS:
        (tree / name).mkdir(parents=True, exist_ok=True)
    await _trust(parts, tree, runner)
    leave_out(tree, parts.distribution.root_left_out)
    take_rights(tree, parts.distribution.unprivileged)
    copy_files(parts.files, tree)
    await _place_agent(parts, tree, runner)
    _identify(parts, tree)
    accounts = Accounts(tree)
    for user in parts.definition.spec.users:
        accounts.add(user)
    accounts.write()
    for file in parts.definition.spec.files:
        place_file(file, tree, parts.base, accounts)
    await _switch_units(parts, tree, tools)
    content = tree_digest(tree)
    uuid = uuid_from(content)
    image = out / "root.erofs"
    await tools.run(
        [
            *("mkfs.erofs", "--quiet", "-zlz4hc,level=9", "-C65536", "-Efragments,dedupe"),
            *(f"-T{tools.epoch}", "--ignore-mtime", f"-U{uuid}", image, tree),
        ],
        timeout_s=600,
    )
    facts = RootFacts(content=content, uuid=uuid, kernel=version, size_bytes=image.stat().st_size)
    (out / "root.json").write_bytes(msgspec.json.encode(facts))
    shutil.copyfile(tree / "usr/lib/os-release", out / "os-release")
    return facts


def leave_out(tree: Path, patterns: Sequence[str]) -> None:
    """Remove what matches one of the patterns, which are matched against a path from its start;
    a folder's path ends in a slash."""
    compiled = re.compile("|".join(f"(?:{pattern})" for pattern in patterns))
    for folder, names, files in os.walk(tree):
        base = Path(folder).relative_to(tree).as_posix().removeprefix(".").lstrip("/")
        prefix = f"{base}/" if base else ""
        for name in list(names):
            place = Path(folder) / name
            if place.is_symlink():
                files.append(name)
                names.remove(name)
            elif compiled.match(f"{prefix}{name}/"):
                shutil.rmtree(place)
                names.remove(name)
        for name in files:
            if compiled.match(f"{prefix}{name}"):
                (Path(folder) / name).unlink()


def take_rights(tree: Path, patterns: Sequence[str]) -> None:
    """Take setuid and setgid bits from the files that match one of the patterns as a whole."""
    compiled = re.compile("|".join(f"(?:{pattern})" for pattern in patterns) or r"(?!)")
    for path in tree.rglob("*"):
        mode = path.lstat().st_mode
        raising = stat.S_ISREG(mode) and mode & 0o6000
        if raising and compiled.fullmatch(path.relative_to(tree).as_posix()):
            path.chmod(mode & 0o1777)


def place_file(file: ImageFile, tree: Path, base: Path, accounts: Accounts) -> None:
    """Put one of the definition's files into the tree. Raises ImageBuildFailed."""
    place = inside(tree, file.path)
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_symlink() or place.is_file():
        place.unlink()
    if file.content is not None:
        place.write_text(file.content, encoding="utf-8")
    else:
        shutil.copyfile(base / (file.source or ""), place)
    user, _, group = file.owner.partition(":")
    os.chown(place, accounts.user(user), accounts.group(group or user))
    place.chmod(int(file.mode, 8))


def inside(tree: Path, path: str) -> Path:
    """The place of an absolute path in the tree, with the tree's links followed inside it.

    Raises ImageBuildFailed when a link leads out.
    """
    place = tree
    for part in path.strip("/").split("/")[:-1]:
        place = place / part
        hops = 0
        while place.is_symlink():
            target = place.readlink()
            place = (
                tree / str(target).lstrip("/") if target.is_absolute() else place.parent / target
            )
            hops += 1
            if hops > 20:
                raise ImageBuildFailed(f"links of {path} go round in a circle")
    place = Path(os.path.normpath(place)) / path.rpartition("/")[2]
    if not place.is_relative_to(tree):
        raise ImageBuildFailed(f"{path} leads out of the image", hint="choose another path")
    return place


def tree_digest(tree: Path) -> str:
    """Digest of everything in a tree but its times: names, kinds, modes, owners, content."""
    total = hashlib.sha256()
    for path in sorted(tree.rglob("*"), key=lambda path: path.relative_to(tree).as_posix()):
        info = path.lstat()
        head = f"{path.relative_to(tree)}\0{info.st_mode:o}\0{info.st_uid}\0{info.st_gid}\0"
        total.update(head.encode(errors="surrogateescape"))
        if stat.S_ISREG(info.st_mode):
            with path.open("rb") as reading:
                total.update(hashlib.file_digest(reading, "sha256").digest())
            names = os.listxattr(path, follow_symlinks=False)
            for name in sorted(names):
                total.update(name.encode() + os.getxattr(path, name, follow_symlinks=False))
        elif stat.S_ISLNK(info.st_mode):
            total.update(os.readlink(path).encode(errors="surrogateescape"))
    return f"sha256:{total.hexdigest()}"


async def _trust(parts: RootParts, tree: Path, runner: Runner) -> None:
    """Add the definition's CA certificates to what the whole host trusts."""
    roots = parts.definition.spec.trust_roots
    if not roots:
        return
    folder = tree / "usr/local/share/ca-certificates"
    folder.mkdir(parents=True, exist_ok=True)
    for root in roots:
        text = root.content
        if text is None:
            text = (parts.base / (root.source or "")).read_text(encoding="utf-8")
        (folder / f"{root.name}.crt").write_text(text)
    await runner.run(
        [
            *("unshare", "--mount", "--propagation=private", "sh", "-c", _ENTER, "sh", str(tree)),
            "update-ca-certificates",
        ],
        timeout_s=120,
    )


async def _place_agent(parts: RootParts, tree: Path, runner: Runner) -> None:
    if parts.agent is None:
        return
    folder = tree / AGENT_FOLDER
    folder.mkdir(parents=True)
    await runner.run(
        [
            *("tar", "-xzf", str(parts.agent), "-C", str(folder)),
            *("--strip-components=1", "--no-same-owner"),
        ],
        timeout_s=120,
    )
    if not (folder / "skerry-agent").is_file():
        raise ImageBuildFailed(
            f"{parts.agent} holds no program skerry-agent", hint="build the agent again"
        )


def _identify(parts: RootParts, tree: Path) -> None:
    spec = parts.definition.spec
    release = tree / "usr/lib/os-release"
    kept = [
        line
        for line in release.read_text().splitlines()
        if not line.startswith(("IMAGE_", "VARIANT"))
    ]
    kept += [
        f'IMAGE_ID="{parts.definition.name}"',
        f'IMAGE_VERSION="{spec.version}"',
        'VARIANT="skerry appliance"',
        "VARIANT_ID=skerry-appliance",
    ]
    release.write_text("\n".join(kept) + "\n")
    machine = tree / "etc/machine-id"
    machine.unlink(missing_ok=True)
    machine.write_text("uninitialized\n")
    machine.chmod(0o444)
    if spec.site_data:
        text = yaml.safe_dump(spec.site_data, sort_keys=True, allow_unicode=True)
        (tree / SITE_FILE).write_text(text)
        # It may hold a registration token.
        (tree / SITE_FILE).chmod(0o600)


async def _switch_units(parts: RootParts, tree: Path, tools: Toolbox) -> None:
    units = parts.definition.spec.units
    kept = set(units.enable)
    enable = [*(name for name in parts.distribution.enable if name not in units.mask), *kept]
    if enable:
        await tools.run(
            ["systemctl", f"--root={tools.at(tree)}", "enable", *sorted(enable)], timeout_s=120
        )
    mask = {*parts.distribution.mask, *units.mask} - kept
    if any(user.password_hash for user in parts.definition.spec.users):
        mask -= set(_LOGINS)
    for name in sorted(mask):
        link = tree / "etc/systemd/system" / name
        if link.is_symlink() or link.is_file():
            link.unlink()
        link.symlink_to("/dev/null")
