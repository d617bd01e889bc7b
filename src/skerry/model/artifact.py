"""Content by digest: what names it wherever it travels."""

from __future__ import annotations

from skerry.model.meta import Record


class ArtifactRef(Record, frozen=True, kw_only=True):
    """Content a host needs. `digest` is the OCI manifest's, `envelope_digest` names the blob
    with the release-signed ArtifactStatement."""

    name: str
    type: str
    version: str
    architecture: str
    digest: str
    envelope_digest: str
    size_bytes: int = 0
