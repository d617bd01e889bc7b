"""One sync of a host: heartbeat, acknowledgement, status delta, events; and what it is told.

A heartbeat alone stays in memory. Everything that the answer confirms (acknowledgement, report,
events) is durable before the answer leaves.
"""

from __future__ import annotations

from dataclasses import dataclass

import anyio
import msgspec

from skerry.manager.services import assignments, hosts, restored
from skerry.manager.services.centre import Centre, Contended
from skerry.manager.store.protocol import AnyResource, Conflict, Event, Put, SetValue, WriteSet
from skerry.model.kinds import DesiredMark, HostStatus
from skerry.model.labels import host_labels, merge
from skerry.model.meta import Condition
from skerry.wire.messages import HostEvent, HostReport, SyncAnswer, SyncRequest, apply_report

SEQUENCES = "host-events"
_TRIES = 8
_MAX_EVENTS = 200
_MAX_CONDITIONS = 32


@dataclass(frozen=True, slots=True)
class _Taken:
    """What of a request was made durable."""

    host: AnyResource
    events_through: int


async def sync(
    centre: Centre, host: AnyResource, request: SyncRequest, *, counter: int
) -> SyncAnswer:
    """Answer one sync. Raises Contended."""
    centre.live.seen(host.uid, centre.clock.now())
    taken = await _take(centre, host, request, counter)
    want_report = (
        request.report is None and request.status_digest != taken.host.status.status_digest
    )
    answer = await _answer(centre, taken, request, want_report=want_report)
    hold_s = min(request.wait_s, centre.settings.hold_s)
    if hold_s > 0 and answer.assignment is None and not want_report:
        await _hold(centre, host.uid, hold_s)
        answer = await _answer(centre, taken, request, want_report=False)
    return answer


async def _take(centre: Centre, host: AnyResource, request: SyncRequest, counter: int) -> _Taken:
    for attempt in range(_TRIES):
        if attempt:
            host = await centre.store.get_by_uid("Host", host.uid)
        issued = await assignments.current(centre, host.uid)
        status = _status(host.status, request, issued)
        events, through = await _events(centre, host, request.events)
        kept = (
            *await _floor(centre, host, request, issued),
            *await restored.learned(centre, host, request),
        )
        labels = _labels(host, request.report)
        if status == host.status and labels == host.metadata.labels and not events and not kept:
            return _Taken(host, through)
        new = msgspec.structs.replace(
            host,
            metadata=msgspec.structs.replace(host.metadata, labels=labels),
            status=msgspec.structs.replace(status, counter=counter),
        )
        values = list(kept)
        if events:
            values.append(SetValue(SEQUENCES, host.uid, str(through).encode()))
        try:
            done = await centre.store.commit(
                WriteSet(
                    puts=(Put(new, host.metadata.revision),),
                    values=tuple(values),
                    events=events,
                )
            )
        except Conflict:
            continue
        return _Taken(done.written[0], through)
    raise Contended(f"host {host.name}")


def _status(
    status: HostStatus, request: SyncRequest, issued: assignments.Issued | None
) -> HostStatus:
    if request.report is not None:
        status = apply_report(status, request.report)
        status = msgspec.structs.replace(
            status,
            status_digest=request.status_digest[:100],
            conditions=_conditions(status, request.report),
            own_labels=host_labels("labels", request.report.labels)[0],
        )
    mark = DesiredMark(epoch=request.acknowledged_epoch, digest=request.acknowledged_digest[:100])
    if mark != status.acknowledged and _may_acknowledge(mark, issued):
        status = msgspec.structs.replace(status, acknowledged=mark)
    return status


def _may_acknowledge(mark: DesiredMark, issued: assignments.Issued | None) -> bool:
    """Only what was issued can be acknowledged; of older epochs the host's word counts."""
    if issued is None or mark.epoch > issued.epoch:
        return False
    return mark.epoch < issued.epoch or mark.digest == issued.digest


def _conditions(status: HostStatus, report: HostReport) -> tuple[Condition, ...]:
    own = tuple(item for item in status.conditions if item.type in hosts.OWN_CONDITIONS)
    reported = tuple(
        msgspec.structs.replace(item, message=item.message[:1000])
        for item in report.conditions[:_MAX_CONDITIONS]
        if item.type not in hosts.OWN_CONDITIONS
    )
    return (*own, *reported)


def _labels(host: AnyResource, report: HostReport | None) -> dict[str, str]:
    """The host's own labels follow it; what people decided is never overwritten by a host."""
    labels: dict[str, str] = host.metadata.labels
    if report is None:
        return labels
    own, _ = host_labels("labels", report.labels)
    return merge(labels, before=host.status.own_labels, now=own)


async def _floor(
    centre: Centre, host: AnyResource, request: SyncRequest, issued: assignments.Issued | None
) -> tuple[SetValue, ...]:
    """A host ahead of us was told more by the manager that this one was restored from.

    So was one that has our epoch with another content: it would refuse ours.
    """
    epoch, digest = (issued.epoch, issued.digest) if issued else (0, "")
    other = request.have_epoch == epoch and request.have_digest != digest
    if request.have_epoch < epoch or not (other or request.have_epoch > epoch):
        return ()
    if request.have_epoch > 2**53:
        return ()
    text = str(request.have_epoch).encode()
    if await centre.store.value(assignments.FLOORS, host.uid) == text:
        return ()
    return (SetValue(assignments.FLOORS, host.uid, text),)


async def _events(
    centre: Centre, host: AnyResource, events: tuple[HostEvent, ...]
) -> tuple[tuple[Event, ...], int]:
    if not events:
        return (), 0
    stored = await centre.store.value(SEQUENCES, host.uid)
    last = int(stored) if stored else 0
    through = last
    fresh: list[Event] = []
    for item in sorted(events, key=lambda one: one.sequence)[:_MAX_EVENTS]:
        if item.sequence > through:
            through = item.sequence
            fresh.append(
                Event(
                    at=item.at,
                    object_kind="Host",
                    object_project=host.project,
                    object_name=host.name,
                    reason=item.reason[:64],
                    message=item.message[:1000],
                    severity=item.severity if item.severity in _SEVERITIES else "info",
                )
            )
    return tuple(fresh), through


_SEVERITIES = ("info", "warning", "error")


async def _answer(
    centre: Centre, taken: _Taken, request: SyncRequest, *, want_report: bool
) -> SyncAnswer:
    issued = await assignments.current(centre, taken.host.uid)
    status: HostStatus = taken.host.status
    offer = None
    if issued is not None and issued.epoch >= request.have_epoch and centre.live.restored is None:
        same = (issued.epoch, issued.digest) == (request.have_epoch, request.have_digest)
        offer = None if same else issued.envelope
    settled = issued is not None and status.acknowledged.digest == issued.digest
    busy = offer is not None or not settled or status.progress is not None
    return SyncAnswer(
        status_digest=status.status_digest,
        events_through=taken.events_through,
        assignment=offer,
        want_report=want_report,
        next_s=centre.settings.busy_interval_s if busy else centre.settings.sync_interval_s,
        now=centre.clock.now(),
    )


async def _hold(centre: Centre, uid: str, hold_s: float) -> None:
    """Wait until the host's assignment changes, at most `hold_s`."""
    waiter = centre.live.waiter(uid)
    async with anyio.create_task_group() as tg:

        async def limit() -> None:
            await centre.clock.sleep(hold_s)
            tg.cancel_scope.cancel()

        tg.start_soon(limit)
        await waiter.wait()
        tg.cancel_scope.cancel()
