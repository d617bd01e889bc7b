"""Which engine a host gets."""

from __future__ import annotations

import pytest

from skerry.agent.osengine.ab import AbEngine
from skerry.agent.osengine.detect import OsDoors, detect, make_engine
from skerry.agent.osengine.package import PackageEngine
from skerry.lib.clock import ManualClock
from skerry.lib.memory_files import MemoryRoot
from skerry.lib.proc import FakeRunner
from skerry.plan.osupdate import OsEngineKind

APPLIANCE = b'ID=debian\nVARIANT="skerry appliance"\nVARIANT_ID=skerry-appliance\n'


class NoContent:
    async def ensure(self, digest: str, *, size: int = 0) -> str:
        raise AssertionError

    def drop(self, digest: str) -> None:
        raise AssertionError


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({}, OsEngineKind.PACKAGE),
        ({"/etc/os-release": b"ID=debian\n"}, OsEngineKind.PACKAGE),
        ({"/etc/os-release": APPLIANCE}, OsEngineKind.AB),
        ({"/usr/lib/os-release": b"VARIANT_ID=server\n"}, OsEngineKind.PACKAGE),
        ({"/usr/lib/os-release": b'VARIANT_ID="skerry-appliance"\n'}, OsEngineKind.AB),
        ({"/etc/os-release": b"ID=ubuntu\n", "/etc/kairos-release": b""}, OsEngineKind.KAIROS),
    ],
)
def test_the_image_says_what_it_is(files: dict[str, bytes], kind: OsEngineKind) -> None:
    assert detect(MemoryRoot(files=files)) is kind


@pytest.mark.parametrize(
    ("release", "made"), [(APPLIANCE, AbEngine), (b"ID=debian\n", PackageEngine)]
)
def test_each_kind_has_its_engine(release: bytes, made: type) -> None:
    doors = OsDoors(
        root=MemoryRoot(files={"/etc/os-release": release}),
        runner=FakeRunner(),
        content=NoContent(),
        clock=ManualClock(),
        architecture="amd64",
    )

    assert isinstance(make_engine(doors), made)
