"""Screen and serial line at once, on real pseudo-terminals."""

from __future__ import annotations

import os
import pty
from collections.abc import Iterator

import anyio
import pytest

from skerry.agent.installer.terminals import NobodyThere, TtyTerminals, console_devices
from skerry.lib.memory_files import MemoryRoot

pytestmark = pytest.mark.anyio


@pytest.fixture
def lines() -> Iterator[list[tuple[int, str]]]:
    """Two terminals: a person's end and the device's name."""
    made = [pty.openpty() for _ in range(2)]
    yield [(ours, os.ttyname(theirs)) for ours, theirs in made]
    for ours, theirs in made:
        os.close(ours)
        os.close(theirs)


async def test_whoever_answers_first_is_heard_and_all_see_what_is_said(
    lines: list[tuple[int, str]],
) -> None:
    (screen, one), (serial, two) = lines
    terminals = TtyTerminals([one, two])
    terminals.say("Disks:")

    os.write(serial, b"vda\n")
    with anyio.fail_after(5):
        answer = await terminals.ask("Disk: ")

    assert answer == "vda"
    for end in (screen, serial):
        seen = b""
        while b"Disk: " not in seen:
            seen += os.read(end, 100)
        assert b"Disks:\r\n" in seen


async def test_lines_that_were_typed_ahead_are_answers_in_their_order(
    lines: list[tuple[int, str]],
) -> None:
    (screen, one), _ = lines
    terminals = TtyTerminals([one])

    os.write(screen, b"first\n  second  \n")

    with anyio.fail_after(5):
        assert [await terminals.ask("? "), await terminals.ask("? ")] == ["first", "second"]


async def test_a_terminal_that_is_gone_leaves_the_other(lines: list[tuple[int, str]]) -> None:
    (_, one), _ = lines
    reading, writing = os.pipe()
    os.close(writing)
    terminals = TtyTerminals([one, f"/proc/self/fd/{reading}", "/dev/no-such-terminal"])
    (screen, _), _ = lines

    async with anyio.create_task_group() as tg:

        async def type_later() -> None:
            await anyio.sleep(0.1)
            os.write(screen, b"here\n")

        tg.start_soon(type_later)
        with anyio.fail_after(5):
            assert await terminals.ask("? ") == "here"
    os.close(reading)


async def test_without_any_terminal_it_is_an_error_with_a_next_step() -> None:
    terminals = TtyTerminals(["/dev/no-such-terminal"])

    with pytest.raises(NobodyThere) as caught:
        await terminals.ask("? ")

    assert "unattended" in caught.value.hint


def test_the_kernels_consoles_are_the_terminals() -> None:
    root = MemoryRoot(files={"/sys/class/tty/console/active": b"tty0 ttyS0\n"})

    assert console_devices(root) == ["/dev/tty1", "/dev/ttyS0"]
    assert console_devices(MemoryRoot()) == []
