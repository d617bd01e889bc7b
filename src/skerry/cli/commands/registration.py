"""Letting hosts in: tokens, claims, approvals."""

from __future__ import annotations

import hashlib
import secrets
import shlex
from typing import TYPE_CHECKING, Any

import click

from skerry.cli.naming import kind_and_names, label_of, pairs
from skerry.cli.output import Printer, as_json, format_option
from skerry.cli.session import connect, project_of, project_option, runs, the_clock

if TYPE_CHECKING:
    from skerry.model.kinds import Kind


@click.group()
def token() -> None:
    """Make and revoke registration tokens."""


@token.command("create")
@click.argument("name", required=False)
@click.option("--site", default="", help="Site of the hosts that register with it.")
@click.option("-l", "--label", "labels", multiple=True, metavar="KEY=VALUE", help="Their labels.")
@click.option("--expires", default="", metavar="SPAN", help="Like 24h or 7d (default: 24h).")
@click.option("--uses", type=click.IntRange(min=1), help="At most so many hosts.")
@click.option("--auto-approve", is_flag=True, help="Hosts come in without a person's approval.")
@click.option("--network", "networks", multiple=True, metavar="CIDR", help="Only from there.")
@click.option("--proxy", default="", metavar="URL", help="Their HTTP proxy on the way here.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["line", "secret", "json"]),
    default="line",
    show_default=True,
    help="How to show it.",
)
@project_option
@runs
async def token_create(
    name: str | None,
    site: str,
    labels: tuple[str, ...],
    expires: str,
    uses: int | None,
    auto_approve: bool,
    networks: tuple[str, ...],
    proxy: str,
    output: str,
    project: str | None,
) -> None:
    """Make a token and print the one line that installs the agent.

    The line goes to standard output and is shown only now. Run it on the machine, as root or as
    somebody who may use sudo. -o secret prints the token alone.
    """
    from skerry.model.kinds import KINDS

    spec: dict[str, Any] = {
        "site": site,
        "labels": pairs(labels, what="label"),
        "autoApprove": auto_approve,
        "allowedNetworks": list(networks),
        "proxy": proxy,
    }
    if uses is not None:
        spec["maximumUses"] = uses
    if expires:
        spec["expiresAt"] = _end(expires)
    kind = KINDS["RegistrationToken"]
    async with connect() as api:
        where = project_of(api, kind, project)
        name = name or f"token-{secrets.token_hex(3)}"
        document = {"kind": kind.name, "metadata": {"name": name, "project": where}, "spec": spec}
        made = await api.apply(kind, where, document, revision=0)
    if output == "json":
        click.echo(as_json(made))
        return
    until = str((made.get("spec") or {}).get("expiresAt") or "it is revoked")
    click.echo(f"token {name} lives until {until}; this is shown only once:", err=True)
    click.echo(made["install"] if output == "line" else made["secret"])


@token.command("list")
@format_option
@project_option
@runs
async def token_list(output: str, project: str | None) -> None:
    """Show tokens; never their secrets."""
    from skerry.model.kinds import KINDS

    kind = KINDS["RegistrationToken"]
    async with connect() as api:
        found = await api.list(kind, project=project_of(api, kind, project))
    Printer(kind, output, now=the_clock().now()).show_all(found.items)


@token.command("revoke")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@project_option
@runs
async def token_revoke(names: tuple[str, ...], project: str | None) -> None:
    """Make tokens useless at once. Hosts that they let in stay."""
    from skerry.model.kinds import KINDS

    await _act(KINDS["RegistrationToken"], names, "revoke", "revoked", project)


@click.group()
def claim() -> None:
    """Expect hosts before they register."""


