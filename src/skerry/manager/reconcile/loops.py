"""The centre's own loops: assignments, cluster status, finalizers, heartbeats.

Work is keyed by object: a change queues the keys that it touches, each key is worked on by one
task at a time, and a conflict simply queues it again. Only silence comes from the clock instead of
a change, so a short timer looks for it; a long one goes over everything as well, so correctness
never depends on a change having been seen.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from itertools import islice

import anyio
import msgspec
import structlog

from skerry.lib.errors import SkerryError
from skerry.manager.reconcile.derive import Obstacle, derive, is_clean
from skerry.manager.services import assignments, clusters, heads, hosts
from skerry.manager.services.assignments import CannotAssign
from skerry.manager.services.centre import CONTACTS, INTERNAL, Centre, audit, event
from skerry.manager.store.protocol import (
    AnyResource,
    Conflict,
    Delete,
    Event,
    HistoryGone,
    NotFound,
    Put,
    Query,
    SetValue,
    WriteSet,
)
from skerry.model.kinds import Approval, ClusterPhase
from skerry.model.meta import Condition

log = structlog.get_logger("skerry.reconcile")

_REST_S = 2.0
_WATCHED = ("Cluster", "Host", "ClusterProfile", "Artifact", "Secret")
_Key = tuple[str, str, str]
# Several keys at a time: their commits then share one write to the disk.
_AT_ONCE = 16


class Reconciler:
    """The loops over one centre."""

    def __init__(self, centre: Centre) -> None:
        self._centre = centre
        self._queue: dict[_Key, None] = {}
        self._wake = anyio.Event()

    async def run(self) -> None:
        """Run until cancelled."""
        await self.load_contacts()
        async with anyio.create_task_group() as tg:
            tg.start_soon(self._watch)
            tg.start_soon(self._tick)
            tg.start_soon(self._flush)
            tg.start_soon(self._heads)
            tg.start_soon(self._work)

    def queue(self, kind: str, project: str, name: str) -> None:
        """Look at an object soon."""
        self._queue[(kind, project, name)] = None
        self._wake.set()

    async def settle(self, *, rounds: int = 20) -> None:
        """Look at everything until nothing changes any more. For tests and for start-up."""
        for _ in range(rounds):
            before = await self._centre.store.revision()
            await self._queue_everything()
            await self._drain()
            if await self._centre.store.revision() == before:
                return

    async def load_contacts(self) -> None:
        """Remember heartbeats from before a restart."""
        for uid, data in (await self._centre.store.values(CONTACTS)).items():
            at = datetime.fromisoformat(data.decode())
            self._centre.live.contacts.setdefault(uid, at)

    async def flush(self) -> None:
        """Write heartbeats that are not on disk yet, many at once."""
        live = self._centre.live
        uids = sorted(live.unflushed)
        live.unflushed.clear()
        for start in range(0, len(uids), 500):
            part = uids[start : start + 500]
            values = tuple(
                SetValue(CONTACTS, uid, live.contacts[uid].isoformat().encode()) for uid in part
            )
            try:
                await self._centre.store.commit(WriteSet(values=values))
            except SkerryError:
                live.unflushed.update(uids[start:])  # the next flush brings them
                raise

    async def _watch(self) -> None:
        since = await self._revision(0)
        while True:
            try:
                await self._queue_everything()
                async for change in self._centre.store.watch(_WATCHED, since=since):
                    since = change.revision
                    await self._changed(change.resource)
            except HistoryGone as exc:
                # Everything is queued again, so nothing of what is gone is needed.
                log.info("reconcile.history-gone", message=exc.message)
                since = await self._revision(since)
            except SkerryError as exc:
                log.warning("reconcile.watch-failed", reason=exc.reason, message=exc.message)
                await self._centre.clock.sleep(_REST_S)

    async def _revision(self, known: int) -> int:
        try:
            return await self._centre.store.revision()
        except SkerryError as exc:
            log.warning("reconcile.watch-failed", reason=exc.reason, message=exc.message)
            await self._centre.clock.sleep(_REST_S)
            return known

    async def _changed(self, resource: AnyResource) -> None:
        match resource.kind:
            case "Host":
                self.queue("Host", resource.project, resource.name)
                if name := clusters.cluster_of(resource):
                    self.queue("Cluster", resource.project, name)
            case "Cluster":
                self.queue("Cluster", resource.project, resource.name)
                for name in clusters.host_names(resource.spec):
                    self.queue("Host", resource.project, name)
            case _:
                # Many clusters may hang on it; going over all is rare and simple.
                await self._queue_everything()

    async def _tick(self) -> None:
        centre = self._centre
        everything_at = centre.clock.monotonic() + centre.settings.full_pass_s
        while True:
            await centre.clock.sleep(centre.settings.reconcile_s)
            try:
                if centre.clock.monotonic() >= everything_at:
                    everything_at = centre.clock.monotonic() + centre.settings.full_pass_s
                    await self._queue_everything()
                else:
                    await self._queue_turned()
            except SkerryError as exc:
                # The database rests (a restart, a full disk); the next round finds it again.
                log.warning("reconcile.round-failed", reason=exc.reason, message=exc.message)

    async def _flush(self) -> None:
        while True:
            await self._centre.clock.sleep(self._centre.settings.flush_s)
            try:
                await self.flush()
            except SkerryError as exc:
                log.warning("reconcile.flush-failed", message=exc.message)

    async def _heads(self) -> None:
        while True:
            try:
                await heads.export(self._centre)
            except (SkerryError, OSError) as exc:
                log.warning("reconcile.head-failed", message=str(exc))
            await self._centre.clock.sleep(self._centre.settings.audit_head_s)

    async def _queue_everything(self) -> None:
        for kind in ("Host", "Cluster"):
            async for item in self._all(kind):
                self.queue(kind, item.project, item.name)

    async def _queue_turned(self) -> None:
        """Queue the hosts that fell silent or came back."""
        async for host in self._all("Host"):
            if self._turned(host) is not None:
                self.queue("Host", host.project, host.name)

    async def _all(self, kind: str) -> AsyncIterator[AnyResource]:
        after = ""
        while True:
            page = await self._centre.store.list(Query(kind, limit=1000, after=after))
            for item in page.items:
                yield item
            after = page.after
            if not after:
                return

    async def _work(self) -> None:
        while True:
            await self._wake.wait()
            self._wake = anyio.Event()
            await self._drain()

    async def _drain(self) -> None:
        again: list[_Key] = []
        while self._queue:
            batch = list(islice(self._queue, _AT_ONCE))
            async with anyio.create_task_group() as tg:
                for key in batch:
                    del self._queue[key]
                    tg.start_soon(self._look_at, key, again)
        for key in again:
            self.queue(*key)

    async def _look_at(self, key: _Key, again: list[_Key]) -> None:
        try:
            await self._one(key)
        except Conflict:
            again.append(key)
        except NotFound:
            return
        except SkerryError as exc:
            log.warning("reconcile.failed", key="/".join(key), message=exc.message)
        except Exception:
            # A defect in one object must not stop the work on all others.
            log.exception("reconcile.defect", key="/".join(key))

    async def _one(self, key: _Key) -> None:
        resource = await self._centre.store.get(*key)
        if resource.kind == "Host":
            await self._host(resource)
        else:
            await self._cluster(resource)

    async def _host(self, host: AnyResource) -> None:
        if host.metadata.deleted_at is not None and not clusters.cluster_of(host):
            await hosts.finish_deletion(self._centre, host)
            return
        if host.spec.approval is not Approval.APPROVED or host.spec.revoked:
            return
        try:
            if await assignments.issue(self._centre, host):
                return  # the write comes back as a change
        except CannotAssign:
            pass  # shown on the cluster
        if await self._let_go(host):
            return
        condition = self._turned(host)
        if condition is not None:
            status = hosts.with_condition(host.status, condition)
            changed = msgspec.structs.replace(host, status=status)
            await self._centre.store.commit(WriteSet(puts=(Put(changed, host.metadata.revision),)))

    def _turned(self, host: AnyResource) -> Condition | None:
        """The host's new Reachable condition, or None when the stored one still holds."""
        condition = self._reachable(host)
        known = next((c for c in host.status.conditions if c.type == "Reachable"), None)
        if known is None or (known.status, known.reason) != (condition.status, condition.reason):
            return condition
        return None

    def _reachable(self, host: AnyResource) -> Condition:
        centre = self._centre
        now = centre.clock.now()
        last = centre.live.contacts.get(host.uid) or host.status.registered_at or now
        quiet = timedelta(
            seconds=max(centre.settings.quiet_after_s, 3 * centre.settings.sync_interval_s)
        )
        if now - last <= quiet:
            return Condition(type="Reachable", status="True", reason="Reachable", since=now)
        return Condition(
            type="Reachable",
            status="Unknown",
            reason="HostSilent",
            message=f"no contact since {last:%Y-%m-%d %H:%M} UTC",
            since=now,
        )

    async def _let_go(self, host: AnyResource) -> bool:
        """Free a host of its cluster when it proved that it is clean."""
        name = clusters.cluster_of(host)
        if not name or not is_clean(host):
            return False
        issued = await assignments.current(self._centre, host.uid)
        if issued is None or issued.cluster:
            return False
        try:
            cluster = await self._centre.store.get("Cluster", host.project, name)
            wanted = cluster.metadata.deleted_at is None and host.name in clusters.host_names(
                cluster.spec
            )
        except NotFound:
            wanted = False
        if wanted:
            return False
        message = f"clean of cluster {name}"
        await self._centre.store.commit(
            WriteSet(
                puts=(clusters.release(host),),
                events=(event(self._centre, host, "Released", message),),
                audits=(audit(self._centre, INTERNAL, "release", host, message),),
            )
        )
        self.queue("Cluster", host.project, name)
        return True

    async def _cluster(self, cluster: AnyResource) -> None:
        centre = self._centre
        members = await clusters.members(centre, cluster)
        if cluster.metadata.deleted_at is not None and not members:
            await centre.store.commit(
                WriteSet(
                    deletes=(
                        Delete("Cluster", cluster.project, cluster.name, cluster.metadata.revision),
                    ),
                    events=(event(centre, cluster, "Deleted", "all hosts are clean"),),
                    audits=(audit(centre, INTERNAL, "finish-delete", cluster),),
                )
            )
            return
        names = clusters.host_names(cluster.spec)
        wanted = [host for host in members if host.name in names]
        status = derive(
            cluster,
            wanted if cluster.metadata.deleted_at is None else members,
            await self._obstacles(cluster, wanted),
            wanted=len(names),
            now=centre.clock.now(),
        )
        if status == cluster.status:
            return
        events: tuple[Event, ...] = ()
        if status.phase is not cluster.status.phase:
            severity = "warning" if status.phase is ClusterPhase.DEGRADED else "info"
            text = f"{cluster.status.phase.value} -> {status.phase.value}"
            events = (event(centre, cluster, "PhaseChanged", text, severity=severity),)
        await centre.store.commit(
            WriteSet(
                puts=(
                    Put(
                        msgspec.structs.replace(cluster, status=status),
                        cluster.metadata.revision,
                    ),
                ),
                events=events,
            )
        )

    async def _obstacles(self, cluster: AnyResource, members: list[AnyResource]) -> list[Obstacle]:
        if cluster.metadata.deleted_at is not None:
            return []
        found: list[Obstacle] = []
        for host in members:
            try:
                await assignments.check(self._centre, host)
            except CannotAssign as exc:
                found.append(Obstacle(host.name, exc.reason, exc.message))
        return found
