"""Registration that does not go smoothly: the real agent against the real manager.

One row per case: what the manager shows (a host's condition, or an event where there is no host),
and the one cause that the host's own screen shows.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest
from tests.integration.agent.agents import Agent
from tests.integration.sim.conftest import Manager

from skerry.agent import paths
from skerry.agent.identity import save_identity
from skerry.lib import pki
from skerry.manager.app import ServingInfo, serve
from skerry.manager.services import hosts, tokens
from skerry.manager.services.centre import INTERNAL
from skerry.manager.settings import Settings
from skerry.model.reasons import REASONS
from skerry.wire.envelope import KeyRole, TrustedKey

pytestmark = [pytest.mark.integration, pytest.mark.anyio]


@dataclass
class Bench:
    """The manager and agents at it."""

    manager: Manager
    tmp_path: Path
    group: anyio.abc.TaskGroup
    agents: list[Agent] = field(default_factory=list)

    def agent(self, number: int = 1, *, token: str = "") -> Agent:
        made = Agent(self.manager.url, self.manager.authority_pem, number, token)
        self.agents.append(made)
        return made

    def start(self, agent: Agent) -> anyio.CancelScope:
        scope = anyio.CancelScope()

        async def live() -> None:
            with scope:
                async with agent.running():
                    await anyio.sleep_forever()

        self.group.start_soon(live)
        return scope

    async def registered(self, number: int = 1) -> tuple[Agent, anyio.CancelScope]:
        agent = self.agent(number, token=await self.manager.token(f"t{number}", autoApprove=True))
        agent.register()
        scope = self.start(agent)
        await agent.until_synced()
        return agent, scope

    async def at_manager(self, reason: str) -> bool:
        """Whether a person at the centre can see the reason."""
        for host in await self.manager.list("Host"):
            if any(item.reason == reason for item in host.status.conditions):
                return True
        events = await self.manager.centre.store.events(limit=1000)
        return any(item.event.reason == reason for item in events)


async def duplicate_hardware(bench: Bench) -> Agent:
    await bench.registered()
    second = bench.agent(1, token=await bench.manager.token("again", autoApprove=True))
    second.register()
    return second


async def used_up_token(bench: Bench) -> Agent:
    token = await bench.manager.token(autoApprove=True, maximumUses=1)
    first = bench.agent(1, token=token)
    first.register()
    bench.start(first)
    await first.until_synced()
    second = bench.agent(2, token=token)
    second.register()
    return second


async def expired_token(bench: Bench) -> Agent:
    past = datetime.now(UTC) + timedelta(seconds=1)
    token = await bench.manager.token(autoApprove=True, expiresAt=past.isoformat())
    await anyio.sleep(1.1)
    agent = bench.agent(token=token)
    agent.register()
    return agent


async def revoked_token(bench: Bench) -> Agent:
    token = await bench.manager.token(autoApprove=True)
    await tokens.revoke(bench.manager.centre, INTERNAL, "default", "t")
    agent = bench.agent(token=token)
    agent.register()
    return agent


async def unknown_token(bench: Bench) -> Agent:
    agent = bench.agent(token="0" * 40)
    agent.register()
    return agent


async def token_for_another_network(bench: Bench) -> Agent:
    networks = ["198.51.100.0/24"]
    agent = bench.agent(token=await bench.manager.token(allowedNetworks=networks))
    agent.register()
    return agent


async def nobody_decided(bench: Bench) -> Agent:
    agent = bench.agent()
    agent.register()
    return agent


async def denied_host(bench: Bench) -> Agent:
    agent = bench.agent()
    agent.register()
    scope = bench.start(agent)
    await agent.until_reason("AwaitingApproval")
    (host,) = await bench.manager.list("Host")
    await hosts.deny(bench.manager.centre, INTERNAL, "default", host.name)
    scope.cancel()
    return agent


async def revoked_host(bench: Bench) -> Agent:
    agent, scope = await bench.registered()
    await hosts.revoke(bench.manager.centre, INTERNAL, "default", agent.identity.host_name)
    await agent.until_reason("Revoked")
    assert "state        revoked" in agent.screen, "said while it still ran"
    scope.cancel()
    return agent


async def copied_disk(bench: Bench) -> Agent:
    agent, scope = await bench.registered()
    scope.cancel()
    await anyio.sleep(0.1)
    copy = bench.agent()
    copy.root = deepcopy(agent.root)
    bench.start(agent)  # takes the next block of numbers first
    await anyio.sleep(0.3)
    await agent.until_synced()
    # The copy goes on with numbers that the manager has seen.
    return copy


async def another_channel_key(bench: Bench) -> Agent:
    """Somebody with the right name and certificate, but not this host's manager."""
    agent, scope = await bench.registered()
    scope.cancel()
    stranger = pki.new_signing_key()
    identity = agent.identity
    others = tuple(key for key in identity.trusted_keys if key.role is not KeyRole.CHANNEL)
    fake = TrustedKey(role=KeyRole.CHANNEL, public_pem=pki.public_pem(stranger.public_key()))
    save_identity(
        agent.root,
        type(identity)(**{**_fields(identity), "trusted_keys": (*others, fake)}),
    )
    return agent