@claim.command("create")
@click.argument("name")
@click.option("--serial", default="", help="Serial number of the machine.")
@click.option("--mac", default="", help="Address of one of its network cards.")
@click.option("--host-id", default="", help="Its hardware id.")
@click.option(
    "--pairing-key",
    type=click.File("r"),
    metavar="FILE",
    help="File with the pairing key, - for standard input. Only a key approves by itself.",
)
@click.option("--new-pairing-key", "new_key", is_flag=True, help="Make a pairing key and show it.")
@click.option("--site", default="", help="Its site.")
@click.option("-l", "--label", "labels", multiple=True, metavar="KEY=VALUE", help="Its labels.")
@click.option("--host-name", default="", help="Its name here (default: what it calls itself).")
@project_option
@runs
async def claim_create(
    name: str,
    serial: str,
    mac: str,
    host_id: str,
    pairing_key: Any,
    new_key: bool,
    site: str,
    labels: tuple[str, ...],
    host_name: str,
    project: str | None,
) -> None:
    """Expect a host by what identifies it.

    Serial, MAC and id can be copied by anybody, so they only fill in site and labels; the host
    still waits for approval. A pairing key lets it in at once, one time. The line to paste on the
    machine goes to standard output.
    """
    from skerry.model.kinds import KINDS

    kind = KINDS["HostClaim"]
    spec: dict[str, Any] = {
        "hostId": host_id,
        "serial": serial,
        "mac": mac,
        "site": site,
        "labels": pairs(labels, what="label"),
        "hostName": host_name,
    }
    key = (
        secrets.token_urlsafe(24) if new_key else pairing_key.read().strip() if pairing_key else ""
    )
    if new_key and pairing_key:
        raise click.UsageError("give a pairing key or ask for a new one, not both")
    if key or pairing_key:
        # Only the hash leaves this computer.
        if len(key) < 16:
            raise click.UsageError("a pairing key has at least 16 characters")
        spec["pairingKeyHash"] = hashlib.sha256(key.encode()).hexdigest()
    async with connect() as api:
        where = project_of(api, kind, project)
        document = {"kind": kind.name, "metadata": {"name": name, "project": where}, "spec": spec}
        made = await api.apply(kind, where, document, revision=0)
    click.echo(f"{label_of(kind, name)} created; run this on the machine:", err=True)
    given = f"SKERRY_PAIRING_KEY={shlex.quote(key)} " if key else ""
    click.echo(f"{given}{made['install']}")


@click.command()
@click.argument("kind", metavar="host")
@click.argument("names", nargs=-1, metavar="NAME...")
@click.option("--site", default="", help="Put it there.")
@click.option("--code", default="", help="Refuse unless the host's code is this one.")
@project_option
@runs
async def approve(
    kind: str, names: tuple[str, ...], site: str, code: str, project: str | None
) -> None:
    """Let waiting hosts in: skerry approve host NAME.

    Compare the code with the one that the host shows (its screen, or skerry-agent status there).
    """
    found, wanted = _hosts(kind, names, verb="approve")
    if code and len(wanted) != 1:
        raise click.UsageError("--code goes with one host")
    async with connect() as api:
        where = project_of(api, found, project)
        for name in wanted:
            # The manager compares: it alone knows which key waits at that moment.
            body = {key: text for key, text in (("site", site), ("code", code)) if text}
            done = await api.action(found, where, name, "approve", body=body or None)
            shown = (done.get("status") or {}).get("registrationCode") or "-"
            click.echo(f"{label_of(found, name)} approved, code {shown}")


@click.command()
@click.argument("kind", metavar="host")
@click.argument("names", nargs=-1, metavar="NAME...")
@project_option
@runs
async def deny(kind: str, names: tuple[str, ...], project: str | None) -> None:
    """Refuse waiting hosts: skerry deny host NAME."""
    found, wanted = _hosts(kind, names, verb="deny")
    await _act(found, wanted, "deny", "denied", project)


@click.command()
@click.argument("kind", metavar="host|token")
@click.argument("names", nargs=-1, metavar="NAME...")
@project_option
@runs
async def revoke(kind: str, names: tuple[str, ...], project: str | None) -> None:
    """Shut out a host, or end a token: skerry revoke host NAME.

    What runs on the host goes on; it hears nothing any more. This cannot be taken back.
    """
    found, wanted = kind_and_names(kind, names)
    if found.name not in ("Host", "RegistrationToken") or not wanted:
        raise click.UsageError("write: skerry revoke host NAME, or skerry revoke token NAME")
    await _act(found, wanted, "revoke", "revoked", project)


async def _act(
    kind: Kind, names: tuple[str, ...], verb: str, done: str, project: str | None
) -> None:
    async with connect() as api:
        where = project_of(api, kind, project)
        for name in names:
            await api.action(kind, where, name, verb)
            click.echo(f"{label_of(kind, name)} {done}")


def _hosts(kind: str, names: tuple[str, ...], *, verb: str) -> tuple[Kind, tuple[str, ...]]:
    found, wanted = kind_and_names(kind, names)
    if found.name != "Host" or not wanted:
        raise click.UsageError(f"write: skerry {verb} host NAME")
    return found, wanted


def _end(expires: str) -> str:
    from skerry.cli.ages import parse_span

    span = parse_span(expires)
    if span is None:
        raise click.UsageError(f"--expires {expires!r} is no time span; write 24h or 7d")
    return (the_clock().now() + span).isoformat()
