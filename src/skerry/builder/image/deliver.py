"""What a person takes away from a build: disk, artifact, boot images, bill, provenance, sums.

Files appear under their names by a rename each, when all of them are complete. Disk and artifact
are made anew every time: a person may have started the disk since.
"""

from __future__ import annotations

import functools
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio.to_thread
import msgspec

from skerry import __version__
from skerry.builder.image.artifact import ArtifactParts, bill_of, write_artifact
from skerry.builder.image.build import Build
from skerry.builder.image.disk import DiskParts, build_disk
from skerry.builder.image.medium import MediumParts, build_medium
from skerry.builder.layout import BuiltArtifact, describe
from skerry.lib.clock import Clock
from skerry.lib.oci import file_digest
from skerry.plan.bootentries import BootEntry, uki_name
from skerry.plan.disklayout import MIB
from skerry.plan.image import disk_sizes

SUMS = "SHA256SUMS"
PROVENANCE = "provenance.json"
ARTIFACT = "artifact"


@dataclass(frozen=True, slots=True)
class Delivery:
    """Where everything lies. `artifact` is the layout to sign and push."""

    folder: Path
    disk: Path
    artifact: BuiltArtifact
    root_hash: str


async def deliver(
    build: Build, out: Path, *, clock: Clock, qcow2: bool = False, installer: bool = False
) -> Delivery:
    """Write everything into `out`; what is there under the same names is replaced.

    `qcow2` converts the disk as well; `installer` makes the installation medium as well.
    """
    definition = build.job.definition
    stem = f"{definition.name}-{definition.spec.version}"
    out.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".new.", dir=out))
    try:
        names = await _write_all(build, work, stem, qcow2=qcow2, installer=installer)
        names += await _write_sums(build, work, names, clock)
        await build.runner.run(["sync", "-f", str(work)], timeout_s=300)
        for name in names:
            _replace(work / name, out / name)
    finally:
        await anyio.to_thread.run_sync(lambda: shutil.rmtree(work, ignore_errors=True))
    return Delivery(
        folder=out,
        disk=out / f"{stem}.raw",
        artifact=describe(out / ARTIFACT),
        root_hash=build.verity_facts().root_hash,
    )


async def _write_all(
    build: Build, work: Path, stem: str, *, qcow2: bool, installer: bool
) -> list[str]:
    """Write everything but the sums into `work`; names in the order in which they appear."""
    definition = build.job.definition
    bill = bill_of(definition.name, definition.spec.version, build.bill())
    (work / "sbom.cdx.json").write_bytes(bill)
    parts = _artifact_parts(build)
    writing = functools.partial(write_artifact, parts, work / "sbom.cdx.json", work / ARTIFACT)
    artifact, info = await anyio.to_thread.run_sync(writing)
    build.log.write(f"artifact {artifact.digest}, {artifact.size_bytes} bytes")
    for name, source in (
        ("root.erofs", parts.root),
        ("root.verity", parts.verity),
        ("roothash", build.made("signature") / "roothash"),
        ("roothash.p7s", parts.signature),
        ("uki.efi", parts.uki),
        ("recovery.efi", build.made("recovery") / "recovery.efi"),
        ("loader.efi", build.made("loader") / "loader.efi"),
    ):
        shutil.copyfile(source, work / name)
    (work / "image.json").write_bytes(msgspec.json.format(info.encode()))
    names = [
        *(ARTIFACT, "sbom.cdx.json", "root.erofs", "root.verity", "roothash", "roothash.p7s"),
        *("uki.efi", "recovery.efi", "loader.efi", "image.json", f"{stem}.raw"),
    ]
    disk = _disk_parts(build, parts, digest=artifact.digest)
    scratch = work / ".disk"
    scratch.mkdir()
    raw, keys, tools = work / f"{stem}.raw", build.job.keys, build.toolbox
    await build_disk(disk, raw, work=scratch, keys=keys, tools=tools)
    shutil.rmtree(scratch)
    if qcow2:
        names.append(f"{stem}.qcow2")
        convert = ["qemu-img", "convert", "-O", "qcow2", "-c", str(raw), str(work / names[-1])]
        await build.runner.run(convert, timeout_s=600)
    if installer:
        names.append(f"{stem}-installer.raw")
        scratch.mkdir()
        medium = MediumParts(disk=disk, info=info, live=build.made("live") / "live.efi")
        await build_medium(medium, work / names[-1], work=scratch, keys=keys, tools=tools)
    return names


