"""The manager's own keys, made on first use in its data folder.

Roles are kept apart from the start: the authority issues TLS certificates, the channel key signs
assignments and answers, release keys sign what hosts run. Only the development default keeps a
private release key here, and says so.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from skerry.lib import pki
from skerry.lib.clock import Clock
from skerry.lib.files import Root
from skerry.wire.envelope import KeyRole, SigningKey, TrustedKey

CA_KEY = "/keys/ca.key"
CA_CERTIFICATE = "/keys/ca.crt"
CHANNEL_KEY = "/keys/channel.key"
RELEASE_KEY = "/keys/release.key"
SECRET_KEY = "/keys/secret.key"  # noqa: S105 - a place, not a secret
SERVER_KEY = "/keys/server.key"
SERVER_CERTIFICATE = "/keys/server.crt"
_RENEW_DAYS = 30


@dataclass(frozen=True, slots=True)
class Keys:
    """`release` is None when release keys are kept elsewhere. `secret` encrypts at rest."""

    authority: pki.Authority
    channel: SigningKey
    trusted_releases: tuple[TrustedKey, ...]
    release: SigningKey | None
    secret: bytes

    @property
    def trusted(self) -> tuple[TrustedKey, ...]:
        """What hosts are told to trust."""
        return (*self.trusted_releases, self.channel.trusted)

    @property
    def authorities(self) -> tuple[str, ...]:
        return (self.authority.certificate_pem,)


def open_keys(root: Root, clock: Clock, *, release_keys: tuple[str, ...] = ()) -> Keys:
    """Load the keys, making those that are missing. `release_keys` are public PEM texts."""
    channel = SigningKey(KeyRole.CHANNEL, _signing_key(root, CHANNEL_KEY))
    release: SigningKey | None = None
    if release_keys:
        trusted = tuple(
            TrustedKey(role=KeyRole.RELEASE, public_pem=pki.public_pem(pki.load_signing_public(p)))
            for p in release_keys
        )
    else:
        release = SigningKey(KeyRole.RELEASE, _signing_key(root, RELEASE_KEY))
        trusted = (release.trusted,)
    if not root.exists(SECRET_KEY):
        root.write(SECRET_KEY, os.urandom(32), mode=0o600)
    return Keys(
        authority=_authority(root, clock),
        channel=channel,
        trusted_releases=trusted,
        release=release,
        secret=root.read(SECRET_KEY),
    )


def ensure_server_certificate(
    root: Root, keys: Keys, clock: Clock, names: tuple[str, ...]
) -> tuple[str, str]:
    """Paths of the server's certificate and key; renewed when old or for other names."""
    if not root.exists(SERVER_KEY):
        root.write(SERVER_KEY, pki.private_pem(pki.new_host_key()), mode=0o600)
    if not _fits(root, keys, clock, names):
        certificate = pki.issue_server_certificate(
            keys.authority,
            pki.load_host_key(root.read(SERVER_KEY)).public_key(),
            names=list(names),
            now=clock.now(),
        )
        root.write(SERVER_CERTIFICATE, pki.certificate_pem(certificate).encode())
    return root.host_path(SERVER_CERTIFICATE), root.host_path(SERVER_KEY)


def _fits(root: Root, keys: Keys, clock: Clock, names: tuple[str, ...]) -> bool:
    if not root.exists(SERVER_CERTIFICATE):
        return False
    certificate = pki.load_certificate(root.read(SERVER_CERTIFICATE))
    listed = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    there = {str(item.value) for item in listed}
    left = certificate.not_valid_after_utc - clock.now()
    return (
        there == set(names)
        and left.days >= _RENEW_DAYS
        and certificate.issuer == keys.authority.certificate.subject
    )


def _signing_key(root: Root, path: str) -> ed25519.Ed25519PrivateKey:
    if not root.exists(path):
        root.write(path, pki.private_pem(pki.new_signing_key()), mode=0o600)
    return pki.load_signing_key(root.read(path))


def _authority(root: Root, clock: Clock) -> pki.Authority:
    if not root.exists(CA_CERTIFICATE):
        made = pki.new_authority("skerry", now=clock.now())
        # The key first: a certificate without its key would be useless, the other way round not.
        root.write(CA_KEY, pki.private_pem(made.key), mode=0o600)
        root.write(
            CA_CERTIFICATE, made.certificate.public_bytes(serialization.Encoding.PEM), mode=0o644
        )
    return pki.Authority(
        key=pki.load_host_key(root.read(CA_KEY)),
        certificate=pki.load_certificate(root.read(CA_CERTIFICATE)),
    )
