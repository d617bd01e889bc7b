"""Bill of materials of a release in CycloneDX 1.6 JSON, from what the programs say themselves.

Go writes the list of modules into each program; `go version -m` reads it back. The document has
no time and no random serial number, so that equal releases have equal bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from skerry.builder.images import Package
from skerry.lib.digest import canonical_json


@dataclass(frozen=True, slots=True)
class Module:
    """A Go module inside a program. `checksum` is Go's own ("h1:..."), empty for own code."""

    path: str
    version: str
    checksum: str = ""

    @property
    def ref(self) -> str:
        return f"pkg:golang/{self.path}@{self.version}"


def parse_go_version(text: str) -> list[Module]:
    """Modules in the output of `go version -m FILE`; a replaced module is its replacement."""
    modules: list[Module] = []
    for line in text.splitlines():
        words = line.strip().split("\t")
        if len(words) < 3 or words[0] not in {"dep", "=>"}:
            continue
        if words[0] == "=>" and modules:
            modules.pop()
        modules.append(Module(words[1], words[2], words[3] if len(words) > 3 else ""))
    return modules


def document(
    *,
    name: str,
    version: str,
    programs: Mapping[str, Iterable[Module]],
    packages: Iterable[Package],
) -> bytes:
    """The document. `programs` maps a program's path in the release to its modules."""
    libraries: dict[str, dict[str, Any]] = {}
    dependencies = []
    applications = []
    for path, modules in sorted(programs.items()):
        own = f"{name}@{version}/{path}"
        applications.append({"type": "application", "bom-ref": own, "name": path})
        refs = set()
        for module in modules:
            refs.add(module.ref)
            libraries[module.ref] = _library(module)
        dependencies.append({"ref": own, "dependsOn": sorted(refs)})
    for package in packages:
        ref = f"pkg:deb/debian/{package.name}@{quote(package.version, safe='.-~')}"
        libraries[ref] = {
            "type": "library",
            "bom-ref": ref,
            "name": package.name,
            "version": package.version,
            "purl": ref,
        }
    return canonical_json(
        {
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "version": 1,
            "metadata": {"component": {"type": "platform", "name": name, "version": version}},
            "components": [*applications, *(libraries[ref] for ref in sorted(libraries))],
            "dependencies": dependencies,
        }
    )


@dataclass(frozen=True, slots=True)
class Fetched:
    """Something of a release as upstream published it. `url` is where, `digest` of what was
    fetched from there."""

    path: str
    version: str
    url: str
    digest: str


def fetched_document(
    *, name: str, version: str, items: Iterable[Fetched], upstream_bill: str
) -> bytes:
    """The document of a release made of fetched files: files and digests, not what is in them.

    `upstream_bill` is the path of upstream's own document in the release. The document says by
    CycloneDX' `compositions` that it is incomplete.
    """
    components = [
        {
            "type": "container" if item.path.startswith("images/") else "file",
            "bom-ref": f"{name}@{version}/{item.path}",
            "name": item.path,
            "version": item.version,
            "hashes": [{"alg": "SHA-256", "content": item.digest.removeprefix("sha256:")}],
            "externalReferences": [{"type": "distribution", "url": item.url}],
        }
        for item in sorted(items, key=lambda item: item.path)
    ]
    note = (
        "Lists files and images with the digests of what was fetched; the modules inside them"
        f" are not listed. Upstream's own bill of Kubernetes is {upstream_bill}."
    )
    return canonical_json(
        {
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "version": 1,
            "metadata": {
                "component": {"type": "platform", "name": name, "version": version},
                "properties": [{"name": "skerry:scope", "value": note}],
            },
            "components": components,
            "compositions": [
                {"aggregate": "incomplete", "assemblies": [item["bom-ref"] for item in components]}
            ],
        }
    )


def _library(module: Module) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "type": "library",
        "bom-ref": module.ref,
        "name": module.path,
        "version": module.version,
        "purl": module.ref,
    }
    if module.checksum:
        entry["properties"] = [{"name": "go:checksum", "value": module.checksum}]
    return entry
