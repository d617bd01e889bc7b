"""YAML as people write it in the editor, and where in it a problem lies. Pure.

The line of a path like `spec.layers[1].version` comes from the parsed nodes; when the field is
missing, the nearest thing above it is pointed at.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import msgspec
import yaml

from skerry.lib.yamltext import PlainLoader, dump
from skerry.model.problems import DocumentInvalid, Problem

MAX_CHARS = 1024 * 1024
_PART = re.compile(r"([^.\[\]]+)|\[(\d+)\]")


@dataclass(frozen=True, slots=True)
class Written:
    """A document and the tree that knows its lines."""

    document: Any
    node: yaml.Node | None

    def line_of(self, path: str) -> int:
        """Line of a problem's path, from 1."""
        at = self.node
        line = at.start_mark.line + 1 if at else 1
        for name, index in _PART.findall(path):
            step = _step(at, name, index)
            if step is None:
                break
            line, at = step
        return line


def read(text: str) -> Written:
    """Raises DocumentInvalid with the line of the mistake."""
    if len(text) > MAX_CHARS:
        raise _invalid(f"is larger than {MAX_CHARS} characters")
    loader = PlainLoader(text.replace("\r\n", "\n"))
    try:
        node = loader.get_single_node()
        document = loader.construct_document(node) if node is not None else None
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        what = getattr(exc, "problem", None) or str(exc).splitlines()[0]
        where = f" in line {mark.line + 1}" if mark else ""
        raise _invalid(f"is not YAML: {what}{where}") from exc
    except (ValueError, RecursionError) as exc:
        raise _invalid(f"is not YAML: {exc}") from exc
    finally:
        loader.dispose()
    return Written(_plain(document), node)


def write(value: Any) -> str:
    """A value as people would write it; empty fields are left out."""
    return dump(_without_empty(msgspec.to_builtins(value)))


def _step(at: yaml.Node | None, name: str, index: str) -> tuple[int, yaml.Node] | None:
    if isinstance(at, yaml.MappingNode) and name:
        for key, value in at.value:
            if key.value == name:
                return key.start_mark.line + 1, value
    if isinstance(at, yaml.SequenceNode) and index and int(index) < len(at.value):
        value = at.value[int(index)]
        return value.start_mark.line + 1, value
    return None


def _plain(value: Any) -> Any:
    """Dates become text, as they would be in JSON; keys are text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain(item) for item in value]
    return value.isoformat() if isinstance(value, date) else value


def _without_empty(value: Any) -> Any:
    if isinstance(value, dict):
        found = {key: _without_empty(item) for key, item in value.items()}
        return {key: item for key, item in found.items() if item not in ("", None, [], {}, ())}
    if isinstance(value, list | tuple):
        return [_without_empty(item) for item in value]
    return value


def _invalid(message: str) -> DocumentInvalid:
    return DocumentInvalid("document", [Problem(path="", message=message)])
