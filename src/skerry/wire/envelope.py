"""Signed documents: bytes, what kind of bytes they are, and a list of signatures.

The form is DSSE's (https://github.com/secure-systems-lab/dsse, protocol.md): each signature is
over PAE(payload type, payload), so bytes signed as one kind of document can never be read as
another. Each signature names a key and the *role* that key plays; the role is bound by the trust
store, not by what the signature claims: a channel key that signs as `release` is not believed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import msgspec
from cryptography.hazmat.primitives.asymmetric import ed25519

from skerry.lib.digest import sha256
from skerry.lib.errors import SkerryError
from skerry.lib.pki import fingerprint, load_signing_public, public_pem, verify_ed25519

ASSIGNMENT = "application/vnd.skerry.assignment.v1+json"
REVISION = "application/vnd.skerry.profile-revision.v1+json"
ARTIFACT = "application/vnd.skerry.artifact.v1+json"
AUDIT_HEAD = "application/vnd.skerry.audit-head.v1+json"

MAX_ENVELOPE_BYTES = 4 * 1024 * 1024
MAX_SIGNATURES = 16


class KeyRole(StrEnum):
    """What a key may decide. `release` signs what hosts run, `channel` who runs what now."""

    RELEASE = "release"
    CHANNEL = "channel"


class EnvelopeRefused(SkerryError):
    """A signed document is malformed, of the wrong kind, or lacks a trusted signature."""

    def __init__(self, message: str, *, reason: str = "SignatureInvalid") -> None:
        super().__init__(
            message,
            hint="check which manager this host trusts with 'skerry-agent status'",
            reason=reason,
        )


class Signature(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`sig` is over the pre-authentication encoding; base64 in JSON."""

    keyid: str
    role: KeyRole
    sig: bytes


class Envelope(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A payload with its signatures. `payload` is base64 in JSON."""

    payload_type: str
    payload: bytes
    signatures: tuple[Signature, ...]

    def encode(self) -> bytes:
        """JSON bytes."""
        return msgspec.json.encode(self)

    @property
    def payload_digest(self) -> str:
        return sha256(self.payload)


class TrustedKey(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A public key and the one role it is trusted for."""

    role: KeyRole
    public_pem: str

    @property
    def keyid(self) -> str:
        return fingerprint(load_signing_public(self.public_pem))


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key with the role it signs in."""

    role: KeyRole
    key: ed25519.Ed25519PrivateKey

    @property
    def keyid(self) -> str:
        return fingerprint(self.key.public_key())

    @property
    def trusted(self) -> TrustedKey:
        return TrustedKey(role=self.role, public_pem=public_pem(self.key.public_key()))


def decode(data: bytes) -> Envelope:
    """Raises EnvelopeRefused for anything that is not an envelope of bearable size."""
    if len(data) > MAX_ENVELOPE_BYTES:
        raise EnvelopeRefused(f"signed document is {len(data)} bytes, at most {MAX_ENVELOPE_BYTES}")
    try:
        envelope = msgspec.json.decode(data, type=Envelope)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise EnvelopeRefused(f"signed document cannot be read: {exc}") from exc
    if len(envelope.signatures) > MAX_SIGNATURES:
        raise EnvelopeRefused(f"signed document carries more than {MAX_SIGNATURES} signatures")
    return envelope


def sign(payload_type: str, payload: bytes, keys: Sequence[SigningKey]) -> Envelope:
    """Sign some bytes as a document of the given type."""
    message = _pae(payload_type, payload)
    return Envelope(
        payload_type=payload_type,
        payload=payload,
        signatures=tuple(
            Signature(keyid=key.keyid, role=key.role, sig=key.key.sign(message)) for key in keys
        ),
    )


def verify(
    envelope: Envelope,
    *,
    payload_type: str,
    role: KeyRole,
    trusted: Iterable[TrustedKey],
) -> bytes:
    """The payload, if at least one signature is by a key trusted for `role`.

    Raises EnvelopeRefused; `reason` is ReleaseSignatureMissing when no signature even claims the
    role `release`, and SignatureInvalid otherwise.
    """
    if envelope.payload_type != payload_type:
        raise EnvelopeRefused(
            f"signed document is a {envelope.payload_type[:100]!r}, wanted {payload_type!r}"
        )
    keys = {key.keyid: load_signing_public(key.public_pem) for key in trusted if key.role is role}
    claims = [signature for signature in envelope.signatures if signature.role is role]
    if not claims and role is KeyRole.RELEASE:
        raise EnvelopeRefused(
            "no release signature on this document", reason="ReleaseSignatureMissing"
        )
    message = _pae(envelope.payload_type, envelope.payload)
    for signature in claims:
        key = keys.get(signature.keyid)
        if key is not None and verify_ed25519(key, signature.sig, message):
            return envelope.payload
    raise EnvelopeRefused(f"no valid {role.value} signature by a trusted key on this document")


def _pae(payload_type: str, payload: bytes) -> bytes:
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
