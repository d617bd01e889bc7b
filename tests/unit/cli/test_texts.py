"""What a tired person reads: the command line against a manager that answers from a script."""

from __future__ import annotations

import io
from typing import Any

import httpx2
import pytest

from skerry.cli.main import cli
from skerry.cli.session import Surroundings
from skerry.client.fake import Answer, FakeManager, says

ENV = {"SKERRY_SERVER": "http://127.0.0.1:1", "SKERRY_TOKEN": "key-1"}


def run(
    capsys: pytest.CaptureFixture[str], *arguments: str, answers: list[Answer] | None = None
) -> tuple[int, str, str]:
    """(exit code, standard output, standard error)."""
    manager = FakeManager(answers or [says({})])
    own = Surroundings(
        env=ENV, transport=httpx2.MockTransport(manager._handle), clock=manager.clock
    )
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments), obj=own)
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def host(name: str, **status: Any) -> dict[str, Any]:
    return {
        "kind": "Host",
        "metadata": {"name": name, "project": "default", "revision": 3},
        "spec": {"site": "pier"},
        "status": status,
    }


@pytest.mark.parametrize("group", [(), ("audit",), ("backup",), ("lab",), ("context",)])
def test_a_group_alone_shows_what_there_is_and_no_error(
    capsys: pytest.CaptureFixture[str], group: tuple[str, ...]
) -> None:
    code, _, said = run(capsys, *group)

    assert code == 2
    assert said.startswith("Usage: skerry")
    assert "error" not in said.lower().split("options:")[0]


def test_a_missing_object_says_where_to_look(capsys: pytest.CaptureFixture[str]) -> None:
    gone = says({"detail": "Host default/till-9 does not exist"}, status=404)

    code, out, said = run(capsys, "get", "host", "till-9", answers=[gone])

    assert (code, out) == (3, "")
    assert said == (
        "error: Host default/till-9 does not exist\n"
        "  next: see what there is: skerry get hosts --all-projects\n"
    )


def test_an_empty_list_is_one_line_and_has_no_head(capsys: pytest.CaptureFixture[str]) -> None:
    nothing = says({"items": [], "revision": 1, "total": 0})

    assert run(capsys, "get", "hosts", answers=[nothing]) == (
        0,
        "",
        "no hosts in project default\n",
    )
    code, out, said = run(capsys, "get", "hosts", "-l", "tier=x", answers=[nothing])
    assert (code, out, said) == (0, "", "no hosts in project default match\n")


def test_a_host_that_waits_is_pending_also_when_its_document_leaves_the_default_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = says({"items": [host("till-1")], "revision": 1, "total": 1})

    _, out, _ = run(capsys, "get", "hosts", answers=[found])

    head, row = out.splitlines()
    assert row[head.index("STATUS") :].startswith("Pending")


def test_describe_tells_the_cause_before_the_details(capsys: pytest.CaptureFixture[str]) -> None:
    cause = {
        "reason": "DiskFull",
        "severity": "error",
        "title": "Disk is full",
        "message": "212 MiB left",
        "nextAction": "skerry describe host till-1",
        "chain": ["Disk is full: 212 MiB left"],
    }
    answers = [says(host("till-1", publicKey="PEM")), says({"items": []}), says(cause)]

    code, out, said = run(capsys, "describe", "host", "till-1", answers=answers)

    assert code == 0, said
    assert out.index("Disk is full (DiskFull)") < out.index("publicKey")


def test_changing_someone_else_s_password_does_not_ask_to_sign_in_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("kelp and granite 7\n"))
    answers = [says({"subject": "user:admin"}), says({})]

    _, out, _ = run(capsys, "password", "olga", "--password-stdin", answers=answers)

    assert out == "password of olga changed; all sessions of olga have ended\n"
