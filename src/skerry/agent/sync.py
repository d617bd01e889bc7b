"""The agent's syncing half: heartbeat, acknowledgement, status delta, newest assignment.

Runs beside the working half, so that a long step never makes the host look dead. A report is sent
only when its digest is not the one that the manager confirmed. Without a line it backs off, and
after one it waits a random part of the interval, so that a site's return makes no storm.
"""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio
import msgspec
import structlog

from skerry import __version__
from skerry.agent import accept, facts, paths, register, wanted
from skerry.agent.causes import ChannelFailed
from skerry.agent.channel import Channel, ChannelRefused
from skerry.agent.clockfloor import ClockFloor
from skerry.agent.identity import HostKeys, Identity, boot_id
from skerry.agent.journal import EventLog
from skerry.agent.standing import Standing
from skerry.lib.clock import Clock
from skerry.lib.digest import canonical_json, sha256
from skerry.lib.errors import SkerryError
from skerry.lib.files import DiskFull, Root
from skerry.lib.proc import Runner
from skerry.model.inventory import Inventory
from skerry.model.meta import Condition, Record
from skerry.wire.envelope import Envelope
from skerry.wire.messages import HostReport, SyncAnswer, SyncRequest

log = structlog.get_logger("skerry.agent.sync")

_INVENTORY_EVERY_S = 300.0
_BACKOFF_MAX_S = 300.0
_RENEW_AGAIN_S = 60.0
_INTERVAL_MAX_S = 3600.0
# Just below the minute after which proxies and NAT forget a quiet connection.
HOLD_S = 55
_NO_LINE = ("ManagerUnreachable", "DnsFailed", "ProxyRefused")
_HELD = 0.8


class LocalStatus(Record, frozen=True, kw_only=True):
    """What `skerry-agent status` shows, also when the agent is not running."""

    identity_state: str
    host_name: str = ""
    manager: str = ""
    registration_code: str = ""
    fingerprint: str = ""
    line: str = ""
    have_epoch: int = 0
    acknowledged_epoch: int = 0
    report: HostReport | None = None
    conditions: tuple[Condition, ...] = ()


