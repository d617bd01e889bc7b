"""What released versions sent can still be read, and what this one sends is recorded."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from skerry import __version__
from skerry.agent import accept
from skerry.agent.identity import Identity
from skerry.lib import pki
from skerry.lib.memory_files import MemoryRoot
from skerry.wire import envelope as env
from skerry.wire.messages import PROTOCOL, Assignment, decode

from .samples import SAMPLES, encoded, read, recorded


def kept(old: Any, new: Any) -> bool:
    """Whether everything in `old` is in `new` as well; `new` may say more."""
    if isinstance(old, dict):
        return isinstance(new, dict) and all(
            key in new and kept(value, new[key]) for key, value in old.items()
        )
    if isinstance(old, list):
        return (
            isinstance(new, list)
            and len(new) == len(old)
            and all(kept(a, b) for a, b in zip(old, new, strict=True))
        )
    return bool(old == new)


@pytest.mark.parametrize(("version", "name"), recorded())
def test_a_recorded_message_is_read_and_nothing_of_it_is_lost(version: str, name: str) -> None:
    data = read(version, name)

    message = decode(data, type(SAMPLES[name]))

    assert kept(msgspec.json.decode(data), msgspec.json.decode(msgspec.json.encode(message)))


@pytest.mark.parametrize("name", SAMPLES)
def test_this_version_sends_what_is_recorded_for_it(name: str) -> None:
    assert (__version__, name) in recorded(), (
        "record what this version sends: python -m tests.unit.wire.samples"
    )
    assert read(__version__, name) == encoded(name), (
        "the wire changed; if this version was not released yet, record it again:"
        " python -m tests.unit.wire.samples"
    )


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_fills_every_field_that_its_message_has(name: str) -> None:
    sample = SAMPLES[name]

    sent = msgspec.json.decode(encoded(name))

    # Fields that hold a constant of the protocol are left out when they have their default.
    constant = {"protocol", "minProtocol"}
    fields = {field.encode_name for field in msgspec.structs.fields(type(sample))}
    assert fields - set(sent) - constant == set()


@pytest.mark.parametrize("version", sorted({version for version, _ in recorded()}))
def test_a_recorded_assignment_is_accepted_by_this_agent(version: str) -> None:
    key = env.SigningKey(role=env.KeyRole.CHANNEL, key=pki.new_signing_key())
    identity = Identity(
        manager="https://m", authorities=(), trusted_keys=(key.trusted,), host_uid="uid-1"
    )
    payload = read(version, "assignment")

    taken = accept.accept(MemoryRoot(), env.sign(env.ASSIGNMENT, payload, [key]), identity)

    assert taken.epoch == decode(payload, Assignment).epoch
    assert PROTOCOL >= 1
