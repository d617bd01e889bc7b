"""What the console has to show without any real host: sites, a fleet, clusters, one that waits.

Objects are made once; what people change afterwards stays as they left it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import anyio

from skerry.agent.facts import architecture
from skerry.builder.cache import Cache
from skerry.lab import content
from skerry.lab.inprocess import Running
from skerry.lab.onboarding import ensure, find, new_token, push_artifact, release_key
from skerry.lib.files import DiskRoot
from skerry.sim import Faults, Fleet, FleetCount

TOKEN = "simulated-fleet"  # noqa: S105  # a name
_OFFLINE_PERCENT = 5
_CLUSTERS = 6
_OLD_CLUSTERS = 2


@dataclass(frozen=True, slots=True)
class Showcase:
    """A fleet of `hosts` at `sites`, kept in `folder`, and one more host without a token."""

    folder: Path
    cache: Cache
    hosts: int = 60
    sites: int = 20
    faults: Faults = field(default_factory=lambda: Faults(offline_percent=_OFFLINE_PERCENT))

    def fleet(self, running: Running, *, token: str) -> Fleet:
        """The hosts that register by token."""
        return Fleet(
            manager=running.context.server,
            authority_pem=running.context.ca,
            hosts=self.hosts,
            sites=self.sites,
            token=token,
            faults=self.faults,
            state=DiskRoot(str(self.folder / "fleet")),
        )

    def waiting(self, running: Running) -> Fleet:
        """The host that a person has to approve."""
        return Fleet(
            manager=running.context.server,
            authority_pem=running.context.ca,
            hosts=1,
            first=self.hosts,
            sites=self.sites,
            state=DiskRoot(str(self.folder / "waiting")),
        )

    async def prepare(self, running: Running) -> Fleet:
        """Make the sites; the fleet with a token, if it needs one."""
        fleet = self.fleet(running, token="")
        for document in content.site_documents(fleet.places()):
            await ensure(running.api, document)
        if fleet.strangers():
            made = await new_token(running.api, TOKEN, {"autoApprove": True})
            fleet.token = made["secret"]
        return fleet

    async def run(
        self, running: Running, fleet: Fleet, *, report: Callable[[FleetCount], None] | None = None
    ) -> None:
        """Run the hosts and give some of them clusters. Until cancelled."""
        async with anyio.create_task_group() as tg:
            tg.start_soon(lambda: fleet.run(report=report))
            tg.start_soon(self.waiting(running).run)
            await self._form_clusters(running, fleet)

    async def _form_clusters(self, running: Running, fleet: Fleet) -> None:
        api = running.api
        key = release_key(Path(running.info.data))
        for version in content.SIMULATED_VERSIONS:
            built = content.simulated_release(
                version, cache=self.cache, architecture=architecture()
            )
            await push_artifact(api, built, key=key)
            await ensure(api, content.simulated_profile(version))
        old, new = content.SIMULATED_VERSIONS
        chosen = [n for n in range(self.hosts) if not fleet.offline(n)][:_CLUSTERS]
        for index, number in enumerate(chosen):
            name, place = fleet.place_of(number)
            while await find(api, "Host", name) is None:
                await api.clock.sleep(0.5)
            version = old if index < _OLD_CLUSTERS else new
            await ensure(api, content.simulated_cluster(place, name, kubernetes=version))
