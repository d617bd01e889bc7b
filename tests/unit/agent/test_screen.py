"""The screen: golden texts, and what no fact may do to a terminal."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import pytest
import segno
from hypothesis import given, settings
from hypothesis import strategies as st

from skerry.agent import paths
from skerry.agent.firstboot import SiteState
from skerry.agent.screen import Screen, draw, system_name
from skerry.agent.screentext import ScreenFacts, half_blocks, registration_address, render
from skerry.agent.sync import save_status
from skerry.lib.clock import ManualClock
from skerry.lib.memory_files import MemoryRoot
from skerry.lib.proc import FakeRunner

from .screens import FOLDER, LONG, SCREENS, bad, drawn, facts, plain, status

STYLE = re.compile(r"\x1b\[0?[0-9;]*m")


@pytest.mark.parametrize("name", SCREENS)
def test_screens_look_as_they_must(name: str) -> None:
    assert drawn(name) == (FOLDER / f"{name}.txt").read_text()


def test_there_is_no_golden_text_without_a_screen() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(SCREENS)


TEXTS = st.text(max_size=120) | st.sampled_from(
    ["\x1b[2J", "a\x9b31mb", "\x07\r\n", "\u202e", LONG]
)


@settings(deadline=None)
@given(
    TEXTS,
    TEXTS,
    st.sampled_from(["new", "pending", "approved", "denied", "revoked", "\x1bc"]),
    st.integers(0, 200),
    st.integers(0, 70),
    st.booleans(),
)
def test_no_fact_breaks_the_screen(
    one: str, two: str, state: str, columns: int, rows: int, told: bool
) -> None:
    said = status(state, bad("AwaitingApproval", one), host_name=two, manager=f"https://{one}")
    shown = ScreenFacts(
        host_name=one,
        system=two,
        addresses=(one, two),
        fingerprint=two,
        status=said if told else None,
        site=SiteState(conditions=(bad("SiteDataInvalid", two),), manager=(one,)),
        service=two,
    )

    lines = render(shown, columns=columns, rows=rows)

    assert len(lines) == max(rows, 5)
    for line in lines:
        text = STYLE.sub("", line)
        assert text.isprintable() or text == ""
        assert len(text) == max(columns, 20)
        # Whatever was switched on is off at the end of the line.
        assert "\x1b" not in line or line.rstrip(" ").endswith("\x1b[0m")


def test_the_code_on_the_screen_is_the_address_of_the_manager() -> None:
    shown, _ = SCREENS["waiting"]
    assert shown.status is not None
    address = registration_address(shown.status)
    assert address == (
        "https://centre.example:8443/register?code=0A1B-2C3D&fingerprint=0123456789abcdef&host=till-7"
    )
    made = segno.make_qr(address, error="l", boost_error=False)
    wanted = half_blocks([[bool(dark) for dark in row] for row in made.matrix_iter(border=2)])

    screen = [STYLE.sub("", line) for line in render(shown)]

    assert [line[80 - len(wanted[0]) :] for line in screen[1 : len(wanted) + 1]] == wanted


def test_half_blocks_hold_two_rows() -> None:
    assert half_blocks([[True, False, True], [True, True, False], [False, False, True]]) == [
        "█▄▀",
        "  ▀",
    ]


def test_nobody_is_sent_to_approve_a_host_that_does_not_wait() -> None:
    for state in ("new", "approved", "denied", "revoked"):
        assert registration_address(status(state)) == ""


@dataclass
class Paper:
    """A terminal that keeps what is written."""

    written: list[str] = field(default_factory=list)
    columns: int = 80

    def size(self) -> tuple[int, int]:
        return self.columns, 25

    def put(self, text: str) -> None:
        self.written.append(text)


def a_screen() -> tuple[Screen, MemoryRoot, ManualClock, Paper]:
    root, clock, paper = MemoryRoot(), ManualClock(), Paper()
    runner = FakeRunner()
    runner.answer("systemctl", "is-active", stdout="active\n")
    return Screen(root, runner, clock, paper), root, clock, paper


@pytest.mark.anyio
async def test_it_is_redrawn_only_when_something_changed() -> None:
    screen, root, clock, paper = a_screen()
    await screen.turn()
    await screen.turn()
    assert len(paper.written) == 1

    save_status(root, status("pending", bad("AwaitingApproval")))
    await screen.turn()
    assert "0A1B-2C3D" in paper.written[-1]
    paper.columns = 120
    await screen.turn()
    assert len(paper.written) == 3

    clock.advance(61)
    await screen.turn()
    assert len(paper.written) == 4, "the kernel may have written over it"


@pytest.mark.anyio
async def test_a_broken_status_file_is_no_reason_to_show_nothing() -> None:
    screen, root, _, paper = a_screen()
    root.write(paths.STATUS, b"{")
    root.write(paths.SITE_STATE, b"\xff")

    await screen.turn()

    assert "not registered" in paper.written[-1]


@pytest.mark.anyio
async def test_the_terminal_is_left_as_it_was() -> None:
    screen, _, _, paper = a_screen()

    await screen.run(goes_on=iter([False]).__next__)

    assert paper.written[0].endswith("\x1b[?25l\x1b[2J")
    assert paper.written[-1].startswith("\x1b[0m")
    assert paper.written[-1].endswith("\x1b[?25h")


def test_drawing_is_one_text_from_the_first_place_to_the_last() -> None:
    text = draw(("one", "two"))

    assert text == "\x1b[?25l\x1b[0m\x1b[Hone\r\ntwo\x1b[0m"


def test_the_system_is_named_by_its_image() -> None:
    assert system_name('NAME=x\nIMAGE_ID="edge"\nIMAGE_VERSION=1.2.3\n') == "edge 1.2.3"
    assert system_name('PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\n').startswith("Debian")
    assert system_name("") == ""


def test_a_dead_agent_is_the_cause_even_when_all_was_well() -> None:
    text = plain(render(facts(status("approved"), service="failed")))

    assert "Agent failed" in text
    assert "Nothing is wrong" not in text
