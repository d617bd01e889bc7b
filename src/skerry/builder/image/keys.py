"""The keys of an organisation's images: made once, the offline ones kept off the building machine.

    offline/  platform (PK), exchange (KEK), release: who holds them decides what firmware trusts
              and what hosts install; needed to rotate keys and to sign a release
    online/   db, verity, pcr-N: what a build signs with; and all public halves

The signed lists by which firmware in setup mode takes the keys over (PK, KEK and db.auth) are made
with the keys, so that no build needs an offline key.
"""

from __future__ import annotations

import datetime as dt
import os
import re
import uuid
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from skerry.builder.image.efilists import signature_list, signed_list
from skerry.builder.image.errors import KeysUnusable
from skerry.lib import pki
from skerry.lib.digest import sha256

_DAYS = 365 * 20
_README = """\
Keys of the OS images of {organisation}
=======================================

offline/   Move this folder off this machine now, to a place that only few can open, and keep a
           copy. It is needed to rotate keys (platform.key, exchange.key) and to sign releases
           (release.key), never to build.
  platform.key   platform key (PK): owns the firmware's list of keys
  exchange.key   key exchange key (KEK): may change which keys may sign boot images
  release.key    Ed25519: signs what hosts install ('skerry release sign --key')

online/    The building machine needs it. Whoever has it can make images that start on your hosts.
  db.key, db.crt           sign boot loader and boot images
  verity.key, verity.crt   sign root hashes and system extensions
  pcr-N.key, pcr-N.pub     sign the boot measurements that may open a host's state; the highest
                           N is used. An image signed with a lower one cannot open it any more.
  platform.crt, exchange.crt, release.pub   public halves of the offline keys
  PK.auth, KEK.auth, db.auth   what the loader writes into firmware that is in setup mode

How to rotate: docs/how-to/build-your-image.md.
"""
_PCR = re.compile(r"pcr-([1-9]\d{0,3})\.key")


@dataclass(frozen=True, slots=True)
class ImageKeys:
    """Paths of the online keys. `generation` is the policy key's number."""

    folder: Path
    generation: int

    @property
    def db_key(self) -> Path:
        return self.folder / "db.key"

    @property
    def db_certificate(self) -> Path:
        return self.folder / "db.crt"

    @property
    def verity_key(self) -> Path:
        return self.folder / "verity.key"

    @property
    def verity_certificate(self) -> Path:
        return self.folder / "verity.crt"

    @property
    def pcr_key(self) -> Path:
        return self.folder / f"pcr-{self.generation}.key"

    @property
    def pcr_public(self) -> Path:
        return self.folder / f"pcr-{self.generation}.pub"

    @property
    def enrolment(self) -> tuple[Path, ...]:
        """Signed lists for firmware in setup mode."""
        return tuple(self.folder / f"{name}.auth" for name in ("PK", "KEK", "db"))

    def marks(self) -> dict[str, str]:
        """Digest of each key's public half, by name."""
        lists = b"".join(path.read_bytes() for path in self.enrolment)
        return {
            "db": sha256(self.db_certificate.read_bytes()),
            "verity": sha256(self.verity_certificate.read_bytes()),
            "pcr": sha256(self.pcr_public.read_bytes()) if self.generation else "",
            "enrolment": sha256(lists),
        }


def create_keys(folder: Path, *, organisation: str, now: dt.datetime) -> None:
    """Make all keys in an empty or missing folder. Raises KeysUnusable."""
    if folder.exists() and any(folder.iterdir()):
        raise KeysUnusable(
            f"{folder} is not empty; keys are never written over",
            hint="name another folder, or move this one away",
        )
    offline, online = folder / "offline", folder / "online"
    for place in (folder, offline, online):
        place.mkdir(parents=True, exist_ok=True)
        place.chmod(0o700)
    owner = uuid.uuid4()
    made: dict[str, tuple[rsa.RSAPrivateKey, x509.Certificate]] = {}
    for name, words, place in (
        ("platform", "platform key", offline),
        ("exchange", "key exchange key", offline),
        ("db", "boot images", online),
        ("verity", "root hashes", online),
    ):
        key = new_key()
        certificate = _certificate(key, f"{organisation} {words}", now)
        made[name] = key, certificate
        _write(place / f"{name}.key", _private(key))
        _write(online / f"{name}.crt", pki.certificate_pem(certificate).encode(), mode=0o644)
    add_policy_key(folder)
    release = pki.new_signing_key()
    _write(offline / "release.key", pki.private_pem(release))
    _write(online / "release.pub", pki.public_pem(release.public_key()).encode(), mode=0o644)
    for variable, subject, signer in (
        ("PK", "platform", "platform"),
        ("KEK", "exchange", "platform"),
        ("db", "db", "exchange"),
    ):
        content = signature_list(made[subject][1], owner)
        key, certificate = made[signer]
        data = signed_list(variable, content, key=key, certificate=certificate, now=now)
        _write(online / f"{variable}.auth", data, mode=0o644)
    _write(folder / "README", _README.format(organisation=organisation).encode(), mode=0o644)


def add_policy_key(folder: Path) -> int:
    """Make the next policy key; its number. Images with it shut out those before it."""
    online = _online(folder)
    number = _generation(online) + 1
    key = new_key()
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    _write(online / f"pcr-{number}.pub", public, mode=0o644)
    _write(online / f"pcr-{number}.key", _private(key))
    return number


def open_keys(folder: Path) -> ImageKeys:
    """The online keys of a folder made by `create_keys`, or of its part online/.

    Raises KeysUnusable with everything that is missing.
    """
    online = _online(folder)
    keys = ImageKeys(online, _generation(online))
    wanted = [keys.db_key, keys.db_certificate, keys.verity_key, keys.verity_certificate]
    wanted += keys.enrolment
    missing = [path.name for path in wanted if not path.is_file()]
    if missing:
        raise KeysUnusable(
            f"{online} lacks {', '.join(missing)}", hint="make keys with 'skerry keys create'"
        )
    return keys


def new_key() -> rsa.RSAPrivateKey:
    """RSA with 2048 bits, what every firmware and every TPM can check."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _online(folder: Path) -> Path:
    return folder / "online" if (folder / "online").is_dir() else folder


def _generation(online: Path) -> int:
    found = [_PCR.fullmatch(place.name) for place in online.glob("pcr-*.key")]
    return max((int(match[1]) for match in found if match), default=0)


def _certificate(key: rsa.RSAPrivateKey, name: str, now: dt.datetime) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _private(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _write(place: Path, data: bytes, *, mode: int = 0o600) -> None:
    handle = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "wb") as writing:
        writing.write(data)
        writing.flush()
        os.fsync(writing.fileno())
