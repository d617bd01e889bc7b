"""Why a host is as it is: its conditions and its cluster's through the one table of reasons."""

from __future__ import annotations

from skerry.manager.services import clusters
from skerry.manager.services.centre import Caller, Centre, require
from skerry.manager.services.present import shown
from skerry.manager.store.protocol import NotFound
from skerry.model.meta import Condition
from skerry.model.reasons import Cause, why


async def why_host(centre: Centre, caller: Caller, project: str, name: str) -> Cause:
    """The one cause of a host's state. Raises NotFound, NotPermitted."""
    require(caller, "get", "Host", project)
    host = await shown(centre, await centre.store.get("Host", project, name))
    cluster = clusters.cluster_of(host)
    conditions: list[Condition] = list(host.status.conditions)
    if cluster:
        try:
            found = await centre.store.get("Cluster", project, cluster)
        except NotFound:
            pass
        else:
            conditions += found.status.conditions
    facts = {
        "host": name,
        "project": project,
        "cluster": cluster,
        "code": host.status.registration_code,
        "version": host.status.kubernetes.release,
        "serial": host.status.inventory.serial,
    }
    return why(conditions, facts)