async def another_authority(bench: Bench) -> Agent:
    other = pki.new_authority("other", now=datetime.now(UTC))
    agent = bench.agent()
    agent.authority = other.certificate_pem
    agent.register()
    return agent


def _fields(identity: object) -> dict[str, object]:
    return {name: getattr(identity, name) for name in identity.__struct_fields__}  # type: ignore[attr-defined]


Case = Callable[[Bench], Awaitable[Agent]]


@pytest.mark.parametrize(
    ("case", "host_says", "manager_says"),
    [
        (duplicate_hardware, "HardwareIdTaken", "HardwareIdTaken"),
        (used_up_token, "TokenUsedUp", "TokenUsedUp"),
        (expired_token, "TokenExpired", "TokenExpired"),
        (revoked_token, "TokenRevoked", "TokenRevoked"),
        (unknown_token, "TokenUnknown", "TokenUnknown"),
        (token_for_another_network, "NetworkNotAllowed", "NetworkNotAllowed"),
        (nobody_decided, "AwaitingApproval", "AwaitingApproval"),
        (denied_host, "Denied", "Denied"),
        (revoked_host, "Revoked", "Revoked"),
        (copied_disk, "RequestReplayed", "RequestReplayed"),
        (another_authority, "ManagerUntrusted", None),
        (another_channel_key, "ManagerUntrusted", None),
    ],
    ids=lambda value: value.__name__ if callable(value) else str(value),
)
async def test_each_case_has_its_condition_on_both_sides(
    manager: Manager, tmp_path: Path, case: Case, host_says: str, manager_says: str | None
) -> None:
    async with anyio.create_task_group() as group:
        bench = Bench(manager, tmp_path, group)
        agent = await case(bench)
        bench.start(agent)

        await agent.until_reason(host_says)

        cause, screen = agent.cause, agent.screen
        assert cause.title == REASONS[host_says].title
        assert cause.title in screen
        assert f"next  {cause.next_action}" in screen
        if manager_says is None:
            # Nothing of the host gets as far as this manager, so it cannot say more than silence.
            assert not await bench.at_manager(host_says)
        else:
            with anyio.fail_after(10):
                while not await bench.at_manager(manager_says):  # noqa: ASYNC110  # its database
                    await anyio.sleep(0.05)
        group.cancel_scope.cancel()


async def test_a_pairing_key_lets_its_host_in_by_itself_once_and_is_forgotten(
    manager: Manager, tmp_path: Path
) -> None:
    key = "one-machine-may-use-this"
    made = await manager.apply(
        {
            "apiVersion": "skerry.dev/v1",
            "kind": "HostClaim",
            "metadata": {"name": "till"},
            "spec": {"pairingKeyHash": tokens.hash_secret(key), "labels": {"tier": "till"}},
        }
    )
    assert "SKERRY_TOKEN=" not in made.once["install"].replace("env=SKERRY_TOKEN", "")
    async with anyio.create_task_group() as group:
        bench = Bench(manager, tmp_path, group)
        first, second = bench.agent(1), bench.agent(2)
        for agent in (first, second):
            agent.pairing_key = key
            agent.register()

        bench.start(first)
        await first.until_synced()
        bench.start(second)
        await second.until_reason("TokenUnknown")

        (host,) = await manager.list("Host")
        assert host.metadata.labels["tier"] == "till"
        assert not first.root.exists(paths.PAIRING_KEY)
        group.cancel_scope.cancel()


async def test_a_host_of_another_manager_is_unknown_there_and_keeps_its_own(
    manager: Manager, tmp_path: Path
) -> None:
    """A registered host that is led to a second manager with the same authority."""
    async with anyio.create_task_group() as group:
        bench = Bench(manager, tmp_path, group)
        agent, scope = await bench.registered()
        scope.cancel()
        before = agent.identity
        second = await _second_manager(group, tmp_path, manager)
        save_identity(agent.root, type(before)(**{**_fields(before), "manager": second}))
        bench.start(agent)

        await agent.until_reason("ManagerUntrusted")

        assert agent.identity.trusted_keys == before.trusted_keys, "nothing was taken from it"
        save_identity(agent.root, before)
        group.cancel_scope.cancel()
    async with agent.running():
        await agent.until_synced()  # retry works as soon as the address is right


async def _second_manager(group: anyio.abc.TaskGroup, tmp_path: Path, first: Manager) -> str:
    """A manager with the first one's TLS authority, and everything else its own."""
    data = tmp_path / "second"
    (data / "keys").mkdir(parents=True)
    started = anyio.Event()
    info: list[ServingInfo] = []

    def ready(found: ServingInfo) -> None:
        info.append(found)
        started.set()

    for path in (tmp_path / "manager").rglob("ca.*"):
        place = data / path.relative_to(tmp_path / "manager")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.read_bytes())
    group.start_soon(lambda: serve(Settings(data=str(data), port=0), ready=ready))
    with anyio.fail_after(20):
        await started.wait()
    assert Path(info[0].ca_file).read_text() == first.authority_pem
    return info[0].url
