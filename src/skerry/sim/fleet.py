"""Runs a fleet: one agent per simulated host, all over one pool of connections.

A host starts where it stopped when the fleet's folder is kept; otherwise it is a new machine that
registers with the token. What a host costs is its own state; everything equal is shared.
"""

from __future__ import annotations

import ssl
from collections import Counter as Tally
from collections.abc import Callable
from dataclasses import dataclass, field

import anyio
import httpx2
import msgspec
import structlog

from skerry import __version__
from skerry.agent import paths, register
from skerry.agent.channel import Channel, HttpChannel
from skerry.agent.core import Parts, run_agent
from skerry.agent.identity import Counter, HostKeys, Identity
from skerry.agent.sync import LocalStatus
from skerry.lib.clock import Clock, SystemClock
from skerry.lib.errors import SkerryError
from skerry.lib.files import Root
from skerry.sim import system
from skerry.sim.disk import FleetDisk, HostRoot
from skerry.sim.engine import STEP_S, KeptEngine
from skerry.sim.line import Faults, FaultyChannel, Line
from skerry.sim.machines import Machine, MachineRunner, shape_files, shapes
from skerry.sim.places import Harbour, harbours

log = structlog.get_logger("skerry.sim")

_START_PER_S = 100.0
_FLUSH_S = 0.25
_COUNT_S = 2.0
_CONNECTIONS = 32
# A simulated Kubernetes does not break by itself, so hosts look at it less often.
_IDLE_S = 60.0


class FleetCount(msgspec.Struct, frozen=True, kw_only=True):
    """How many hosts are in which state; `registered` are approved, `online` reached the manager
    at their last try, `clusters` run Kubernetes."""

    hosts: int
    registered: int = 0
    pending: int = 0
    refused: int = 0
    online: int = 0
    busy: int = 0
    clusters: int = 0


