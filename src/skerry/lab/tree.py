"""The Debian trees that lab hosts are cloned from, each made once and kept in the cache.

A tree's folder is named by the digest of everything that goes into it (suite, packages, files),
and it appears by one rename, so a tree that exists is complete. It is never changed afterwards.
Where packages come from is taken from this computer's own apt settings, never from the project.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import structlog

from skerry.lab import hostfiles
from skerry.lab.errors import TreeFailed
from skerry.lib.clock import Clock, SystemClock
from skerry.lib.proc import CommandFailed, CommandMissing, Runner, SystemRunner

log = structlog.get_logger()

DEFAULT_SUITE = "trixie"
PACKAGES = (
    "ca-certificates",
    "conntrack",
    "curl",
    "dbus",
    "ethtool",
    "iproute2",
    "iptables",
    "iputils-ping",
    "kmod",
    "libseccomp2",
    "nftables",
    "procps",
    "socat",
    "systemd",
    "systemd-sysv",
    "udev",
    "xz-utils",
)
_BUILD_TIMEOUT_S = 900.0
_APT_OPTIONS = (
    'APT::Install-Recommends "false"',
    'Acquire::Languages "none"',
    # A mirror that is a snapshot has release files that are past their date.
    'Acquire::Check-Valid-Until "false"',
    'Acquire::Check-Date "false"',
)


def cache_folder() -> Path:
    """The folder for built things: SKERRY_CACHE, or `skerry` in the user's cache."""
    if own := os.environ.get("SKERRY_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "skerry"


def tree_id(suite: str = DEFAULT_SUITE) -> str:
    """Digest of what the tree is made of; 16 hex digits."""
    recipe = json.dumps(
        [
            suite,
            platform.machine(),
            PACKAGES,
            sorted(hostfiles.TREE_FILES.items()),
            sorted(hostfiles.TREE_LINKS.items()),
            hostfiles.MASKED_UNITS,
        ]
    )
    return hashlib.sha256(recipe.encode()).hexdigest()[:16]


async def ensure_tree(
    cache: Path | None = None,
    *,
    suite: str = DEFAULT_SUITE,
    runner: Runner | None = None,
    clock: Clock | None = None,
) -> Path:
    """The folder of a Debian release's tree, made first (a minute, as root) when it is not there.

    Raises TreeFailed with the end of mmdebstrap's output.
    """
    trees = (cache or cache_folder()) / "trees"
    tree = trees / tree_id(suite)
    if not tree.is_dir():
        trees.mkdir(parents=True, exist_ok=True)
        async with _locked(trees / ".lock", clock or SystemClock()):
            if not tree.is_dir():
                await _build(tree, suite, runner or SystemRunner())
    os.utime(tree)  # The cache drops what was used least recently.
    return tree


async def _build(tree: Path, suite: str, runner: Runner) -> None:
    for stale in tree.parent.glob(".building-*"):
        await anyio.to_thread.run_sync(shutil.rmtree, stale)
    building = tree.parent / f".building-{tree.name}"
    log.info("lab.tree.building", tree=tree.name, suite=suite)
    options = [f"--aptopt={option}" for option in _APT_OPTIONS]
    argv = [
        "mmdebstrap",
        "--quiet",
        "--mode=root",
        "--variant=minbase",
        "--format=directory",
        f"--include={','.join(PACKAGES)}",
        *options,
        suite,
        str(building),
        "-",
    ]
    sources = apt_sources(Path("/etc/apt"), codename=_codename(), suite=suite)
    try:
        await runner.run(argv, timeout_s=_BUILD_TIMEOUT_S, stdin=sources.encode())
    except (CommandFailed, CommandMissing) as exc:
        raise TreeFailed(
            f"cannot make the {suite} host tree: {exc}",
            hint="install the packages in skerry.lab.requirements and check apt's sources",
            retryable=True,
        ) from exc
    _furnish(building)
    building.rename(tree)
    log.info("lab.tree.ready", tree=tree.name)


def _furnish(tree: Path) -> None:
    # Hosts have no route to a mirror, and the mirror's address is nobody's business.
    for name in ("sources.list", "sources.list.d", "apt.conf.d/99mmdebstrap"):
        place = tree / "etc/apt" / name
        if place.is_dir():
            shutil.rmtree(place)
        place.unlink(missing_ok=True)
    (tree / "etc/apt/sources.list.d").mkdir()
    for path, (mode, content) in hostfiles.TREE_FILES.items():
        write_file(tree / path, content, mode=mode)
    masks = {f"etc/systemd/system/{unit}": "/dev/null" for unit in hostfiles.MASKED_UNITS}
    for path, target in {**hostfiles.TREE_LINKS, **masks}.items():
        link = tree / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    for path in ("etc/resolv.conf", "etc/hostname", "etc/machine-id", "etc/hosts"):
        (tree / path).unlink(missing_ok=True)
    for path in ("var/lib/skerry", "var/lib/kubelet", "var/lib/etcd", "var/log/journal"):
        (tree / path).mkdir(parents=True, exist_ok=True)


def write_file(path: Path, content: str, *, mode: int = 0o644) -> None:
    """Write a file with its folders, replacing a link instead of following it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_text(content)
    path.chmod(mode)


def apt_sources(etc_apt: Path, *, codename: str, suite: str) -> str:
    """This computer's Debian sources, rewritten from `codename` to `suite`, in deb822 form.

    Only entries for suites of `codename` are taken; other archives do not follow Debian's names.
    Raises TreeFailed when there is none.
    """
    entries: list[str] = []
    for path in sorted(etc_apt.glob("sources.list.d/*.sources")):
        for stanza in path.read_text().split("\n\n"):
            fields = _fields(stanza)
            if fields.get("enabled", "yes").lower() != "no" and "uris" in fields:
                entries += _entry(
                    fields["uris"],
                    fields.get("suites", "").split(),
                    fields.get("components", "main"),
                    codename=codename,
                    suite=suite,
                )
    for path in [etc_apt / "sources.list", *sorted(etc_apt.glob("sources.list.d/*.list"))]:
        for line in path.read_text().splitlines() if path.is_file() else []:
            words = line.split("#")[0].replace("[", " [").split()
            if words[:1] != ["deb"]:
                continue
            while len(words) > 1 and words[1].startswith("["):
                end = next((i for i, word in enumerate(words) if word.endswith("]")), 1)
                del words[1 : end + 1]
            if len(words) >= 4:
                components = " ".join(words[3:])
                entries += _entry(words[1], [words[2]], components, codename=codename, suite=suite)
    if not entries:
        raise TreeFailed(
            f"no apt source for {codename} on this computer",
            hint="the lab needs a Debian computer with apt sources in /etc/apt",
        )
    return "\n".join(entries)


def _entry(
    uris: str, suites: list[str], components: str, *, codename: str, suite: str
) -> list[str]:
    wanted = [
        suite + found[len(codename) :]
        for found in suites
        if found == codename or found in (f"{codename}-updates", f"{codename}-security")
    ]
    if not wanted:
        return []
    parts = " ".join(part for part in components.split() if part == "main") or "main"
    lines = (
        "Types: deb",
        f"URIs: {uris}",
        f"Suites: {' '.join(wanted)}",
        f"Components: {parts}",
        "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg",
    )
    return ["\n".join(lines) + "\n"]


def _fields(stanza: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    last = ""
    for line in stanza.splitlines():
        if line.startswith("#"):
            continue
        if line[:1].isspace() and last:
            fields[last] += " " + line.strip()
        elif ":" in line:
            key, _, value = line.partition(":")
            last = key.strip().lower()
            fields[last] = value.strip()
    return fields


def _codename() -> str:
    for line in Path("/etc/os-release").read_text().splitlines():
        if line.startswith("VERSION_CODENAME="):
            return line.partition("=")[2].strip('"')
    raise TreeFailed("this computer's /etc/os-release names no Debian release")


@asynccontextmanager
async def _locked(path: Path, clock: Clock) -> AsyncIterator[None]:
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                await clock.sleep(0.5)
            else:
                break
        yield
