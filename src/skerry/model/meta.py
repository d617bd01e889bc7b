"""What every object has: names, labels, revision, conditions.

`generation` counts changes of the spec, `revision` is the store's number of the last change of
anything and is what compare-and-set compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Generic, TypeVar

import msgspec

API_VERSION = "skerry.dev/v1"
DEFAULT_PROJECT = "default"

# Annotation with a number that a person raises: what failed on hosts may be tried again.
RETRY_KEY = "skerry.dev/retry-failed"

NAME_PATTERN = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
Name = Annotated[str, msgspec.Meta(pattern=NAME_PATTERN)]
LABEL_KEY_PATTERN = (
    r"^([a-z0-9]([-a-z0-9.]{0,250}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
)
LABEL_VALUE_PATTERN = r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$"

SpecT = TypeVar("SpecT")
StatusT = TypeVar("StatusT")


class Document(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    """Base of everything that people write: unknown fields are errors."""


class Record(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Base of everything that programs write: unknown fields pass."""


class Metadata(Document, frozen=True, kw_only=True):
    """Identity and bookkeeping. People set name, project, labels and annotations only."""

    name: str
    project: str = ""
    uid: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    generation: int = 0
    revision: int = 0
    created_at: datetime | None = None
    deleted_at: datetime | None = None
    finalizers: tuple[str, ...] = ()


class Condition(Record, frozen=True, kw_only=True):
    """One statement about an object. `status` is "True", "False" or "Unknown"."""

    type: str
    status: str
    reason: str = ""
    message: str = ""
    since: datetime | None = None


def retries(annotations: Mapping[str, str]) -> int:
    """How often a person asked for another try; 0 for what is not a number."""
    text = annotations.get(RETRY_KEY, "0")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 9 else 0


class Resource(msgspec.Struct, Generic[SpecT, StatusT], frozen=True, kw_only=True, rename="camel"):
    """An object of some kind."""

    kind: str
    metadata: Metadata
    spec: SpecT
    status: StatusT
    api_version: str = API_VERSION

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def project(self) -> str:
        return self.metadata.project

    @property
    def uid(self) -> str:
        return self.metadata.uid
