"""Releases from upstream's files: where a person's own lock lies, and how fetching is shown."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Self

import click

from skerry.builder.cache import default_cache
from skerry.builder.fetching import Fetcher, Told, open_http
from skerry.builder.official import Found
from skerry.builder.upstream import LOCK_FILE, Lock, encode_lock, merged, own_lock, parse_lock
from skerry.cli.session import surroundings, the_clock
from skerry.client.contexts import config_path

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Terminal(Told):
    """A bar for the file that arrives, on a terminal; failed tries everywhere."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
        return self

    def __exit__(self, *_failure: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begins(self, what: str, done: int, total: int | None) -> None:
        if self._bar is not None:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(what, completed=done, total=total)

    def bytes(self, more: int) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, more)

    def again(self, what: str, why: str, wait_s: float) -> None:
        click.echo(f"{why}; trying again in {wait_s:.0f} s", err=True)


def lock_place(env: Mapping[str, str], chosen: Path | None) -> Path:
    """The person's lock file: the chosen one, else beside the contexts."""
    return chosen or config_path(env).parent / LOCK_FILE


def read_lock(place: Path) -> Lock:
    """A lock file; an empty lock when there is none. Raises LockInvalid."""
    try:
        return parse_lock(place.read_text(encoding="utf-8"), where=str(place))
    except FileNotFoundError:
        return Lock()


def known_lock(place: Path) -> Lock:
    """skerry's own lock and the person's together. Raises LockInvalid."""
    own = surroundings().own_lock
    return merged(own_lock() if own is None else own, read_lock(place), where=str(place))


def write_lock(place: Path, lock: Lock) -> None:
    """Replace a lock file by one rename."""
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_name(f".{place.name}.new")
    temporary.write_text(encode_lock(lock), encoding="utf-8")
    temporary.replace(place)


@contextlib.asynccontextmanager
async def fetching() -> AsyncIterator[Fetcher]:
    """What fetches from upstream into the cache of this computer."""
    with Terminal() as told:
        async with open_http() as http:
            yield Fetcher(http, default_cache(surroundings().env), the_clock(), told=told)


def show_found(found: list[Found]) -> None:
    """Everything that was learned, one line each."""
    for one in found:
        click.echo(f"{one.state:5}  {one.digest}  {one.title}")
