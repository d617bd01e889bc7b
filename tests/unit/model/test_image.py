"""Image definitions: everything that is wrong is said at once, with its place."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from skerry.model.image import read_definition
from skerry.model.problems import DocumentInvalid


def document(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "skerry.dev/v1",
        "kind": "Image",
        "metadata": {"name": "shop"},
        "spec": {"version": "1.2.0", **spec},
    }


def problems(raw: Any) -> dict[str, str]:
    with pytest.raises(DocumentInvalid) as caught:
        read_definition(raw)
    return {problem.path: problem.message for problem in caught.value.problems}


def test_a_small_definition_is_enough() -> None:
    found = read_definition(document())

    assert found.name == "shop"
    assert found.spec.base.release == "trixie"
    assert found.spec.agent is True


def test_a_date_may_be_written_as_yaml_reads_it_or_as_text() -> None:
    by_yaml = read_definition(document(base={"asOf": dt.date(2026, 11, 25)}))
    by_text = read_definition(document(base={"asOf": "2026-11-25"}))

    assert by_yaml == by_text


def test_all_problems_of_form_come_at_once() -> None:
    found = problems(
        {
            "kind": "Imag",
            "metadata": {"name": "No Good"},
            "extra": 1,
            "spec": {
                "version": "one",
                "packagez": [],
                "packages": ["ok", "not ok", "also bad!"],
                "files": [{"path": "/etc/x", "mode": "rwx"}, {"mode": "0644"}, 7],
                "sizes": {"rootMib": 1},
            },
        }
    )

    assert set(found) == {
        "kind",
        "extra",
        "metadata.name",
        "spec.version",
        "spec.packagez",
        "spec.packages[1]",
        "spec.packages[2]",
        "spec.files[0].mode",
        "spec.files[1].path",
        "spec.files[2]",
        "spec.sizes.rootMib",
    }


def test_a_near_word_is_offered_for_an_unknown_field() -> None:
    with pytest.raises(DocumentInvalid) as caught:
        read_definition(document(packagez=[]))

    assert caught.value.problems[0].hint == "did you mean 'packages'?"


def test_all_problems_of_meaning_come_at_once() -> None:
    found = problems(
        document(
            files=[
                {"path": "etc/x", "content": ""},
                {"path": "/var/x", "content": ""},
                {"path": "/etc/../x", "content": ""},
                {"path": "/etc/y"},
                {"path": "/etc/z", "content": "", "source": "z"},
                {"path": "/etc/s", "source": "../secret"},
                {"path": "/etc/s", "source": "s"},
            ],
            users=[{"name": "root"}, {"name": "ada"}, {"name": "ada"}],
            kernel={"arguments": ["roothash=00", "systemd.verity=0", "nosmt"]},
            units={"enable": ["ssh.service"], "mask": ["ssh.service"]},
            trustRoots=[{"name": "own"}],
        )
    )

    assert set(found) == {
        "spec.files[0].path",
        "spec.files[1].path",
        "spec.files[2].path",
        "spec.files[3]",
        "spec.files[4]",
        "spec.files[5].source",
        "spec.files[6].path",
        "spec.users[0].name",
        "spec.users[2].name",
        "spec.kernel.arguments[0]",
        "spec.kernel.arguments[1]",
        "spec.units",
        "spec.trustRoots[0]",
    }


@pytest.mark.parametrize("raw", [None, [], "text", 1])
def test_what_is_no_mapping_is_refused(raw: Any) -> None:
    assert problems(raw) == {"": "an image definition is a mapping"}


def test_a_password_has_to_be_a_hash() -> None:
    found = problems(document(users=[{"name": "ada", "passwordHash": "secret"}]))

    assert list(found) == ["spec.users[0].passwordHash"]


def test_a_document_that_is_wrong_everywhere_is_answered_in_bearable_length() -> None:
    with pytest.raises(DocumentInvalid) as caught:
        read_definition(document(packages=["!"] * 100_000))

    assert len(caught.value.problems) == 101
