"""HTTP message signatures (RFC 9421) between host and manager.

TLS alone is not trusted, because it may end at an inspecting proxy: each request is signed by the
host's key and each answer by the manager's channel key. Freshness comes from a counter that only
grows and is persisted by both sides; clocks are never compared, because a host's clock may be
years off. An answer repeats the counter of its request, so it cannot be replayed to another one.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from http_message_signatures import algorithms
from http_message_signatures.exceptions import HTTPMessageSignaturesException
from http_message_signatures.resolvers import HTTPSignatureKeyResolver
from http_message_signatures.signatures import HTTPMessageSigner, HTTPMessageVerifier

from skerry.lib.errors import SkerryError

HOST_HEADER = "skerry-host"
COUNTER_HEADER = "skerry-counter"
_REQUEST_PARTS = ("@method", "@path", "@query", HOST_HEADER, COUNTER_HEADER)
_ANSWER_PARTS = ("@status", HOST_HEADER, COUNTER_HEADER)
_LABEL = "skerry"
_EPOCH = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)


class MessageRefused(SkerryError):
    """A message's signature is missing, wrong, or does not cover what it must."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="SignatureInvalid")


@dataclass
class Message:
    """A request (method, url) or an answer (status) as the signature sees it."""

    headers: dict[str, str]
    method: str = ""
    url: str = ""
    body: bytes = b""


@dataclass
class Answer:
    """An answer as the signature sees it."""

    headers: dict[str, str]
    status_code: int
    body: bytes = b""
    request: None = None
    url: str = field(default="")


class _OneKey(HTTPSignatureKeyResolver):
    def __init__(self, *, private: Any = None, public: Any = None) -> None:
        self._private = private
        self._public = public

    def resolve_private_key(self, key_id: str) -> Any:
        return self._private

    def resolve_public_key(self, key_id: str) -> Any:
        return self._public


class _Verifier(HTTPMessageVerifier):
    # The library refuses signatures "from the future"; the counter is our freshness.
    max_clock_skew = dt.timedelta(days=36500)
    require_created = False


def sign_request(
    message: Message, key: ec.EllipticCurvePrivateKey, *, host: str, counter: int
) -> dict[str, str]:
    """The headers to send: the message's own and those that carry the signature."""
    message.headers[HOST_HEADER] = host
    message.headers[COUNTER_HEADER] = str(counter)
    _sign(message, algorithms.ECDSA_P256_SHA256, key, host, _REQUEST_PARTS)
    return message.headers


def verify_request(message: Message, key: ec.EllipticCurvePublicKey) -> int:
    """The request's counter. Raises MessageRefused."""
    _verify(message, algorithms.ECDSA_P256_SHA256, key, _REQUEST_PARTS)
    return _counter(message.headers)


def sign_answer(
    answer: Answer, key: ed25519.Ed25519PrivateKey, *, host: str, counter: int
) -> dict[str, str]:
    """The headers to send with an answer to the request `counter` of `host`."""
    answer.headers[HOST_HEADER] = host
    answer.headers[COUNTER_HEADER] = str(counter)
    _sign(answer, algorithms.ED25519, key, "channel", _ANSWER_PARTS)
    return answer.headers


def verify_answer(
    answer: Answer, key: ed25519.Ed25519PublicKey, *, host: str, counter: int
) -> None:
    """Raises MessageRefused, also when the answer belongs to another request."""
    _verify(answer, algorithms.ED25519, key, _ANSWER_PARTS)
    if answer.headers.get(HOST_HEADER) != host or _counter(answer.headers) != counter:
        raise MessageRefused("the manager's answer belongs to another request")


def _sign(
    message: Message | Answer, algorithm: Any, key: Any, keyid: str, parts: tuple[str, ...]
) -> None:
    signer = HTTPMessageSigner(signature_algorithm=algorithm, key_resolver=_OneKey(private=key))
    # `created` is a constant: it is a required-by-habit field that nobody may rely on here.
    signer.sign(
        message,
        key_id=keyid,
        created=_EPOCH,
        label=_LABEL,
        tag=_LABEL,
        covered_component_ids=parts,
        body=message.body,
    )


def _verify(message: Message | Answer, algorithm: Any, key: Any, parts: tuple[str, ...]) -> None:
    verifier = _Verifier(signature_algorithm=algorithm, key_resolver=_OneKey(public=key))
    try:
        results = verifier.verify(
            message,
            max_age=None,
            expect_label=_LABEL,
            expect_tag=_LABEL,
            require_components=parts,
            body=message.body,
        )
    except (HTTPMessageSignaturesException, ValueError, KeyError) as exc:
        raise MessageRefused(f"message signature refused: {str(exc) or 'does not fit'}") from exc
    if not results:
        raise MessageRefused("message carries no skerry signature")


def _counter(headers: Mapping[str, str]) -> int:
    text = headers.get(COUNTER_HEADER, "")
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise MessageRefused(f"header {COUNTER_HEADER} is not a number")
    return int(text)
