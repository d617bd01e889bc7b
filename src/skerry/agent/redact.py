"""Secrets that a host was given, taken out of every text that leaves the working half.

A program's error may quote what it was given: an API server names an invalid value, a parser the
line it stumbled over. What is known to be secret here: sealed secrets, passwords of registries and
proxies, and everything in a manifest of kind Secret, plain, in base64 and as JSON writes it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec
import yaml

from skerry.model.meta import Condition
from skerry.plan.desired import DesiredCluster

_STARS = "***"
# Shorter ones would hide words that have nothing to do with them.
_MIN_CHARS = 4


@dataclass(frozen=True, slots=True)
class Redactor:
    """`words` are what may not be seen, the longest first."""

    words: tuple[str, ...] = ()

    def __call__(self, text: str) -> str:
        for word in self.words:
            text = text.replace(word, _STARS)
        return text

    def condition(self, condition: Condition) -> Condition:
        """The condition with a clean message."""
        return msgspec.structs.replace(condition, message=self(condition.message))


def redactor(opened: Iterable[str], *clusters: DesiredCluster | None) -> Redactor:
    """Knows the opened sealed secrets and those in the clusters' values and manifests."""
    found: set[str] = set()
    for secret in (*opened, *(item for cluster in clusters for item in _of_cluster(cluster))):
        found |= _forms(secret)
    return Redactor(tuple(sorted(found, key=lambda word: (-len(word), word))))


def _forms(secret: str) -> set[str]:
    """A secret as texts show it; of several lines also each line."""
    plain = {secret, *secret.splitlines()}
    encoded = {base64.b64encode(secret.encode()).decode()}
    quoted = {json.dumps(item)[1:-1] for item in plain}
    return {item for item in plain | encoded | quoted if len(item.strip()) >= _MIN_CHARS}


def _of_cluster(cluster: DesiredCluster | None) -> Iterator[str]:
    if cluster is None:
        return
    registries = cluster.values.get("registries")
    hosts = registries.get("hosts") if isinstance(registries, dict) else None
    for host in (hosts if isinstance(hosts, dict) else {}).values():
        if isinstance(host, dict) and host.get("password"):
            password = str(host["password"])
            yield password
            yield base64.b64encode(f"{host.get('username', '')}:{password}".encode()).decode()
    proxy = cluster.values.get("proxy")
    for url in (proxy if isinstance(proxy, dict) else {}).values():
        hidden = urlsplit(url).password if isinstance(url, str) else None
        if hidden:
            yield hidden
            yield unquote(hidden)
    for layer in cluster.layers:
        yield from _of_manifests(layer.manifests)


def _of_manifests(text: str) -> Iterator[str]:
    try:
        documents = list(yaml.safe_load_all(text))
    except (yaml.YAMLError, RecursionError):
        return  # nothing of it is ever applied, and errors about it quote nothing
    for document in documents:
        if not isinstance(document, dict) or document.get("kind") != "Secret":
            continue
        for field in ("data", "stringData"):
            values: Any = document.get(field)
            for value in (values if isinstance(values, dict) else {}).values():
                yield str(value)
                if field == "data":
                    yield from _decoded(str(value))


def _decoded(text: str) -> Iterator[str]:
    try:
        yield base64.b64decode(text, validate=True).decode()
    except ValueError:
        return


def yaml_problem(exc: yaml.YAMLError) -> str:
    """What is wrong and where, without the line itself."""
    if isinstance(exc, yaml.MarkedYAMLError) and exc.problem_mark is not None:
        return f"{exc.problem or 'cannot be read'} in line {exc.problem_mark.line + 1}"
    return "cannot be read"
