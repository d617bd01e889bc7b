"""Pushing an artifact: blobs first, then the object that names them, so it is never half there."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from skerry.builder.layout import ENVELOPE_FILE, BuiltArtifact, describe
from skerry.client.api import Api
from skerry.client.blobs import upload_blob
from skerry.client.errors import ApiFailed
from skerry.lib.digest import canonical_json, sha256
from skerry.lib.errors import SkerryError
from skerry.lib.oci import Layout, LayoutInvalid
from skerry.model.kinds import KINDS
from skerry.wire import envelope as env
from skerry.wire.messages import ArtifactStatement, decode


class NotSigned(SkerryError):
    """An artifact has no signature, or one that speaks of something else."""

    exit_code = 4


@dataclass(frozen=True, slots=True)
class Parcel:
    """What is sent. `blobs` are (digest, file); the envelope is bytes."""

    name: str
    built: BuiltArtifact
    blobs: tuple[tuple[str, Path], ...]
    envelope: bytes

    @property
    def size_bytes(self) -> int:
        return self.built.size_bytes + len(self.envelope)


def prepare(folder: Path, *, name: str = "", signer: env.SigningKey | None = None) -> Parcel:
    """Read a layout and its signature; nothing is sent. Raises LayoutInvalid, NotSigned."""
    built = describe(folder)
    layout = Layout.open(folder)
    pointer, manifest = layout.only_manifest()
    parts = {part.digest: part for part in (manifest.config, *manifest.layers, pointer)}
    for part in parts.values():
        place = layout.blob_path(part.digest)
        if not place.is_file() or place.stat().st_size != part.size:
            raise LayoutInvalid(f"{folder} misses blob {part.digest}, or it was cut off")
    return Parcel(
        name=name or artifact_name(built),
        built=built,
        blobs=tuple((digest, layout.blob_path(digest)) for digest in parts),
        envelope=_envelope(folder, built, signer),
    )


def artifact_name(built: BuiltArtifact) -> str:
    """A DNS label from what it is: kubernetes-1-36-3-amd64."""
    text = f"{built.name}-{built.version}-{built.architecture}".lower()
    return re.sub(r"[^a-z0-9]+", "-", text).strip("-")[:63].rstrip("-")


async def push_artifact(
    api: Api, parcel: Parcel, *, progress: Callable[[int], None] | None = None
) -> int:
    """Upload what the manager lacks and name it there; how many blobs were new."""
    new = 0
    for digest, place in parcel.blobs:
        new += await upload_blob(api, digest, place, progress=progress)
    signature = sha256(parcel.envelope)
    with tempfile.NamedTemporaryFile() as stream:
        stream.write(parcel.envelope)
        stream.flush()
        await upload_blob(api, signature, Path(stream.name), progress=progress)
    built = parcel.built
    document = {
        "kind": "Artifact",
        "metadata": {"name": parcel.name},
        "spec": {
            "type": built.type,
            "version": built.version,
            "architecture": built.architecture,
            "digest": built.digest,
            "envelopeDigest": signature,
            "sizeBytes": built.size_bytes,
        },
    }
    stored = await api.apply(KINDS["Artifact"], "", document)
    status = stored.get("status") or {}
    if not status.get("complete"):
        raise ApiFailed(f"artifact {parcel.name} is not complete at the manager", hint="push again")
    return new


def _envelope(folder: Path, built: BuiltArtifact, signer: env.SigningKey | None) -> bytes:
    if signer is not None:
        return env.sign(env.ARTIFACT, canonical_json(built.statement), [signer]).encode()
    try:
        data = (folder / ENVELOPE_FILE).read_bytes()
    except FileNotFoundError as exc:
        raise NotSigned(
            f"{folder} is not signed", hint=f"skerry release sign {folder} --key FILE"
        ) from exc
    statement = decode(env.decode(data).payload, ArtifactStatement)
    if statement != built.statement:
        raise NotSigned(
            f"the signature in {folder} is about {statement.name} {statement.version}"
            f" {statement.digest[:19]}, not about what lies there",
            hint=f"skerry release sign {folder} --key FILE",
        )
    return data
