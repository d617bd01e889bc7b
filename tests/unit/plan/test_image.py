"""Steps of an image: an id changes exactly when something that goes in does."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from skerry.builder.image.inputs import load_distribution
from skerry.model.image import (
    Enroll,
    ImageBase,
    ImageDefinition,
    ImageFile,
    ImageKernel,
    ImageSizes,
    ImageSpec,
    ImageUser,
)
from skerry.plan.image import ImageInputs, disk_sizes, plan_image, uuid_from

DISTRIBUTION = load_distribution("debian", "trixie")
KEYS = {"db": "sha256:d", "verity": "sha256:v", "pcr": "sha256:p", "enrolment": "sha256:e"}
INPUTS = ImageInputs(
    sources={"motd": "sha256:1"},
    appliance={"root": "sha256:2", "initrd": "sha256:3"},
    agent="sha256:4",
    keys=KEYS,
)
SPEC = ImageSpec(version="1.0.0", files=(ImageFile(path="/etc/motd", source="motd"),))
EVERYTHING = {
    *("tools", "packages", "boot", "initrd", "root", "verity", "signature", "uki", "recovery"),
    *("loader", "live", "artifact", "disk"),
}
AFTER_ROOT = {"root", "verity", "signature", "uki", "live", "artifact", "disk"}


def ids(spec: ImageSpec = SPEC, inputs: ImageInputs = INPUTS, name: str = "shop") -> dict[str, str]:
    definition = ImageDefinition(name=name, spec=spec)
    return {step.name: step.id for step in plan_image(definition, DISTRIBUTION, inputs)}


def changed(spec: ImageSpec = SPEC, inputs: ImageInputs = INPUTS, name: str = "shop") -> set[str]:
    before, after = ids(), ids(spec, inputs, name)
    return {step for step in before if before[step] != after[step]}


def with_spec(**fields: Any) -> ImageSpec:
    return msgspec.structs.replace(SPEC, **fields)


def with_inputs(**fields: Any) -> ImageInputs:
    return msgspec.structs.replace(INPUTS, **fields)


def test_equal_input_has_equal_ids() -> None:
    assert changed() == set()


def test_every_step_comes_after_those_it_needs() -> None:
    seen: set[str] = set()

    for step in plan_image(ImageDefinition(name="shop", spec=SPEC), DISTRIBUTION, INPUTS):
        assert set(step.needs) <= seen
        seen.add(step.name)

    assert seen == EVERYTHING


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        (with_spec(version="1.0.1"), AFTER_ROOT),
        (with_spec(packages=("jq",)), {"packages", *AFTER_ROOT}),
        (with_spec(users=(ImageUser(name="ada"),)), AFTER_ROOT),
        (with_spec(agent=False), AFTER_ROOT),
        (with_spec(site_data={"manager": "a"}), AFTER_ROOT),
        (with_spec(kernel=ImageKernel(arguments=("nosmt",))), {"uki", "live", "artifact", "disk"}),
        (
            with_spec(kernel=ImageKernel(package="linux-image-rt-amd64")),
            {"boot", "initrd", "recovery", *AFTER_ROOT},
        ),
        (with_spec(sizes=ImageSizes(root_mib=2048)), {"disk"}),
        (with_spec(enroll_keys=Enroll.NEVER), {"disk"}),
        (
            with_spec(base=ImageBase(as_of=SPEC.base.as_of.replace(year=2027))),
            EVERYTHING,
        ),
    ],
)
def test_a_changed_definition_changes_the_steps_that_read_it(
    spec: ImageSpec, wanted: set[str]
) -> None:
    assert changed(spec) == wanted


@pytest.mark.parametrize(
    ("inputs", "wanted"),
    [
        (with_inputs(sources={"motd": "sha256:other"}), AFTER_ROOT),
        (with_inputs(agent="sha256:other"), AFTER_ROOT),
        (
            with_inputs(appliance={**INPUTS.appliance, "root": "sha256:other"}),
            AFTER_ROOT,
        ),
        (
            with_inputs(appliance={**INPUTS.appliance, "initrd": "sha256:other"}),
            {"initrd", "uki", "recovery", "live", "artifact", "disk"},
        ),
        (with_inputs(keys={**KEYS, "verity": "sha256:other"}), {"signature", "artifact", "disk"}),
        (
            with_inputs(keys={**KEYS, "db": "sha256:other"}),
            {"uki", "recovery", "loader", "live", "artifact", "disk"},
        ),
        (with_inputs(keys={**KEYS, "pcr": "sha256:other"}), {"uki", "artifact", "disk"}),
        (with_inputs(policy_generation=2), {"artifact", "disk"}),
    ],
)
def test_changed_surroundings_change_the_steps_that_read_them(
    inputs: ImageInputs, wanted: set[str]
) -> None:
    assert changed(inputs=inputs) == wanted


def test_the_order_of_packages_does_not_count() -> None:
    one, other = with_spec(packages=("jq", "tmux")), with_spec(packages=("tmux", "jq", "jq"))

    assert ids(one)["packages"] == ids(other)["packages"]


def test_the_tree_of_hashes_grows_with_the_root() -> None:
    sizes = disk_sizes(
        ImageDefinition(name="shop", spec=with_spec(sizes=ImageSizes(root_mib=4096)))
    )

    # SHA-256 over 4096-byte blocks: one part in 127 of the data.
    assert sizes.verity >= sizes.root // 127


def test_a_uuid_is_made_from_a_digest_alone() -> None:
    digest = "sha256:" + "0123456789abcdef" * 4

    assert uuid_from(digest) == "01234567-89ab-8def-8123-456789abcdef"
