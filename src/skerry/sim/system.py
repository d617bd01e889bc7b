"""The operating system of a simulated host: two slots that take no space, kept on the host's disk.

Nothing of an image is fetched: a fleet's memory is not for images that nobody starts.
"""

from __future__ import annotations

from skerry.agent.content import Content
from skerry.agent.facts import architecture
from skerry.agent.osengine.fake import FakeOsEngine
from skerry.lib.files import Root
from skerry.model.artifact import ArtifactRef


def system_of(root: Root) -> FakeOsEngine:
    """The slots of a host."""
    return FakeOsEngine(root, architecture=architecture())


async def fetch_nothing(_root: Root, _content: Content, _ref: ArtifactRef) -> None:
    """Images of simulated hosts have no content."""


async def start(root: Root, *, bad_updates: bool = False) -> None:
    """Let the machine start what its loader chooses. With `bad_updates` no image on trial ever
    comes up on this host; what was confirmed before does."""
    engine = system_of(root)
    if bad_updates:
        seen = await engine.describe()
        engine.faults.unbootable = frozenset(slot.version for slot in seen.slots)
    engine.start()
