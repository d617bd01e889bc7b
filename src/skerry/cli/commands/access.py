"""Signing in and choosing managers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from skerry.cli.output import as_json, show_table
from skerry.cli.session import chosen_context, connect, runs, surroundings

if TYPE_CHECKING:
    from skerry.client.contexts import Context

_SCHEMES = ("https://", "http://")


@click.command()
@click.argument("server", required=False)
@click.option("--user", default="admin", show_default=True, help="Who signs in.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@click.option(
    "--ca",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Certificate of the manager's authority (DATA/keys/ca.crt of skerry serve).",
)
@click.option("--fingerprint", default="", help="What 'skerry serve' shows as CA fingerprint.")
@click.option("--system-ca", is_flag=True, help="Trust this computer's authorities instead.")
@click.option("--name", "name", default="", help="Name of the context (default: the host name).")
@click.option("-p", "--project", metavar="NAME", help="Project of the context.")
@runs
async def login(
    server: str | None,
    user: str,
    password_stdin: bool,
    ca: Path | None,
    fingerprint: str,
    system_ca: bool,
    name: str,
    project: str | None,
) -> None:
    """Sign in to a manager and remember it as the current context.

    The first time, the manager's authority has to be trusted: by its file (--ca), by its
    fingerprint (--fingerprint), or by your word when the fingerprint is shown. Without SERVER, sign
    in again to the current manager.
    """
    import msgspec

    from skerry.client import contexts
    from skerry.client.api import Api

    own = surroundings()
    path = contexts.config_path(own.env)
    config = contexts.load(path)
    base = _base(server, name)
    if ca is not None:
        base = msgspec.structs.replace(base, ca=ca.read_text())
    elif system_ca:
        base = msgspec.structs.replace(base, ca="")
    elif not base.ca and base.server.startswith("https://"):
        base = msgspec.structs.replace(base, ca=await _learn(base.server, fingerprint))
    if fingerprint:
        _compare(base.ca, fingerprint)
    async with Api(base, transport=own.transport, clock=own.clock) as api:
        await api.info()
        session = await api.login(user, _password(user, password_stdin=password_stdin))
    found = msgspec.structs.replace(base, token=session.token, project=project or base.project)
    contexts.save(path, config.with_context(found))
    until = f", until {session.expires_at:%Y-%m-%d %H:%M} UTC" if session.expires_at else ""
    click.echo(f"signed in to {found.server} as {user}{until}; context {found.name}")


@click.command()
@runs
async def logout() -> None:
    """End the session at the manager and forget its key."""
    import msgspec

    from skerry.client import contexts
    from skerry.client.errors import NotAllowed

    own = surroundings()
    context = chosen_context()
    async with connect(context) as api:
        try:
            await api.logout()
        except NotAllowed:
            click.echo("the session had ended before", err=True)
    path = contexts.config_path(own.env)
    forgotten = msgspec.structs.replace(context, token="")
    config = contexts.load(path)
    if any(item.name == context.name for item in config.contexts):
        contexts.save(path, config.with_context(forgotten, use=False))
    click.echo(f"signed out of {context.server}")


@click.command()
@click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How to show it.",
)
@runs
async def whoami(output: str) -> None:
    """Show who is signed in and what they may do."""
    async with connect() as api:
        found = await api.whoami()
        server = api.context.server
    if output == "json":
        click.echo(as_json(found))
        return
    click.echo(f"{found.get('subject', '')} at {server}")
    rows = [
        [grant.get("project") or "(system)", ",".join(rule["verbs"]), ",".join(rule["kinds"])]
        for grant in found.get("grants") or ()
        for rule in grant.get("rules") or ()
    ]
    if rows:
        show_table(["SCOPE", "MAY", "KINDS"], rows)
    else:
        click.echo("no role is bound to this user", err=True)


@click.command()
@click.argument("user", required=False)
@click.option("--password-stdin", is_flag=True, help="Read the new password from standard input.")
@runs
async def password(user: str | None, password_stdin: bool) -> None:
    """Change your password, or another user's as administrator. Ends that user's sessions."""
    async with connect() as api:
        subject = str((await api.whoami()).get("subject") or "")
        name = user or subject.partition(":")[2]
        new = _password(name, password_stdin=password_stdin, new=True)
        await api.set_password(name, new)
    if subject == f"user:{name}":
        click.echo(f"password of {name} changed; sign in again with 'skerry login --user {name}'")
    else:
        click.echo(f"password of {name} changed; all sessions of {name} have ended")


@click.group()
def key() -> None:
    """Make API keys for programs."""


@key.command("create")
@click.argument("account")
@runs
async def key_create(account: str) -> None:
    """Make a key for the service account ACCOUNT; it is shown only once."""
    async with connect() as api:
        made = await api.new_key(account)
    until = f" until {made.expires_at:%Y-%m-%d}" if made.expires_at else ""
    click.echo(f"key of {made.subject}{until}; use it as SKERRY_TOKEN:", err=True)
    click.echo(made.key)


@click.group()
def context() -> None:
    """List and choose managers."""


@context.command("list")
def context_list() -> None:
    """Show all contexts; * marks the current one."""
    from skerry.client import contexts

    config = contexts.load(contexts.config_path(surroundings().env))
    rows = [
        [
            "*" if item.name == config.current else "",
            item.name,
            item.server,
            item.project,
            "yes" if item.token else "no",
        ]
        for item in config.contexts
    ]
    if rows:
        show_table(["", "NAME", "SERVER", "PROJECT", "SIGNED IN"], rows)
    else:
        click.echo("no contexts; make one with 'skerry login SERVER'", err=True)


@context.command("use")
@click.argument("name")
@click.option("-p", "--project", metavar="NAME", help="Change its project too.")
def context_use(name: str, project: str | None) -> None:
    """Make NAME the current context."""
    import msgspec

    from skerry.client import contexts

    path = contexts.config_path(surroundings().env)
    config = contexts.load(path).using(name)
    if project:
        found = msgspec.structs.replace(config.find(name), project=project)
        config = config.with_context(found)
    contexts.save(path, config)
    click.echo(f"context {name}, project {config.find(name).project}")


@context.command("show")
@runs
async def context_show() -> None:
    """Show the current context and the manager behind it."""
    from skerry import __version__

    async with connect() as api:
        info = await api.info()
        found = api.context
    rows = [
        ("Context", found.name),
        ("Server", found.server),
        ("Project", found.project),
        ("Manager", info.version),
        ("This program", __version__),
    ]
    for title, value in rows:
        click.echo(f"{title + ':':<14}{value}")
    if info.development_keys:
        click.echo("the manager holds the release key itself (development)", err=True)


@context.command("remove")
@click.argument("name")
def context_remove(name: str) -> None:
    """Forget a context."""
    from skerry.client import contexts

    path = contexts.config_path(surroundings().env)
    contexts.save(path, contexts.load(path).without(name))
    click.echo(f"context {name} removed")


def _base(server: str | None, name: str) -> Context:
    """The context to sign in to: the known one of that server, or a new one."""
    import httpx2

    from skerry.client import contexts
    from skerry.client.contexts import Context

    if server is None:
        return chosen_context()
    url = server if server.startswith(_SCHEMES) else f"https://{server}"
    url = url.rstrip("/")
    known = contexts.load(contexts.config_path(surroundings().env)).contexts
    for item in known:
        if item.server == url and (not name or item.name == name):
            return item
    return Context(name=name or httpx2.URL(url).host or "default", server=url)


async def _learn(server: str, fingerprint: str) -> str:
    """The authority that the server offers, trusted by its fingerprint or by a person."""
    from skerry.client.trust import AuthorityUnknown, fingerprints, offered_authority

    pem = await offered_authority(server, transport=surroundings().transport)
    if fingerprint:
        return pem
    shown = fingerprints(pem)[0]
    if not sys.stdin.isatty():
        raise AuthorityUnknown(
            f"the authority of {server} is not known yet",
            hint="give --fingerprint (shown by 'skerry serve') or --ca FILE",
        )
    click.echo(f"The manager at {server} is not known yet. Its CA fingerprint is\n  {shown}")
    click.confirm("Is this what 'skerry serve' shows there?", abort=True)
    return pem


def _compare(pem: str, fingerprint: str) -> None:
    from skerry.client.trust import AuthorityUnknown, fingerprints, same_fingerprint

    found = fingerprints(pem)
    if not any(same_fingerprint(item, fingerprint) for item in found):
        raise AuthorityUnknown(
            f"the authority has fingerprint {found[0]}, not {fingerprint}",
            hint="this is another manager, or somebody stands between; nothing was sent",
        )


def _password(user: str, *, password_stdin: bool, new: bool = False) -> str:
    if password_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if not sys.stdin.isatty():
        raise click.UsageError("there is no terminal to ask for the password; --password-stdin")
    label = f"New password for {user}" if new else f"Password for {user}"
    text: str = click.prompt(label, hide_input=True, confirmation_prompt=new, err=True)
    return text
