"""The bill of materials says what the programs themselves say, in equal bytes each time."""

from __future__ import annotations

import json

from skerry.builder.images import Package
from skerry.builder.sbom import Module, document, parse_go_version

# Recorded from `go version -m kubelet`, cut.
OUTPUT = (
    "/x/kubelet: go1.26.8\n"
    "\tpath\tk8s.io/kubernetes/cmd/kubelet\n"
    "\tmod\tskerry.local/kubernetes\t(devel)\t\n"
    "\tdep\tgithub.com/a/b\tv1.2.3\th1:abc=\n"
    "\tdep\tk8s.io/api\tv0.0.0\n"
    "\t=>\tk8s.io/api\tv0.36.3\th1:def=\n"
    "\tbuild\t-trimpath=true\n"
)


def test_a_replaced_module_is_listed_as_its_replacement() -> None:
    assert parse_go_version(OUTPUT) == [
        Module("github.com/a/b", "v1.2.3", "h1:abc="),
        Module("k8s.io/api", "v0.36.3", "h1:def="),
    ]


def test_the_document_names_each_library_once_and_who_contains_it() -> None:
    modules = parse_go_version(OUTPUT)
    packages = [Package(name="libc6", version="2.41-12+deb13u5")]

    def make(programs: dict[str, list[Module]]) -> bytes:
        return document(name="kubernetes", version="1.36.3", programs=programs, packages=packages)

    data = make({"bin/kubelet": modules, "bin/kubeadm": modules[:1]})

    assert data == make({"bin/kubeadm": modules[:1], "bin/kubelet": modules[::-1]})
    bill = json.loads(data)
    assert [part["bom-ref"] for part in bill["components"] if part["type"] == "library"] == [
        "pkg:deb/debian/libc6@2.41-12%2Bdeb13u5",
        "pkg:golang/github.com/a/b@v1.2.3",
        "pkg:golang/k8s.io/api@v0.36.3",
    ]
    contains = {part["ref"].partition("/")[2]: part["dependsOn"] for part in bill["dependencies"]}
    assert contains["bin/kubeadm"] == ["pkg:golang/github.com/a/b@v1.2.3"]
