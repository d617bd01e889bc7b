"""Paged lists with their filters in the address, so that a view can be kept and sent to others.

The store pages by cursor, in order of (project, name); `from` counts the rows before this page for
people's sake only.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from skerry.console.door import Visit
from skerry.console.inside import AnyResource, Query
from skerry.lib.errors import SkerryError
from skerry.manager.services import objects

PAGE_ROWS = 50


@dataclass(frozen=True, slots=True)
class Listing:
    """One page of a list. `error` is what is wrong with the filter, if anything."""

    items: tuple[AnyResource, ...] = ()
    total: int = 0
    after: str = ""
    start: int = 0
    revision: int = 0
    error: SkerryError | None = None
    project: str = ""
    projects: tuple[str, ...] = ()
    filters: dict[str, str] = field(default_factory=dict)

    @property
    def end(self) -> int:
        return self.start + len(self.items)

    @property
    def filtered(self) -> bool:
        return any(self.filters.values())


async def listing(
    visit: Visit,
    kind: str,
    *,
    fields: dict[str, str] | None = None,
    rows: int = PAGE_ROWS,
    keep: tuple[str, ...] = ("q", "labels"),
) -> Listing:
    """The page that the address asks for: `q` searches, `labels` selects, `after` continues."""
    params = visit.params
    project = visit.project_for(kind)
    start = params.get("from", "0")
    query = Query(
        kind,
        project,
        labels=params.get("labels", "").strip(),
        fields={key: value for key, value in (fields or {}).items() if value},
        search=params.get("q", "").strip()[:200],
        limit=rows,
        after=params.get("after", ""),
    )
    shown = Listing(
        project=project or "",
        projects=await _projects(visit, kind),
        filters={name: params.get(name, "") for name in keep},
    )
    try:
        page = await objects.list_objects(visit.centre, visit.caller, query)
    except SkerryError as exc:
        if exc.reason == "NotPermitted":
            raise
        return replace(shown, error=exc)
    return replace(
        shown,
        items=page.items,
        total=page.total,
        after=page.after,
        revision=page.revision,
        start=int(start) if start.isascii() and start.isdigit() and len(start) < 9 else 0,
    )


async def names(visit: Visit, kind: str, project: str | None, *, most: int = 500) -> list[str]:
    """Names to choose from in a form."""
    if not visit.may("list", kind, project or ""):
        return []
    page = await objects.list_objects(visit.centre, visit.caller, Query(kind, project, limit=most))
    return sorted({item.name for item in page.items})


async def count(visit: Visit, kind: str, project: str | None, **fields: str) -> int:
    """How many objects match; `a__b` stands for the field a.b."""
    wanted = {key.replace("__", "."): value for key, value in fields.items()}
    query = Query(kind, project, fields=wanted, limit=1)
    page = await objects.list_objects(visit.centre, visit.caller, query)
    return int(page.total)


async def tally(
    visit: Visit, kind: str, project: str | None, path: str, **fields: str
) -> dict[str, int]:
    """How many objects have which value of an indexed field."""
    query = Query(kind, project, fields=fields)
    return await objects.tally(visit.centre, visit.caller, query, path)


async def _projects(visit: Visit, kind: str) -> tuple[str, ...]:
    """Projects to switch between; empty when there is nothing to choose."""
    readable = visit.projects(kind)
    if readable is None:
        readable = tuple(await names(visit, "Project", None, most=200))
    return readable if len(readable) > 1 else ()
