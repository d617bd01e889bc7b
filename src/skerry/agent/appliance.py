"""The commands of `skerry-agent` that only skerry's own appliance needs.

Their code is imported when one of them runs: the agent that works all day does not carry it.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

import anyio

from skerry.lib.errors import SkerryError
from skerry.lib.files import DiskRoot
from skerry.lib.proc import SystemRunner

if TYPE_CHECKING:
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
