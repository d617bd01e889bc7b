"""How things of a lab are named, so that a crash can be cleaned up by the run name alone.

Run and host names are DNS labels, so `HOST.RUN` splits in one way only and two runs never share
a name. Interface names hold 15 characters; a long run name is cut and told apart by a hash.
"""

from __future__ import annotations

import hashlib
import re

from skerry.lab.errors import BadLabName

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?")
_INTERFACE_MAX = 15
_PREFIX = "sk-"


def check_label(name: str, *, what: str) -> str:
    """Return `name`, a DNS label of at most 30 characters, or raise BadLabName."""
    if not _LABEL.fullmatch(name):
        raise BadLabName(
            f"{what} {name!r} is not a DNS label of at most 30 characters",
            hint="use lower-case letters, digits and hyphens",
        )
    return name


def bridge_name(run: str) -> str:
    """The bridge of a run, at most 15 characters."""
    name = _PREFIX + run
    if len(name) <= _INTERFACE_MAX:
        return name
    tail = hashlib.sha256(run.encode()).hexdigest()[:5]
    return f"{_PREFIX}{run[:6]}-{tail}"


def machine_name(run: str, host: str) -> str:
    """The name of a host's container on this computer."""
    return f"{host}.{run}"


def cgroup_name(run: str) -> str:
    """The control group of a run; hosts lie below it."""
    return f"skerry-lab.{run}"


def machine_id(run: str, host: str) -> str:
    """A stable id: a host made again under the same name is the same hardware."""
    return hashlib.sha256(f"skerry lab machine {run}/{host}".encode()).hexdigest()[:32]
