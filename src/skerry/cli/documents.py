"""Documents from files: several per file, all problems of all of them at once.

A key that stands twice in one mapping is a problem: YAML would keep the last and say nothing.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import yaml

from skerry.lib.yamltext import StrictLoader
from skerry.model.kinds import KINDS, Kind, find_kind
from skerry.model.problems import DocumentInvalid, Problem

STDIN = "-"
_SUFFIXES = (".yaml", ".yml", ".json")
_MAX_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Source:
    """One document and where it stands."""

    place: str
    kind: Kind
    body: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.body["metadata"]["name"])

    @property
    def label(self) -> str:
        return f"{self.kind.name.lower()}/{self.name}"


def read_documents(files: Sequence[str]) -> list[Source]:
    """All documents in order. A folder means its YAML and JSON files. Raises DocumentInvalid."""
    problems: list[Problem] = []
    found: list[Source] = []
    for place in [place for item in files for place in _expand(item, problems)]:
        found += _read_one(place, problems)
    if not problems and not found:
        problems.append(Problem(path=", ".join(files), message="holds no document"))
    if problems:
        raise DocumentInvalid("input", problems)
    return found


def parse_documents(text: str, place: str, problems: list[Problem]) -> list[Source]:
    """Documents of one text; what is wrong is added to `problems`."""
    try:
        loaded = list(yaml.load_all(text, Loader=StrictLoader))  # a SafeLoader
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        where = f"{place}:{mark.line + 1}:{mark.column + 1}" if mark else place
        problems.append(Problem(path=where, message=f"is no YAML: {exc.problem or exc.context}"))
        return []
    except (yaml.YAMLError, RecursionError, ValueError) as exc:
        text = str(exc).splitlines()[0] if str(exc) else type(exc).__name__
        problems.append(Problem(path=place, message=f"is no YAML: {text}"))
        return []
    found = []
    for index, body in enumerate(loaded):
        if body is None:
            continue
        where = f"{place} document {index + 1}" if len(loaded) > 1 else place
        source = _check(body, where, problems)
        if source is not None:
            found.append(source)
    return found


def _expand(item: str, problems: list[Problem]) -> list[str]:
    if item == STDIN:
        return [item]
    path = Path(item)
    if path.is_dir():
        return [str(one) for one in sorted(path.iterdir()) if one.suffix in _SUFFIXES]
    if not path.exists():
        problems.append(Problem(path=item, message="there is no such file"))
        return []
    return [item]


def _read_one(place: str, problems: list[Problem]) -> list[Source]:
    shown = "standard input" if place == STDIN else place
    try:
        if place == STDIN:
            data = sys.stdin.buffer.read(_MAX_BYTES + 1)
        else:
            with open(place, "rb") as stream:
                data = stream.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            problems.append(Problem(path=shown, message=f"is larger than {_MAX_BYTES} bytes"))
            return []
        text = data.decode("utf-8")
    except OSError as exc:
        problems.append(Problem(path=shown, message=f"cannot be read: {exc.strerror}"))
        return []
    except UnicodeDecodeError:
        problems.append(Problem(path=shown, message="is not UTF-8 text"))
        return []
    return parse_documents(text, shown, problems)


def _check(body: Any, where: str, problems: list[Problem]) -> Source | None:
    """Only what is needed to address the document; the rest is the manager's to say."""
    if not isinstance(body, dict):
        problems.append(Problem(path=where, message="a document is a mapping"))
        return None
    word = body.get("kind")
    kind = find_kind(word) if isinstance(word, str) else None
    if kind is None or kind.name != word:
        message = f"unknown kind {str(word)[:60]!r}" if word else "kind is missing"
        near = [kind.name] if kind else difflib.get_close_matches(str(word), KINDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"one of: {', '.join(KINDS)}"
        problems.append(Problem(path=f"{where}: kind", message=message, hint=hint))
    elif not kind.writable:
        problems.append(
            Problem(path=f"{where}: kind", message=f"{kind.name} is written by skerry only")
        )
    metadata = body.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(name, str) or not name:
        problems.append(Problem(path=f"{where}: metadata.name", message="is missing"))
        return None
    try:
        msgspec.json.encode(body)
    except (TypeError, ValueError, RecursionError) as exc:
        problems.append(Problem(path=where, message=f"cannot be sent: {exc}"))
        return None
    if kind is None or kind.name != word or not kind.writable:
        return None
    return Source(where, kind, body)
