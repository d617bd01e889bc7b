"""One suite, every OS engine: each machine says how it is made, started and given an image.

A further engine adds a row to `MACHINES`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import pytest
from tests.contract.osengine.appliance import Appliance
from tests.contract.osengine.kairosmachine import KairosMachine
from tests.contract.osengine.made import Image, Shelf, make_image

from skerry.agent.osengine.engine import OsEngine
from skerry.agent.osengine.fake import FakeOsEngine
from skerry.lib.memory_files import MemoryRoot
from skerry.plan.bootentries import TRIES

OLD, NEW, LATER = make_image("1.0.0"), make_image("1.1.0"), make_image("1.2.0")


class Machine(Protocol):
    """A simulated machine around an engine. It runs `OLD`, confirmed, in its first slot. `tries`:
    how many starts an image on trial has."""

    tries: int

    @property
    def engine(self) -> OsEngine: ...

    def boot(self, *, lost: int = 0) -> str:
        """Start until a slot runs, and name it; `lost` starts on trial lose their power."""
        ...

    def never_starts(self, image: Image) -> None:
        """From now on this image does not come up."""
        ...


class AbMachine:
    tries = TRIES

    def __init__(self) -> None:
        self.inner = Appliance((OLD, NEW, LATER))
        self.inner.install(OLD)
        self.inner.boot()

    @property
    def engine(self) -> OsEngine:
        return self.inner.engine

    def boot(self, *, lost: int = 0) -> str:
        return self.inner.boot(lost=lost)

    def never_starts(self, image: Image) -> None:
        self.inner.hang = frozenset({image.info.version})


class FakeMachine:
    tries = TRIES

    def __init__(self) -> None:
        root = MemoryRoot()
        self.engine = FakeOsEngine(
            root,
            content=Shelf(root, OLD, NEW, LATER),
            version=OLD.info.version,
            image=OLD.ref.digest,
        )

    def boot(self, *, lost: int = 0) -> str:
        self.engine.faults.lost_starts = lost
        return self.engine.start()

    def never_starts(self, image: Image) -> None:
        self.engine.faults.unbootable = frozenset({image.info.version})


MACHINES: dict[str, Callable[[], Machine]] = {
    "ab": AbMachine,
    "fake": FakeMachine,
    "kairos": lambda: KairosMachine(OLD, NEW, LATER),
}


@pytest.fixture(params=sorted(MACHINES))
def machine(request: pytest.FixtureRequest) -> Machine:
    return MACHINES[request.param]()
