"""`skerry release build chart` and `images`, as people type them."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from skerry.builder.layout import describe
from skerry.cli.main import cli

from .test_archives import Image, docker_files, write
from .test_charts import a_folder


@pytest.fixture
def skerry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SKERRY_CACHE", str(tmp_path / "cache"))

    def run(*words: str):
        return CliRunner().invoke(cli, ["release", "build", *words])

    return run


def test_the_folder_alone_is_on_standard_output(skerry, tmp_path: Path) -> None:
    done = skerry("chart", str(a_folder(tmp_path / "chart")))

    assert done.exit_code == 0, done.output
    built = describe(Path(done.stdout.strip()))
    assert (built.type, built.name, built.architecture) == ("chart", "harbour", "any")
    assert "not signed yet" in done.stderr


def test_images_of_another_architecture_have_to_be_asked_for(skerry, tmp_path: Path) -> None:
    image = Image(architecture="s390x")
    place = str(write(tmp_path / "web.tar", docker_files(image, "a.example/web:1")))

    refused = skerry("images", place)
    done = skerry("images", place, "--architecture", "s390x", "--name", "shop", "--version", "2")

    assert refused.exit_code != 0
    built = describe(Path(done.stdout.strip()))
    assert (built.name, built.version, built.architecture) == ("shop", "2", "s390x")
