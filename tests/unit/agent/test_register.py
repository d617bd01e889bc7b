"""What a host takes from an answer to its registration, and what it does not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import pytest

from skerry.agent import register
from skerry.agent.channel import Channel
from skerry.agent.identity import Identity, load_identity, load_or_make_keys
from skerry.lib import pki
from skerry.lib.memory_files import MemoryRoot
from skerry.wire.envelope import KeyRole, SigningKey
from skerry.wire.messages import EnrolRequest, EnrolState, HostFacts

pytestmark = pytest.mark.anyio


def key(role: KeyRole) -> SigningKey:
    return SigningKey(role, pki.new_signing_key())


@dataclass
class Answering:
    """A manager that gives one answer."""

    answer: EnrolState

    async def enrol(self, request: EnrolRequest) -> EnrolState:
        return self.answer


async def asked(root: MemoryRoot, identity: Identity, answer: EnrolState) -> Identity:
    keys = load_or_make_keys(root)
    facts = HostFacts(hardware_id="board-0017")
    channel = cast("Channel", Answering(answer))
    after, _ = await register.ask(root, channel, identity, keys, facts)
    assert load_identity(root) == after
    return after


async def test_first_approval_brings_the_keys() -> None:
    release, channel = key(KeyRole.RELEASE).trusted, key(KeyRole.CHANNEL).trusted
    new = Identity(manager="https://m", authorities=())

    after = await asked(
        MemoryRoot(), new, EnrolState(state="approved", trusted_keys=(release, channel))
    )

    assert after.trusted_keys == (release, channel)


async def test_a_manager_cannot_bring_other_release_keys_by_registering_a_host_again() -> None:
    release, channel = key(KeyRole.RELEASE).trusted, key(KeyRole.CHANNEL).trusted
    forged, moved = key(KeyRole.RELEASE).trusted, key(KeyRole.CHANNEL).trusted
    revoked = Identity(
        manager="https://m", authorities=(), trusted_keys=(release, channel), state="revoked"
    )

    after = await asked(
        MemoryRoot(), revoked, EnrolState(state="approved", trusted_keys=(forged, moved))
    )

    assert after.trusted_keys == (release, moved)
