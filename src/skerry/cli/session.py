"""What a command works with: environment, clock, and the connection to the chosen manager.

Tests hand in their own `Surroundings` as click's `obj`; nothing else reaches outside.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ParamSpec

import click

if TYPE_CHECKING:
    import httpx2

    from skerry.builder.upstream import Lock
    from skerry.client.api import Api
    from skerry.client.contexts import Context
    from skerry.lib.clock import Clock
    from skerry.model.kinds import Kind

P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """`transport` replaces the network, `clock` the time, `own_lock` the digests of upstream's
    files that come with skerry."""

    env: Mapping[str, str] = field(default_factory=lambda: os.environ)
    transport: httpx2.AsyncBaseTransport | None = None
    clock: Clock | None = None
    own_lock: Lock | None = None


def surroundings() -> Surroundings:
    """Those of the running command."""
    found = click.get_current_context().find_root().obj
    return found if isinstance(found, Surroundings) else Surroundings()


def runs(function: Callable[P, Awaitable[Any]]) -> Callable[P, Any]:
    """An async function as a click command's body."""

    @functools.wraps(function)
    def body(*args: P.args, **kwargs: P.kwargs) -> Any:
        import anyio

        return anyio.run(functools.partial(function, *args, **kwargs))

    return body


def chosen_context() -> Context:
    """Raises ContextMissing, ConfigInvalid."""
    from skerry.client import contexts

    name = click.get_current_context().meta.get("skerry.context", "")
    return contexts.choose(surroundings().env, name)


def connect(context: Context | None = None) -> Api:
    """The manager's API in the chosen context; an async context manager."""
    from skerry.client.api import Api

    own = surroundings()
    return Api(context or chosen_context(), transport=own.transport, clock=own.clock)


def the_clock() -> Clock:
    """The time."""
    from skerry.lib.clock import SystemClock

    return surroundings().clock or SystemClock()


def project_of(api: Api, kind: Kind, project: str | None) -> str:
    """The project a command means; "" for kinds of system scope."""
    from skerry.model.kinds import Scope

    if kind.scope is Scope.SYSTEM:
        return ""
    return project or api.context.project


project_option = click.option(
    "-p", "--project", metavar="NAME", help="Project (default: the context's)."
)
