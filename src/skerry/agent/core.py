"""The agent put together: register, then work and sync side by side until told to stop.

`Parts` are the doors to the world. Simulation passes a fake OS, Kubernetes, Root and Clock; all
else, signatures and journal included, is this same code.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import anyio
import msgspec
import structlog

from skerry.agent import facts, register
from skerry.agent.channel import Channel, HttpChannel, certificate_begins
from skerry.agent.clockfloor import ClockFloor, SetClock
from skerry.agent.content import Content, ContentStore
from skerry.agent.identity import (
    Counter,
    HostKeys,
    Identity,
    load_identity,
    load_or_make_keys,
    save_identity,
)
from skerry.agent.journal import EventLog, Journal
from skerry.agent.kube.engine import KubeEngine
from skerry.agent.labels import EVERY_S, Gathered, LabelSource, follow
from skerry.agent.osengine.engine import OsEngine
from skerry.agent.osupdate import FetchContent, OsUpdater
from skerry.agent.selfupdate import Updater
from skerry.agent.slots import AgentSlots
from skerry.agent.standing import Standing
from skerry.agent.sync import HOLD_S, LocalStatus, Syncer, save_status
from skerry.agent.wanted import fetch_image
from skerry.agent.work import Worker
from skerry.lib.clock import Clock
from skerry.lib.errors import SkerryError
from skerry.lib.files import Root
from skerry.lib.proc import Runner
from skerry.model.meta import Condition
from skerry.wire.messages import HostFacts

log = structlog.get_logger("skerry.agent")

_ASK_MAX_S = 60.0


@dataclass(frozen=True, slots=True)
class Parts:
    """The doors that the agent works through. `hold_s` is how long the manager may hold a sync;
    a fleet that shares its connections asks for 0. `slot` is the slot that this program lies in;
    one that lies in none does not replace itself. `os_engine` is None where there is no operating
    system to look after. `set_clock` is None where the clock is not this machine's own: in
    containers and simulations."""

    root: Root
    runner: Runner
    clock: Clock
    engine: Callable[[Content], KubeEngine]
    os_engine: Callable[[Content], OsEngine] | None = None
    fetch_image: FetchContent = fetch_image
    channel: Callable[[Identity, HostKeys, Counter], Channel] = HttpChannel
    facts: HostFacts | None = None
    idle_s: float = 10.0
    hold_s: int = HOLD_S
    slot: str = ""
    set_clock: SetClock | None = None
    certificate_begins: Callable[[Identity], Awaitable[datetime | None]] = certificate_begins


async def run_agent(parts: Parts) -> None:
    """Run until cancelled or revoked. Raises NotRegistered."""
    identity = load_identity(parts.root)
    keys = load_or_make_keys(parts.root)
    counter = Counter(parts.root)
    floor = ClockFloor(parts.root, parts.runner, parts.clock, parts.set_clock)
    floor.saw_assignment(identity)
    if stepped := await floor.hold():
        EventLog(parts.root).add("ClockStepped", stepped, at=parts.clock.now(), severity="warning")
    channel = parts.channel(identity, keys, counter)
    try:
        if not identity.approved:
            identity = await _register(parts, channel, identity, keys, floor)
            await channel.close()
            channel = parts.channel(identity, keys, counter)
        register.forget_secrets(parts.root)
        await _live(parts, channel, identity, keys, floor)
    finally:
        with anyio.CancelScope(shield=True):
            await channel.close()


async def _register(
    parts: Parts, channel: Channel, identity: Identity, keys: HostKeys, floor: ClockFloor
) -> Identity:
    found = parts.facts or await facts.host_facts(parts.root, parts.runner)
    source = LabelSource(parts.root, parts.runner, identity.labels, identity.site)
    mine, gathered_at = await source.gather(), parts.clock.monotonic()
    failures = 0
    while True:
        if parts.clock.monotonic() - gathered_at >= EVERY_S:
            mine, gathered_at = await source.gather(), parts.clock.monotonic()
        try:
            identity, wait_s = await register.ask(
                parts.root, channel, identity, keys, found, labels=mine.labels, site=mine.site
            )
            failures = 0
            condition = _answered(identity)
        except (SkerryError, OSError) as exc:
            # Refused or unreachable, or the disk is full: the host asks again in any case.
            failures += 1
            wait_s = min(2.0**failures, _ASK_MAX_S)
            condition = _unanswered(exc)
            log.warning("registration.failed", reason=condition.reason, message=condition.message)
            if condition.reason == "ClockWrong" and await _step_to_certificate(
                parts, identity, floor
            ):
                wait_s = 0.0
        conditions = (condition, mine.note) if mine.note else (condition,)
        try:
            _show_registration(parts.root, identity, keys, conditions)
        except (SkerryError, OSError) as exc:
            log.warning("status.not-written", message=str(exc))
        if identity.approved:
            return identity
        await parts.clock.sleep(max(wait_s, 1.0))


def _answered(identity: Identity) -> Condition:
    return Condition(
        type="Registered",
        status="True" if identity.approved else "False",
        reason=identity.reason or ("Registered" if identity.approved else "AwaitingApproval"),
        message=identity.message,
    )


def _unanswered(exc: SkerryError | OSError) -> Condition:
    if isinstance(exc, SkerryError):
        reason, message = exc.reason or "AgentError", exc.message
    else:
        reason, message = "HostError", str(exc)
    return Condition(type="Registered", status="False", reason=reason, message=message)


async def _step_to_certificate(parts: Parts, identity: Identity, floor: ClockFloor) -> bool:
    """Before registration nothing but the manager's certificate vouches for a time."""
    begins = await parts.certificate_begins(identity)
    if begins is None:
        return False
    floor.saw(begins)
    return bool(await floor.hold())


