"""The watchdog script in a real shell: it counts, returns, and survives a cut at any command."""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest

SCRIPT = files("skerry.agent").joinpath("watchdog.sh").read_text()
CHANGING = ("mv", "ln", "sync")
WRAPPER = """\
#!/bin/sh
n=$(($(cat "$COUNT") + 1)); echo $n > "$COUNT"
[ "$n$WHEN" = "${CUT}before" ] && kill -9 $PPID && exit 1
REAL "$@"; code=$?
[ "$n$WHEN" = "${CUT}after" ] && kill -9 $PPID
exit $code
"""


class Site:
    """A host's two folders, and programs that can cut the power."""

    def __init__(self, tmp: Path, *, current: str = "b", starts: int = 0, mark: bool = True):
        shutil.rmtree(tmp, ignore_errors=True)
        self.tmp, self.state, self.slots = tmp, tmp / "state", tmp / "slots"
        self.programs = tmp / "bin"
        for folder in (self.state, self.slots, self.programs):
            folder.mkdir(parents=True)
        (self.slots / "current").symlink_to(current)
        if mark:
            (self.state / "trial").write_text("b a 3 600 0.2.0 sha256:00\n")
        if starts:
            (self.state / "starts").write_text("start boot\n" * starts)
        for name in CHANGING:
            real = shutil.which(name) if name != "sync" else "true"
            assert real is not None
            self._program(name, WRAPPER.replace("REAL", real))
        self._program("systemctl", f'#!/bin/sh\necho "$*" >> {tmp}/systemctl\n')

    def _program(self, name: str, text: str) -> None:
        (self.programs / name).write_text(text)
        (self.programs / name).chmod(0o755)

    def run(self, word: str, *, cut: int = 0, when: str = "before") -> int:
        """Exit code; with a cut the script dies around its `cut`-th changing command."""
        (self.tmp / "count").write_text("0")
        text = SCRIPT.replace("=/var/lib/skerry/agent\n", f"={self.state}\n")
        text = text.replace("=/opt/skerry/agent\n", f"={self.slots}\n")
        assert str(self.state) in text
        assert str(self.slots) in text
        more = {
            "PATH": f"{self.programs}:{os.environ['PATH']}",
            "COUNT": str(self.tmp / "count"),
            "CUT": str(cut),
            "WHEN": when,
        }
        argv = ["sh", "-c", text, "watchdog", word]
        return subprocess.run(argv, check=False, env={**os.environ, **more}).returncode

    @property
    def current(self) -> str:
        return os.readlink(self.slots / "current")

    @property
    def marks(self) -> list[str]:
        return sorted(item.name for item in self.state.iterdir() if item.name != "starts")

    @property
    def asked(self) -> list[str]:
        place = self.tmp / "systemctl"
        return place.read_text().splitlines() if place.exists() else []


def test_each_start_of_the_new_agent_is_counted_and_the_fourth_returns(tmp_path: Path) -> None:
    site = Site(tmp_path / "site")

    for count in (1, 2, 3):
        assert site.run("start") == 0
        assert len((site.state / "starts").read_text().splitlines()) == count
        assert (site.current, site.marks) == ("b", ["trial"])
    assert site.run("start") == 0

    assert (site.current, site.marks) == ("a", ["returned"])
    assert len((site.state / "starts").read_text().splitlines()) == 3
    assert site.asked == [], "systemd goes on with the start by itself"


def test_the_old_agent_starting_is_not_counted(tmp_path: Path) -> None:
    site = Site(tmp_path / "site", current="a")

    for _ in range(5):
        site.run("start")

    assert (site.current, site.marks) == ("a", ["trial"])


def test_when_the_time_is_over_it_returns_and_restarts(tmp_path: Path) -> None:
    site = Site(tmp_path / "site", starts=1)

    assert site.run("late") == 0

    assert (site.current, site.marks) == ("a", ["returned"])
    assert (site.state / "starts").read_text().endswith("late\n")
    assert site.asked == [
        "kill --signal=KILL skerry-agent.service",
        "--no-block restart skerry-agent.service",
    ]


@pytest.mark.parametrize("word", ["start", "late"])
def test_without_a_trial_it_does_nothing(tmp_path: Path, word: str) -> None:
    site = Site(tmp_path / "site", mark=False)

    assert site.run(word) == 0

    assert (site.current, site.marks, site.asked) == ("b", [], [])


def test_a_wrong_word_is_refused(tmp_path: Path) -> None:
    site = Site(tmp_path / "site")

    assert site.run("stop") == 2
    assert (site.current, site.marks) == ("b", ["trial"])


@pytest.mark.parametrize("word", ["start", "late"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_power_cut_around_any_command_is_made_good_at_the_next_start(
    tmp_path: Path, word: str, when: str
) -> None:
    cuts = 0
    for cut in range(1, 20):
        site = Site(tmp_path / "site", starts=3)
        if site.run(word, cut=cut, when=when) == 0:
            break
        assert site.current in ("a", "b"), "the link is never gone"
        cuts += 1

        assert site.run("start") == 0

        assert site.current == "a", f"cut {when} command {cut}"
        assert site.marks == ["returned"], f"cut {when} command {cut}"
    assert cuts >= 6
