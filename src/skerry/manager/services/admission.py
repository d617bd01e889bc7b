"""Documents that people write, checked against their kind's JSON Schema: all problems at once.

Messages never quote values of a Secret, and elsewhere only short ones. Status and bookkeeping
fields that come back from `get -o yaml` are ignored, not refused.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import jsonschema
import msgspec

from skerry.manager.store.protocol import AnyResource
from skerry.model.kinds import KINDS, Kind, Scope, find_kind
from skerry.model.labels import check_labels, kind_of, quoted
from skerry.model.meta import (
    API_VERSION,
    DEFAULT_PROJECT,
    NAME_PATTERN,
    Metadata,
    Resource,
)
from skerry.model.problems import Problem, under

_TOP = ("apiVersion", "kind", "metadata", "spec", "status")
_NAME_HINT = (
    "lower case letters, digits and hyphens, at most 63, starting and ending with no hyphen"
)
_SCHEMA_TYPES = {
    "object": "a mapping",
    "array": "a list",
    "string": "text",
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "null": "empty",
}
MAX_PROBLEMS = 100
_MAX_PATH_CHARS = 200
MAX_ANNOTATION_CHARS = 64 * 1024


def check_document(raw: Any, *, kind: Kind | None = None) -> AnyResource | list[Problem]:
    """The object that a document describes, or everything that is wrong with its form.

    `kind` is what the route wants; without it any writable kind will do.
    """
    if not isinstance(raw, Mapping):
        return [Problem(path="", message=f"a document is a mapping, this is {kind_of(raw)}")]
    problems = list(islice(_check_top(raw), MAX_PROBLEMS))
    found = _check_kind(raw, kind, problems)
    problems += _check_metadata(raw.get("metadata"), found)
    if found is not None:
        spec = raw.get("spec", {})
        wrong = _check_spec(found, {} if spec is None else spec)
        problems += under("spec", list(islice(wrong, MAX_PROBLEMS)))
        if not problems:
            return _decode(found, raw)
    return _bounded(problems)


def _bounded(problems: list[Problem]) -> list[Problem]:
    """A document that is wrong in a million places is not worth a million answers."""
    kept = [
        msgspec.structs.replace(item, path=item.path[:_MAX_PATH_CHARS])
        for item in problems[:MAX_PROBLEMS]
    ]
    if len(problems) >= MAX_PROBLEMS:
        kept.append(Problem(path="", message="more is wrong than is listed here"))
    return kept


def project_of(kind: Kind, metadata: Mapping[str, Any]) -> str:
    """The project an object belongs to; "" for kinds of system scope."""
    if kind.scope is Scope.SYSTEM:
        return ""
    return str(metadata.get("project") or DEFAULT_PROJECT)


def schema_of(kind: Kind) -> dict[str, Any]:
    """JSON Schema of a kind's spec."""
    (schema,), components = msgspec.json.schema_components(
        [kind.spec], ref_template="#/$defs/{name}"
    )
    return {**schema, "$defs": components}


def _check_top(raw: Mapping[str, Any]) -> Iterator[Problem]:
    version = raw.get("apiVersion", API_VERSION)
    if version != API_VERSION:
        yield Problem(
            path="apiVersion",
            message=f"unknown version {quoted(version)}",
            hint=f"write {API_VERSION}",
        )
    for key in raw:
        if key not in _TOP:
            yield Problem(path=str(key), message="unknown field", hint=_nearest(str(key), _TOP))


def _check_kind(
    raw: Mapping[str, Any], wanted: Kind | None, problems: list[Problem]
) -> Kind | None:
    text = raw.get("kind", wanted.name if wanted else None)
    found = KINDS.get(text) if isinstance(text, str) else None
    if found is None:
        near = find_kind(text) if isinstance(text, str) else None
        hint = f"did you mean {near.name}?" if near else f"one of: {', '.join(KINDS)}"
        if isinstance(text, str) and near is None:
            hint = _nearest(text, tuple(KINDS)) or hint
        message = "kind is missing" if text is None else f"unknown kind {quoted(text)}"
        problems.append(Problem(path="kind", message=message, hint=hint))
        return None
    if wanted is not None and found.name != wanted.name:
        problems.append(
            Problem(path="kind", message=f"is {found.name}, this address takes {wanted.name}")
        )
        return None
    if not found.writable:
        problems.append(Problem(path="kind", message=f"{found.name} is written by skerry only"))
        return None
    return found


def _check_metadata(raw: Any, kind: Kind | None) -> list[Problem]:
    if not isinstance(raw, Mapping):
        return [
            Problem(
                path="metadata", message="is missing or not a mapping", hint="set metadata.name"
            )
        ]
    fields = tuple(field.encode_name for field in msgspec.structs.fields(Metadata))
    problems = [
        Problem(path=f"metadata.{key}", message="unknown field", hint=_nearest(str(key), fields))
        for key in islice((key for key in raw if key not in fields), MAX_PROBLEMS)
    ]
    problems += _check_name("metadata.name", raw.get("name"))
    project = raw.get("project") or ""
    if kind is not None and kind.scope is Scope.SYSTEM and project:
        problems.append(
            Problem(
                path="metadata.project",
                message=f"{kind.name} belongs to no project",
                hint="leave it out",
            )
        )
    elif project:
        problems += _check_name("metadata.project", project)
    problems += check_labels("metadata.labels", raw.get("labels") or {})
    annotations = raw.get("annotations") or {}
    if not isinstance(annotations, Mapping) or not all(
        isinstance(item, str) for pair in annotations.items() for item in pair
    ):
        problems.append(Problem(path="metadata.annotations", message="must map text to text"))
    elif sum(len(k) + len(v) for k, v in annotations.items()) > MAX_ANNOTATION_CHARS:
        problems.append(
            Problem(
                path="metadata.annotations",
                message=f"are larger than {MAX_ANNOTATION_CHARS} characters together",
            )
        )
    return problems


