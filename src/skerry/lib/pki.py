"""Keys, certificates and sealing: thin, typed wrappers over `cryptography`.

Three kinds of key, never mixed: ES256 (P-256) identifies a host, Ed25519 signs documents
(release and channel keys), X25519 receives sealed secrets (HPKE, RFC 9180, base mode with
HKDF-SHA256 and AES-256-GCM). Private keys are PEM without a passphrase, so the files that hold
them are 0600 and never leave the machine.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
from dataclasses import dataclass
from typing import Any, cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, hpke, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, x25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from skerry.lib.errors import SkerryError

_SUITE = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | x25519.X25519PrivateKey
PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | x25519.X25519PublicKey


class BadKey(SkerryError):
    """A key or certificate cannot be read or is of the wrong kind."""


class SealBroken(SkerryError):
    """A sealed secret cannot be opened with this key."""


def new_host_key() -> ec.EllipticCurvePrivateKey:
    """A key that identifies a host (ES256)."""
    return ec.generate_private_key(ec.SECP256R1())


def new_signing_key() -> ed25519.Ed25519PrivateKey:
    """A key that signs documents (Ed25519)."""
    return ed25519.Ed25519PrivateKey.generate()


def new_sealing_key() -> x25519.X25519PrivateKey:
    """A key that opens sealed secrets (X25519)."""
    return x25519.X25519PrivateKey.generate()


def private_pem(key: PrivateKey) -> bytes:
    """PKCS#8 PEM without a passphrase."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def public_pem(key: PublicKey) -> str:
    """SubjectPublicKeyInfo PEM."""
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode()


def load_host_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Raises BadKey."""
    return cast(
        "ec.EllipticCurvePrivateKey", _expect(_load_private(pem), ec.EllipticCurvePrivateKey)
    )


def load_signing_key(pem: bytes) -> ed25519.Ed25519PrivateKey:
    """Raises BadKey."""
    return cast("ed25519.Ed25519PrivateKey", _expect(_load_private(pem), ed25519.Ed25519PrivateKey))


def load_sealing_key(pem: bytes) -> x25519.X25519PrivateKey:
    """Raises BadKey."""
    return cast("x25519.X25519PrivateKey", _expect(_load_private(pem), x25519.X25519PrivateKey))


def load_host_public(pem: str) -> ec.EllipticCurvePublicKey:
    """Raises BadKey, also for another curve than P-256."""
    key = cast("ec.EllipticCurvePublicKey", _expect(_load_public(pem), ec.EllipticCurvePublicKey))
    if not isinstance(key.curve, ec.SECP256R1):
        raise BadKey(f"host key is on curve {key.curve.name}, wanted P-256")
    return key


def load_signing_public(pem: str) -> ed25519.Ed25519PublicKey:
    """Raises BadKey."""
    return cast("ed25519.Ed25519PublicKey", _expect(_load_public(pem), ed25519.Ed25519PublicKey))


def load_sealing_public(pem: str) -> x25519.X25519PublicKey:
    """Raises BadKey."""
    return cast("x25519.X25519PublicKey", _expect(_load_public(pem), x25519.X25519PublicKey))


def fingerprint(key: PublicKey) -> str:
    """SHA-256 over the DER of the public key, 64 hex digits."""
    der = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(der).hexdigest()


def verify_ed25519(key: ed25519.Ed25519PublicKey, signature: bytes, data: bytes) -> bool:
    """Whether `signature` is the key's over `data`."""
    try:
        key.verify(signature, data)
    except InvalidSignature:
        return False
    return True


def sign_es256(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """A host key's signature over some bytes (ECDSA with SHA-256, DER)."""
    return key.sign(data, ec.ECDSA(hashes.SHA256()))


def verify_es256(key: ec.EllipticCurvePublicKey, signature: bytes, data: bytes) -> bool:
    """Whether `signature` is the host key's over `data`."""
    try:
        key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def seal(plain: bytes, receiver: x25519.X25519PublicKey, *, info: bytes) -> bytes:
    """Encrypt so that only the receiver opens it, and only for the same `info` (purpose)."""
    return _SUITE.encrypt(plain, receiver, info)


def open_sealed(sealed: bytes, key: x25519.X25519PrivateKey, *, info: bytes) -> bytes:
    """Raises SealBroken."""
    try:
        return _SUITE.decrypt(sealed, key, info)
    except Exception as exc:  # the library does not document which
        raise SealBroken("cannot open a sealed secret with this host's key") from exc


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority: its key and self-signed certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def certificate_pem(self) -> str:
        return certificate_pem(self.certificate)


def certificate_pem(certificate: x509.Certificate) -> str:
    """PEM text of a certificate."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def load_certificate(pem: str | bytes) -> x509.Certificate:
    """Raises BadKey."""
    try:
        return x509.load_pem_x509_certificate(pem.encode() if isinstance(pem, str) else pem)
    except ValueError as exc:
        raise BadKey("cannot read certificate: not PEM X.509") from exc


def new_authority(name: str, *, now: dt.datetime, days: int = 3650) -> Authority:
    """A new self-signed root."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        _builder(subject, subject, key.public_key(), now, days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Authority(key, certificate)


def issue_server_certificate(
    authority: Authority,
    key: ec.EllipticCurvePublicKey,
    *,
    names: list[str],
    now: dt.datetime,
    days: int = 365,
) -> x509.Certificate:
    """A TLS server certificate for DNS names and IP addresses."""
    alternatives: list[x509.GeneralName] = []
    for name in names:
        try:
            alternatives.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            alternatives.append(x509.DNSName(name))
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "skerry manager")])
    return (
        _builder(subject, authority.certificate.subject, key, now, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()),
            critical=False,
        )
        .sign(authority.key, hashes.SHA256())
    )


def issue_host_certificate(
    authority: Authority,
    key: ec.EllipticCurvePublicKey,
    *,
    host_uid: str,
    now: dt.datetime,
    days: int = 90,
) -> x509.Certificate:
    """A certificate that names a host by its uid (common name)."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host_uid)])
    return (
        _builder(subject, authority.certificate.subject, key, now, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(authority.key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: dt.datetime,
    days: int,
) -> x509.CertificateBuilder:
    # One day back: a host whose clock is a little slow must accept a certificate made just now.
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _load_private(pem: bytes) -> object:
    try:
        return serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as exc:
        raise BadKey("cannot read private key: not an unencrypted PKCS#8 PEM") from exc


def _load_public(pem: str) -> object:
    try:
        return serialization.load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise BadKey("cannot read public key: not a PEM of a known kind of key") from exc


def _expect(key: object, kind: Any) -> Any:
    if not isinstance(key, kind):
        raise BadKey(f"key is a {type(key).__name__}, wanted {kind.__name__}")
    return key
