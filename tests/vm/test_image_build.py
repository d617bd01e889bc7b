"""An image built for real: the same input gives the same root, and what is wrong is found.

Trees of packages come from the cache that all builds share; everything after them is made anew.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from skerry.builder.cache import Cache, default_cache
from skerry.builder.image.build import Build, open_job
from skerry.builder.image.checking import check_place
from skerry.builder.image.deliver import Delivery, deliver
from skerry.builder.image.inputs import load_definition
from skerry.builder.image.journal import BuildLog
from skerry.builder.image.keys import ImageKeys, create_keys, open_keys
from skerry.lib.clock import SystemClock
from skerry.lib.oci import Layout
from skerry.lib.proc import SystemRunner
from skerry.model.osimage import parse_os_image
from skerry.plan.image import ImageStep

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(900)]

_SHARED = ("tools", "packages", "boot")
_DEFINITION = """\
apiVersion: skerry.dev/v1
kind: Image
metadata: {name: trial}
spec:
  version: 1.0.0
  base: {asOf: 2026-11-25}
  kernel: {package: linux-image-cloud-amd64}
  agent: false
  sizes: {espMib: 96, bootMib: 64, rootMib: 256, stateMib: 64}
  files:
  - {path: /etc/motd, source: motd}
"""


@dataclass(frozen=True)
class Workshop:
    """A definition, keys, and a cache that shares the trees of packages with all others."""

    folder: Path
    keys: ImageKeys
    steps: list[tuple[str, str]]

    def cache(self, name: str) -> Cache:
        """A cache that holds nothing but the trees of packages."""
        place = self.folder / name / "images"
        place.mkdir(parents=True, exist_ok=True)
        for kind in _SHARED:
            shared = default_cache({}).folder("images", kind)
            if not (place / kind).exists():
                (place / kind).symlink_to(shared)
        return Cache(self.folder / name)

    async def build(self, name: str, text: str = _DEFINITION) -> tuple[Delivery, float]:
        """Build into the folder `name` with the cache of that name; and the seconds it took."""
        file = self.folder / "image.yaml"
        file.write_text(text)
        job = open_job(file, self.keys)
        log = BuildLog(io.StringIO(), SystemClock())
        self.steps.clear()
        build = Build(job, cache=self.cache(name), runner=SystemRunner(), log=log, tell=self._told)
        await build.run()
        made = await deliver(build, self.folder / f"out-{name}", clock=SystemClock())
        return made, log.seconds

    def _told(self, step: ImageStep, event: str, seconds: float) -> None:
        self.steps.append((step.name, event))

    def made(self) -> set[str]:
        """Steps of the last build that were not in the cache."""
        return {name for name, event in self.steps if event == "done"}


@pytest.fixture(scope="module")
def workshop(place: Path) -> Iterator[Workshop]:
    folder = place / "image-build"
    folder.mkdir()
    (folder / "motd").write_text("first\n")
    create_keys(folder / "keys", organisation="trial", now=datetime(2026, 11, 25, tzinfo=UTC))
    yield Workshop(folder, open_keys(folder / "keys"), [])
    shutil.rmtree(folder)


async def test_equal_input_makes_an_equal_root_and_boot_image(workshop: Workshop) -> None:
    first, _ = await workshop.build("one")
    second, seconds = await workshop.build("two")

    assert workshop.made() >= {"initrd", "root", "verity", "uki"}
    assert first.root_hash == second.root_hash
    for name in ("root.erofs", "root.verity", "uki.efi", "recovery.efi", first.disk.name):
        assert _same(first.folder / name, second.folder / name), name
    assert first.artifact.digest == second.artifact.digest
    print(f"from packages to disk: {seconds:.0f} s")


async def test_the_artifact_is_what_its_metadata_says(workshop: Workshop) -> None:
    made, _ = await workshop.build("one")

    layout = Layout.open(made.artifact.path)
    layout.verify()
    _, manifest = layout.only_manifest()
    info = parse_os_image(layout.read(manifest.config, limit=65536))

    stored = {layer.media_type: (layer.digest, layer.size) for layer in manifest.layers}
    for blob in (info.root, info.verity, info.uki, info.signature):
        assert blob is not None
        assert (blob.digest, blob.size_bytes) in stored.values()
    assert info.root_hash == made.root_hash
    assert made.artifact.type == "os"


async def test_one_changed_file_makes_only_what_follows_from_it(workshop: Workshop) -> None:
    before, _ = await workshop.build("one")
    (workshop.folder / "motd").write_text("second\n")

    after, seconds = await workshop.build("one")

    assert workshop.made() == {"root", "verity", "signature", "uki"}
    assert after.root_hash != before.root_hash
    print(f"one changed file: {seconds:.0f} s")


async def test_a_built_image_passes_the_list_and_so_does_its_disk(workshop: Workshop) -> None:
    made, _ = await workshop.build("one")

    for place in (made.folder, made.disk):
        report = await check_place(
            place, cache=default_cache({}), runner=SystemRunner(), keys=workshop.keys, asked=None
        )
        wrong = {one.check.id: one.findings for one in report.verdicts if not one.passed}
        assert wrong == {}, place


async def test_a_flipped_bit_and_foreign_keys_are_found(workshop: Workshop, tmp_path: Path) -> None:
    made, _ = await workshop.build("one")
    create_keys(tmp_path / "keys", organisation="other", now=datetime(2026, 11, 25, tzinfo=UTC))
    changed = tmp_path / "changed"
    shutil.copytree(made.folder, changed, ignore=shutil.ignore_patterns("artifact", "*.raw"))
    with (changed / "root.erofs").open("r+b") as writing:
        writing.seek(4_000_000)
        byte = writing.read(1)[0]
        writing.seek(4_000_000)
        writing.write(bytes([byte ^ 1]))

    report = await check_place(
        changed,
        cache=default_cache({}),
        runner=SystemRunner(),
        keys=open_keys(tmp_path / "keys"),
        asked=None,
    )

    assert {one.check.id for one in report.verdicts if not one.passed} >= {
        "verity",
        "boot-signed",
        "loader-signed",
        "recovery-signed",
        "root-signed",
        "policy-signed",
    }


async def test_a_password_and_ssh_that_nobody_asked_for_fail_an_image(workshop: Workshop) -> None:
    text = _DEFINITION + (
        "  - {path: /usr/sbin/sshd, content: '', mode: '0755'}\n"
        "  users:\n  - {name: ada, passwordHash: $6$salt$hash}\n"
    )
    made, _ = await workshop.build("one", text)
    asked = load_definition(workshop.folder / "image.yaml").spec
    provenance = made.folder / "provenance.json"
    said = json.loads(provenance.read_text())
    said["definition"]["spec"].pop("users")
    provenance.write_text(json.dumps(said))

    unasked = await check_place(
        made.folder, cache=default_cache({}), runner=SystemRunner(), keys=None, asked=None
    )
    with_user = await check_place(
        made.folder, cache=default_cache({}), runner=SystemRunner(), keys=None, asked=asked
    )

    assert {one.check.id for one in unasked.grave} == {"passwords", "ssh"}
    assert {one.check.id for one in with_user.grave} == {"ssh"}


def _same(one: Path, other: Path) -> bool:
    return subprocess.run(["cmp", "-s", one, other], check=False).returncode == 0
