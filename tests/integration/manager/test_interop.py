"""One version apart: the real agent core over HTTP against a real manager, in both directions.

There is one version yet, so the other side's version is a *shape*: what a later one would add
(fields nobody knows here) and what an earlier one did not have (fields left out). Requests are
shaped before the host signs them and answers before the manager signs them, so all checks of
either side are real. Messages that released versions really sent are replayed from their
recordings, see tests/unit/wire/samples.py.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio
import httpx2
import msgspec
import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from skerry.agent import paths
from skerry.agent.channel import HttpChannel
from skerry.agent.core import Parts, run_agent
from skerry.agent.identity import Identity
from skerry.agent.kube.fake import FakeKubeEngine
from skerry.agent.osengine.fake import FakeOsEngine
from skerry.agent.register import prepare
from skerry.agent.sync import LocalStatus
from skerry.lib.clock import SystemClock
from skerry.lib.digest import canonical_json
from skerry.lib.memory_files import MemoryRoot
from skerry.lib.proc import FakeRunner
from skerry.manager.keys import Keys
from skerry.manager.services import assignments
from skerry.manager.store.protocol import Put, SetValue, WriteSet
from skerry.model.kinds import DesiredMark
from skerry.wire import envelope as env
from skerry.wire import httpsig, messages

from .conftest import BASE, Manager, path_of

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

GOLDEN = Path(__file__).parents[2] / "unit" / "wire" / "golden"
HOST = "till-1"
OS = "1.4.0"
Shape = Callable[[Any], Any]

# Objects whose keys are people's words, not fields.
_WORDS = ("labels", "variables")
# Fields that every version has; a message without them says nothing.
_NEEDED = {
    "haveEpoch", "haveDigest", "acknowledgedEpoch", "acknowledgedDigest", "statusDigest", "report",
    "token", "state", "hostUid", "hostName", "trustedKeys", "assignment", "cluster", "artifacts",
    "kubernetes", "release", "controlPlaneVersion", "kubeletVersion", "nodeReady", "apiReady",
    "layers", "ready", "digest", "serial", "nextS", "conditions", "failed",
    "inventory", "architecture",
}  # fmt: skip


def plain(value: Any) -> Any:
    """As this version sends it."""
    return value


def later(value: Any) -> Any:
    """As a later version might send it: more fields, in every object."""
    if isinstance(value, list):
        return [later(item) for item in value]
    if not isinstance(value, dict):
        return value
    shaped = {
        key: item if key in _WORDS or "payload" in value else later(item)
        for key, item in value.items()
    }
    return {**shaped, "laterField": {"some": ["thing", 1, None]}, "laterFlag": True}


def earlier(value: Any) -> Any:
    """As an earlier version might have sent it: fields with a default may be missing."""
    if isinstance(value, list):
        return [earlier(item) for item in value]
    if not isinstance(value, dict) or "payload" in value:
        return value
    return {
        key: item if key in _WORDS else earlier(item)
        for key, item in value.items()
        if key in _NEEDED or key not in _OPTIONAL
    }


def _optional(kinds: tuple[type[msgspec.Struct], ...]) -> frozenset[str]:
    return frozenset(
        item.encode_name
        for kind in kinds
        for item in msgspec.structs.fields(kind)
        if not item.required
    )


_OPTIONAL = _optional(
    (
        messages.HostFacts,
        messages.EnrolRequest,
        messages.EnrolState,
        messages.HostReport,
        messages.SyncRequest,
        messages.SyncAnswer,
        messages.Assignment,
        messages.ClusterAssignment,
        messages.AgentAssignment,
        messages.OsAssignment,
    )
)


class ShapedChannel(HttpChannel):
    """The agent's line with requests in another version's shape, signed in that shape."""

    shape: Shape = staticmethod(plain)

    def _encode(self, request: object) -> bytes:
        return msgspec.json.encode(type(self).shape(msgspec.to_builtins(request)))


@dataclass
class ShapedManager:
    """The manager's application with channel answers in another version's shape, signed so."""

    app: ASGIApp
    keys: Keys
    shape: Shape = plain
    shaped: list[str] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = str(scope.get("path", ""))
        if path not in (messages.ENROL_PATH, messages.SYNC_PATH):
            await self.app(scope, receive, send)
            return
        start: Message = {}
        body = bytearray()

        async def collect(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
                return
            body.extend(message.get("body", b""))
            if message.get("more_body"):
                return
            shaped = msgspec.json.encode(self.shape(json.loads(bytes(body))))
            self.shaped.append(path)
            await send({**start, "headers": self._signed(scope, start["status"], shaped)})
            await send({"type": "http.response.body", "body": shaped})

        await self.app(scope, receive, collect)

    def _signed(self, scope: Scope, status: int, body: bytes) -> list[tuple[bytes, bytes]]:
        asked = {key.decode().lower(): value.decode() for key, value in scope["headers"]}
        headers = httpsig.sign_answer(
            httpsig.Answer(
                headers={"content-type": "application/json"}, status_code=status, body=body
            ),
            self.keys.channel.key,
            host=asked[httpsig.HOST_HEADER.lower()],
            counter=int(asked[httpsig.COUNTER_HEADER.lower()]),
        )
        return [(key.lower().encode(), value.encode()) for key, value in headers.items()]


@dataclass
class Site:
    """A host with a running agent core, and its manager."""

    manager: Manager
    front: ShapedManager
    root: MemoryRoot

    @property
    def status(self) -> LocalStatus:
        return msgspec.json.decode(self.root.read(paths.STATUS), type=LocalStatus)

    async def until(self, what: str, check: Callable[[], Any]) -> None:
        with anyio.move_on_after(30):
            while True:
                await self.manager.reconciler.settle()
                found = check()
                if found if not hasattr(found, "__await__") else await found:
                    return
                await anyio.sleep(0.05)
        pytest.fail(f"{what} did not come about; last status: {self.status}")

    async def document(self, plural: str, name: str) -> dict[str, Any]:
        return dict((await self.manager.admin.get(path_of(plural, name))).json())

    async def registered(self) -> bool:
        answer = await self.manager.admin.get(path_of("hosts", HOST))
        return answer.status_code == 200 and bool(answer.json()["status"].get("statusDigest"))

    async def phase(self) -> str:
        return str((await self.document("clusters", "shop"))["status"]["phase"])

    async def make_cluster(self, **profile: Any) -> None:
        await self.manager.release()
        await self.manager.profile(**profile)
        await self.manager.cluster("shop", HOST)

    async def reissue(self, shape: Shape, **more: Any) -> assignments.Issued:
        """Let the manager's newest assignment be one that another version issued."""
        centre = self.manager.centre
        host = await centre.store.get("Host", "default", HOST)
        issued = await assignments.current(centre, host.uid)
        assert issued is not None
        body = {**shape(json.loads(issued.envelope.payload)), "epoch": issued.epoch + 1, **more}
        envelope = env.sign(env.ASSIGNMENT, canonical_json(body), [centre.keys.channel])
        new = msgspec.structs.replace(
            issued, epoch=issued.epoch + 1, digest=envelope.payload_digest, envelope=envelope
        )
        mark = DesiredMark(epoch=new.epoch, digest=new.digest)
        changed = msgspec.structs.replace(
            host, status=msgspec.structs.replace(host.status, desired=mark)
        )
        await centre.store.commit(
            WriteSet(
                puts=(Put(changed, host.metadata.revision),),
                values=(SetValue(assignments.SPACE, host.uid, msgspec.json.encode(new)),),
            )
        )
        centre.live.assignments[host.uid] = new
        centre.live.wake(host.uid)
        return new


