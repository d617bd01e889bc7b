"""Is it alive, is it ready, and figures for Prometheus. Open: they name nothing of the fleet but
counts, and scrapers have no account."""

from __future__ import annotations

from enum import StrEnum

import prometheus_client as prom
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from skerry import __version__
from skerry.lib.errors import SkerryError
from skerry.manager.services.centre import Centre
from skerry.manager.store.protocol import Query
from skerry.model.kinds import ClusterPhase, HostPhase
from skerry.model.standing import Standing


def health_routes(centre: Centre) -> list[BaseRoute]:
    """/healthz, /readyz and /metrics."""
    figures = _Figures(centre)

    async def healthz(request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(request: Request) -> Response:
        try:
            await centre.store.revision()
        except SkerryError as exc:
            return PlainTextResponse(f"store: {exc.message}\n", status_code=503)
        mark = centre.live.restored
        if mark is not None:
            # Ready all the same: hosts must reach a manager that wants to learn from them.
            return PlainTextResponse(
                "ok\nobserving only: this manager was restored; confirm it with"
                " 'skerry backup confirm'\n"
            )
        return PlainTextResponse("ok\n")

    return [
        Route("/healthz", healthz, methods=["GET"]),
        Route("/readyz", readyz, methods=["GET"]),
        Route("/metrics", figures.serve, methods=["GET"]),
    ]


# Name, meaning and labels of every gauge; the reference is made from this.
GAUGES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("skerry_hosts", "Hosts by phase", ("phase",)),
    ("skerry_hosts_standing", "Hosts by how they stand; each is counted once", ("standing",)),
    ("skerry_hosts_contacted", "Hosts that ever called", ()),
    ("skerry_clusters", "Clusters by phase", ("phase",)),
    ("skerry_store_revision", "Number of the last change", ()),
)
INFO = ("skerry", "The manager; its version is a label of skerry_info")


class _Figures:
    """Gauges that are counted when somebody asks."""

    def __init__(self, centre: Centre) -> None:
        self._centre = centre
        self._registry = prom.CollectorRegistry()
        self._gauges = {
            name: prom.Gauge(name, text, labels, registry=self._registry)
            for name, text, labels in GAUGES
        }
        info = prom.Info(*INFO, registry=self._registry)
        info.info({"version": __version__})

    async def serve(self, request: Request) -> Response:
        store = self._centre.store
        for name, kind, path, values in _COUNTED:
            counts = await store.tally(Query(kind), path)
            for value in values:
                self._gauges[name].labels(value.value).set(counts.get(value.value, 0))
        self._gauges["skerry_store_revision"].set(await store.revision())
        self._gauges["skerry_hosts_contacted"].set(len(self._centre.live.contacts))
        return Response(prom.generate_latest(self._registry), media_type=prom.CONTENT_TYPE_LATEST)


# Gauge, kind, the field that is counted, and its values (also those that nobody has).
_COUNTED: tuple[tuple[str, str, str, type[StrEnum]], ...] = (
    ("skerry_hosts", "Host", "status.phase", HostPhase),
    ("skerry_hosts_standing", "Host", "standing", Standing),
    ("skerry_clusters", "Cluster", "status.phase", ClusterPhase),
)