@dataclass
class Syncer:
    """Everything the syncing half holds on to."""

    root: Root
    runner: Runner
    clock: Clock
    channel: Channel
    identity: Identity
    keys: HostKeys
    events: EventLog
    standing: Standing
    on_assignment: Callable[[], None]
    on_revoked: Callable[[str], Awaitable[None]]
    floor: ClockFloor
    hold_s: int = HOLD_S
    _confirmed: str = ""
    _inventory: Inventory | None = None
    _inventory_at: float = 0.0
    _failures: int = 0
    _renew_at: float | None = None
    _renewed_at: float = -math.inf
    _line: Condition = Condition(type="Synced", status="Unknown", reason="Starting")
    _accepted: Condition | None = None
    _clock: Condition | None = None
    _since: dict[str, Condition] = field(default_factory=dict)

    async def run(self) -> None:
        """Sync until cancelled."""
        while True:
            changed = self.standing.changed
            try:
                pause_s = await self.turn()
            except (SkerryError, OSError) as exc:
                # The disk says no; what the manager was told stands, and the rest comes again.
                reason = exc.reason if isinstance(exc, SkerryError) else "HostError"
                log.warning("sync.hindered", reason=reason, message=str(exc))
                self._failures += 1
                pause_s = self._backoff()
            with anyio.move_on_after(pause_s):
                await changed.wait()
                # Many small changes come together (a step ends, the next starts): one report.
                await self.clock.sleep(0.3)

    async def turn(self) -> float:
        """One sync; seconds until the next."""
        changed = self.standing.changed  # before the report: a change while it is made counts
        report = await self._report()
        digest = sha256(canonical_json(report))
        have = accept.stored(self.root, self.identity)
        mark = self.standing.acknowledged
        idle = digest == self._confirmed and not self._failures and self.standing.progress is None
        hold_s = self.hold_s if idle else 0
        request = SyncRequest(
            have_epoch=have.epoch if have else 0,
            have_digest=have.digest if have else "",
            acknowledged_epoch=mark.epoch,
            acknowledged_digest=mark.digest,
            status_digest=digest,
            report=None if digest == self._confirmed else report,
            events=self.events.waiting(),
            wait_s=hold_s,
        )
        started = self.clock.monotonic()
        try:
            answer = await self._ask(request, changed)
        except ChannelFailed as exc:
            return self._failed(exc, report)
        except ChannelRefused as exc:
            if exc.reason == "Revoked":
                await self.on_revoked(exc.message)
            return self._failed(exc, report)
        if answer is None:
            return 0.0
        back_s = random.uniform(0.5, 3.0) if self._failures else 0.0  # noqa: S311  # spreads load
        self._failures = 0
        self.standing.synced, self.standing.offline = True, False
        self._line = Condition(type="Synced", status="True", reason="Synced")
        await self._look_at_clock(answer)
        self._confirmed = "" if answer.want_report else answer.status_digest
        self.events.confirm(answer.events_through)
        if answer.assignment is not None:
            self._take(answer.assignment)
        self._save(report)
        await self._renew()
        # At once when the manager lost our report or more events wait.
        if answer.want_report or (answer.events_through and self.events.waiting()):
            return 0.05
        if hold_s and self.clock.monotonic() - started >= hold_s * _HELD:
            return 0.05  # the manager held the request: it does the waiting for us
        return min(max(float(answer.next_s), 1.0), _INTERVAL_MAX_S) + back_s

    async def _ask(self, request: SyncRequest, changed: anyio.Event) -> SyncAnswer | None:
        """The answer, or None when something changed here while the manager held the request."""
        if not request.wait_s:
            return await self.channel.sync(request)
        answer: SyncAnswer | None = None
        failure: SkerryError | None = None
        async with anyio.create_task_group() as tg:

            async def interrupt() -> None:
                await changed.wait()
                tg.cancel_scope.cancel()

            tg.start_soon(interrupt)
            try:
                answer = await self.channel.sync(request)
            except SkerryError as exc:
                failure = exc
            tg.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return answer

    def _take(self, envelope: Envelope) -> None:
        try:
            accept.accept(self.root, envelope, self.identity)
            self.floor.saw_assignment(self.identity)
        except SkerryError as exc:
            self._accepted = Condition(
                type="AssignmentAccepted", status="False", reason=exc.reason, message=exc.message
            )
            log.warning("assignment.refused", reason=exc.reason)
            if exc.reason == "Unsupported" and wanted.keep_offer(
                self.root, envelope, self.identity
            ):
                self.on_assignment()
            return
        self._accepted = None
        log.info("assignment.accepted")
        self.on_assignment()

    async def _renew(self) -> None:
        """Renew the registration certificate when it is time. A failure is no more than that: the
        line works without, so it is told in the log and tried again."""
        now = self.clock.monotonic()
        if self._renew_at is None:
            due = register.renewal_due_at(self.identity)
            due_in_s = (due - self.clock.now()).total_seconds()
            # With a clock that is far ahead a fresh certificate is due at once: not at every sync.
            self._renew_at = max(now + due_in_s, self._renewed_at + _RENEW_AGAIN_S)
        if now < self._renew_at:
            return
        try:
            self.identity = await register.renew(self.root, self.channel, self.identity, self.keys)
        except SkerryError as exc:
            log.warning("registration.not_renewed", reason=exc.reason, message=exc.message)
            self._renew_at = now + _RENEW_AGAIN_S
            return
        self._renew_at, self._renewed_at = None, now

    def _failed(self, exc: SkerryError, report: HostReport) -> float:
        self._failures += 1
        self.standing.offline = exc.reason in _NO_LINE
        self._line = Condition(
            type="Synced", status="False", reason=exc.reason, message=exc.message
        )
        if self._failures == 1:
            log.warning("sync.failed", reason=exc.reason, message=exc.message)
        self._save(report)
        return self._backoff()

    def _backoff(self) -> float:
        limit = min(2.0 ** min(self._failures, 9), _BACKOFF_MAX_S)
        return random.uniform(limit / 2, limit)  # noqa: S311  # spreads load, no secret

    async def _look_at_clock(self, answer: SyncAnswer) -> None:
        """The answer is signed for this very request, so its time is the manager's time now."""
        if answer.now is None:
            return
        judged = self.floor.judge(answer.now)
        self.floor.saw(answer.now)
        if judged is not None and (stepped := await self.floor.hold()):
            self.events.add("ClockStepped", stepped, at=self.clock.now(), severity="warning")
            judged = self.floor.judge(answer.now)
        if judged != self._clock:
            self._clock = judged
            if judged is not None:
                log.warning("clock.wrong", reason=judged.reason, message=judged.message)

    async def _report(self) -> HostReport:
        now = self.clock.monotonic()
        if self._inventory is None or now - self._inventory_at > _INVENTORY_EVERY_S:
            self._inventory = await facts.inventory(self.root, self.runner)
            self._inventory_at = now
        conditions = [*self.standing.conditions]
        conditions[:0] = [
            item for item in (self._accepted, self._clock, self.standing.note) if item is not None
        ]
        beside = (
            self.standing.agent_condition,
            self.standing.os_condition,
            self.standing.os_problem,
        )
        conditions += [item for item in beside if item is not None]
        return HostReport(
            agent_version=__version__,
            addresses=facts.addresses_of(self._inventory),
            host_name=self.identity.host_name,
            boot_id=boot_id(self.root),
            inventory=self._inventory,
            kubernetes=self.standing.kubernetes,
            agent=self.standing.agent,
            os=self.standing.os,
            progress=self.standing.progress,
            conditions=tuple(self._stamp(item) for item in conditions),
            labels=self.standing.labels,
        )

    def _stamp(self, condition: Condition) -> Condition:
        """Keep the time of a condition's last transition."""
        known = self._since.get(condition.type)
        if known is not None and (known.status, known.reason) == (
            condition.status,
            condition.reason,
        ):
            since = known.since
        else:
            since = self.clock.now().replace(microsecond=0)
        stamped = msgspec.structs.replace(condition, since=since)
        self._since[condition.type] = stamped
        return stamped

    def _save(self, report: HostReport) -> None:
        have = accept.stored(self.root, self.identity)
        status = LocalStatus(
            identity_state=self.identity.state,
            host_name=self.identity.host_name,
            manager=self.identity.manager,
            fingerprint=self.keys.fingerprint,
            have_epoch=have.epoch if have else 0,
            acknowledged_epoch=self.standing.acknowledged.epoch,
            report=report,
            conditions=(self._stamp(self._line), *report.conditions),
        )
        try:
            save_status(self.root, status)
        except (SkerryError, OSError) as exc:
            # What the host shows is then old; what it reports must not suffer for that.
            log.warning("status.not-written", message=str(exc))


def save_status(root: Root, status: LocalStatus) -> None:
    """Keep what people on the host are shown; in memory while the disk takes nothing more."""
    data = msgspec.json.encode(status)
    try:
        if not root.exists(paths.STATUS) or root.read(paths.STATUS) != data:
            root.write(paths.STATUS, data)
        if root.exists(paths.STATUS_ASIDE):
            root.remove(paths.STATUS_ASIDE)
    except (DiskFull, OSError) as exc:
        log.warning("status.aside", message=str(exc))
        root.write(paths.STATUS_ASIDE, data)


def load_status(root: Root) -> LocalStatus | None:
    """The newest status; None before the agent ever ran."""
    for path in (paths.STATUS_ASIDE, paths.STATUS):
        if root.exists(path):
            return msgspec.json.decode(root.read(path), type=LocalStatus)
    return None
