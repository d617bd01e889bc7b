"""What `./dev up` shows is made of documents that a manager takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from skerry.builder.cache import Cache
from skerry.lab import content
from skerry.lab.errors import LabError
from skerry.lib.oci import Layout
from skerry.manager.services.admission import check_document
from skerry.plan.host import version_key
from skerry.sim.places import harbours

CHECKOUT = Path(__file__).parents[3]


def test_every_document_is_admitted() -> None:
    places = harbours(20)
    documents = [
        *content.site_documents(places),
        *(content.simulated_profile(version) for version in content.SIMULATED_VERSIONS),
        content.simulated_cluster(places[0], "x-1", kubernetes=content.SIMULATED_VERSIONS[0]),
        *content.example_documents(CHECKOUT, {"kubelet": {"failSwapOn": False}}),
    ]

    problems = [check_document(document) for document in documents]

    assert [found for found in problems if isinstance(found, list)] == []


def test_lab_values_are_merged_into_the_kubernetes_layer_alone() -> None:
    plain = content.example_documents(CHECKOUT, {})
    merged = content.example_documents(CHECKOUT, {"kubelet": {"failCgroupV1": False}})

    kubernetes = merged[0]["spec"]["layers"][0]
    values = yaml.safe_load(kubernetes["values"])
    assert values["kubelet"] == {"failCgroupV1": False}
    assert values.items() >= yaml.safe_load(plain[0]["spec"]["layers"][0]["values"]).items()
    assert merged[0]["spec"]["layers"][1:] == plain[0]["spec"]["layers"][1:]
    assert merged[1:] == plain[1:]


def test_maps_of_lab_values_join_those_of_the_profile() -> None:
    document = {
        "kind": "ClusterProfile",
        "spec": {"layers": [{"type": "kubernetes", "values": "kubelet: {maxPods: 5, a: 1}\n"}]},
    }

    merged = content.with_values(document, {"kubelet": {"a": 2, "b": 3}})

    values = yaml.safe_load(merged["spec"]["layers"][0]["values"])
    assert values == {"kubelet": {"maxPods": 5, "a": 2, "b": 3}}


def test_versions_of_the_example_are_found() -> None:
    documents = content.example_documents(CHECKOUT, {})

    assert [version_key(found)[0] for found in content.kubernetes_versions(documents)] == [1]


def test_a_folder_without_examples_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"shop\.yaml"):
        content.example_documents(tmp_path, {})


def test_empty_release_is_a_whole_artifact_and_says_what_it_is(tmp_path: Path) -> None:
    built = content.simulated_release("1.35.4-sim", cache=Cache(tmp_path), architecture="amd64")

    assert (built.version, built.architecture) == ("1.35.4-sim", "amd64")
    assert Layout.open(built.path).verify() == built.size_bytes


def test_profile_version_follows_kubernetes() -> None:
    assert content.profile_version("1.35.4-sim") == "1.35.4"
