"""Which engine a host needs, seen from what its image says of itself, and making it.

A Kairos host is told by its own file, for its os-release is that of the distribution beneath.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from skerry.agent.content import Content
from skerry.agent.osengine.ab import AbEngine
from skerry.agent.osengine.engine import OsEngine
from skerry.agent.osengine.kairos import KairosEngine
from skerry.agent.osengine.osrelease import release_of
from skerry.agent.osengine.package import PackageEngine
from skerry.lib.clock import Clock
from skerry.lib.files import Root
from skerry.lib.proc import Runner
from skerry.lib.volumes import DiskVolumes
from skerry.plan.osupdate import OsEngineKind

_KAIROS = "/etc/kairos-release"
_APPLIANCE = "skerry-appliance"


@dataclass(frozen=True, slots=True)
class OsDoors:
    """What an engine may use. `architecture` in the words of OCI."""

    root: Root
    runner: Runner
    content: Content
    clock: Clock
    architecture: str


def detect(root: Root) -> OsEngineKind:
    """The kind of engine that this host's OS has."""
    if root.exists(_KAIROS):
        return OsEngineKind.KAIROS
    if release_of(root).get("VARIANT_ID") == _APPLIANCE:
        return OsEngineKind.AB
    return OsEngineKind.PACKAGE


def make_engine(doors: OsDoors) -> OsEngine:
    """The engine of this host. A kind without an engine here is left alone, as packages are."""
    return _ENGINES.get(detect(doors.root), _package)(doors)


def _ab(doors: OsDoors) -> OsEngine:
    return AbEngine(
        root=doors.root,
        runner=doors.runner,
        volumes=DiskVolumes(),
        content=doors.content,
        clock=doors.clock,
        architecture=doors.architecture,
    )


def _kairos(doors: OsDoors) -> OsEngine:
    return KairosEngine(
        doors.root, doors.runner, content=doors.content, architecture=doors.architecture
    )


def _package(doors: OsDoors) -> OsEngine:
    return PackageEngine(root=doors.root, architecture=doors.architecture)


_ENGINES: dict[OsEngineKind, Callable[[OsDoors], OsEngine]] = {
    OsEngineKind.AB: _ab,
    OsEngineKind.KAIROS: _kairos,
    OsEngineKind.PACKAGE: _package,
}
