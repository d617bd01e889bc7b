"""Signed documents: who is believed, for what, and what malformed input gets."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.lib import pki
from skerry.wire import envelope as env

CHANNEL = env.SigningKey(role=env.KeyRole.CHANNEL, key=pki.new_signing_key())
RELEASE = env.SigningKey(role=env.KeyRole.RELEASE, key=pki.new_signing_key())
TRUSTED = (CHANNEL.trusted, RELEASE.trusted)


def test_payload_comes_back_when_a_trusted_key_of_the_role_signed() -> None:
    signed = env.decode(env.sign(env.ASSIGNMENT, b"{}", [CHANNEL]).encode())

    payload = env.verify(
        signed, payload_type=env.ASSIGNMENT, role=env.KeyRole.CHANNEL, trusted=TRUSTED
    )

    assert payload == b"{}"


def test_a_channel_key_that_signs_as_release_is_not_believed() -> None:
    liar = env.SigningKey(role=env.KeyRole.RELEASE, key=CHANNEL.key)
    signed = env.sign(env.ARTIFACT, b"{}", [liar])

    with pytest.raises(env.EnvelopeRefused, match="no valid release signature"):
        env.verify(signed, payload_type=env.ARTIFACT, role=env.KeyRole.RELEASE, trusted=TRUSTED)


def test_missing_release_signature_is_named() -> None:
    signed = env.sign(env.ARTIFACT, b"{}", [CHANNEL])

    with pytest.raises(env.EnvelopeRefused) as caught:
        env.verify(signed, payload_type=env.ARTIFACT, role=env.KeyRole.RELEASE, trusted=TRUSTED)

    assert caught.value.reason == "ReleaseSignatureMissing"


def test_bytes_signed_as_one_kind_are_refused_as_another() -> None:
    signed = env.sign(env.REVISION, b"{}", [CHANNEL])
    renamed = msgspec.structs.replace(signed, payload_type=env.ASSIGNMENT)

    for candidate in (signed, renamed):
        with pytest.raises(env.EnvelopeRefused):
            env.verify(
                candidate,
                payload_type=env.ASSIGNMENT,
                role=env.KeyRole.CHANNEL,
                trusted=TRUSTED,
            )


@given(st.integers(min_value=0), st.integers(min_value=1, max_value=255))
def test_any_flipped_bit_in_payload_is_refused(place: int, flip: int) -> None:
    signed = env.sign(env.ASSIGNMENT, b'{"epoch": 1}', [CHANNEL])
    bad = bytearray(signed.payload)
    bad[place % len(bad)] ^= flip
    forged = msgspec.structs.replace(signed, payload=bytes(bad))

    with pytest.raises(env.EnvelopeRefused):
        env.verify(forged, payload_type=env.ASSIGNMENT, role=env.KeyRole.CHANNEL, trusted=TRUSTED)


@given(st.binary(max_size=2000))
def test_any_bytes_are_an_envelope_or_refused(data: bytes) -> None:
    with contextlib.suppress(env.EnvelopeRefused):
        env.decode(data)


def test_oversize_document_is_refused_before_parsing() -> None:
    with pytest.raises(env.EnvelopeRefused, match="at most"):
        env.decode(b" " * (env.MAX_ENVELOPE_BYTES + 1))


def test_sealed_secret_opens_only_for_its_purpose_and_key() -> None:
    key = pki.new_sealing_key()
    sealed = pki.seal(b"hunter2", key.public_key(), info=b"registry")

    assert pki.open_sealed(sealed, key, info=b"registry") == b"hunter2"
    with pytest.raises(pki.SealBroken):
        pki.open_sealed(sealed, key, info=b"other")
    with pytest.raises(pki.SealBroken):
        pki.open_sealed(sealed, pki.new_sealing_key(), info=b"registry")
