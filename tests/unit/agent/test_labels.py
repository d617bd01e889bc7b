"""Labels of a host from settings, file and script: problems by name, nothing secret repeated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from skerry.agent import paths
from skerry.agent.labels import EVERY_S, Gathered, LabelSource, check_settings, follow
from skerry.agent.settings import AgentSettings, LabelFile, LabelScript, parse
from skerry.lib.clock import ManualClock
from skerry.lib.memory_files import MemoryRoot
from skerry.lib.proc import CommandMissing, CommandTimedOut, FakeRunner, Result, SystemRunner
from skerry.model.labels import MAX_HOST_LABELS

pytestmark = pytest.mark.anyio

FULL = b"""
site: harbour-north
labels: {tier: shop}
labelsFromFile: {path: /etc/skerry/labels, delimiter: ";", separator: "="}
labelsFromScript: {path: /etc/skerry/labels.sh, timeoutS: 5}
"""


def test_settings_are_read() -> None:
    settings, problems = parse(FULL)

    assert problems == []
    assert settings == AgentSettings(
        site="harbour-north",
        labels={"tier": "shop"},
        from_file=LabelFile(path="/etc/skerry/labels", delimiter=";", separator="="),
        from_script=LabelScript(path="/etc/skerry/labels.sh", timeout_s=5),
    )
    assert parse(b"") == (AgentSettings(), [])
    script, _ = parse(b"labelsFromScript: {path: /x}")
    assert script.from_script == LabelScript(path="/x", timeout_s=60)


def test_all_problems_of_the_settings_come_at_once_and_by_name() -> None:
    settings, problems = parse(
        b"sit: north\nlabels: [a]\nlabelsFromFile: {path: labels, separator: '', extra: 1}\n"
        b"labelsFromScript: {timeoutS: 5000}\nsite: 4\n"
    )

    assert settings == AgentSettings()
    assert {item.path: item.message for item in problems} == {
        "sit": "unknown field",
        "labels": "must be a mapping, is a list",
        "site": "must be text, is a number",
        "labelsFromFile.extra": "unknown field",
        "labelsFromFile.path": "is not an absolute path",
        "labelsFromFile.separator": "is empty",
        "labelsFromScript.timeoutS": "must be from 1 to 300 seconds, is 5000",
        "labelsFromScript.path": "is missing",
    }
    assert next(item.hint for item in problems if item.path == "sit") == "did you mean 'site'?"


@pytest.mark.parametrize(
    "data", [b"[1]", b"a: b: c", b"\xff\xfe", b"text", b"labelsFromFile: x", b"? [a]\n: b\n"]
)
def test_what_is_no_settings_file_is_said_and_not_used(data: bytes) -> None:
    settings, problems = parse(data)

    assert settings == AgentSettings()
    assert problems


@dataclass
class Bench:
    root: MemoryRoot = field(default_factory=MemoryRoot)
    runner: Any = field(default_factory=FakeRunner)
    fixed: dict[str, str] = field(default_factory=dict)

    def write(self, path: str, text: str) -> None:
        self.root.write(path, text.encode())

    async def gather(self) -> Gathered:
        return await LabelSource(self.root, self.runner, self.fixed).gather()


async def test_the_nearest_to_a_person_wins() -> None:
    bench = Bench(fixed={"a": "option"})
    bench.write(
        paths.SETTINGS,
        "labels: {a: data, b: data}\nlabelsFromFile: {path: /l}\nlabelsFromScript: {path: /s}\n",
    )
    bench.write("/l", "# racks\na: file\nb: file\n\nc : file \n")
    bench.runner.answer("/s", stdout='{"a": "s", "b": "s", "c": "s", "d": 4, "e": true}')

    found = await bench.gather()

    assert found.labels == {"a": "option", "b": "data", "c": "file", "d": "4", "e": "true"}
    assert found.note is None


@pytest.mark.parametrize(
    ("stdout", "code", "message"),
    [
        ("planted-secret", 0, "is not JSON"),
        ('["planted-secret"]', 0, "a list, not an object"),
        ('{"a": "planted-secret with blanks"}', 0, "labelsFromScript.a: the value is not"),
        ('{"a": {"b": "planted-secret"}}', 0, "labelsFromScript.a: the value is not"),
        ("planted-secret", 3, "ended with exit code 3"),
        ("x" * 70_000, 0, "printed more than"),
    ],
)
async def test_a_bad_script_is_named_without_what_it_printed(
    stdout: str, code: int, message: str
) -> None:
    bench = Bench()
    bench.write(paths.SETTINGS, "labels: {b: '1'}\nlabelsFromScript: {path: /s}\n")
    bench.runner.answer("/s", stdout=stdout, stderr="planted-secret", exit_code=code)

    found = await bench.gather()

    assert found.labels == {"b": "1"}, "the others count"
    assert found.note is not None
    assert found.note.reason == "LabelsInvalid"
    assert message in found.note.message
    assert "planted-secret" not in found.note.message


async def test_a_script_that_fails_once_moves_no_host() -> None:
    bench = Bench()
    bench.write(paths.SETTINGS, "labelsFromScript: {path: /s}\n")
    bench.runner.answer("/s", stdout='{"rack": "4"}')
    await bench.gather()

    bench.runner.fail("/s")
    found = await bench.gather()
    bench.runner.answer("/s", stdout='{"rack": "5"}')
    later = await bench.gather()
    bench.write(paths.SETTINGS, "{}")
    without = await bench.gather()

    assert found.labels == {"rack": "4"}
    assert found.note is not None
    assert (later.labels, later.note) == ({"rack": "5"}, None)
    assert without.labels == {}


@pytest.mark.parametrize("error", [CommandTimedOut(["/s"], 5), CommandMissing("/s"), OSError(8)])
async def test_a_script_that_cannot_run_is_named(error: Exception) -> None:
    class Broken(FakeRunner):
        async def run(self, argv: Sequence[str], **more: Any) -> Result:
            raise error

    bench = Bench(runner=Broken())
    bench.write(paths.SETTINGS, "labelsFromScript: {path: /s}\n")

    found = await bench.gather()

    assert found.note is not None
    assert "/s" in found.note.message


async def test_a_real_script_is_run_and_ended_at_its_limit(tmp_path: Any) -> None:
    script = tmp_path / "labels.sh"
    script.write_text('#!/bin/sh\nprintf \'{"rack": "r%s"}\' 7\n')
    script.chmod(0o755)
    slow = tmp_path / "slow.sh"
    slow.write_text("#!/bin/sh\nsleep 60\n")
    slow.chmod(0o755)
    plain = tmp_path / "plain.sh"
    plain.write_text("echo {}")
    bench = Bench(runner=SystemRunner())

    bench.write(paths.SETTINGS, f"labelsFromScript: {{path: {script}}}\n")
    good = await bench.gather()
    bench.write(paths.SETTINGS, f"labelsFromScript: {{path: {slow}, timeoutS: 1}}\n")
    late = await bench.gather()
    bench.write(paths.SETTINGS, f"labelsFromScript: {{path: {plain}}}\n")
    closed = await bench.gather()

    assert good.labels == {"rack": "r7"}
    assert late.note is not None
    assert "within 1 s" in late.note.message
    assert closed.note is not None
    assert "executable" in closed.note.message


async def test_wrong_settings_are_told_with_every_field_and_the_host_goes_on() -> None:
    bench = Bench(fixed={"a": "1"})
    bench.write(paths.SETTINGS, "sit: north\nlabel: {}\n")

    found = await bench.gather()

    assert found.labels == {"a": "1"}
    assert found.note is not None
    assert found.note.reason == "SettingsInvalid"
    assert "sit: unknown field" in found.note.message
    assert "label: unknown field" in found.note.message


async def test_files_are_bounded_and_labels_are_counted() -> None:
    bench = Bench()
    bench.write(paths.SETTINGS, "labelsFromFile: {path: /l}\n")
    bench.write("/l", "\n".join(f"k{index}: v" for index in range(MAX_HOST_LABELS + 5)))
    many = await bench.gather()
    bench.write("/l", "x" * 70_000)
    large = await bench.gather()
    bench.write("/l", "no separator here")
    wrong = await bench.gather()
    bench.root.remove("/l")
    gone = await bench.gather()

    assert len(many.labels) == MAX_HOST_LABELS
    assert many.note is not None
    for found, words in ((large, "larger than"), (wrong, "has no ':'"), (gone, "there is no /l")):
        assert found.note is not None
        assert words in found.note.message


async def test_register_refuses_a_wrong_form_and_only_warns_of_labels() -> None:
    root = MemoryRoot()
    root.write(paths.SETTINGS, b"labels: {'bad key': x, good: y}\n")
    settings, problems = check_settings(root)
    assert settings.labels["good"] == "y"
    assert len(problems) == 1

    root.write(paths.SETTINGS, b"nope: 1\n")
    settings, problems = check_settings(root)
    assert settings == AgentSettings()
    assert len(problems) == 1


async def test_changes_are_followed(anyio_backend: str) -> None:
    import anyio

    bench = Bench()
    clock = ManualClock()
    seen: list[dict[str, str]] = []

    async def take(now: Gathered) -> None:
        seen.append(now.labels)

    source = LabelSource(bench.root, bench.runner, {})
    async with anyio.create_task_group() as tg:
        tg.start_soon(follow, source, clock, await source.gather(), take)
        for text in ("labels: {a: '1'}", "labels: {a: '1'}", "labels: {a: '2'}"):
            await anyio.wait_all_tasks_blocked()
            bench.write(paths.SETTINGS, text)
            clock.advance(EVERY_S)
        await anyio.wait_all_tasks_blocked()
        tg.cancel_scope.cancel()

    assert seen == [{"a": "1"}, {"a": "2"}]
