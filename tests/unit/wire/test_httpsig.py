"""Message signatures: every covered part counts, and an answer fits one request only."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.lib import pki
from skerry.wire import httpsig

HOST_KEY = pki.new_host_key()
CHANNEL_KEY = pki.new_signing_key()
URL = "https://manager.example:7443/v1/channel/sync?x=1"


def _signed(body: bytes = b"{}") -> httpsig.Message:
    message = httpsig.Message(headers={}, method="POST", url=URL, body=body)
    httpsig.sign_request(message, HOST_KEY, host="uid-1", counter=7)
    return message


def test_counter_of_a_genuine_request_is_read() -> None:
    assert httpsig.verify_request(_signed(), HOST_KEY.public_key()) == 7


def test_verification_does_not_depend_on_the_clock() -> None:
    # The signature carries a constant creation time; only the counter speaks of freshness.
    assert "created=946684800" in _signed().headers["Signature-Input"]


@pytest.mark.parametrize(
    "tamper",
    [
        lambda m: setattr(m, "body", b"{ }"),
        lambda m: setattr(m, "method", "PUT"),
        lambda m: setattr(m, "url", URL.replace("sync", "renew")),
        lambda m: setattr(m, "url", URL.replace("x=1", "x=2")),
        lambda m: m.headers.__setitem__(httpsig.COUNTER_HEADER, "8"),
        lambda m: m.headers.__setitem__(httpsig.HOST_HEADER, "uid-2"),
        lambda m: m.headers.pop("Signature"),
        lambda m: m.headers.pop("Content-Digest"),
    ],
    ids=["body", "method", "path", "query", "counter", "host", "no-signature", "no-digest"],
)
def test_a_changed_part_is_refused(tamper) -> None:  # type: ignore[no-untyped-def]  # lambda table
    message = _signed()
    tamper(message)

    with pytest.raises(httpsig.MessageRefused):
        httpsig.verify_request(message, HOST_KEY.public_key())


def test_another_hosts_key_is_refused() -> None:
    with pytest.raises(httpsig.MessageRefused):
        httpsig.verify_request(_signed(), pki.new_host_key().public_key())


def test_answer_to_another_request_is_refused() -> None:
    answer = httpsig.Answer(headers={}, status_code=200, body=b"{}")
    httpsig.sign_answer(answer, CHANNEL_KEY, host="uid-1", counter=7)

    httpsig.verify_answer(answer, CHANNEL_KEY.public_key(), host="uid-1", counter=7)
    with pytest.raises(httpsig.MessageRefused):
        httpsig.verify_answer(answer, CHANNEL_KEY.public_key(), host="uid-1", counter=8)
    with pytest.raises(httpsig.MessageRefused):
        httpsig.verify_answer(answer, CHANNEL_KEY.public_key(), host="uid-2", counter=7)


@given(
    st.dictionaries(
        st.sampled_from(["signature", "signature-input", "content-digest", "skerry-counter"]),
        st.text(max_size=200),
    )
)
def test_any_headers_are_refused_or_verified_without_another_error(headers: dict[str, str]) -> None:
    message = httpsig.Message(headers=headers, method="POST", url=URL, body=b"")
    with pytest.raises(httpsig.MessageRefused):
        httpsig.verify_request(message, HOST_KEY.public_key())
