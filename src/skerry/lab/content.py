"""What `./dev up` shows: sites, a stack for simulated clusters, the example with this lab's values.

All of it are documents and artifacts as a person would make them; nothing here talks to a manager.
The release of simulated clusters is empty and says so by its version, because a simulated host
has nothing to run it on.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from skerry.builder.cache import Cache
from skerry.builder.layout import BuiltArtifact, LayoutWriter, describe
from skerry.lab.errors import LabError
from skerry.model.meta import API_VERSION
from skerry.model.release import ARTIFACT_TYPE, CONFIG_TYPE, ReleaseMetadata
from skerry.sim.places import Harbour

SIMULATED_PROFILE = "quayside"
SIMULATED_VERSIONS = ("1.34.4-sim", "1.35.4-sim")
_SIMULATED_FORM = 1

Document = dict[str, Any]


def site_documents(places: Sequence[Harbour]) -> list[Document]:
    """A Site for each place."""
    return [
        _document(
            "Site",
            place.name,
            {
                "address": f"Harbour of {place.town}",
                "latitude": place.latitude,
                "longitude": place.longitude,
                "timeZone": place.time_zone,
            },
            labels=place.labels,
        )
        for place in places
    ]


def simulated_profile(kubernetes: str) -> Document:
    """The stack of simulated clusters; its version follows the Kubernetes version in it."""
    return _document(
        "ClusterProfile",
        SIMULATED_PROFILE,
        {
            "version": profile_version(kubernetes),
            "type": "full",
            "description": "Single-node Kubernetes for a quayside till",
            "variables": [{"name": "town", "default": "nowhere"}],
            "layers": [
                {
                    "name": "kubernetes",
                    "type": "kubernetes",
                    "provider": "kubeadm",
                    "version": kubernetes,
                },
                {"name": "network", "type": "network", "provider": "routed"},
                {
                    "name": "till",
                    "type": "addon",
                    "namespace": "till",
                    "manifests": _TILL,
                },
            ],
        },
    )


def profile_version(kubernetes: str) -> str:
    """1.MINOR.PATCH of the Kubernetes version."""
    return f"1.{kubernetes.partition('-')[0].partition('.')[2]}"


def simulated_cluster(place: Harbour, host: str, *, kubernetes: str) -> Document:
    """A cluster on one simulated host, named like its site."""
    return _document(
        "Cluster",
        place.name,
        {
            "profiles": [{"name": SIMULATED_PROFILE, "version": profile_version(kubernetes)}],
            "variables": {"town": place.town},
            "pools": [{"name": "main", "role": "control-plane", "hosts": [host]}],
        },
        labels=place.labels,
    )


def simulated_release(version: str, *, cache: Cache, architecture: str) -> BuiltArtifact:
    """An empty Kubernetes release, made once per cache."""
    kind, entry = "releases/simulated", f"{version}-{architecture}-{_SIMULATED_FORM}"
    place = cache.find(kind, entry)
    if place is None:
        with cache.fill(kind, entry) as work:
            _write_release(work, version, architecture)
        place = cache.base / kind / entry
    return describe(place)


def example_documents(checkout: Path, values: Mapping[str, Any]) -> list[Document]:
    """The documents of examples/shop.yaml with `values` merged into its Kubernetes layer.

    Raises LabError when the checkout has no example.
    """
    place = checkout / "examples" / "shop.yaml"
    try:
        loaded = list(yaml.safe_load_all(place.read_text(encoding="utf-8")))
    except FileNotFoundError as exc:
        raise LabError(f"there is no {place}", hint="run './dev up' from a checkout") from exc
    return [with_values(item, values) for item in loaded if item]


def with_values(document: Document, values: Mapping[str, Any]) -> Document:
    """A profile with public values merged into its Kubernetes layer; others stay as they are."""
    if document.get("kind") != "ClusterProfile" or not values:
        return document
    layers = []
    for layer in document["spec"]["layers"]:
        changed = layer
        if layer["type"] == "kubernetes":
            merged = _merge(yaml.safe_load(layer.get("values") or "{}") or {}, values)
            changed = {**layer, "values": yaml.safe_dump(merged, sort_keys=False)}
        layers.append(changed)
    return {**document, "spec": {**document["spec"], "layers": layers}}


def kubernetes_versions(documents: Sequence[Document]) -> list[str]:
    """Versions of all Kubernetes layers, in order."""
    return [
        layer["version"]
        for document in documents
        if document["kind"] == "ClusterProfile"
        for layer in document["spec"]["layers"]
        if layer["type"] == "kubernetes"
    ]


def _document(
    kind: str, name: str, spec: Document, *, labels: Mapping[str, str] | None = None
) -> Document:
    metadata: Document = {"name": name}
    if labels:
        metadata["labels"] = dict(labels)
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> Document:
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[key] = _merge(old, value) if both and old is not None else value
    return result


def _write_release(into: Path, version: str, architecture: str) -> None:
    scratch = Path(tempfile.mkdtemp(dir=into))
    note = scratch / "README"
    note.write_text("An empty release for simulated hosts.\n")
    writer = LayoutWriter(into)
    writer.add_file(note, path="README", executable=False)
    shutil.rmtree(scratch)
    metadata = ReleaseMetadata(
        distribution="kubernetes",
        version=version,
        architecture=architecture,
        source="simulated",
        toolchain="",
        components={},
        files=tuple(writer.files),
        images=(),
    )
    writer.finish(
        metadata.encode(),
        config_type=CONFIG_TYPE,
        artifact_type=ARTIFACT_TYPE,
        name="kubernetes",
        version=version,
        architecture=architecture,
    )


_TILL = """\
apiVersion: v1
kind: Namespace
metadata:
  name: till
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: town
  namespace: till
data:
  town: ${{ town }}
"""
