"""The agent replaces itself, proves itself or is taken back, through power cuts at every write."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from skerry.agent import accept, paths, trial, wanted
from skerry.agent.journal import EventLog
from skerry.lib import pki
from skerry.lib.memory_files import PowerCut
from skerry.wire import envelope as env

from .agent_machine import (
    CHANNEL,
    RELEASE,
    TRIAL_S,
    AgentMachine,
    archive_of,
    live_with_a_cut,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def machine(tmp_path: Path) -> AgentMachine:
    return AgentMachine(tmp_path)


async def test_a_newer_agent_is_put_in_place_runs_and_confirms_itself(
    machine: AgentMachine,
) -> None:
    machine.assign(machine.artifact("0.2.0", "0.2.0 good"))

    await machine.live()

    assert machine.ran == ["a 0.1.0", "b 0.2.0"]
    assert machine.end == ("b", "b 0.2.0", (), "", (), None)
    assert machine.timer_s is None
    assert machine.root.read(f"{paths.SLOTS}/a/lib/part") == b"old"
    events = [event.reason for event in EventLog(machine.root).waiting()]
    assert events == ["AgentUpdated"]


async def test_slots_take_turns(machine: AgentMachine) -> None:
    for version in ("0.2.0", "0.3.0"):
        machine.assign(machine.artifact(version, f"{version} good"))
        await machine.live()

    assert machine.ran == ["a 0.1.0", "b 0.2.0", "b 0.2.0", "a 0.3.0"]
    assert machine.root.read(f"{paths.SLOTS}/b/skerry-agent") == b"0.2.0 good"


async def test_one_that_ends_at_once_is_taken_back_after_three_starts(
    machine: AgentMachine,
) -> None:
    ref = machine.artifact("0.2.0", "0.2.0 crash")
    machine.assign(ref)

    await machine.live()

    assert machine.ran == ["a 0.1.0", *["b 0.2.0"] * 3, "a 0.1.0"]
    assert machine.end == ("a", "a 0.1.0", (ref.digest,), "AgentReturned", (), None)
    assert machine.standing.agent.failed == (ref.digest,)
    told = EventLog(machine.root).waiting()[-1]
    assert told.reason == "AgentReturned"
    assert "was started 3 times without proving itself" in told.message


async def test_one_that_hangs_is_taken_back_when_its_time_is_over(machine: AgentMachine) -> None:
    ref = machine.artifact("0.2.0", "0.2.0 hang")
    machine.assign(ref)

    await machine.live()

    assert machine.ran == ["a 0.1.0", "b 0.2.0", "a 0.1.0"]
    assert machine.end == ("a", "a 0.1.0", (ref.digest,), "AgentReturned", (), None)
    condition = machine.standing.agent_condition
    assert condition is not None
    assert f"did not prove itself within {TRIAL_S} s" in condition.message


async def test_what_failed_is_tried_again_only_when_a_person_asks(machine: AgentMachine) -> None:
    ref = machine.artifact("0.2.0", "0.2.0 crash")
    machine.assign(ref)
    await machine.live()
    machine.ran.clear()

    await machine.live()
    machine.assign(ref)
    await machine.live()
    assert machine.ran == ["a 0.1.0", "a 0.1.0"]

    machine.artifact("0.2.0", "0.2.0 crash")  # its content was dropped after the first try
    machine.assign(ref, retry_failed=1)
    await machine.live()
    assert machine.ran.count("b 0.2.0") == 3
    machine.ran.clear()
    await machine.live()
    assert machine.ran == ["a 0.1.0"], "one request is one more try, also across restarts"


async def test_a_newer_one_is_tried_after_one_that_failed(machine: AgentMachine) -> None:
    machine.assign(machine.artifact("0.2.0", "0.2.0 crash"))
    await machine.live()

    machine.assign(machine.artifact("0.2.1", "0.2.1 good"))
    await machine.live()

    assert machine.end[:2] == ("b", "b 0.2.1")
    assert machine.reason == ""


async def test_one_that_says_another_version_is_never_started(machine: AgentMachine) -> None:
    ref = machine.artifact("0.2.0", "0.2.0 liar")
    machine.assign(ref)

    await machine.live()

    assert machine.ran == ["a 0.1.0"]
    assert machine.end == ("a", "a 0.1.0", (ref.digest,), "AgentUnusable", (), None)


@pytest.mark.parametrize("version", ["0.0.9", "0.1.0", "0.1.0-rc.1", "newest"])
async def test_no_host_is_sent_to_what_is_not_newer(machine: AgentMachine, version: str) -> None:
    machine.assign(machine.artifact(version, f"{version} good"))

    await machine.live()

    assert machine.ran == ["a 0.1.0"]
    assert not machine.root.exists(f"{paths.SLOTS}/b")


async def test_offline_it_may_confirm_after_half_of_its_trial(machine: AgentMachine) -> None:
    machine.assign(machine.artifact("0.2.0", "0.2.0 good"))
    machine.online = False
    assert not await machine.start()  # the switch

    assert not await machine.start()
    assert machine.updater.on_trial()
    machine.clock.advance(TRIAL_S / 2)
    await machine.updater.turn()

    assert not machine.updater.on_trial()
    assert machine.marks == []


async def test_a_manager_that_answers_and_refuses_proves_nothing(machine: AgentMachine) -> None:
    machine.assign(machine.artifact("0.2.0", "0.2.0 good"))
    await machine.start()
    machine.online = False
    await machine.start()
    machine.standing.offline = False

    machine.clock.advance(10 * TRIAL_S)
    await machine.updater.turn()

    assert machine.updater.on_trial()


@pytest.mark.parametrize("kind", ["good", "crash", "hang"])
async def test_a_power_cut_at_any_write_leads_to_the_same_end(tmp_path: Path, kind: str) -> None:
    async def run(cut: int, *, halfway: bool) -> tuple[bool, AgentMachine]:
        machine = AgentMachine(tmp_path)
        machine.assign(machine.artifact("0.2.0", f"0.2.0 {kind}"))
        return await live_with_a_cut(machine, cut, halfway=halfway), machine

    _, whole = await run(10_000, halfway=False)
    wanted_end = whole.end
    cuts = 0
    for halfway in (False, True):
        cut = 1
        while True:
            was_cut, machine = await run(cut, halfway=halfway)
            if not was_cut:
                break
            assert machine.end == wanted_end, f"cut at write {cut}, halfway {halfway}"
            cuts += 1
            cut += 1
    assert cuts > 40


async def test_three_power_cuts_in_a_row_are_not_held_against_it_once(
    machine: AgentMachine,
) -> None:
    ref = machine.artifact("0.2.0", "0.2.0 good")
    machine.assign(ref)
    await machine.start()
    for boot in range(4):
        machine.boots = 10 + boot
        machine.script("start")  # and the power is gone again

    await machine.start()

    assert machine.ran[-1] == "a 0.1.0"
    assert machine.updater.memory().failed == {}
    assert machine.updater.memory().interrupted == {ref.digest: 1}
    await machine.live()
    assert machine.end[:2] == ("b", "b 0.2.0"), "it is tried again, and this time nothing happens"


async def test_the_watchdog_and_the_new_agent_can_not_both_win(machine: AgentMachine) -> None:
    machine.assign(machine.artifact("0.2.0", "0.2.0 good"))
    await machine.start()

    machine.script("late")

    assert not trial.confirm(machine.root)
    assert machine.root.read_link(paths.CURRENT) == "a"


async def test_a_confirmed_agent_is_not_taken_back_by_a_late_watchdog(
    machine: AgentMachine,
) -> None:
    machine.assign(machine.artifact("0.2.0", "0.2.0 good"))
    await machine.start()

    assert trial.confirm(machine.root)
    machine.script("late")
    machine.script("start")

    assert machine.root.read_link(paths.CURRENT) == "b"


async def test_nothing_is_begun_while_a_trial_lasts(machine: AgentMachine) -> None:
    machine.assign(machine.artifact("0.2.0", "0.2.0 good"))
    machine.online = False
    await machine.start()
    machine.engine.faults.step_s = 0
    # Something to do: an assignment without a cluster on a host that has one.
    machine.engine._state = _with_a_cluster(machine)

    await machine.start()
    assert machine.updater.on_trial()
    assert machine.engine._state.cluster_uid == "c-1"

    machine.online = True
    await machine.live()
    assert machine.engine._state.cluster_uid == "", "and it is done when the trial is over"


def _with_a_cluster(machine: AgentMachine) -> object:
    return msgspec.structs.replace(machine.engine._state, cluster_uid="c-1", initialised=True)


class TestRefusals:
    async def test_without_a_release_keys_signature(self, machine: AgentMachine) -> None:
        machine.assign(machine.artifact("0.2.0", "0.2.0 good", signer=CHANNEL))
        await machine.live()
        assert (machine.reason, machine.ran) == ("ReleaseSignatureMissing", ["a 0.1.0"])

    async def test_signed_by_a_stranger(self, machine: AgentMachine) -> None:
        stranger = env.SigningKey(role=env.KeyRole.RELEASE, key=pki.new_signing_key())
        machine.assign(machine.artifact("0.2.0", "0.2.0 good", signer=stranger))
        await machine.live()
        assert (machine.reason, machine.ran) == ("SignatureInvalid", ["a 0.1.0"])

    async def test_for_another_architecture(self, machine: AgentMachine) -> None:
        machine.assign(machine.artifact("0.2.0", "0.2.0 good", arch="s390x"))
        await machine.live()
        assert (machine.reason, machine.ran) == ("ArchitectureMismatch", ["a 0.1.0"])

    async def test_content_that_was_damaged_on_disk(self, machine: AgentMachine) -> None:
        ref = machine.artifact("0.2.0", "0.2.0 good")
        machine.assign(ref)
        damaged = archive_of("0.2.0 evil")
        place = next(p for p, data in machine.root.files.items() if data[:2] == b"\x1f\x8b")
        machine.root.files[place] = damaged

        await machine.live()

        assert machine.ran == ["a 0.1.0"]
        assert machine.reason in ("ArtifactInvalid", "ArtifactMissing")
        assert not machine.root.exists(f"{paths.SLOTS}/b")

    async def test_disk_full_is_said_and_nothing_is_lost(self, machine: AgentMachine) -> None:
        machine.assign(machine.artifact("0.2.0", "0.2.0 good"))
        machine.root.capacity = sum(map(len, machine.root.files.values())) + 10_000

        await machine.live()
        assert (machine.reason, machine.ran) == ("DiskFull", ["a 0.1.0"])

        machine.root.capacity = 1 << 40
        await machine.live()
        assert machine.end[:2] == ("b", "b 0.2.0")


async def test_an_agent_too_old_for_the_manager_still_takes_the_newer_agent(
    machine: AgentMachine,
) -> None:
    ref = machine.artifact("0.2.0", "0.2.0 good")
    envelope = machine.assign(ref, min_protocol=99, accepted=False)
    with pytest.raises(accept.AssignmentRefused, match="protocol 99"):
        accept.accept(machine.root, envelope, machine.identity)

    assert wanted.keep_offer(machine.root, envelope, machine.identity)
    await machine.live()

    assert machine.end[:2] == ("b", "b 0.2.0")
    assert not wanted.keep_offer(machine.root, envelope, machine.identity), "not newer any more"


async def test_an_agent_outside_of_slots_leaves_itself_alone(machine: AgentMachine) -> None:
    machine.assign(machine.artifact("0.2.0", "0.2.0 good"))
    machine.new_process("0.1.0", "")
    await machine.updater.begin()

    await machine.updater.turn()

    assert machine.updater.move() is None


async def test_a_cut_download_goes_on_and_the_running_slot_is_never_written(
    machine: AgentMachine,
) -> None:
    before = {p: d for p, d in machine.root.files.items() if p.startswith(f"{paths.SLOTS}/a/")}
    machine.assign(machine.artifact("0.2.0", "0.2.0 good", signer=RELEASE))
    machine.root.cut_power_at(9)
    with pytest.raises(PowerCut):
        await machine.live()
    await machine.after_power_cut()

    after = {p: d for p, d in machine.root.files.items() if p.startswith(f"{paths.SLOTS}/a/")}
    assert after == before
