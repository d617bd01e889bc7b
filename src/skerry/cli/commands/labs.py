"""`lab`: real hosts and a manager on this computer."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from skerry.cli.session import runs, surroundings

if TYPE_CHECKING:
    from skerry.lab import ContainerHost
    from skerry.lab.up import UpOptions

_KUBECTL = (
    "/var/lib/skerry/links/kubectl",
    "--kubeconfig=/etc/kubernetes/admin.conf",
)
_RUN = click.option("--run", "run_name", default="", help="Lab run (default: that of ./dev up).")
_PASS_ON = {"ignore_unknown_options": True, "allow_interspersed_args": False}


@click.group()
def lab() -> None:
    """Run real hosts on this computer, for trying and testing. Linux and root only."""


@lab.command("up")
@click.option("--simulated", is_flag=True, help="Only a simulated fleet, no real host.")
@click.option(
    "--hosts", type=click.IntRange(min=0), default=60, show_default=True, help="Simulated hosts."
)
@click.option(
    "--sites",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Sites they stand at.",
)
@runs
async def lab_up(simulated: bool, hosts: int, sites: int) -> None:
    """Start a manager with a fleet and, as root, one real host; Ctrl-C stops them.

    What is made is kept: the next time goes on from there.
    """
    import dataclasses

    from skerry.lab.up import options_from, up

    options = options_from(surroundings().env, simulated=simulated, terminal=sys.stdout.isatty())
    await up(dataclasses.replace(options, hosts=hosts, sites=sites), _report)


@lab.command("down")
@runs
async def lab_down() -> None:
    """Stop and remove everything that 'lab up' made, also after a crash."""
    from skerry.lab.up import down, options_from

    _log()
    await down(options_from(surroundings().env, terminal=sys.stdout.isatty()), _report)


@lab.command("hosts")
@_RUN
def lab_hosts(run_name: str) -> None:
    """Show the real hosts of a lab run."""
    from skerry.cli.output import show_table

    rows = [
        [name, str(host.address), "Running" if host.pid else "off"]
        for name, host in sorted(_hosts(run_name).items())
    ]
    show_table(["NAME", "ADDRESS", "STATE"], rows)


@lab.command("kubectl", context_settings=_PASS_ON)
@_RUN
@click.argument("host")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def lab_kubectl(run_name: str, host: str, arguments: tuple[str, ...]) -> None:
    """Run kubectl inside HOST: skerry lab kubectl HOST -- get pods -A.

    As root of this computer only: no credential of the cluster leaves the host.
    """
    _enter(run_name, host, [*_KUBECTL, *_after_dashes(arguments)])


@lab.command("shell", context_settings=_PASS_ON)
@_RUN
@click.argument("host")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[COMMAND]...")
def lab_shell(run_name: str, host: str, arguments: tuple[str, ...]) -> None:
    """Open a shell inside HOST, or run COMMAND there."""
    _enter(run_name, host, _after_dashes(arguments) or ["bash", "-l"])


def _after_dashes(arguments: tuple[str, ...]) -> list[str]:
    """What the other program gets: click leaves the `--` that stands behind HOST."""
    return list(arguments[1:] if arguments[:1] == ("--",) else arguments)


def _hosts(run_name: str) -> dict[str, ContainerHost]:
    from skerry.lab import find_hosts

    _log()
    if run_name:
        return find_hosts(run_name)
    options = _options()
    return find_hosts(options.run, options.state / "lab")


def _options() -> UpOptions:
    from skerry.lab.up import options_from

    return options_from(surroundings().env)


def _enter(run_name: str, name: str, argv: list[str]) -> None:
    """Become `argv` inside the host, with this terminal."""
    from skerry.lab.errors import LabError
    from skerry.lab.launch import inside_env
    from skerry.lib.errors import NotAllowedHere

    found = _hosts(run_name)
    if name not in found:
        known = ", ".join(sorted(found)) or "none"
        raise LabError(f"there is no lab host {name!r}", hint=f"hosts: {known}")
    if os.geteuid() != 0:
        raise NotAllowedHere("entering a lab host needs root", hint=f"sudo {_again()}")
    extra = {"TERM": os.environ.get("TERM", "dumb")} if sys.stdout.isatty() else {}
    line = found[name].enter_argv(argv, env=extra)
    sys.stdout.flush()
    os.execvpe(line[0], line, {**os.environ, **inside_env(extra)})  # noqa: S606  # no shell


def _again() -> str:
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def _report(text: str) -> None:
    click.echo(text)
    sys.stdout.flush()


def _log() -> None:
    from skerry.cli.logs import log_to_stderr

    log_to_stderr("warning")