@dataclass
class Fleet:
    """A fleet to run. `state` is the folder that keeps the hosts, None keeps nothing; `first` is
    the number of the first host, so that two fleets can be parts of one."""

    manager: str
    authority_pem: str
    hosts: int
    sites: int
    first: int = 0
    token: str = ""
    faults: Faults = field(default_factory=Faults)
    seed: int = 1
    state: Root | None = None
    clock: Clock = field(default_factory=SystemClock)
    idle_s: float = _IDLE_S
    client: httpx2.AsyncClient | None = None
    step_s: float = STEP_S
    roots: dict[str, HostRoot] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.hosts < 0 or self.sites < 1:
            raise SkerryError(
                f"a fleet of {self.hosts} hosts at {self.sites} sites cannot be",
                hint="at least one site",
            )
        self._disk = FleetDisk(self.state)
        self._disk.load()
        self._shapes = shapes()

    def places(self) -> tuple[Harbour, ...]:
        """The sites of the fleet."""
        return harbours(self.sites)

    def place_of(self, number: int) -> tuple[str, Harbour]:
        """Name and site of a host by its number."""
        harbour = self.places()[number % self.sites]
        return f"{harbour.name}-{number // self.sites + 1}", harbour

    def strangers(self) -> int:
        """How many hosts are not registered yet and will need the token."""
        return sum(not self._registered(self.place_of(number)[0]) for number in self._numbers())

    def offline(self, number: int) -> bool:
        """Whether the host's line is one of those that are down."""
        return self.faults.offline(seed=self.seed, number=number)

    async def run(self, *, report: Callable[[FleetCount], None] | None = None) -> None:
        """Run until cancelled. `report` is told when the count changed."""
        client = self.client or _client(self.authority_pem)
        try:
            async with anyio.create_task_group() as tg:
                tg.start_soon(self._flush)
                if report is not None:
                    tg.start_soon(self._tell, report)
                for number in self._numbers():
                    tg.start_soon(self._live, number, client)
                    await self.clock.sleep(1 / _START_PER_S)
        finally:
            self._disk.flush()
            if self.client is None:
                with anyio.CancelScope(shield=True):
                    await client.aclose()

    def count(self) -> FleetCount:
        """The state of all hosts that were started."""
        tally: Tally[str] = Tally()
        for root in self.roots.values():
            if paths.STATUS in root.files:
                tally.update(
                    _states(msgspec.json.decode(root.files[paths.STATUS], type=LocalStatus))
                )
        return FleetCount(hosts=len(self.roots), **tally)

    async def _live(self, number: int, client: httpx2.AsyncClient) -> None:
        """One host, through all its restarts."""
        restarts = True
        while restarts:
            down = anyio.Event()
            parts = self._parts(number, client, restart=down.set)
            async with anyio.create_task_group() as tg:
                tg.start_soon(_until, down, tg.cancel_scope)
                await run_agent(parts)
                tg.cancel_scope.cancel()
            restarts = down.is_set()
            if restarts:
                await system.start(
                    parts.root, bad_updates=self.faults.bad_updates(seed=self.seed, number=number)
                )

    def _parts(
        self, number: int, client: httpx2.AsyncClient, *, restart: Callable[[], None] | None = None
    ) -> Parts:
        name, harbour = self.place_of(number)
        shape = self._shapes[number % len(self._shapes)]
        machine = Machine(shape=shape, name=name, number=number, seed=self.seed)
        start = self.clock.now().isoformat()
        own = {
            **machine.own_files(),
            "/proc/sys/kernel/random/boot_id": f"{machine.boot_id(start)}\n".encode(),
        }
        root = self._disk.mount(name, shape_files(shape.shape), own)
        self.roots[name] = root
        if not root.exists(paths.IDENTITY):
            identity = Identity(
                manager=self.manager,
                authorities=(self.authority_pem,),
                site=harbour.name,
                labels={**harbour.labels, "hardware": shape.shape},
            )
            register.prepare(root, identity, token=self.token)
        elif self.token and not self._registered(name):
            root.write(paths.TOKEN, self.token.encode(), mode=0o600)
        line = Line(self.faults, self.clock, seed=self.seed, number=number)

        def channel(identity: Identity, keys: HostKeys, counter: Counter) -> Channel:
            behind = HttpChannel(identity, keys, counter, client=client)
            return FaultyChannel(behind, line, self.manager)

        bad_updates = self.faults.bad_updates(seed=self.seed, number=number)

        return Parts(
            root=root,
            runner=MachineRunner(machine, restart),
            clock=self.clock,
            engine=lambda _content: KeptEngine(
                root, self.clock, bad_updates=bad_updates, step_s=self.step_s
            ),
            os_engine=lambda _content: system.system_of(root),
            fetch_image=system.fetch_nothing,
            channel=channel,
            idle_s=self.idle_s,
            hold_s=0,
        )

    def _registered(self, name: str) -> bool:
        data = self._disk.file(name, paths.IDENTITY)
        return data is not None and msgspec.json.decode(data, type=Identity).approved

    def _numbers(self) -> range:
        return range(self.first, self.first + self.hosts)

    async def _flush(self) -> None:
        while True:
            await self.clock.sleep(_FLUSH_S)
            self._disk.flush()

    async def _tell(self, report: Callable[[FleetCount], None]) -> None:
        before: FleetCount | None = None
        while True:
            await self.clock.sleep(_COUNT_S)
            now = self.count()
            if now != before:
                report(now)
                before = now


async def run_fleet(
    manager_url: str,
    ca_pem: str,
    token: str,
    hosts: int,
    sites: int,
    *,
    faults: Faults | None = None,
    seed: int = 1,
    state: Root | None = None,
    report: Callable[[FleetCount], None] | None = None,
) -> None:
    """Run a fleet until cancelled. The sites must exist at the manager."""
    fleet = Fleet(
        manager=manager_url.rstrip("/"),
        authority_pem=ca_pem,
        token=token,
        hosts=hosts,
        sites=sites,
        faults=faults or Faults(),
        seed=seed,
        state=state,
    )
    await fleet.run(report=report)


async def _until(event: anyio.Event, scope: anyio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


def _states(status: LocalStatus) -> list[str]:
    if status.identity_state != "approved":
        return ["refused" if status.identity_state in ("denied", "revoked") else "pending"]
    found = ["registered"]
    if any(item.type == "Synced" and item.status == "True" for item in status.conditions):
        found.append("online")
    if status.report is not None:
        if status.report.progress is not None:
            found.append("busy")
        if status.report.kubernetes.node_ready:
            found.append("clusters")
    return found


def _client(authority_pem: str) -> httpx2.AsyncClient:
    context = ssl.create_default_context(cadata=authority_pem)
    return httpx2.AsyncClient(
        verify=context,
        trust_env=False,
        limits=httpx2.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS),
        headers={"user-agent": f"skerry-agent/{__version__}"},
    )
