"""The agent's archive: only what it needs goes in, and what it asks of a host is measured."""

from __future__ import annotations

import io
from pathlib import Path

from skerry.builder.agent import archive_entries, dependency_names, glibc_floor, lock_subset
from skerry.builder.tarball import write_tar

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
