"""Revisions are immutable values; a stack is resolved the same everywhere."""

from __future__ import annotations

import msgspec
import pytest

from skerry.model.artifact import ArtifactRef
from skerry.model.kinds import ClusterProfileSpec, Layer, LayerType, ProfileType, Variable
from skerry.model.problems import DocumentInvalid
from skerry.model.profile import (
    MAX_REVISION_BYTES,
    Revision,
    RevisionInvalid,
    RevisionLayer,
    decode_revision,
    new_revision,
    resolve,
    secret_references,
)
from skerry.model.template import never

BASE = Revision(
    profile="base",
    version="1.0.0",
    type=ProfileType.FULL,
    layers=(
        RevisionLayer(name="k8s", type=LayerType.KUBERNETES, version="${{ kubernetes }}"),
        RevisionLayer(name="net", type=LayerType.NETWORK, provider="routed"),
    ),
    variables=(Variable(name="kubernetes", default="1.36.3"),),
)
ADDON = Revision(
    profile="web",
    version="2.0.0",
    type=ProfileType.ADDON,
    layers=(
        RevisionLayer(
            name="web",
            type=LayerType.ADDON,
            manifests="a: ${{ title }} {{ .Helm }} ${{ host.name }}",
            artifacts=("web",),
        ),
    ),
    variables=(Variable(name="title", required=True),),
)


def test_revision_survives_its_encoding_and_its_digest_is_of_those_bytes() -> None:
    again = decode_revision(BASE.encode())

    assert again == BASE
    assert again.digest == BASE.digest
    assert msgspec.structs.replace(BASE, version="1.0.1").digest != BASE.digest


def test_digest_of_a_revision_is_stable() -> None:
    # A digest that moves between releases of skerry would make every host reconfigure.
    assert BASE.digest == (
        "sha256:445eefea502e6d28af515f12f05e3160c1d06afce691e1a8a1846230d532c026"
    )


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"{}", b"[" * 9999, b"x" * (MAX_REVISION_BYTES + 1)]
)
def test_what_is_no_revision_is_refused(data: bytes) -> None:
    with pytest.raises(RevisionInvalid):
        decode_revision(data)


def test_base_layers_come_first_then_addons_in_order() -> None:
    layers = resolve([ADDON, BASE], {"title": "Hi"})

    assert [layer.name for layer in layers] == ["k8s", "net", "web"]
    assert layers[0].version == "1.36.3"
    assert layers[2].manifests == "a: Hi {{ .Helm }} ${{ host.name }}"
    assert layers[2].artifacts == ("web",)


def test_host_knows_what_the_centre_left_open() -> None:
    facts = {"title": "Hi", "host.name": "till-1"}

    assert resolve([BASE, ADDON], facts, keep=never)[2].manifests == "a: Hi {{ .Helm }} till-1"
    with pytest.raises(DocumentInvalid, match=r"host\.name"):
        resolve([BASE, ADDON], {"title": "Hi"}, keep=never)


def test_all_problems_of_a_stack_come_at_once() -> None:
    twin = msgspec.structs.replace(
        ADDON, profile="twin", layers=(RevisionLayer(name="net", type=LayerType.ADDON),)
    )

    with pytest.raises(DocumentInvalid) as caught:
        resolve([ADDON, BASE, BASE, twin], {"colour": "red", "kubernetes": "two\nlines"})

    messages = " ".join(problem.message for problem in caught.value.problems)
    assert "exactly one full or infra profile" in messages
    assert "layer 'net' is in profile base and in twin" in messages
    assert "no profile of this cluster has a variable 'colour'" in messages
    assert "'title' is required" in messages
    assert "must be one line" in messages


def test_a_profile_sees_only_its_own_variables() -> None:
    nosy = msgspec.structs.replace(
        ADDON, layers=(RevisionLayer(name="x", type=LayerType.ADDON, values="${{ kubernetes }}"),)
    )

    with pytest.raises(DocumentInvalid, match="unknown variable 'kubernetes'"):
        resolve([BASE, nosy], {"title": "Hi"})


def test_secrets_are_found_wherever_they_are_used() -> None:
    revision = msgspec.structs.replace(
        BASE,
        layers=(
            RevisionLayer(
                name="a",
                type=LayerType.ADDON,
                values="${{ secret.db.password }}",
                manifests="${{ secret.tls-cert.tls.key }}",
            ),
        ),
    )

    assert secret_references([revision]) == ("db.password", "tls-cert.tls.key")


def test_new_revision_pins_every_architecture_under_the_layers_word() -> None:
    spec = ClusterProfileSpec(
        version="1.0.0", layers=(Layer(name="web", type=LayerType.ADDON, artifacts=("web",)),)
    )
    refs = tuple(
        ArtifactRef(
            name=f"web-{arch}",
            type="images",
            version="1",
            architecture=arch,
            digest=f"sha256:{arch}",
            envelope_digest="",
        )
        for arch in ("arm64", "amd64")
    )

    revision = new_revision("p", spec, {"web": refs})

    assert [(ref.name, ref.architecture) for ref in revision.artifacts] == [
        ("web", "amd64"),
        ("web", "arm64"),
    ]
    assert revision.layers[0].artifacts == ("web",)
