"""Is it alive, is it ready, and figures for Prometheus. Open: they name nothing of the fleet but
counts, and scrapers have no account."""

from __future__ import annotations

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


class _Figures:
    """Gauges that are counted when somebody asks."""

    def __init__(self, centre: Centre) -> None:
        self._centre = centre
        self._registry = prom.CollectorRegistry()
        self._hosts = self._gauge("skerry_hosts", "Hosts by phase", ["phase"])
        self._standings = self._gauge(
            "skerry_hosts_standing", "Hosts by how they stand, each counted once", ["standing"]
        )
        self._clusters = self._gauge("skerry_clusters", "Clusters by phase", ["phase"])
        self._revision = self._gauge("skerry_store_revision", "Number of the last change", [])
        self._quiet = self._gauge("skerry_hosts_contacted", "Hosts that ever called", [])
        info = prom.Info("skerry", "The manager", registry=self._registry)
        info.info({"version": __version__})

    def _gauge(self, name: str, text: str, labels: list[str]) -> prom.Gauge:
        return prom.Gauge(name, text, labels, registry=self._registry)

    async def serve(self, request: Request) -> Response:
        store = self._centre.store
        hosts = await store.tally(Query("Host"), "status.phase")
        for phase in HostPhase:
            self._hosts.labels(phase.value).set(hosts.get(phase.value, 0))
        standings = await store.tally(Query("Host"), "standing")
        for word in Standing:
            self._standings.labels(word.value).set(standings.get(word.value, 0))
        clusters = await store.tally(Query("Cluster"), "status.phase")
        for stage in ClusterPhase:
            self._clusters.labels(stage.value).set(clusters.get(stage.value, 0))
        self._revision.set(await store.revision())
        self._quiet.set(len(self._centre.live.contacts))
        return Response(prom.generate_latest(self._registry), media_type=prom.CONTENT_TYPE_LATEST)
