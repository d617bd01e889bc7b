"""What the manager hands out is not what it should be: the host uses nothing of it, says so on both
sides, and goes on by itself once it is right. The real agent against the real manager."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from tests.integration.agent.agents import Agent
from tests.integration.agent.stacks import push_profile, push_release, put_cluster
from tests.integration.sim.conftest import Manager

from skerry.agent.channel import HttpChannel
from skerry.agent.identity import save_identity
from skerry.lib import pki
from skerry.manager.services.centre import INTERNAL
from skerry.manager.services.why import why_host
from skerry.manager.store.protocol import Put, WriteSet
from skerry.wire import envelope as env
from skerry.wire.messages import SyncAnswer, SyncRequest

pytestmark = [pytest.mark.integration, pytest.mark.anyio]


async def centre_says(manager: Manager, name: str, reason: str) -> None:
    found = ""
    with anyio.fail_after(20):
        while found != reason:
            await anyio.sleep(0.05)
            found = (await why_host(manager.centre, INTERNAL, "default", name)).reason


async def becomes_ready(agent: Agent) -> None:
    await agent.until(
        lambda now: (
            now.report is not None and now.report.kubernetes.node_ready and agent.cause.reason == ""
        )
    )


@dataclass
class Site:
    manager: Manager
    agent: Agent

    @property
    def name(self) -> str:
        return self.agent.identity.host_name


async def a_site(manager: Manager) -> Site:
    """A registered host that is not running, and a stack that it will be given."""
    token = await manager.token(autoApprove=True)
    agent = Agent(manager.url, manager.authority_pem, token=token)
    agent.register()
    async with agent.running():
        await agent.until_synced()
    await push_release(manager, "1.36.3")
    await push_profile(manager, "1.0.0", kubernetes="1.36.3")
    return Site(manager, agent)


async def test_content_with_a_wrong_digest(manager: Manager) -> None:
    site = await a_site(manager)
    (profile,) = await manager.list("ClusterProfile")
    place = Path(manager.centre.blobs.host_path(profile.status.revisions[0].digest))
    good = place.read_bytes()
    place.write_bytes(good + b" ")  # still a revision, but not this one

    async with site.agent.running():
        await put_cluster(manager, site.name, "1.0.0")
        await site.agent.until_reason("DigestMismatch")
        await centre_says(manager, site.name, "DigestMismatch")
        assert "next  skerry-agent status" in site.agent.screen

        place.write_bytes(good)
        await becomes_ready(site.agent)


@pytest.mark.parametrize(
    ("role", "reason"),
    [
        (env.KeyRole.RELEASE, "SignatureInvalid"),
        (env.KeyRole.CHANNEL, "ReleaseSignatureMissing"),
    ],
    ids=["signed-by-a-stranger", "not-signed-by-a-release-key"],
)
async def test_a_release_without_a_signature_that_this_host_trusts(
    manager: Manager, role: env.KeyRole, reason: str
) -> None:
    """The manager holds its whole database and its channel key, and a host still runs nothing."""
    site = await a_site(manager)
    before = site.agent.identity
    channel = before.channel_keys()
    if role is env.KeyRole.RELEASE:
        stranger = env.SigningKey(role=role, key=pki.new_signing_key()).trusted
        trusted = (*channel, stranger)
    else:
        trusted = (*before.trusted_keys,)
        await _signed_by_the_channel_only(manager)
    fields = {name: getattr(before, name) for name in before.__struct_fields__}
    save_identity(site.agent.root, type(before)(**{**fields, "trusted_keys": trusted}))

    async with site.agent.running():
        await put_cluster(manager, site.name, "1.0.0")
        await site.agent.until_reason(reason)
        await centre_says(manager, site.name, reason)
        status = site.agent.status
        assert status is not None
        assert status.report is not None
        assert not status.report.kubernetes.release

    if role is env.KeyRole.RELEASE:
        save_identity(site.agent.root, before)
        async with site.agent.running():
            await becomes_ready(site.agent)


async def _signed_by_the_channel_only(manager: Manager) -> None:
    """Put a statement in the release's place that only the channel key signed, as a manager that
    was taken over could do below its own checks."""
    (artifact,) = await manager.list("Artifact")
    place = Path(manager.centre.blobs.host_path(artifact.spec.envelope_digest))
    payload = env.decode(place.read_bytes()).payload
    forged = env.sign(env.ARTIFACT, payload, [manager.centre.keys.channel]).encode()
    digest = await manager.centre.blobs.put(forged)
    spec = msgspec.structs.replace(artifact.spec, envelope_digest=digest)
    changed = msgspec.structs.replace(artifact, spec=spec)
    await manager.centre.store.commit(WriteSet(puts=(Put(changed, artifact.metadata.revision),)))


class Repeating(HttpChannel):
    """A line that answers with the first assignment again, as a replayed recording would."""

    first: Any = None
    on = False

    async def sync(self, request: SyncRequest) -> SyncAnswer:
        answer = await super().sync(request)
        if answer.assignment is not None and Repeating.first is None:
            Repeating.first = answer.assignment
        if Repeating.on:
            return msgspec.structs.replace(answer, assignment=Repeating.first)
        return answer


async def test_an_older_epoch_is_refused_and_what_runs_goes_on(manager: Manager) -> None:
    Repeating.first, Repeating.on = None, False
    token = await manager.token(autoApprove=True)
    agent = Agent(manager.url, manager.authority_pem, token=token, parts={"channel": Repeating})
    agent.register()
    await push_release(manager, "1.36.3")
    await push_profile(manager, "1.0.0", kubernetes="1.36.3")
    async with agent.running():
        await agent.until_synced()
        name = agent.identity.host_name
        await put_cluster(manager, name, "1.0.0")
        await becomes_ready(agent)

        Repeating.on = True
        await agent.until_reason("OlderEpoch")
        await centre_says(manager, name, "OlderEpoch")
        status = agent.status
        assert status is not None
        assert status.have_epoch >= 2
        assert status.report is not None
        assert status.report.kubernetes.node_ready, "what runs goes on"
