"""One table of reasons, one cause."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

import skerry
from skerry.agent.osengine.engine import OsReason
from skerry.model.meta import Condition
from skerry.model.reasons import REASONS, Severity, explain, why
from skerry.model.refusals import REFUSALS
from skerry.plan.osupdate import OsReturn

SOURCE = Path(skerry.__file__).parent
FACTS = {"host": "till-1", "cluster": "shop", "project": "default"}
HEALTHY = {"Approved", "Synced", "Reconciled", "Ready", "Complete", "Reachable", "Running"}


def bad(kind: str, reason: str, message: str = "", *, at: int = 1) -> Condition:
    since = datetime(2026, 1, at, tzinfo=UTC)
    return Condition(type=kind, status="False", reason=reason, message=message, since=since)


@pytest.mark.parametrize("name", REASONS)
def test_every_reason_has_words_and_a_next_action(name: str) -> None:
    cause = why([bad("Any", name)], FACTS)

    row = REASONS[name]
    assert cause.reason == name
    assert len(row.title) > 5
    assert row.cause.endswith(".")
    assert re.fullmatch(r"skerry(-agent)? [a-z]+( .+)?", cause.next_action)
    assert "{" not in cause.next_action + cause.message
    assert explain(name, FACTS) == row.cause


def test_every_reason_in_the_code_is_in_the_table() -> None:
    found: set[str] = set()
    for part in ("agent", "manager", "plan", "wire", "lib", "model"):
        for path in (SOURCE / part).rglob("*.py"):
            found.update(re.findall(r'reason="([A-Z][A-Za-z]+)"', path.read_text()))

    assert found - set(REASONS) - set(REFUSALS) - HEALTHY == set()


def test_every_reason_of_an_os_engine_and_of_a_return_is_in_the_table() -> None:
    named = {item.value for item in OsReason} | {item.reason for item in OsReturn}

    assert named <= set(REASONS)


def test_an_os_that_was_taken_back_is_the_cause_before_what_waits_for_it() -> None:
    conditions = [
        bad("Reconciled", "InProgress"),
        bad("OsUpdated", "OsReturned", "OS 1.4.0 was not healthy within 675 s"),
        bad("OsHealthy", "OsProblem", "slot b does not verify"),
    ]

    cause = why(conditions, FACTS)

    assert cause.reason == "OsReturned"
    assert cause.next_action == "skerry retry host till-1"


def test_the_cause_is_nearest_to_the_root() -> None:
    conditions = [
        bad("LayersReady", "LayerNotReady", "web waits"),
        bad("KubeletReady", "KubeletNotReady"),
        bad("Reconciled", "DiskFull", "12 MiB left"),
        Condition(type="Synced", status="True", reason="Synced"),
    ]

    cause = why(conditions, FACTS)

    assert (cause.reason, cause.message) == ("DiskFull", "12 MiB left")
    assert cause.chain == (
        "Disk is full: 12 MiB left",
        "kubelet is not ready",
        "Layer is not ready: web waits",
    )
    assert cause.next_action == "skerry describe host till-1"


def test_order_of_conditions_does_not_matter() -> None:
    conditions = [bad("A", "DiskFull"), bad("B", "DnsFailed"), bad("C", "Revoked")]

    assert why(conditions, FACTS) == why(list(reversed(conditions)), FACTS)


def test_no_line_hides_behind_nothing_and_is_quiet() -> None:
    cause = why([bad("Synced", "ManagerUnreachable")], FACTS)

    assert cause.severity == Severity.QUIET


def test_a_real_problem_is_shown_before_work_that_takes_its_time() -> None:
    cause = why([bad("A", "InProgress"), bad("B", "SomethingNew", "odd")], FACTS)

    assert cause.message == "odd"


def test_well_host_has_no_cause() -> None:
    assert why([Condition(type="A", status="True", reason="Ready")], FACTS).reason == ""
    assert why([], {}).next_action == ""


def test_missing_fact_reads_like_a_usage_line() -> None:
    assert why([bad("A", "FailedBefore")], {}).next_action == "skerry edit cluster CLUSTER"


def test_reasons_stand_once() -> None:
    ranks = [row.rank for row in REASONS.values()]

    assert ranks == list(range(len(ranks)))
