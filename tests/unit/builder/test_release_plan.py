"""The component table and the plan of a release: pure values from one data file."""

from __future__ import annotations

import pytest

from skerry.builder.gomodules import (
    ComponentFailed,
    Toolchain,
    go_mod,
    linker_flags,
    recipe_id,
    tools_go,
)
from skerry.builder.recipes import UnknownRelease, known_versions, release_table
from skerry.builder.release import plan_release
from skerry.model.release import ReleaseInvalid

GO = Toolchain(go_version="go1.26.8", architecture="amd64", native="gcc 12, libseccomp 2.5")

# Recorded from `kubeadm config images list` of each built version; for the others from
# DefaultEtcdVersion, CoreDNSVersion and PauseVersion in kubeadm's constants.
WANTED_IMAGES = {
    "1.34.4": ("coredns/coredns:v1.12.1", "pause:3.10.1", "etcd:3.6.5-0"),
    "1.35.4": ("coredns/coredns:v1.13.1", "pause:3.10.1", "etcd:3.6.6-0"),
    "1.36.1": ("coredns/coredns:v1.14.2", "pause:3.10.2", "etcd:3.6.8-0"),
    "1.36.3": ("coredns/coredns:v1.14.2", "pause:3.10.2", "etcd:3.6.8-0"),
    "1.37.2": ("coredns/coredns:v1.14.6", "pause:3.10.2", "etcd:3.7.0-0"),
}


def test_every_known_version_has_recorded_images() -> None:
    assert known_versions() == sorted(WANTED_IMAGES)


@pytest.mark.parametrize("version", WANTED_IMAGES)
def test_images_are_those_that_kubeadm_asks_for(version: str) -> None:
    own = ("apiserver", "controller-manager", "scheduler", "proxy")
    wanted = {f"registry.k8s.io/kube-{name}:v{version}" for name in own}
    wanted |= {f"registry.k8s.io/{name}" for name in WANTED_IMAGES[version]}

    assert {image.name for image in release_table(version).images.values()} == wanted


@pytest.mark.parametrize("version", WANTED_IMAGES)
def test_every_file_and_image_comes_from_a_program_that_is_built(version: str) -> None:
    table = release_table(version)
    sources = [*table.files.values(), *(image.program for image in table.images.values())]

    for component, program in sources:
        assert program in table.recipes[component].programs
    for image in table.images.values():
        assert not image.base or image.base in table.bases


def test_an_unknown_version_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownRelease) as caught:
        release_table("1.20.0")

    assert "1.36.3" in caught.value.hint


@pytest.mark.parametrize("text", ["1.36", "latest", "1.36.3-rc.1", "", "1.36.3/../x"])
def test_text_that_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(ReleaseInvalid):
        release_table(text)


def test_two_releases_share_what_did_not_change() -> None:
    ids = [
        {step.name: step.content_id for step in plan_release(version, toolchain=GO).steps}
        for version in ("1.36.1", "1.36.3")
    ]

    same = {name for name in ids[0] if ids[0][name] == ids[1][name]}

    assert same == {"etcd", "coredns", "containerd", "cni", "runc", "helm", "pause", "netfilter"}


def test_another_compiler_or_c_library_makes_another_content_id() -> None:
    recipes = release_table("1.36.3").recipes
    newer = Toolchain(go_version="go1.27.0", architecture="amd64", native=GO.native)
    other_c = Toolchain(go_version=GO.go_version, architecture="amd64", native="gcc 14")

    assert recipe_id(recipes["runc"], GO) != recipe_id(recipes["runc"], newer)
    assert recipe_id(recipes["runc"], GO) != recipe_id(recipes["runc"], other_c)
    assert recipe_id(recipes["etcd"], GO) == recipe_id(recipes["etcd"], other_c)


def test_the_plan_ends_with_the_release_and_names_the_architecture() -> None:
    plan = plan_release("v1.36.3", toolchain=GO)

    assert plan.steps[-1].kind == "release"
    assert plan.entry == "1.36.3-amd64"


def test_go_mod_replaces_each_staging_module_by_its_release() -> None:
    recipe = release_table("1.36.3").recipes["kubernetes"]
    upstream = (
        "module k8s.io/kubernetes\n\nreplace (\n"
        "\tk8s.io/client-go => ./staging/src/k8s.io/client-go\n"
        "\tk8s.io/api => ./staging/src/k8s.io/api\n)\n"
    )

    text = go_mod(recipe, go_line="1.26.0", upstream_mod=upstream)

    assert text == (
        "module skerry.local/kubernetes\n\ngo 1.26.0\n\n"
        "require k8s.io/kubernetes v1.36.3\n\n"
        "replace (\n"
        "\tk8s.io/api => k8s.io/api v0.36.3\n"
        "\tk8s.io/client-go => k8s.io/client-go v0.36.3\n)\n"
    )


def test_a_module_whose_staging_folders_are_gone_is_refused() -> None:
    recipe = release_table("1.36.3").recipes["kubernetes"]

    with pytest.raises(ComponentFailed, match="names no staging modules"):
        go_mod(recipe, go_line="1.26.0", upstream_mod="module k8s.io/kubernetes\n")


def test_tools_go_imports_every_program() -> None:
    text = tools_go(["b.example/x", "a.example/y"])

    assert text.index('"a.example/y"') < text.index('"b.example/x"')


def test_the_version_that_kubeadm_reports_is_set_by_the_linker() -> None:
    flags = linker_flags(release_table("1.37.2").recipes["kubernetes"])

    assert "-X k8s.io/component-base/version.gitVersion=v1.37.2" in flags
    assert "-X k8s.io/component-base/version.gitMinor=37" in flags
    assert "-static" not in flags
    assert "-static" in linker_flags(release_table("1.37.2").recipes["runc"])
