"""`skerry-agent`: run, register, status, import, remove, and what an appliance needs.

The command line is argparse: click is not among the few libraries that the agent carries.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from urllib.parse import urlsplit

import anyio
import msgspec
import structlog

from skerry import __version__
from skerry.agent import appliance, bundle, paths, register
from skerry.agent.clockfloor import ClockFloor, SetClock
from skerry.agent.content import ContentStore
from skerry.agent.core import Parts, run_agent
from skerry.agent.facts import architecture, in_container
from skerry.agent.identity import Identity, load_identity
from skerry.agent.kube.kubeadm import KubeadmEngine
from skerry.agent.labels import check_settings
from skerry.agent.osengine.detect import OsDoors, make_engine
from skerry.agent.remove import remove_agent
from skerry.agent.settings import AgentSettings
from skerry.agent.slots import slot_of
from skerry.agent.sync import load_status
from skerry.lib.clock import SystemClock, set_system_clock
from skerry.lib.errors import SkerryError
from skerry.lib.files import DiskRoot, Root
from skerry.lib.proc import Runner, SystemRunner
from skerry.model.labels import host_labels
from skerry.model.problems import DocumentInvalid


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; the exit code."""
    arguments = parser().parse_args(argv)
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.DEBUG if os.environ.get("SKERRY_DEBUG") else logging.INFO
        ),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"]),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    try:
        return int(arguments.run(arguments))
    except SkerryError as exc:
        print(f"error: {exc.message}", file=sys.stderr)
        if exc.hint:
            print(f"  next: {exc.hint}", file=sys.stderr)
        return exc.exit_code
    except KeyboardInterrupt:
        return 130


def parser() -> argparse.ArgumentParser:
    """What the command line takes; the reference is made from it."""
    parser = argparse.ArgumentParser(prog="skerry-agent", description="skerry's host agent")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="work for the manager (the service runs this)")
    run.set_defaults(run=_run)
    reg = commands.add_parser("register", help="tell this host which manager it belongs to")
    reg.add_argument("--manager", required=True, help="address, https://NAME:PORT")
    reg.add_argument("--trust", required=True, help="file with the manager's root certificate")
    reg.add_argument("--site", default="", help="site to register at")
    reg.add_argument(
        "--label", action="append", default=[], metavar="KEY=VALUE", help="label to register with"
    )
    reg.add_argument("--proxy", default="", help="HTTP proxy to the manager (or SKERRY_PROXY)")
    reg.set_defaults(run=_register)
    imp = commands.add_parser("import", help="take over a bundle file")
    imp.add_argument("file", help="bundle made by 'skerry bundle export'")
    imp.set_defaults(run=_import)
    remove = commands.add_parser("remove", help="remove skerry and its cluster from this host")
    remove.add_argument("--yes", action="store_true", help="do it without asking")
    remove.set_defaults(run=_remove)
    clock = commands.add_parser(
        "clock", help="step the clock to the newest time that the manager signed, if it is behind"
    )
    clock.set_defaults(run=_clock)
    status = commands.add_parser("status", help="what this host is and what it waits for")
    status.add_argument(
        "-o", "--output", choices=("text", "json"), default="text", help="text (default) or json"
    )
    status.set_defaults(run=_status)
    appliance.add_commands(commands)
    return parser


def _run(_: argparse.Namespace) -> int:
    anyio.run(_work)
    return 0


async def _work() -> None:
    clock, runner, root = SystemClock(), SystemRunner(), DiskRoot("/")
    await run_agent(
        Parts(
            root=root,
            runner=runner,
            clock=clock,
            engine=lambda content: KubeadmEngine(runner, root, clock, content),
            os_engine=lambda content: make_engine(
                OsDoors(root, runner, content, clock, architecture())
            ),
            slot=slot_of(os.path.realpath(sys.executable)),
            set_clock=await _set_clock(runner),
        )
    )


async def _set_clock(runner: Runner) -> SetClock | None:
    """A container's clock is the outer machine's: never touched."""
    return None if await in_container(runner) else set_system_clock


def _clock(_: argparse.Namespace) -> int:
    anyio.run(_hold_clock)
    return 0


async def _hold_clock() -> None:
    root, runner = DiskRoot("/"), SystemRunner()
    floor = ClockFloor(root, runner, SystemClock(), await _set_clock(runner))
    floor.saw_assignment(load_identity(root))
    print(await floor.hold() or "the clock is left as it is")


def _register(arguments: argparse.Namespace) -> int:
    root: Root = DiskRoot("/")
    labels = dict(_label(text) for text in arguments.label)
    _, refused = host_labels("--label", labels)
    if refused:
        raise DocumentInvalid("the command line", refused)
    settings, problems = check_settings(root)
    if problems and settings == AgentSettings():
        raise DocumentInvalid(paths.SETTINGS, problems)
    for problem in problems:
        print(f"warning: {problem.path}: {problem.message}", file=sys.stderr)
    address = urlsplit(arguments.manager)
    if address.scheme != "https" or not address.hostname:
        raise SkerryError(
            f"not a manager's address: {arguments.manager!r}", hint="write https://NAME:PORT"
        )
    with open(arguments.trust, encoding="utf-8") as stream:
        trust = stream.read()
    register.prepare(
        root,
        Identity(
            manager=arguments.manager.rstrip("/"),
            authorities=(trust,),
            site=arguments.site,
            labels=labels,
            proxy=arguments.proxy or os.environ.get("SKERRY_PROXY", ""),
        ),
        token=os.environ.get("SKERRY_TOKEN", ""),
        pairing_key=os.environ.get("SKERRY_PAIRING_KEY", ""),
    )
    print(f"registering with {arguments.manager}; see 'skerry-agent status'")
    return 0


def _import(arguments: argparse.Namespace) -> int:
    root = DiskRoot("/")
    try:
        with open(arguments.file, "rb") as stream:
            taken = bundle.import_bundle(root, load_identity(root), stream)
    except FileNotFoundError as exc:
        raise SkerryError(f"no such file: {arguments.file}") from exc
    print(f"imported epoch {taken.epoch}; the agent carries it out, see 'skerry-agent status'")
    return 0


def _remove(arguments: argparse.Namespace) -> int:
    if not arguments.yes:
        print("this removes the cluster on this host with all its data, and the agent itself")
        if input("type 'remove' to go on: ").strip() != "remove":
            print("nothing was changed")
            return 1
    clock, runner, root = SystemClock(), SystemRunner(), DiskRoot("/")
    engine = KubeadmEngine(runner, root, clock, ContentStore(root, None))
    anyio.run(remove_agent, root, runner, engine)
    print("skerry is removed from this host")
    return 0


def _label(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise SkerryError(f"label is not KEY=VALUE: {text!r}", hint="for example --label tier=shop")
    return key, value


def _status(arguments: argparse.Namespace) -> int:
    root = DiskRoot("/")
    status = load_status(root)
    if status is None:
        from skerry.agent.appliance import before_registration

        if text := before_registration(root):
            print(text)
            return 0
        raise SkerryError(
            "this host is not registered with a manager",
            hint="run the install line that 'skerry token create' prints",
        )
    if arguments.output == "json":
        print(json.dumps(msgspec.to_builtins(status), indent=2))
        return 0
    from skerry.agent.show import status_text  # late: only people need it

    print(status_text(status))
    return 0


if __name__ == "__main__":
    sys.exit(main())
