"""A release of one tiny Go program, through the real compiler."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from skerry.builder.cache import Cache
from skerry.builder.gomodules import ComponentFailed, build_component, probe_toolchain
from skerry.builder.layout import BuiltArtifact
from skerry.builder.recipes import Recipe, ReleaseTable, release_table
from skerry.builder.release import build_release
from skerry.lib.oci import Layout
from skerry.lib.proc import SystemRunner

pytestmark = [
    pytest.mark.integration,
    pytest.mark.anyio,
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which("go") is None, reason="Go is not installed"),
]

FULL = release_table("1.36.3")
TINY = ReleaseTable(
    version="1.36.3",
    components={"pause": "3.10.2"},
    recipes={"pause": FULL.recipes["pause"]},
    files={"bin/pause": ("pause", "pause")},
    images={"pause": FULL.images["pause"]},
    bases={},
)


@pytest.fixture(scope="module")
def gocache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A compiler cache of this module's own: the tests share one build of Go's library."""
    return str(tmp_path_factory.mktemp("gocache"))


async def _build(cache: Cache, gocache: str) -> BuiltArtifact:
    return await build_release(
        "1.36.3",
        cache=cache,
        runner=SystemRunner(),
        env={"SKERRY_GOCACHE": gocache},
        table=TINY,
    )


async def test_building_twice_in_two_places_gives_one_digest(tmp_path: Path, gocache: str) -> None:
    built = [await _build(Cache(tmp_path / name), gocache) for name in ("a", "bb")]

    assert built[0].path != built[1].path
    assert built[0].digest == built[1].digest
    assert Layout.open(built[0].path).verify() == built[0].size_bytes


async def test_what_is_built_is_not_built_again(tmp_path: Path, gocache: str) -> None:
    cache = Cache(tmp_path)
    built = await _build(cache, gocache)
    marker = built.path / "index.json"
    before = marker.stat().st_mtime_ns

    again = await _build(cache, gocache)

    assert again == built
    assert marker.stat().st_mtime_ns == before


async def test_a_damaged_release_is_made_again(tmp_path: Path, gocache: str) -> None:
    cache = Cache(tmp_path)
    built = await _build(cache, gocache)
    (built.path / "index.json").unlink()

    assert (await _build(cache, gocache)).digest == built.digest


async def test_pause_says_its_version_waits_and_ends_on_a_signal(
    tmp_path: Path, gocache: str
) -> None:
    runner = SystemRunner()
    component = await build_component(
        FULL.recipes["pause"],
        toolchain=await probe_toolchain(runner),
        cache=Cache(tmp_path),
        runner=runner,
        env={"SKERRY_GOCACHE": gocache},
    )
    program = str(component.program("pause"))

    # kubeadm's test job before an upgrade runs it with -v and waits for its end.
    said = await runner.run([program, "-v"], timeout_s=10)
    limited = await runner.run(
        ["timeout", "--signal=TERM", "0.5", program], timeout_s=10, check=False
    )
    ended = await runner.run(
        ["timeout", "--preserve-status", "--signal=TERM", "0.5", program],
        timeout_s=10,
        check=False,
    )

    assert said.stdout == "pause 3.10.2\n"
    assert limited.code == 124  # It was still waiting.
    assert ended.code == 0


async def test_a_program_that_does_not_compile_is_refused_by_name(
    tmp_path: Path, gocache: str
) -> None:
    runner = SystemRunner()
    broken: Recipe = msgspec.structs.replace(
        FULL.recipes["pause"], programs={"pause": "skerry.local/absent"}
    )

    with pytest.raises(ComponentFailed, match=r"cannot build pause 3\.10\.2"):
        await build_component(
            broken,
            toolchain=await probe_toolchain(runner),
            cache=Cache(tmp_path),
            runner=runner,
            env={"SKERRY_GOCACHE": gocache},
        )

    assert list((tmp_path / "components").iterdir()) == []
