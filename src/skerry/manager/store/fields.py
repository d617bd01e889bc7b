"""Fields by their dotted path in the JSON document ("status.phase"), as text.

`INDEXED` lists the fields that are looked up often; they are kept as terms beside the objects and
found without reading bodies. `DERIVED` are fields that no document holds: they are computed when an
object is written. Every other field is compared by decoding. A list stands for its items (one match
is enough), an absent value for the empty text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec
import msgspec.inspect

from skerry.lib.errors import SkerryError
from skerry.manager.store.codec import kind_of
from skerry.manager.store.protocol import AnyResource
from skerry.model.meta import Metadata
from skerry.model.reasons import REASONS
from skerry.model.standing import cause_of, standing

INDEXED: dict[str, tuple[str, ...]] = {
    "Artifact": ("spec.digest", "spec.type", "status.blobs"),
    "Cluster": ("status.phase", "spec.pools.hosts", "spec.profiles.name"),
    "ClusterProfile": ("status.revisions.digest",),
    "Host": (
        "metadata.finalizers",
        "spec.approval",
        "spec.site",
        "status.fingerprint",
        "status.hardwareId",
        "status.phase",
        "status.registrationCode",
    ),
    "HostClaim": ("spec.hostId", "spec.mac", "spec.pairingKeyHash", "spec.serial"),
    "RegistrationToken": ("status.secretHash",),
    "RoleBinding": ("spec.role", "spec.subjects"),
}

DERIVED: dict[str, dict[str, Callable[[AnyResource], str]]] = {
    "Host": {"standing": standing, "reason": lambda host: cause_of(host).reason},
}

LABEL = "label:"
_MAX_TERM_CHARS = 300

Term = tuple[str, str]


@dataclass(frozen=True, slots=True)
class FieldPath:
    """A path that exists in its kind. `names` are the attributes to walk."""

    path: str
    names: tuple[str, ...]

    def texts(self, resource: AnyResource) -> list[str]:
        """The field's value or values as text, never empty."""
        found: list[Any] = [resource]
        for name in self.names:
            found = [inner for outer in found for inner in _step(outer, name)]
        flat = [item for value in found for item in _items(value)]
        return [_text(value) for value in flat] or [""]


@cache
def find_field(kind: str, path: str) -> FieldPath:
    """Raises SkerryError when objects of this kind have no such field."""
    head, _, rest = path.partition(".")
    row = kind_of(kind)
    part = {"metadata": Metadata, "spec": row.spec, "status": row.status}.get(head)
    if part is None:
        known = ("metadata", "spec", "status", *DERIVED.get(kind, ()))
        raise _no_field(kind, path, known)
    names = [head]
    at: msgspec.inspect.Type = msgspec.inspect.type_info(part)
    segments = rest.split(".") if rest else []
    for index, segment in enumerate(segments):
        at = _inner(at)
        if isinstance(at, msgspec.inspect.DictType):
            # Keys of a map may hold dots, so the rest of the path is one key.
            names.append(".".join(segments[index:]))
            break
        fields = at.fields if isinstance(at, msgspec.inspect.StructType) else ()
        field = next((f for f in fields if f.encode_name == segment), None)
        if field is None:
            raise _no_field(kind, path, tuple(f.encode_name for f in fields))
        names.append(field.name)
        at = field.type
    return FieldPath(path, tuple(names))


def terms_of(resource: AnyResource) -> set[Term]:
    """Every (path, value) under which the object is found."""
    terms = {(LABEL + key, term_value(value)) for key, value in resource.metadata.labels.items()}
    for path in INDEXED.get(resource.kind, ()):
        field = find_field(resource.kind, path)
        terms.update((path, term_value(text)) for text in field.texts(resource))
    for path, compute in DERIVED.get(resource.kind, {}).items():
        terms.add((path, compute(resource)))
    return terms


def is_indexed(kind: str, path: str) -> bool:
    """Whether terms hold this field."""
    return path in INDEXED.get(kind, ()) or path in DERIVED.get(kind, ())


def index_mark() -> str:
    """Changes whenever what terms hold does, so that a store knows to index again.

    Derived fields follow the table of reasons.
    """
    derived = {kind: sorted(paths) for kind, paths in DERIVED.items()}
    ranks = [(row.name, row.severity, row.rank) for row in REASONS.values()]
    whole = msgspec.json.encode([INDEXED, derived, ranks], order="sorted")
    return hashlib.sha256(whole).hexdigest()


def term_value(text: str) -> str:
    """Long texts are kept as their digest: an index entry has a limited size."""
    if len(text) <= _MAX_TERM_CHARS and "\x00" not in text:
        return text
    return f"sha256:{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()}"


def _inner(at: msgspec.inspect.Type) -> msgspec.inspect.Type:
    """Look through "or None", metadata and lists."""
    while True:
        if isinstance(at, msgspec.inspect.Metadata):
            at = at.type
        elif isinstance(at, msgspec.inspect.UnionType):
            at = next(t for t in at.types if not isinstance(t, msgspec.inspect.NoneType))
        elif isinstance(at, (msgspec.inspect.VarTupleType, msgspec.inspect.ListType)):
            at = at.item_type
        else:
            return at


def _step(value: Any, name: str) -> list[Any]:
    found = []
    for item in _items(value):
        if not isinstance(item, dict):
            found.append(getattr(item, name))
        elif name in item:
            found.append(item[name])
    return found


def _items(value: Any) -> list[Any]:
    if value is None:
        return []
    if isinstance(value, (tuple, list)):
        return [item for inner in value for item in _items(inner)]
    return [value]


def _text(value: Any) -> str:
    plain = msgspec.to_builtins(value)
    return plain if isinstance(plain, str) else msgspec.json.encode(plain).decode()


def _no_field(kind: str, path: str, known: tuple[str, ...]) -> SkerryError:
    hint = f"fields there are {', '.join(sorted(known))}" if known else ""
    return SkerryError(f"kind {kind} has no field {path[:200]!r}", hint=hint)