def _check_name(path: str, value: Any) -> list[Problem]:
    if value is None or value == "":
        return [Problem(path=path, message="is missing", hint=_NAME_HINT)]
    if not isinstance(value, str) or re.fullmatch(NAME_PATTERN.strip("^$"), value) is None:
        return [Problem(path=path, message=f"{quoted(value)} is not a name", hint=_NAME_HINT)]
    return []


def _check_spec(kind: Kind, spec: Any) -> Iterator[Problem]:
    secret = kind.name == "Secret"
    validator = _validator(kind.name)
    for error in validator.iter_errors(spec):
        yield from _problems_of(error, quote=not secret)


@functools.cache
def _validator(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(_strict(schema_of(KINDS[name])))


def _strict(schema: Any) -> Any:
    """`$` in a Python pattern also matches before a last line break; names must not end so."""
    if isinstance(schema, dict):
        return {
            key: value.removesuffix("$") + r"\Z"
            if key == "pattern" and isinstance(value, str) and value.endswith("$")
            else _strict(value)
            for key, value in schema.items()
        }
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    return schema


def _problems_of(error: jsonschema.ValidationError, *, quote: bool) -> Iterator[Problem]:
    path = _path(error.absolute_path)
    shown = quoted(error.instance) if quote else "the value"
    wanted: Any = error.validator_value
    schema: Any = error.schema
    instance: Any = error.instance
    match error.validator:
        case "additionalProperties":
            known = tuple(schema.get("properties", {}))
            for key in instance:
                if key not in known:
                    place = f"{path}.{key}" if path else str(key)
                    yield Problem(path=place, message="unknown field", hint=_nearest(key, known))
        case "required":
            for key in wanted:
                if key not in instance:
                    place = f"{path}.{key}" if path else str(key)
                    yield Problem(path=place, message="is missing")
        case "anyOf":
            yield _best_of(error, path, quote=quote)
        case "type":
            kinds = wanted if isinstance(wanted, list) else [wanted]
            words = " or ".join(_SCHEMA_TYPES.get(item, str(item)) for item in kinds)
            yield Problem(path=path, message=f"must be {words}, is {kind_of(error.instance)}")
        case "enum":
            choices = ", ".join(str(item) for item in wanted)
            yield Problem(path=path, message=f"{shown} is not allowed", hint=f"one of: {choices}")
        case "pattern":
            yield Problem(
                path=path, message=f"{shown} is not of the right form", hint=_pattern_hint(wanted)
            )
        case "minimum" | "exclusiveMinimum":
            yield Problem(path=path, message=f"{shown} is too small", hint=f"at least {wanted}")
        case "maximum" | "exclusiveMaximum":
            yield Problem(path=path, message=f"{shown} is too large", hint=f"at most {wanted}")
        case _:
            yield Problem(path=path, message=f"does not fit {error.validator} {wanted!r:.80}")


def _best_of(error: jsonschema.ValidationError, path: str, *, quote: bool) -> Problem:
    """The alternative that comes nearest: the one that does not fail by its type alone."""
    for inner in error.context or ():
        if inner.validator != "type":
            for problem in _problems_of(inner, quote=quote):
                return problem
    kinds: list[str] = []
    for inner in error.context or ():
        value: Any = inner.validator_value
        kinds += [value] if isinstance(value, str) else []
    words = " or ".join(_SCHEMA_TYPES.get(item, item) for item in kinds)
    return Problem(path=path, message=f"must be {words}, is {kind_of(error.instance)}")


def _decode(kind: Kind, raw: Mapping[str, Any]) -> AnyResource | list[Problem]:
    metadata = raw["metadata"]
    try:
        return Resource(
            kind=kind.name,
            metadata=Metadata(
                name=metadata["name"],
                project=project_of(kind, metadata),
                labels=dict(metadata.get("labels") or {}),
                annotations=dict(metadata.get("annotations") or {}),
                revision=msgspec.convert(metadata.get("revision") or 0, int),
            ),
            spec=msgspec.convert(raw.get("spec") or {}, kind.spec),
            status=kind.status(),
        )
    except msgspec.ValidationError as exc:
        message, _, place = str(exc).partition(" - at `")
        path = place.rstrip("`").replace("$.", "spec.").replace("$", "spec")
        return [Problem(path=path, message=message.lower())]


def _path(parts: Any) -> str:
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f"{'.' if text else ''}{part}"
    return text


def _nearest(word: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(word, known, n=1) if len(word) <= _MAX_PATH_CHARS else []
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"


def _pattern_hint(pattern: str) -> str:
    plain = pattern.removesuffix(r"\Z").removesuffix("$")
    if plain == NAME_PATTERN.removesuffix("$"):
        return _NAME_HINT
    if plain.startswith("^sha256"):
        return "sha256: and 64 hex digits"
    if plain.startswith(r"^\d+\.\d+\.\d+"):
        return "a version like 1.36.3"
    return f"must match {plain}"