class HostClock(SystemClock):
    """Shows the manager's time, which stands still in these tests, and waits in real time."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    def now(self) -> datetime:
        return self._manager.clock.now()


@contextlib.asynccontextmanager
async def site(
    manager: Manager, *, requests: Shape = plain, answers: Shape = plain
) -> AsyncIterator[Site]:
    """A host that registers by token and goes on."""
    front = ShapedManager(manager.app, manager.centre.keys, answers)
    root = MemoryRoot()
    clock = HostClock(manager)
    prepare(root, Identity(manager=BASE, authorities=()), token=await manager.token())

    class Line(ShapedChannel):
        shape = staticmethod(requests)

    facts = messages.HostFacts(hardware_id="board-77", host_name=HOST, architecture="amd64")
    engine = FakeKubeEngine(clock)
    parts = Parts(
        root=root,
        runner=FakeRunner(),
        clock=clock,
        engine=lambda _: engine,
        os_engine=lambda _: FakeOsEngine(root, architecture="amd64", version=OS),
        channel=lambda identity, keys, counter: Line(
            identity, keys, counter, transport=httpx2.ASGITransport(app=front)
        ),
        facts=facts,
        idle_s=0.1,
        hold_s=0,
    )
    async with anyio.create_task_group() as tg:
        tg.start_soon(run_agent, parts)
        found = Site(manager, front, root)
        await found.until("registration", found.registered)
        yield found
        tg.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("requests", "answers"),
    [
        pytest.param(later, plain, id="later-agent"),
        pytest.param(earlier, plain, id="earlier-agent"),
        pytest.param(plain, later, id="later-manager"),
        pytest.param(plain, earlier, id="earlier-manager"),
    ],
)
async def test_the_main_job_goes_through_one_version_apart(
    manager: Manager, requests: Shape, answers: Shape
) -> None:
    async with site(manager, requests=requests, answers=answers) as host:
        await host.make_cluster()
        await host.manager.reconciler.settle()
        if answers is not plain:
            await host.reissue(answers)

        async def running() -> bool:
            return await host.phase() == "Running"

        await host.until("phase Running", running)

        document = await host.document("hosts", HOST)
        assert document["status"]["acknowledged"] == document["status"]["desired"]
        assert messages.SYNC_PATH in host.front.shaped
        assert not any(item.type == "AssignmentAccepted" for item in host.status.conditions)


@pytest.mark.parametrize(
    ("requests", "runs"),
    [
        pytest.param(plain, True, id="this-agent"),
        pytest.param(later, True, id="later-agent"),
        # It acknowledges what it does not know, and reports no OS: that is not Running.
        pytest.param(earlier, False, id="earlier-agent"),
    ],
)
async def test_an_os_layer_counts_only_for_an_agent_that_knows_it(
    manager: Manager, requests: Shape, runs: bool
) -> None:
    async with site(manager, requests=requests) as host:
        await manager.artifact("edge-os", "os", OS, "amd64")
        await host.make_cluster(layers=[{"name": "os", "type": "os", "artifacts": ["edge-os"]}])

        async def acknowledged() -> bool:
            status = (await host.document("hosts", HOST))["status"]
            kubernetes = status.get("kubernetes", {})
            same = status.get("acknowledged") == status.get("desired")
            return same and bool(kubernetes.get("nodeReady"))

        await host.until("acknowledgement", acknowledged)
        await manager.reconciler.settle()

        document = await host.document("hosts", HOST)
        assert document["status"]["desiredOs"] == OS
        assert (await host.phase() == "Running") is runs


@pytest.mark.parametrize("requests", [later, earlier], ids=["later", "earlier"])
async def test_the_shapes_really_differ(requests: Shape) -> None:
    report = messages.HostReport(agent_version="0.1.0", boot_id="b", host_name=HOST)
    request = messages.SyncRequest(have_epoch=1, report=report, wait_s=9)

    shaped = requests(msgspec.to_builtins(request))

    assert shaped != msgspec.to_builtins(request)
    assert messages.decode(msgspec.json.encode(shaped), messages.SyncRequest).have_epoch == 1


async def test_an_assignment_in_a_later_protocol_is_refused_with_a_clear_condition(
    manager: Manager,
) -> None:
    async with site(manager) as host:
        before = host.status.have_epoch
        issued = await host.reissue(later, minProtocol=messages.PROTOCOL + 1)

        async def refused() -> bool:
            conditions = (await host.document("hosts", HOST))["status"]["conditions"]
            return any(
                (item["type"], item["reason"]) == ("AssignmentAccepted", "Unsupported")
                for item in conditions
            )

        await host.until("condition Unsupported at the centre", refused)

        assert host.status.have_epoch == before < issued.epoch
        told = next(item for item in host.status.conditions if item.type == "AssignmentAccepted")
        assert f"needs protocol {messages.PROTOCOL + 1}" in told.message
        why = (await manager.admin.get(f"/v1/why/host/{HOST}?project=default")).json()
        assert why["reason"] == "Unsupported"


async def test_an_agent_two_protocols_behind_is_refused_by_name(manager: Manager) -> None:
    device = manager.device("shop-1")
    request = msgspec.structs.replace(device.request(), protocol=messages.PROTOCOL - 2)

    answer = await device.post(messages.ENROL_PATH, request, host=device.fingerprint)

    refusal = messages.decode(answer.content, messages.Refusal)
    assert (answer.status_code, refusal.reason) == (400, "Unsupported")
    assert f"protocol {messages.PROTOCOL - 2}" in refusal.message


@pytest.mark.parametrize("version", sorted(path.name for path in GOLDEN.iterdir()))
async def test_recorded_requests_of_a_released_version_are_answered(
    manager: Manager, version: str
) -> None:
    device = manager.device("shop-1")
    enrol = json.loads((GOLDEN / version / "enrol-request.json").read_bytes())
    own = msgspec.to_builtins(device.request())
    enrol |= {key: own[key] for key in ("publicKey", "sealingKey", "facts")}
    enrol |= {"token": await manager.token(), "site": "", "pairingKey": ""}
    answer = await device.post(messages.ENROL_PATH, enrol, host=device.fingerprint)
    state = messages.decode(answer.content, messages.EnrolState)
    assert state.state == "approved", state
    sync = json.loads((GOLDEN / version / "sync-request.json").read_bytes())
    sync["waitS"] = 0  # the manager's clock stands still in this test

    answer = await device.post(messages.SYNC_PATH, sync, host=state.host_uid)

    assert answer.status_code == 200, answer.text
    host = (await manager.admin.get(path_of("hosts", state.host_name))).json()["status"]
    assert host["agentVersion"] == sync["report"]["agentVersion"]
    assert host["kubernetes"]["release"] == sync["report"]["kubernetes"]["release"]
    assert host["statusDigest"] == sync["statusDigest"]