def _show_registration(
    root: Root, identity: Identity, keys: HostKeys, conditions: tuple[Condition, ...]
) -> None:
    status = LocalStatus(
        identity_state=identity.state,
        host_name=identity.host_name,
        manager=identity.manager,
        registration_code=identity.registration_code,
        fingerprint=keys.fingerprint,
        conditions=conditions,
    )
    save_status(root, status)


async def _live(
    parts: Parts, channel: Channel, identity: Identity, keys: HostKeys, floor: ClockFloor
) -> None:
    content = ContentStore(parts.root, channel)
    events = EventLog(parts.root)
    source = LabelSource(parts.root, parts.runner, identity.labels, identity.site)
    mine = await source.gather()
    standing = Standing(labels=mine.labels, note=mine.note)
    updater = _updater(parts, content, identity, events, standing)
    os_updater = _os_updater(parts, content, identity, events, standing)
    worker = Worker(
        root=parts.root,
        clock=parts.clock,
        content=content,
        engine=parts.engine(content),
        keys=keys,
        identity=identity,
        journal=Journal(parts.root),
        events=events,
        standing=standing,
        updater=updater,
        os=os_updater,
        idle_s=parts.idle_s,
    )
    halves = await _begin(worker, updater, os_updater)

    def assigned() -> None:
        worker.nudge()
        for half in halves:
            half.nudge()

    async with anyio.create_task_group() as tg:

        async def revoked(message: str) -> None:
            # The renewal may have changed what the syncer holds; the screen shows its state.
            syncer.identity = msgspec.structs.replace(
                syncer.identity, state="revoked", reason="Revoked", message=message
            )
            save_identity(parts.root, syncer.identity)
            log.warning("host.revoked", message=message)
            tg.cancel_scope.cancel()

        syncer = Syncer(
            root=parts.root,
            runner=parts.runner,
            clock=parts.clock,
            channel=channel,
            identity=identity,
            keys=keys,
            events=events,
            standing=standing,
            on_assignment=assigned,
            on_revoked=revoked,
            floor=floor,
            hold_s=parts.hold_s,
        )

        tg.start_soon(worker.run)
        tg.start_soon(syncer.run)
        tg.start_soon(follow, source, parts.clock, mine, partial(_relabel, standing))
        for half in halves:
            tg.start_soon(half.run)


async def _begin(
    worker: Worker, updater: Updater | None, os_updater: OsUpdater | None
) -> tuple[Updater | OsUpdater, ...]:
    """Join what looks after agent and OS with the worker, and let each settle its last trial."""
    if updater is not None:
        updater.on_ready = worker.nudge
        await updater.begin()
    if os_updater is not None:
        os_updater.on_ready, os_updater.health = worker.nudge, worker.health_now
        await os_updater.begin()
    return tuple(half for half in (updater, os_updater) if half is not None)


async def _relabel(standing: Standing, now: Gathered) -> None:
    if (now.labels, now.note) != (standing.labels, standing.note):
        standing.labels, standing.note = now.labels, now.note
        standing.announce()


def _updater(
    parts: Parts, content: Content, identity: Identity, events: EventLog, standing: Standing
) -> Updater | None:
    if not parts.slot:
        return None
    return Updater(
        root=parts.root,
        clock=parts.clock,
        slots=AgentSlots(parts.root, parts.runner, content, parts.slot),
        identity=identity,
        events=events,
        standing=standing,
    )


def _os_updater(
    parts: Parts, content: Content, identity: Identity, events: EventLog, standing: Standing
) -> OsUpdater | None:
    if parts.os_engine is None:
        return None
    return OsUpdater(
        root=parts.root,
        runner=parts.runner,
        clock=parts.clock,
        content=content,
        engine=parts.os_engine(content),
        fetch=parts.fetch_image,
        identity=identity,
        events=events,
        standing=standing,
    )
