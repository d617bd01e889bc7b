"""Objects as JSON text and back, by the types in the table of kinds.

Times in columns are whole microseconds since 1970: exact, comparable, the same everywhere.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import msgspec

from skerry.lib.errors import SkerryError
from skerry.manager.store.protocol import AnyResource
from skerry.model.kinds import KINDS, Kind
from skerry.model.meta import Resource

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ENCODER = msgspec.json.Encoder()


class BodyUnreadable(SkerryError):
    """A stored object does not fit its kind; normally a newer skerry wrote it."""


def kind_of(name: str) -> Kind:
    """The kind's row. Raises SkerryError when there is none."""
    kind = KINDS.get(name)
    if kind is None:
        raise SkerryError(
            f"no kind is called {name[:100]!r}", hint=f"kinds are {', '.join(sorted(KINDS))}"
        )
    return kind


@cache
def _decoder(kind: str) -> msgspec.json.Decoder[Any]:
    row = kind_of(kind)
    return msgspec.json.Decoder(Resource[row.spec, row.status])  # type: ignore[name-defined]


def decode(kind: str, body: str) -> AnyResource:
    """A stored body as a value. Raises BodyUnreadable."""
    try:
        resource: AnyResource = _decoder(kind).decode(body)
    except msgspec.DecodeError as exc:
        raise BodyUnreadable(
            f"stored object of kind {kind} cannot be read: {exc}",
            hint="run the skerry version that wrote it, or a newer one",
        ) from exc
    return resource


def encode(resource: AnyResource) -> str:
    """The body to store. Raises SkerryError when spec or status are not of the kind."""
    kind = kind_of(resource.kind)
    if not isinstance(resource.spec, kind.spec) or not isinstance(resource.status, kind.status):
        raise SkerryError(
            f"{resource.kind} {resource.name!r} holds {type(resource.spec).__name__} and "
            f"{type(resource.status).__name__}, wanted {kind.spec.__name__} and "
            f"{kind.status.__name__}"
        )
    return _ENCODER.encode(resource).decode()


def micros(at: datetime) -> int:
    """Microseconds since 1970; `at` is aware."""
    return (at - _EPOCH) // timedelta(microseconds=1)


def from_micros(number: int) -> datetime:
    """Back to an aware UTC time."""
    return _EPOCH + timedelta(microseconds=number)
