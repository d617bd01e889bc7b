"""The form of a bundle file, shared by who writes it and who reads it."""

from __future__ import annotations

from skerry.model.meta import Record

FORMAT = 1
DESCRIPTION = "bundle.json"
ENVELOPE = "assignment.json"
BLOBS = "blobs/sha256/"


class BundleDescription(Record, frozen=True, kw_only=True):
    """First entry of a bundle: for which host it is."""

    format: int
    host_uid: str
    host_name: str
    epoch: int = 0
