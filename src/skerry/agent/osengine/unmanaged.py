"""The engine of hosts whose system belongs to somebody else: it measures and changes nothing."""

from __future__ import annotations

from skerry.agent import facts
from skerry.agent.identity import boot_id
from skerry.agent.osengine.engine import OsEngineFailed, OsReason
from skerry.lib.files import Root
from skerry.model.artifact import ArtifactRef
from skerry.plan.osupdate import OsEngineKind, OsObserved


class UnmanagedOs:
    """An `OsEngine` that refuses everything by name."""

    def __init__(self, root: Root) -> None:
        self._root = root

    async def describe(self) -> OsObserved:
        return OsObserved(
            engine=OsEngineKind.PACKAGE,
            architecture=facts.architecture(),
            boot_id=boot_id(self._root),
        )

    async def stage(self, image: ArtifactRef) -> None:
        raise _refused()

    async def activate(self, image: ArtifactRef, *, trial_s: int) -> None:
        raise _refused()

    async def confirm(self) -> None:
        raise _refused()

    async def roll_back(self) -> None:
        raise _refused()

    async def reset(self, *, keep_identity: bool) -> None:
        raise _refused()


def _refused() -> OsEngineFailed:
    return OsEngineFailed(
        OsReason.OS_NOT_MANAGED,
        "this host's system is managed by its own packages",
        retryable=False,
    )
