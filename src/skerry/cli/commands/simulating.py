"""`simulate`: a fleet of simulated hosts against any manager."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import click

from skerry.cli.session import connect, runs, the_clock

if TYPE_CHECKING:
    from skerry.sim import FleetCount


@click.command()
@click.option(
    "--hosts", type=click.IntRange(min=1), default=60, show_default=True, help="Simulated hosts."
)
@click.option(
    "--sites",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Sites they stand at.",
)
@click.option(
    "--offline", "offline_percent", type=click.IntRange(0, 100), default=0, help="Percent."
)
@click.option("--slow", is_flag=True, help="Slow lines.")
@click.option(
    "--bad-updates",
    "bad_updates_percent",
    type=click.IntRange(0, 100),
    default=0,
    help="Percent of hosts whose updates fail after they were activated.",
)
@click.option("--seed", type=int, default=1, show_default=True, help="Which hosts have faults.")
@click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder that keeps the hosts for the next time; without it they are new each time.",
)
@runs
async def simulate(
    hosts: int,
    sites: int,
    offline_percent: int,
    slow: bool,
    bad_updates_percent: int,
    seed: int,
    state: Path | None,
) -> None:
    """Run a simulated fleet at the current manager until Ctrl-C.

    Sites and a registration token that approves by itself are made there. The hosts are real agents
    over made-up machines; the manager cannot tell them from others.
    """
    from skerry.cli.logs import log_to_stderr
    from skerry.lab.content import site_documents
    from skerry.lab.onboarding import ensure, new_token
    from skerry.lib.files import DiskRoot
    from skerry.sim import Faults, Fleet

    log_to_stderr("error")
    async with connect() as api:
        fleet = Fleet(
            manager=api.context.server,
            authority_pem=api.context.ca,
            hosts=hosts,
            sites=sites,
            faults=Faults(
                offline_percent=offline_percent,
                slow=slow,
                bad_updates_percent=bad_updates_percent,
            ),
            seed=seed,
            state=DiskRoot(str(state.absolute())) if state else None,
            clock=the_clock(),
        )
        project = api.context.project
        for document in site_documents(fleet.places()):
            await ensure(api, document, project=project)
        name = f"simulated-{secrets.token_hex(3)}"
        if fleet.strangers():
            made = await new_token(api, name, {"autoApprove": True}, project=project)
            fleet.token = made["secret"]
    click.echo(f"{hosts} hosts at {sites} sites register at {fleet.manager}; Ctrl-C ends", err=True)
    await fleet.run(report=_show)


def _show(now: FleetCount) -> None:
    click.echo(
        f"{now.registered}/{now.hosts} registered, {now.online} online, {now.pending} pending,"
        f" {now.refused} refused, {now.busy} busy, {now.clusters} clusters"
    )
