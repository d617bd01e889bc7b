"""Learning an authority: nothing is believed before its fingerprint was compared."""

from __future__ import annotations

from datetime import UTC, datetime

import httpx2
import pytest

from skerry.client.trust import (
    AuthorityUnknown,
    fingerprints,
    offered_authority,
    same_fingerprint,
)
from skerry.lib import pki

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_the_fingerprint_is_the_one_that_the_manager_prints() -> None:
    authority = pki.new_authority("test", now=NOW)

    found = fingerprints(f"junk\n{authority.certificate_pem}\n")

    assert found == (pki.fingerprint(authority.key.public_key()),)


@pytest.mark.parametrize(
    ("left", "right", "wanted"),
    [
        ("ab" * 32, "AB" * 32, True),
        ("sha256:" + "ab" * 32, ":".join(["AB"] * 32), True),
        ("ab" * 32, "ab" * 31 + "ac", False),
        ("", "", False),
        ("ab" * 16, "ab" * 16, False),
    ],
)
def test_fingerprints_are_equal_however_they_are_written(
    left: str, right: str, wanted: bool
) -> None:
    assert same_fingerprint(left, right) is wanted


@pytest.mark.parametrize(
    "text", ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"]
)
def test_text_without_a_certificate_is_refused(text: str) -> None:
    with pytest.raises(AuthorityUnknown):
        fingerprints(text)


@pytest.mark.anyio
async def test_the_authority_comes_out_of_the_install_script() -> None:
    authority = pki.new_authority("test", now=NOW)
    script = f"#!/bin/sh\ncat > ca.pem <<END\n{authority.certificate_pem}END\n"
    transport = httpx2.MockTransport(lambda request: httpx2.Response(200, text=script))

    pem = await offered_authority("https://127.0.0.1:1", transport=transport)

    assert fingerprints(pem) == (pki.fingerprint(authority.key.public_key()),)


@pytest.mark.anyio
async def test_a_server_without_an_authority_says_to_give_its_file() -> None:
    transport = httpx2.MockTransport(lambda request: httpx2.Response(200, text="<html>"))

    with pytest.raises(AuthorityUnknown) as caught:
        await offered_authority("https://127.0.0.1:1", transport=transport)

    assert "--ca" in caught.value.hint
