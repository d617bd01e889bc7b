"""What an engine without slots promises: it says what is there, and touches nothing."""

from __future__ import annotations

import pytest
from tests.contract.osengine.conftest import NEW

from skerry.agent.osengine.engine import OsEngineFailed, OsReason
from skerry.agent.osengine.package import PackageEngine
from skerry.lib.memory_files import MemoryRoot
from skerry.plan.osupdate import OsEngineKind

pytestmark = pytest.mark.anyio


def engine(release: bytes) -> PackageEngine:
    files = {
        "/usr/lib/os-release": release,
        "/proc/sys/kernel/random/boot_id": b"9d6f\n",
    }
    return PackageEngine(root=MemoryRoot(files=files), architecture="arm64")


async def test_it_says_what_the_distribution_is() -> None:
    seen = await engine(b'ID=ubuntu\nVERSION_ID="24.04"\nPRETTY_NAME="Ubuntu"\n').describe()

    assert (seen.engine, seen.version) == (OsEngineKind.PACKAGE, "ubuntu 24.04")
    assert (seen.architecture, seen.boot_id, seen.slots, seen.idle) == ("arm64", "9d6f", (), "")


async def test_a_release_file_that_says_nothing_is_bearable() -> None:
    assert (await engine(b"\xff\xfe==\n=\n").describe()).version == ""


@pytest.mark.parametrize("call", ["stage", "activate", "confirm", "roll_back", "reset"])
async def test_every_change_is_refused_for_good(call: str) -> None:
    it = engine(b"ID=debian\n")
    calls = {
        "stage": lambda: it.stage(NEW.ref),
        "activate": lambda: it.activate(NEW.ref, trial_s=600),
        "confirm": it.confirm,
        "roll_back": it.roll_back,
        "reset": lambda: it.reset(keep_identity=True),
    }

    with pytest.raises(OsEngineFailed) as failed:
        await calls[call]()

    assert failed.value.reason == OsReason.OS_NOT_MANAGED
    assert not failed.value.retryable
