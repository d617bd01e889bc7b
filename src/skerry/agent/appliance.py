"""The commands of `skerry-agent` that only skerry's own appliance needs.

Their code is imported when one of them runs: the agent that works all day does not carry it.
"""

from __future__ import annotations

import argparse
import signal
import sys
from typing import TYPE_CHECKING

import anyio

from skerry.lib.errors import SkerryError
from skerry.lib.files import DiskRoot, Root
from skerry.lib.proc import SystemRunner

if TYPE_CHECKING:
    from skerry.agent.firstboot import FirstBoot
    from skerry.agent.installer.program import Wish
    from skerry.agent.installer.terminals import Terminals


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The subcommands, into the agent's parser."""
    install = commands.add_parser(
        "install", help="install skerry from the medium that this machine was started from"
    )
    install.add_argument(
        "--unattended", action="store_true", help="ask nothing: install by the site data, or fail"
    )
    install.add_argument(
        "--source", default="", metavar="DISK", help="the medium (default: found by its partitions)"
    )
    install.add_argument("--stay", action="store_true", help="do not restart or switch off")
    install.add_argument(
        "--loop", action="store_true", help="loop devices count as disks, for trials"
    )
    install.add_argument(
        "--console",
        action="append",
        default=[],
        metavar="DEVICE",
        help="terminal to ask on, as often as needed (default: this one, or the kernel's consoles)",
    )
    install.set_defaults(run=_install)

    site = commands.add_parser(
        "site", help="make network, time and host name as the site data says (before the network)"
    )
    site.set_defaults(run=_site)
    first = commands.add_parser(
        "first-boot", help="register this host by its site data, however long it takes"
    )
    first.set_defaults(run=_first_boot)
    screen = commands.add_parser(
        "screen", help="show this host's state, and a code to scan, until it is stopped"
    )
    screen.add_argument(
        "--terminal", default="", metavar="DEVICE", help="such as /dev/tty1 (default: this one)"
    )
    screen.set_defaults(run=_screen)


def before_registration(root: Root) -> str:
    """What `status` shows of an appliance that no manager knows; empty on other hosts."""
    from skerry.agent.firstboot import load_site_state
    from skerry.agent.show import cause_lines
    from skerry.model.reasons import why

    state = load_site_state(root)
    if not state.conditions:
        return ""
    told = [f"told by  {place}" for place in state.sources]
    manager = ", ".join(state.manager) or "none yet"
    lines = [f"manager  {manager}", *told, "", *cause_lines(why(state.conditions, {}))]
    return "\n".join(lines)


def _site(_: argparse.Namespace) -> int:
    found = anyio.run(_made().apply)
    for place in found.places():
        print(f"site data: {place}")
    for problem in found.problems:
        print(f"problem: {problem.path}: {problem.message}", file=sys.stderr)
    return 0


def _first_boot(_: argparse.Namespace) -> int:
    anyio.run(_made().run)
    return 0


def _made() -> FirstBoot:
    from skerry.agent.firstboot import FirstBoot, fetch_authority
    from skerry.agent.mounting import KernelMounts
    from skerry.agent.sitesources import credentials_folder
    from skerry.lib.clock import SystemClock
    from skerry.lib.hostname import set_host_name

    root, runner = DiskRoot("/"), SystemRunner()
    return FirstBoot(
        root=root,
        runner=runner,
        mounts=KernelMounts(root, runner),
        clock=SystemClock(),
        fetch=fetch_authority,
        set_host_name=set_host_name,
        credentials=credentials_folder(),
    )


def _screen(arguments: argparse.Namespace) -> int:
    anyio.run(_show, arguments.terminal)
    return 0


async def _show(device: str) -> None:
    """Until SIGTERM or SIGINT; the terminal is left clean."""
    from skerry.agent.screen import Screen, TtyDisplay
    from skerry.lib.clock import SystemClock

    screen = Screen(DiskRoot("/"), SystemRunner(), SystemClock(), TtyDisplay(device))
    async with anyio.create_task_group() as tg:

        async def stop() -> None:
            with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                async for _ in signals:
                    tg.cancel_scope.cancel()
                    return

        tg.start_soon(stop)
        await screen.run()


def _install(arguments: argparse.Namespace) -> int:
    from skerry.agent.installer.program import Wish
    from skerry.agent.installer.terminals import TtyTerminals, console_devices
    from skerry.agent.sitesources import credentials_folder

    here = sys.stdin.isatty() or arguments.unattended
    devices = arguments.console or ([] if here else console_devices(DiskRoot("/")))
    wish = Wish(
        unattended=arguments.unattended,
        source=arguments.source,
        stay=arguments.stay,
        kinds=("disk", "loop") if arguments.loop else ("disk",),
        credentials=credentials_folder(),
    )
    return anyio.run(_install_on, TtyTerminals(devices), wish)


async def _install_on(terminals: Terminals, wish: Wish) -> int:
    """Until it is done, or nobody is there to try again."""
    from skerry.agent.installer.program import install
    from skerry.agent.installer.write import Doors
    from skerry.agent.mounting import KernelMounts
    from skerry.lib.blocks import SystemBlocks

    root, runner = DiskRoot("/"), SystemRunner()
    doors = Doors(
        root=root,
        runner=runner,
        blocks=SystemBlocks(),
        mounts=KernelMounts(root, runner),
        say=terminals.say,
    )
    while True:
        try:
            return 0 if await install(doors, terminals, wish) else 1
        except SkerryError as exc:
            if wish.unattended:
                raise
            terminals.say(f"error: {exc.message}")
            if exc.hint:
                terminals.say(f"  next: {exc.hint}")
        await terminals.ask("Press Enter to begin again: ")
