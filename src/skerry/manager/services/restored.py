"""A manager that came back from a backup only observes until a person confirms.

What happened after the backup is not in its database: assignments with higher epochs, revocations,
used tokens, changed profiles. So it learns from every host which epoch and digest it has, and
meanwhile gives out no assignment and lets nobody in by a secret. After the confirmation everything
is issued above the epoch that the host named (see `assignments.issue`).

The mark lies in the database: `store.backup.restore` writes it, and the start of a manager does
when its database is older than the audit heads that it signed.
"""

from __future__ import annotations

from datetime import datetime

import msgspec
import structlog

from skerry.manager.services import heads
from skerry.manager.services.centre import INTERNAL, Caller, Centre, require
from skerry.manager.store.backup import RESTORED_KEY, RESTORED_SPACE, RestoreMark
from skerry.manager.store.protocol import AnyResource, Audit, Query, SetValue, WriteSet
from skerry.model.kinds import Approval
from skerry.model.meta import Record
from skerry.wire.messages import SyncRequest

log = structlog.get_logger("skerry.restore")

LEARNED = "restored-host"
WAITS = "this manager was restored from a backup and waits until a person confirms it"


class Learned(Record, frozen=True, kw_only=True):
    """What a host said that it has."""

    epoch: int
    digest: str
    at: datetime


class HostView(Record, frozen=True, kw_only=True):
    """One host while the manager observes. `heard` is None until it called."""

    project: str
    name: str
    issued_epoch: int
    heard: Learned | None = None

    @property
    def ahead(self) -> bool:
        """Whether the host was told more than this database knows of."""
        return self.heard is not None and self.heard.epoch > self.issued_epoch


class View(Record, frozen=True, kw_only=True):
    """What a person looks at before confirming."""

    observing: bool
    since: datetime | None = None
    source: str = ""
    hosts: tuple[HostView, ...] = ()


async def load(centre: Centre) -> None:
    """Find out at the start whether this manager may publish."""
    data = await centre.store.value(RESTORED_SPACE, RESTORED_KEY)
    if data is not None:
        centre.live.restored = msgspec.json.decode(data, type=RestoreMark)
        log.warning("restore.observing", source=centre.live.restored.source)
        return
    problem = await heads.set_back(centre)
    if not problem:
        return
    mark = RestoreMark(at=centre.clock.now(), source=f"a database that was set back: {problem}")
    await centre.store.commit(
        WriteSet(
            values=(SetValue(RESTORED_SPACE, RESTORED_KEY, msgspec.json.encode(mark)),),
            audits=(_audit(centre, INTERNAL, "observe", mark.source),),
        )
    )
    centre.live.restored = mark
    log.warning("restore.observing", source=mark.source)


async def learned(centre: Centre, host: AnyResource, request: SyncRequest) -> tuple[SetValue, ...]:
    """What to keep of a sync while observing; nothing when it is known already."""
    if centre.live.restored is None or request.have_epoch > 2**53:
        return ()
    data = await centre.store.value(LEARNED, host.uid)
    before = msgspec.json.decode(data, type=Learned) if data else None
    digest = request.have_digest[:100]
    if before is not None and (before.epoch, before.digest) == (request.have_epoch, digest):
        return ()
    now = Learned(epoch=request.have_epoch, digest=digest, at=centre.clock.now())
    return (SetValue(LEARNED, host.uid, msgspec.json.encode(now)),)


async def view(centre: Centre, caller: Caller) -> View:
    """Raises NotPermitted."""
    require(caller, "list", "Host", "")
    mark = centre.live.restored
    if mark is None:
        return View(observing=False)
    heard = {
        uid: msgspec.json.decode(data, type=Learned)
        for uid, data in (await centre.store.values(LEARNED)).items()
    }
    found: list[HostView] = []
    after = ""
    while True:
        page = await centre.store.list(Query("Host", limit=1000, after=after))
        found += [
            HostView(
                project=host.project,
                name=host.name,
                issued_epoch=host.status.desired.epoch,
                heard=heard.get(host.uid),
            )
            for host in page.items
            if host.spec.approval is Approval.APPROVED and not host.spec.revoked
        ]
        after = page.after
        if not after:
            return View(observing=True, since=mark.at, source=mark.source, hosts=tuple(found))


async def confirm(centre: Centre, caller: Caller) -> bool:
    """Let the manager publish again; whether it was observing. Raises NotPermitted.

    Needs an administrator of the whole system. Hosts that did not call yet are safe too: one that
    turns out to be ahead gets its assignment again, above the epoch that it has.
    """
    require(caller, "confirm", "Manager", "")
    mark = centre.live.restored
    if mark is None:
        return False
    known = await centre.store.values(LEARNED)
    await centre.store.commit(
        WriteSet(
            values=(
                SetValue(RESTORED_SPACE, RESTORED_KEY, None),
                *(SetValue(LEARNED, uid, None) for uid in known),
            ),
            audits=(_audit(centre, caller, "confirm", f"{mark.source}; {len(known)} hosts heard"),),
        )
    )
    # After the commit: a crash between the two only means that somebody confirms again.
    heads.begin_anew(centre)
    centre.live.restored = None
    log.info("restore.confirmed", by=caller.name)
    return True


def _audit(centre: Centre, caller: Caller, verb: str, change: str) -> Audit:
    return Audit(
        at=centre.clock.now(),
        actor=caller.name,
        verb=verb,
        object_kind="Manager",
        object_project="",
        object_name="manager",
        source=caller.source,
        change=change,
    )
