"""/etc/skerry/agent.yaml: what a site tells the agent about its machine.

    site: harbour-north
    labels: {tier: shop, rack: "4"}
    labelsFromFile: {path: /etc/skerry/labels, delimiter: "\\n", separator: ":"}
    labelsFromScript: {path: /etc/skerry/labels.sh, timeoutS: 60}

The file is optional. A file that cannot be read as this is not used at all, and every problem of it
is told at once; the host goes on without it.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import yaml

from skerry.agent import paths
from skerry.lib.files import Root
from skerry.model.labels import kind_of
from skerry.model.meta import Record
from skerry.model.problems import Problem

MAX_BYTES = 64 * 1024
_MAX_TIMEOUT_S = 300
_TOP = ("site", "labels", "labelsFromFile", "labelsFromScript")


class LabelFile(Record, frozen=True, kw_only=True):
    """A file with `key SEPARATOR value` pairs between delimiters."""

    path: str
    delimiter: str = "\n"
    separator: str = ":"


class LabelScript(Record, frozen=True, kw_only=True):
    """A program that prints a JSON object."""

    path: str
    timeout_s: float = 60


class AgentSettings(Record, frozen=True, kw_only=True):
    """The file's content. `labels` are not judged here."""

    site: str = ""
    labels: dict[str, Any] = {}
    from_file: LabelFile | None = None
    from_script: LabelScript | None = None


def load(root: Root) -> tuple[AgentSettings, list[Problem]]:
    """The settings, or none and everything that is wrong with the file."""
    if not root.exists(paths.SETTINGS):
        return AgentSettings(), []
    try:
        if root.size(paths.SETTINGS) > MAX_BYTES:
            return AgentSettings(), [Problem(path="", message=f"is larger than {MAX_BYTES} bytes")]
        return parse(root.read(paths.SETTINGS))
    except OSError as exc:
        return AgentSettings(), [Problem(path="", message=f"cannot be read: {exc.strerror}")]


def parse(data: bytes) -> tuple[AgentSettings, list[Problem]]:
    """What `load` does, from bytes."""
    try:
        raw = yaml.safe_load(data.decode())
    except UnicodeDecodeError:
        return AgentSettings(), [Problem(path="", message="is not text in UTF-8")]
    except yaml.MarkedYAMLError as exc:
        place = f" in line {exc.problem_mark.line + 1}" if exc.problem_mark else ""
        return AgentSettings(), [Problem(path="", message=f"is not YAML: {exc.problem}{place}")]
    except (yaml.YAMLError, RecursionError):
        return AgentSettings(), [Problem(path="", message="is not YAML")]
    raw = {} if raw is None else raw
    problems: list[Problem] = []
    if not _mapping("", raw, _TOP, problems):
        return AgentSettings(), problems
    labels = raw.get("labels") or {}
    if not isinstance(labels, Mapping):
        problems.append(Problem(path="labels", message=f"must be a mapping, is {kind_of(labels)}"))
    settings = AgentSettings(
        site=_text("site", raw.get("site", ""), problems),
        labels=dict(labels) if isinstance(labels, Mapping) else {},
        from_file=_file(raw.get("labelsFromFile"), problems),
        from_script=_script(raw.get("labelsFromScript"), problems),
    )
    return (AgentSettings() if problems else settings), problems


def _file(raw: Any, problems: list[Problem]) -> LabelFile | None:
    at = "labelsFromFile"
    if raw is None or not _mapping(at, raw, ("path", "delimiter", "separator"), problems):
        return None
    found = LabelFile(
        path=_path(f"{at}.path", raw.get("path"), problems),
        delimiter=_text(f"{at}.delimiter", raw.get("delimiter", "\n"), problems),
        separator=_text(f"{at}.separator", raw.get("separator", ":"), problems),
    )
    for name, value in (("delimiter", found.delimiter), ("separator", found.separator)):
        if value == "":
            problems.append(Problem(path=f"{at}.{name}", message="is empty"))
    return found


def _script(raw: Any, problems: list[Problem]) -> LabelScript | None:
    at = "labelsFromScript"
    if raw is None or not _mapping(at, raw, ("path", "timeoutS"), problems):
        return None
    limit = raw.get("timeoutS", 60)
    if isinstance(limit, bool) or not isinstance(limit, int | float):
        message = f"must be a number, is {kind_of(limit)}"
        problems.append(Problem(path=f"{at}.timeoutS", message=message))
        limit = 60
    elif not 1 <= limit <= _MAX_TIMEOUT_S:
        message = f"must be from 1 to {_MAX_TIMEOUT_S} seconds, is {limit:g}"
        problems.append(Problem(path=f"{at}.timeoutS", message=message))
    return LabelScript(path=_path(f"{at}.path", raw.get("path"), problems), timeout_s=float(limit))


def _mapping(at: str, raw: Any, known: tuple[str, ...], problems: list[Problem]) -> bool:
    if not isinstance(raw, Mapping):
        problems.append(Problem(path=at, message=f"must be a mapping, is {kind_of(raw)}"))
        return False
    for key in raw:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            place = f"{at}.{key}" if at else str(key)
            problems.append(Problem(path=place[:100], message="unknown field", hint=hint))
    return True


def _path(at: str, value: Any, problems: list[Problem]) -> str:
    if value is None:
        problems.append(Problem(path=at, message="is missing"))
        return ""
    text = _text(at, value, problems)
    if text and (not text.startswith("/") or ".." in text.split("/")):
        problems.append(Problem(path=at, message="is not an absolute path"))
    return text


def _text(at: str, value: Any, problems: list[Problem]) -> str:
    if isinstance(value, str):
        return value
    problems.append(Problem(path=at, message=f"must be text, is {kind_of(value)}"))
    return ""
