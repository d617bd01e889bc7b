"""What turns a Kairos base image into a host of skerry: files to lay over it, and a recipe for it.

The overlay holds the agent, its units, the deadline of a trial, and a cloud-config of Kairos that
keeps what skerry writes. It names no cluster and no manager, so one image serves all hosts.
"""

from __future__ import annotations

import shutil
from importlib.resources import as_file, files
from pathlib import Path

from skerry.lib.errors import SkerryError
from skerry.lib.proc import Runner

ROOTFS = "rootfs"
CONTAINERFILE = "Containerfile"
_AGENT = "usr/lib/skerry/agent"
_SCRIPTS = "usr/lib/skerry"
_UNITS = "usr/lib/systemd/system"
_WANTED = (
    "skerry-agent.service",
    "skerry-agent-seed.service",
    "skerry-identity.service",
    "skerry-trial.service",
)
# Kairos refuses upgrades and resets of a host without a user, unless this file is there
# (kairos-agent v2.31.4, pkg/config/config.go).
_NO_USERS = "etc/kairos/.nousers"
_RECIPE = """\
# Build with your Kairos image as the base:
#   podman build --build-arg BASE=... -t kairos-skerry .
#   podman save --format docker-archive -o kairos-skerry.tar kairos-skerry
#   skerry image kairos-artifact kairos-skerry.tar --name ... --version ... --out ...
# KAIROS_VERSION in /etc/kairos-release must differ between two images.
ARG BASE
FROM ${BASE}
COPY rootfs/ /
"""


class OverlayRefused(SkerryError):
    """The overlay cannot be written."""


async def write_overlay(out: Path, *, agent: Path, runner: Runner) -> list[str]:
    """Write the overlay into an empty or new folder; its files, sorted. `agent` is the agent's
    archive. Raises OverlayRefused, CommandFailed."""
    if out.exists() and any(out.iterdir()):
        raise OverlayRefused(f"{out} is not empty", hint="name a new folder")
    root = out / ROOTFS
    with as_file(files("skerry.builder") / "data") as data:
        shutil.copytree(data / "kairos", root)
        # The appliance's own: a host of either kind puts its first agent in place in one way.
        seed = data / "appliance" / "root" / _SCRIPTS / "seed-agent"
        shutil.copyfile(seed, root / _SCRIPTS / "seed-agent")
    for path in [root, *root.rglob("*")]:
        path.chmod(0o755 if path.is_dir() or path.parent == root / _SCRIPTS else 0o644)
    wants = root / _UNITS / "multi-user.target.wants"
    wants.mkdir()
    for unit in _WANTED:
        (wants / unit).symlink_to(f"../{unit}")
    (root / _NO_USERS).parent.mkdir(parents=True)
    (root / _NO_USERS).touch()
    (root / _AGENT).mkdir()
    unpack = ["tar", "-xzf", str(agent), "-C", str(root / _AGENT)]
    await runner.run([*unpack, "--strip-components=1", "--no-same-owner"], timeout_s=120)
    if not (root / _AGENT / "skerry-agent").is_file():
        raise OverlayRefused(f"{agent} holds no program skerry-agent", hint="build the agent again")
    (root / "usr/bin").mkdir()
    (root / "usr/bin/skerry-agent").symlink_to("/opt/skerry/agent/current/skerry-agent")
    (out / CONTAINERFILE).write_text(_RECIPE, encoding="utf-8")
    made = [path for path in out.rglob("*") if path.is_symlink() or path.is_file()]
    return sorted(str(path.relative_to(out)) for path in made)
