"""`serve` and `backup`: the manager itself."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from skerry.cli.output import as_json
from skerry.cli.session import connect, runs, surroundings

if TYPE_CHECKING:
    from skerry.manager.app import ServingInfo

_DATA = click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    envvar="SKERRY_DATA",
    help="Folder that holds everything.",
)
_STORE = click.option(
    "--store", default="", metavar="URL", help="Database (default: SQLite there)."
)


@click.command()
@_DATA
@click.option(
    "--listen",
    default="127.0.0.1:8443",
    show_default=True,
    metavar="ADDRESS:PORT",
    help="Where to listen; 0.0.0.0 or [::] for all addresses.",
)
@click.option("--also", multiple=True, metavar="ADDRESS", help="Listen there too, same port.")
@click.option(
    "--name",
    "names",
    multiple=True,
    metavar="NAME",
    help="DNS name or address by which hosts find this manager; the first is in the install line.",
)
@click.option("--url", default="", help="Public address, when it is another than NAME and port.")
@_STORE
@click.option(
    "--release-key",
    "release_keys",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False),
    help="Public release key (PEM). Without any, a development key is made.",
)
@click.option(
    "--agent-archive",
    "archives",
    multiple=True,
    metavar="ARCH=FILE",
    help="What hosts install, from 'skerry release build agent'.",
)
@click.option(
    "--set",
    "tuning",
    multiple=True,
    metavar="NAME=NUMBER",
    help="Change a setting, like sync_interval_s=60; docs/reference/settings.md lists them.",
)
@click.option("--no-console", is_flag=True, help="Serve the API only.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How to show it.",
)
@runs
async def serve(
    data: Path,
    listen: str,
    also: tuple[str, ...],
    names: tuple[str, ...],
    url: str,
    store: str,
    release_keys: tuple[str, ...],
    archives: tuple[str, ...],
    tuning: tuple[str, ...],
    no_console: bool,
    output: str,
) -> None:
    """Run the manager until Ctrl-C.

    Its address, the CA fingerprint for 'skerry login' and, the first time, where the first password
    lies are shown; the password itself only on a terminal. Log lines go to standard error.
    """
    from skerry.cli.logs import log_to_stderr
    from skerry.cli.naming import pairs
    from skerry.manager.app import serve as serve_manager
    from skerry.manager.settings import Settings, tuned

    log_to_stderr()
    host, port = split_address(listen)
    own = names or (() if host in ("0.0.0.0", "::") else (host,))  # noqa: S104  # compared only
    known = Settings(data="").names
    settings = Settings(
        data=str(data.absolute()),
        host=host,
        more_hosts=also,
        port=port,
        names=tuple(dict.fromkeys([*own, *known])),
        url=url,
        store_url=store,
        release_keys=release_keys,
        agent_archives=tuple(pairs(archives, what="agent archive").items()),
    )
    settings = tuned(settings, pairs(tuning, what="setting"))
    if no_console:
        more = None
    else:
        from skerry.console.app import console_routes

        more = console_routes

    def ready(info: ServingInfo) -> None:
        if output == "json":
            click.echo(as_json(info))
            sys.stdout.flush()
        else:
            show_serving(info)

    clock = surroundings().clock
    await _until_signal(lambda: serve_manager(settings, ready=ready, more=more, clock=clock))


def show_serving(info: ServingInfo, *, echo: Callable[[str], None] = click.echo) -> None:
    """Where the manager is and how to come in."""
    from skerry.manager.app import first_password

    echo(f"manager        {info.url}")
    echo(f"CA fingerprint {info.ca_fingerprint}")
    echo(f"CA file        {info.ca_file}")
    if info.first_password:
        echo("sign in        admin, first password in " + info.first_password)
        secret = first_password(info.data)
        if secret and sys.stdout.isatty():
            echo(f"               {secret}")
    echo(f"               skerry login {info.url} --fingerprint {info.ca_fingerprint}")
    if info.development_keys:
        echo(
            "release key    held here (development): whoever owns this folder signs what hosts run"
        )


@click.group()
def backup() -> None:
    """Save and restore the manager's store."""


