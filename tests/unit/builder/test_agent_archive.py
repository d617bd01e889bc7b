"""The agent's archive: only what it needs goes in, and what it asks of a host is measured."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from skerry.builder.agent import (
    ARCHIVE_FILE,
    AgentBuildFailed,
    archive_entries,
    dependency_names,
    glibc_floor,
    lock_subset,
    with_version,
    write_agent_artifact,
)
from skerry.builder.gomodules import machine_architecture
from skerry.builder.layout import describe, sign_layout
from skerry.builder.tarball import write_tar
from skerry.cli.pushing import NotSigned, prepare
from skerry.lib import pki
from skerry.lib.oci import Layout, file_digest
from skerry.wire import envelope as env

LOCK = """\
# by a tool
anyio==4.16.0 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
    # via skerry
Jinja2==3.1.6 \\
    --hash=sha256:cc
typing_extensions==4.16.0 ; python_version < '3.13' \\
    --hash=sha256:dd
"""


def test_only_the_named_entries_of_a_lock_are_kept_with_all_their_hashes() -> None:
    subset = lock_subset(LOCK, {"anyio", "typing-extensions"})

    assert "jinja2" not in subset.lower()
    assert "--hash=sha256:aa" in subset
    assert "--hash=sha256:bb" in subset
    assert "typing_extensions==4.16.0 ; python_version < '3.13'" in subset
    assert not subset.rstrip().endswith("\\")


def test_dependencies_are_followed_but_no_extra_is_taken() -> None:
    names = dependency_names(["skerry"])

    # An environment that was made from older metadata would freeze an agent without its screen.
    assert "segno" in names

    assert {"anyio", "idna", "cffi"} <= names
    assert not {"starlette", "sqlalchemy", "click", "rich", "jinja2"} & names


def test_the_floor_is_the_highest_version_that_any_library_asks_for(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "a.so").write_bytes(b"\x7fELF..GLIBC_2.4\0GLIBC_2.17\0")
    (tmp_path / "b").write_bytes(b"\x7fELF..GLIBC_2.34\0GLIBC_2.9\0GLIBC_PRIVATE\0")
    (tmp_path / "notes.txt").write_bytes(b"GLIBC_2.99")

    assert glibc_floor(tmp_path) == "2.34"


def test_a_folder_without_libraries_has_no_floor(tmp_path: Path) -> None:
    assert glibc_floor(tmp_path) == ""


def test_an_archive_keeps_links_and_permissions_but_not_times(tmp_path: Path) -> None:
    made = []
    for name in ("one", "two"):
        folder = tmp_path / name / "skerry-agent"
        folder.mkdir(parents=True)
        (folder / "program").write_bytes(b"x")
        (folder / "program").chmod(0o775)
        (folder / "link.so").symlink_to("program")
        out = io.BytesIO()
        write_tar(archive_entries(folder), out)
        made.append(out.getvalue())
        entries = {entry.path: entry for entry in archive_entries(folder)}
        assert entries["skerry-agent/program"].mode == 0o755
        assert entries["skerry-agent/link.so"].target == "program"

    assert made[0] == made[1]


def _program(folder: Path) -> Path:
    program = folder / "skerry-agent"
    program.mkdir(parents=True)
    (program / "skerry-agent").write_text("#!/bin/sh\n")
    (program / "skerry-agent").chmod(0o755)
    return program


def test_an_agent_is_an_artifact_like_any_other_and_the_install_archive_is_its_layer(
    tmp_path: Path,
) -> None:
    info = write_agent_artifact(_program(tmp_path), tmp_path / "out", version="0.2.0")

    built = describe(tmp_path / "out")
    layers = Layout.open(tmp_path / "out").only_manifest()[1].layers
    assert (built.type, built.name, built.version) == ("agent", "agent", "0.2.0")
    assert built.architecture == machine_architecture()
    assert [layer.digest for layer in layers] == [info.digest]
    assert file_digest(tmp_path / "out" / ARCHIVE_FILE) == (info.digest, info.size_bytes)
    assert Layout.open(tmp_path / "out").verify() == built.size_bytes


def test_equal_agents_make_equal_artifacts(tmp_path: Path) -> None:
    digests = set()
    for name in ("one", "two"):
        write_agent_artifact(_program(tmp_path / name), tmp_path / name / "out", version="0.2.0")
        digests.add(describe(tmp_path / name / "out").digest)

    assert len(digests) == 1


def test_an_agent_is_sent_only_with_a_signature_about_itself(tmp_path: Path) -> None:
    key = env.SigningKey(env.KeyRole.RELEASE, pki.new_signing_key())
    write_agent_artifact(_program(tmp_path), tmp_path / "out", version="0.2.0")
    with pytest.raises(NotSigned):
        prepare(tmp_path / "out")

    sign_layout(tmp_path / "out", key)

    assert prepare(tmp_path / "out").name == f"agent-0-2-0-{machine_architecture()}"


def test_a_build_between_two_releases_has_its_own_version() -> None:
    text = '"""Doc."""\n\n__version__ = "0.1.0"\n'

    assert with_version(text, "0.2.0") == text.replace("0.1.0", "0.2.0")
    with pytest.raises(AgentBuildFailed, match="version on one line"):
        with_version("__version__ = make()\n", "0.2.0")
