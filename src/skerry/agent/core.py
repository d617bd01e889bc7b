"""The agent put together: register, then work and sync side by side until told to stop.

`Parts` are the doors to the world. Simulation passes a fake OS, Kubernetes, Root and Clock; all
else, signatures and journal included, is this same code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import anyio
import msgspec
import structlog

from skerry.agent import facts, paths, register
from skerry.agent.channel import Channel, HttpChannel
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
from skerry.agent.selfupdate import Updater
from skerry.agent.slots import AgentSlots
from skerry.agent.standing import Standing
from skerry.agent.sync import HOLD_S, LocalStatus, Syncer
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
    one that lies in none does not replace itself."""

    root: Root
    runner: Runner
    clock: Clock
    engine: Callable[[Content], KubeEngine]
    channel: Callable[[Identity, HostKeys, Counter], Channel] = HttpChannel
    facts: HostFacts | None = None
    idle_s: float = 10.0
    hold_s: int = HOLD_S
    slot: str = ""


async def run_agent(parts: Parts) -> None:
    """Run until cancelled or revoked. Raises NotRegistered."""
    identity = load_identity(parts.root)
    keys = load_or_make_keys(parts.root)
    counter = Counter(parts.root)
    channel = parts.channel(identity, keys, counter)
    try:
        if not identity.approved:
            identity = await _register(parts, channel, identity, keys)
            await channel.close()
            channel = parts.channel(identity, keys, counter)
        await _live(parts, channel, identity, keys)
    finally:
        with anyio.CancelScope(shield=True):
            await channel.close()


async def _register(parts: Parts, channel: Channel, identity: Identity, keys: HostKeys) -> Identity:
    found = parts.facts or await facts.host_facts(parts.root, parts.runner)
    failures = 0
    while True:
        try:
            identity, wait_s = await register.ask(parts.root, channel, identity, keys, found)
            failures = 0
            condition = Condition(
                type="Registered",
                status="True" if identity.approved else "False",
                reason=identity.reason
                or ("Registered" if identity.approved else "AwaitingApproval"),
                message=identity.message,
            )
        except (SkerryError, OSError) as exc:
            # Refused or unreachable, or the disk is full: the host asks again in any case.
            failures += 1
            wait_s = min(2.0**failures, _ASK_MAX_S)
            reason = (exc.reason if isinstance(exc, SkerryError) else "") or "HostError"
            log.warning("registration.failed", reason=reason, message=str(exc))
            condition = Condition(
                type="Registered", status="False", reason=reason, message=str(exc)
            )
        try:
            _show_registration(parts.root, identity, keys, condition)
        except (SkerryError, OSError) as exc:
            log.warning("status.not-written", message=str(exc))
        if identity.approved:
            return identity
        await parts.clock.sleep(max(wait_s, 1.0))


def _show_registration(
    root: Root, identity: Identity, keys: HostKeys, condition: Condition
) -> None:
    status = LocalStatus(
        identity_state=identity.state,
        host_name=identity.host_name,
        manager=identity.manager,
        registration_code=identity.registration_code,
        fingerprint=keys.fingerprint,
        conditions=(condition,),
    )
    root.write(paths.STATUS, msgspec.json.encode(status))


async def _live(parts: Parts, channel: Channel, identity: Identity, keys: HostKeys) -> None:
    content = ContentStore(parts.root, channel)
    events = EventLog(parts.root)
    standing = Standing()
    updater = _updater(parts, content, identity, events, standing)
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
        idle_s=parts.idle_s,
    )
    if updater is not None:
        updater.on_ready = worker.nudge
        await updater.begin()

    def assigned() -> None:
        worker.nudge()
        if updater is not None:
            updater.nudge()

    async with anyio.create_task_group() as tg:

        async def revoked(message: str) -> None:
            save_identity(
                parts.root,
                msgspec.structs.replace(
                    syncer.identity, state="revoked", reason="Revoked", message=message
                ),
            )
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
            hold_s=parts.hold_s,
        )
        tg.start_soon(worker.run)
        tg.start_soon(syncer.run)
        if updater is not None:
            tg.start_soon(updater.run)


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
