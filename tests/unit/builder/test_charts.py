"""Chart artifacts: one digest for one content, and every fault of a chart at once."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from skerry.builder.cache import Cache
from skerry.builder.charts import ChartInvalid, build_chart, read_chart
from skerry.builder.layout import sign_layout
from skerry.cli.pushing import NotSigned, prepare
from skerry.lib.digest import sha256
from skerry.lib.oci import Layout
from skerry.model import release as model
from skerry.wire import envelope

ABOUT = "apiVersion: v2\nname: harbour\nversion: 1.2.3\nappVersion: '7'\n"
FILES = {
    "Chart.yaml": ABOUT,
    "values.yaml": "greeting: ahoy\n",
    "templates/page.yaml": "kind: ConfigMap # {{ .Values.greeting }}\n",
    "templates/_names.tpl": '{{ define "x" }}{{ end }}\n',
}


def a_folder(place: Path, **changes: str) -> Path:
    for name, text in {**FILES, **changes}.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    return place


def a_package(place: Path, files: dict[str, str], *, top: str = "harbour") -> Path:
    with tarfile.open(place, "w:gz") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(f"{top}/{name}" if top else name)
            info.size, info.mtime, info.uname = len(text.encode()), 1_700_000_000, "anna"
            archive.addfile(info, io.BytesIO(text.encode()))
    return place


def inside(built_path: Path) -> list[str]:
    layout = Layout.open(built_path)
    _, manifest = layout.only_manifest()
    with tarfile.open(layout.blob_path(manifest.layers[0].digest)) as archive:
        return [member.name for member in archive if member.isfile()]


def test_a_folder_and_its_package_are_one_artifact_wherever_they_are_built(
    tmp_path: Path,
) -> None:
    folder = a_folder(tmp_path / "somewhere")
    backwards = dict(reversed(FILES.items()))
    package = a_package(tmp_path / "harbour-1.2.3.tgz", backwards)

    built = [build_chart(folder, cache=Cache(tmp_path / "a"))]
    built += [build_chart(package, cache=Cache(tmp_path / "b"))]

    assert built[0].digest == built[1].digest
    assert (built[0].type, built[0].name, built[0].version) == ("chart", "harbour", "1.2.3")
    assert built[0].architecture == "any"
    assert built[0].size_bytes == Layout.open(built[0].path).verify()


def test_the_artifact_holds_the_package_as_helm_reads_it(tmp_path: Path) -> None:
    built = build_chart(a_folder(tmp_path / "chart"), cache=Cache(tmp_path / "cache"))

    layout = Layout.open(built.path)
    _, manifest = layout.only_manifest()
    (layer,) = manifest.layers

    assert manifest.artifact_type == model.CHART_ARTIFACT_TYPE
    assert layer.media_type == "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
    assert layer.annotations[model.PATH_KEY] == "harbour-1.2.3.tgz"
    assert layer.annotations[model.CONTENT_KEY] == layer.digest
    assert inside(built.path) == sorted(f"harbour/{name}" for name in FILES)


def test_what_did_not_change_is_found_in_the_cache(tmp_path: Path) -> None:
    cache, folder = Cache(tmp_path / "cache"), a_folder(tmp_path / "chart")
    first = build_chart(folder, cache=cache)
    before = (first.path / "index.json").stat().st_mtime_ns

    again = build_chart(folder, cache=cache)
    changed = build_chart(a_folder(folder, **{"values.yaml": "greeting: hi\n"}), cache=cache)

    assert again == first
    assert (first.path / "index.json").stat().st_mtime_ns == before
    assert changed.digest != first.digest


def test_a_signed_chart_is_ready_to_be_pushed(tmp_path: Path) -> None:
    built = build_chart(a_folder(tmp_path / "chart"), cache=Cache(tmp_path / "cache"))
    with pytest.raises(NotSigned):
        prepare(built.path)
    key = envelope.SigningKey(
        role=envelope.KeyRole.RELEASE, key=ed25519.Ed25519PrivateKey.generate()
    )

    sign_layout(built.path, key)
    parcel = prepare(built.path)

    assert parcel.name == "harbour-1-2-3-any"
    assert built.digest in [digest for digest, _ in parcel.blobs]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"Chart.yaml": ""}, "Chart.yaml is not a mapping"),
        ({"Chart.yaml": "a: ["}, "Chart.yaml is not YAML"),
        ({"Chart.yaml": ABOUT.replace("v2", "v3")}, "apiVersion is 'v3', wanted v1 or v2"),
        ({"Chart.yaml": ABOUT.replace("harbour", "../up")}, "name is '../up'"),
        ({"Chart.yaml": ABOUT.replace("1.2.3", "1.2")}, "version is '1.2', wanted a semantic"),
        ({"Chart.yaml": ABOUT.replace("1.2.3", "v1.2.3")}, "wanted a semantic version"),
        ({"Chart.yaml": ABOUT.replace("1.2.3", "01.2.3")}, "wanted a semantic version"),
        ({"Chart.yaml": ABOUT + "type: library\n"}, "only applications can be installed"),
        ({"Chart.yaml": ABOUT + "dependencies: 1\n"}, "dependencies is not a list"),
        ({"values.yaml": "- 1\n"}, "values.yaml is not a mapping"),
        ({"values.yaml": "a: [\n"}, "values.yaml is not YAML"),
        ({"values.schema.json": "{"}, "values.schema.json is not JSON"),
        ({".helmignore": "a/**/b\n"}, "which Helm does not know"),
    ],
)
def test_a_chart_that_helm_could_not_use_is_refused(
    tmp_path: Path, changes: dict[str, str], told: str
) -> None:
    with pytest.raises(ChartInvalid) as caught:
        read_chart(a_folder(tmp_path / "chart", **changes))

    assert told in caught.value.message


def test_all_faults_of_a_chart_come_at_once(tmp_path: Path) -> None:
    about = "name: a b\ndependencies: [{name: redis}]\n"

    with pytest.raises(ChartInvalid) as caught:
        read_chart(a_folder(tmp_path / "chart", **{"Chart.yaml": about, "values.yaml": "1"}))

    for told in ("apiVersion is missing", "name is", "version is missing", "redis", "values.yaml"):
        assert told in caught.value.message


def test_a_folder_without_a_chart_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ChartInvalid, match=r"Chart\.yaml is missing"):
        read_chart(tmp_path)


REDIS = "apiVersion: v2\nname: redis\nversion: 1.0.0\n"
NEEDS_REDIS = ABOUT + "dependencies: [{name: redis, version: 1.0.0, alias: cache}]\n"


def test_a_dependency_has_to_lie_in_the_chart(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "chart", **{"Chart.yaml": NEEDS_REDIS})
    with pytest.raises(ChartInvalid, match="dependencies are not under charts/: redis"):
        read_chart(folder)

    a_folder(folder, **{"Chart.yaml": NEEDS_REDIS, "charts/redis/Chart.yaml": REDIS})
    assert "charts/redis/Chart.yaml" in read_chart(folder).files


def test_a_packaged_dependency_counts_and_a_broken_one_is_named(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "chart", **{"Chart.yaml": NEEDS_REDIS})
    package = folder / "charts" / "redis-1.0.0.tgz"
    package.parent.mkdir()
    a_package(package, {"Chart.yaml": REDIS}, top="redis")
    assert "charts/redis-1.0.0.tgz" in read_chart(folder).files

    package.write_bytes(b"not a package")
    with pytest.raises(ChartInvalid, match=r"redis-1\.0\.0\.tgz"):
        read_chart(folder)


def test_the_first_kind_of_chart_lists_its_dependencies_elsewhere(tmp_path: Path) -> None:
    changes = {
        "Chart.yaml": ABOUT.replace("v2", "v1"),
        "requirements.yaml": "dependencies: [{name: redis}]\n",
    }

    with pytest.raises(ChartInvalid, match="redis"):
        read_chart(a_folder(tmp_path / "chart", **changes))


def test_helmignore_leaves_out_what_helm_leaves_out(tmp_path: Path) -> None:
    folder = a_folder(
        tmp_path / "chart",
        **{
            ".helmignore": "# notes\n*.md\n/top.txt\nci/\ntemplates/tests/*.yaml\n",
            "README.md": "x",
            "docs/deep.md": "x",
            "top.txt": "x",
            "docs/top.txt": "x",
            "ci/run": "x",
            "templates/tests/a.yaml": "x",
            "templates/.hidden": "x",
        },
    )

    files = read_chart(folder).files

    assert set(files) == {*FILES, ".helmignore", "docs/top.txt"}


def test_links_are_refused_in_a_folder_and_in_a_package(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "chart")
    (folder / "templates" / "secret").symlink_to("/etc/shadow")
    with pytest.raises(ChartInvalid, match="templates/secret is not a plain file"):
        read_chart(folder)

    package = tmp_path / "harbour.tgz"
    with tarfile.open(package, "w:gz") as archive:
        info = tarfile.TarInfo("harbour/link")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/shadow"
        archive.addfile(info)
    with pytest.raises(ChartInvalid, match="harbour/link is not a plain file"):
        read_chart(package)


@pytest.mark.parametrize("name", ["../up", "harbour/../../up", "/abs/x", "Chart.yaml", "a\\b"])
def test_paths_that_leave_the_chart_are_refused(tmp_path: Path, name: str) -> None:
    package = a_package(tmp_path / "x.tgz", {name: "x"}, top="")

    with pytest.raises(ChartInvalid, match="outside its folder"):
        read_chart(package)


def test_what_is_no_package_is_refused_politely(tmp_path: Path) -> None:
    good = a_package(tmp_path / "good.tgz", FILES).read_bytes()
    for number, data in enumerate((b"", b"text", good[: len(good) // 2], b"\x1f\x8b junk")):
        package = tmp_path / f"{number}.tgz"
        package.write_bytes(data)
        with pytest.raises(ChartInvalid):
            read_chart(package)


def test_a_package_that_swells_is_refused_before_it_fills_memory(tmp_path: Path) -> None:
    package = tmp_path / "bomb.tgz"
    with tarfile.open(package, "w:gz") as archive:
        info = tarfile.TarInfo("harbour/big")
        info.size = 101 * 1024 * 1024
        archive.addfile(info, io.BytesIO(bytes(info.size)))

    with pytest.raises(ChartInvalid, match="larger than 100 MiB"):
        read_chart(package)


def test_the_digest_is_the_same_everywhere(tmp_path: Path) -> None:
    """Packing depends on the files alone: the tar inside has a recorded digest."""
    built = build_chart(a_folder(tmp_path / "chart"), cache=Cache(tmp_path / "cache"))
    layout = Layout.open(built.path)
    _, manifest = layout.only_manifest()

    plain = gzip.decompress(layout.blob_path(manifest.layers[0].digest).read_bytes())

    recorded = "e557dc748c28b879dd1d895aefa0e49c019c12848c67948a8a00b59d8923e94d"
    assert sha256(plain) == f"sha256:{recorded}"
