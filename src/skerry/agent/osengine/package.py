"""Any systemd Linux: its distribution updates it, skerry only says what it is."""

from __future__ import annotations

from dataclasses import dataclass

from skerry.agent.identity import boot_id
from skerry.agent.osengine.engine import OsEngineFailed, OsReason
from skerry.agent.osengine.osrelease import release_of
from skerry.lib.files import Root
from skerry.model.artifact import ArtifactRef
from skerry.plan.osupdate import OsEngineKind, OsObserved

_MAX_TEXT = 100


@dataclass(frozen=True, slots=True)
class PackageEngine:
    """A host without slots. Every change is refused: nothing here could undo it."""

    root: Root
    architecture: str

    async def describe(self) -> OsObserved:
        release = release_of(self.root)
        named = f"{release.get('ID', '')} {release.get('VERSION_ID', '')}".strip()
        return OsObserved(
            engine=OsEngineKind.PACKAGE,
            architecture=self.architecture,
            boot_id=boot_id(self.root),
            version=(named or release.get("PRETTY_NAME", ""))[:_MAX_TEXT],
        )

    async def stage(self, image: ArtifactRef) -> None:
        raise _refused(f"OS image {image.name} {image.version} is not written")

    async def activate(self, image: ArtifactRef, *, trial_s: int) -> None:
        raise _refused(f"OS image {image.name} {image.version} is not armed")

    async def confirm(self) -> None:
        raise _refused("there is no slot to confirm")

    async def roll_back(self) -> None:
        raise _refused("there is no slot to return to")

    async def reset(self, *, keep_identity: bool) -> None:
        raise _refused("its state is not wiped")


def _refused(what: str) -> OsEngineFailed:
    return OsEngineFailed(
        OsReason.OS_NOT_MANAGED,
        f"the OS of this host is not managed by skerry: {what}",
        hint="install the machine with an image from 'skerry image build', or take the OS image"
        " away from its host class",
        retryable=False,
    )
