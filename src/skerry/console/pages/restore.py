"""A manager that was restored: what it learned from the hosts, and the person's confirmation."""

from __future__ import annotations

from starlette.responses import Response

from skerry.console.door import Visit, back
from skerry.manager.services import restored


async def page(visit: Visit) -> Response:
    """What hosts said that they have, beside what this database knows."""
    return await visit.show("restore.html", view=await restored.view(visit.centre, visit.caller))


async def confirm(visit: Visit) -> Response:
    """Let the manager publish again."""
    await restored.confirm(visit.centre, visit.caller)
    return back("/restore")