@backup.command("create")
@_DATA
@_STORE
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@runs
async def backup_create(data: Path, store: str, file: Path) -> None:
    """Copy the store into FILE, consistent, while the manager runs or not.

    Run it on the manager's computer. The key that encrypts secrets (DATA/keys) and content
    (DATA/blobs) are not in it.
    """
    from skerry.lib.errors import SkerryError
    from skerry.manager.settings import Settings
    from skerry.manager.store import open_store

    if file.exists():
        raise SkerryError(f"{file} exists", hint="choose another name; backups are not overwritten")
    settings = Settings(data=str(data.absolute()), store_url=store)
    if not store and not (data / "skerry.db").exists():
        raise SkerryError(f"there is no store in {data}", hint="name the folder of skerry serve")
    opened = await open_store(settings.database)
    try:
        await opened.backup(str(file.absolute()))
    finally:
        await opened.close()
    file.chmod(0o600)
    click.echo(f"{file} holds the store")
    click.echo(f"not in it: the secret key and identities in {data}/keys, content in {data}/blobs")


@backup.command("restore")
@_DATA
@_STORE
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@runs
async def backup_restore(data: Path, store: str, file: Path) -> None:
    """Fill the empty store of a new manager from FILE.

    Bring DATA/keys of the old manager too: without them its secrets cannot be opened and hosts do
    not believe the new one.
    """
    from skerry.manager.settings import Settings
    from skerry.manager.store.backup import restore

    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    settings = Settings(data=str(data.absolute()), store_url=store)
    await restore(str(file.absolute()), settings.database)
    click.echo(f"restored from {file}")
    click.echo(
        "the manager will only observe its hosts until a person confirms: skerry backup confirm"
    )
    if not (data / "keys" / "secret.key").exists():
        click.echo(f"there are no keys in {data}/keys yet: copy those of the old manager", err=True)


@backup.command("status")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="How to show it.",
)
@runs
async def backup_status(output: str) -> None:
    """Show whether the manager was restored, and what its hosts said since.

    A restored manager gives out nothing new until 'skerry backup confirm'.
    """
    from skerry.cli.output import show_table

    async with connect() as api:
        found = await api.restore_view()
    if output == "json":
        click.echo(as_json(found))
        return
    if not found.observing:
        click.echo("publishing as usual; there is nothing to confirm")
        return
    since = f"{found.since:%Y-%m-%d %H:%M} UTC" if found.since else "its start"
    click.echo(f"observing only since {since}: it runs from {found.source}")
    rows = [
        [
            host.project,
            host.name,
            str(host.issued_epoch),
            str(host.heard.epoch) if host.heard else "not heard yet",
        ]
        for host in found.hosts
    ]
    show_table(["PROJECT", "HOST", "EPOCH HERE", "EPOCH OF HOST"], rows)
    click.echo("let it publish again: skerry backup confirm")


@backup.command("confirm")
@runs
async def backup_confirm() -> None:
    """Let a restored manager publish again, above every epoch that its hosts have.

    Look at revoked hosts, used tokens and profiles first: what people changed after the backup is
    not in its database.
    """
    async with connect() as api:
        done = await api.confirm_restore()
    click.echo("confirmed" if done.get("confirmed") else "there was nothing to confirm")


def split_address(text: str) -> tuple[str, int]:
    """ADDRESS:PORT, [IPV6]:PORT. Raises UsageError."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise click.UsageError(f"{text!r} is not ADDRESS:PORT")
    return host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port)


async def _until_signal(serving: Callable[[], Awaitable[None]]) -> None:
    """Ctrl-C and SIGTERM both end it well: requests are finished, then the process.

    Both are received here, because a shell starts what runs in its background with SIGINT ignored.
    """
    import signal

    import anyio

    async def stop(scope: anyio.CancelScope) -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                scope.cancel()

    async with anyio.create_task_group() as tg:
        tg.start_soon(stop, tg.cancel_scope)
        await serving()
        tg.cancel_scope.cancel()
