"""A manager in this process, with an API key for the one who started it.

The key belongs to a service account of its own, so that the first administrator's password stays
unused until a person signs in with it.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio
from starlette.routing import BaseRoute

from skerry.client.api import Api
from skerry.client.contexts import Context
from skerry.manager.app import ServingInfo, serve
from skerry.manager.auth.accounts import find_principal, new_api_key
from skerry.manager.services import objects
from skerry.manager.services.centre import INTERNAL, Centre
from skerry.manager.settings import Settings

ACCOUNT = "local"
_START_LIMIT_S = 60.0

Console = Callable[[Centre], Sequence[BaseRoute]]


@dataclass(frozen=True, slots=True)
class Running:
    """A manager that answers. `context` is full access to it."""

    info: ServingInfo
    centre: Centre
    context: Context
    api: Api


@contextlib.asynccontextmanager
async def running_manager(
    settings: Settings, key_file: Path, *, console: Console | None = None, name: str = ACCOUNT
) -> AsyncIterator[Running]:
    """Serve while the block runs. `key_file` keeps the API key between runs, mode 0600."""
    found: list[tuple[ServingInfo, Centre]] = []
    centres: list[Centre] = []
    started = anyio.Event()

    def more(centre: Centre) -> Sequence[BaseRoute]:
        centres.append(centre)
        return console(centre) if console is not None else ()

    def ready(info: ServingInfo) -> None:
        found.append((info, centres[0]))
        started.set()

    async with anyio.create_task_group() as tg:
        tg.start_soon(lambda: serve(settings, ready=ready, more=more))
        with anyio.fail_after(_START_LIMIT_S):
            await started.wait()
        info, centre = found[0]
        context = Context(
            name=name,
            server=local_url(info.url, settings),
            ca=Path(info.ca_file).read_text(),
            token=await _key(centre, key_file),
        )
        async with Api(context) as api:
            yield Running(info=info, centre=centre, context=context, api=api)
        tg.cancel_scope.cancel()


def local_url(url: str, settings: Settings) -> str:
    """The manager's address for programs on this computer."""
    return f"https://{settings.host}:{url.rpartition(':')[2]}"


async def _key(centre: Centre, key_file: Path) -> str:
    now = centre.clock.now()
    if key_file.exists():
        key = key_file.read_text().strip()
        if await find_principal(centre.store, key, now=now) is not None:
            return key
    for document in (
        {
            "kind": "ServiceAccount",
            "metadata": {"name": ACCOUNT},
            "spec": {"description": "The command line on the manager's own computer"},
        },
        {
            "kind": "RoleBinding",
            "metadata": {"name": f"{ACCOUNT}-admin"},
            "spec": {"role": "admin", "subjects": [f"serviceaccount:{ACCOUNT}"]},
        },
    ):
        await objects.apply(centre, INTERNAL, document)
    subject = f"serviceaccount:{ACCOUNT}"
    key, _ = await new_api_key(centre.store, subject, actor=INTERNAL.name, now=now, name="up")
    key_file.touch(mode=0o600)
    key_file.write_text(key)
    return key