async def _write_sums(build: Build, work: Path, names: list[str], clock: Clock) -> list[str]:
    """Write provenance and checksums of what is there."""
    digests = {
        name: (await anyio.to_thread.run_sync(file_digest, work / name))[0]
        for name in names
        if name != ARTIFACT
    }
    provenance = _provenance(build, describe(work / ARTIFACT), digests, clock)
    (work / PROVENANCE).write_bytes(msgspec.json.format(msgspec.json.encode(provenance)))
    digests[PROVENANCE] = file_digest(work / PROVENANCE)[0]
    lines = [f"{digest.removeprefix('sha256:')}  {name}\n" for name, digest in digests.items()]
    (work / SUMS).write_text("".join(lines))
    return [PROVENANCE, SUMS]


def _artifact_parts(build: Build) -> ArtifactParts:
    definition, verity = build.job.definition, build.verity_facts()
    return ArtifactParts(
        name=definition.name,
        version=definition.spec.version,
        architecture=definition.spec.architecture,
        generation=build.job.inputs.policy_generation,
        root_hash=verity.root_hash,
        root_uuid=build.root_facts().uuid,
        verity_uuid=verity.uuid,
        root=build.made("root") / "root.erofs",
        verity=build.made("verity") / "root.verity",
        signature=build.made("signature") / "roothash.p7s",
        uki=build.made("uki") / "uki.efi",
    )


def _disk_parts(build: Build, parts: ArtifactParts, *, digest: str) -> DiskParts:
    definition = build.job.definition
    entry = BootEntry(
        generation=1,
        slot="a",
        name=definition.name,
        version=definition.spec.version,
        root_hash=parts.root_hash,
        root_uuid=parts.root_uuid,
        verity_uuid=parts.verity_uuid,
        uki=uki_name("a", parts.root_hash),
        image=digest,
        policy_generation=build.job.inputs.policy_generation,
        uki_digest=file_digest(parts.uki)[0],
    )
    return DiskParts(
        architecture=definition.spec.architecture,
        sizes=disk_sizes(definition),
        state_bytes=definition.spec.sizes.state_mib * MIB,
        enroll=definition.spec.enroll_keys,
        loader=build.made("loader") / "loader.efi",
        recovery=build.made("recovery") / "recovery.efi",
        uki=parts.uki,
        root=parts.root,
        verity=parts.verity,
        entry=entry,
    )


def _provenance(
    build: Build, artifact: BuiltArtifact, digests: dict[str, str], clock: Clock
) -> dict[str, Any]:
    """What was built from what, and by what."""
    job = build.job
    return {
        "builder": f"skerry {__version__}",
        "builtAt": clock.now().isoformat(timespec="seconds"),
        "definition": msgspec.to_builtins(job.definition),
        "inputs": msgspec.to_builtins(job.inputs),
        "steps": [{"name": step.name, "id": step.id} for step in build.steps.values()],
        "packages": msgspec.to_builtins(build.bill()),
        "rootHash": build.verity_facts().root_hash,
        "artifact": artifact.digest,
        "files": digests,
    }


def _replace(source: Path, place: Path) -> None:
    if place.is_dir():
        old = source.with_name(f".old.{source.name}")
        place.rename(old)
        source.rename(place)
        shutil.rmtree(old)
    else:
        source.replace(place)
