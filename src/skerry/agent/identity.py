"""Who this host is: its keys, the manager it belongs to, and the request counter.

Keys are made here and never leave. The counter is reserved in blocks, so that one durable write
serves many requests; after a crash some numbers are skipped, none is used twice.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec, x25519

from skerry.agent import paths
from skerry.lib import pki
from skerry.lib.errors import SkerryError
from skerry.lib.files import DiskFull, Root
from skerry.model.meta import Record
from skerry.wire.envelope import KeyRole, TrustedKey

_COUNTER_BLOCK = 1000


class NotRegistered(SkerryError):
    """The host was never told which manager it belongs to."""

    def __init__(self) -> None:
        super().__init__(
            "this host is not registered with a manager",
            hint="run the install line that 'skerry token create' prints",
            reason="NotRegistered",
        )


class Identity(Record, frozen=True, kw_only=True):
    """What the host remembers of its registration.

    `authorities` are the pinned TLS roots, `trusted_keys` the document keys; both arrive over a
    connection that the roots of the install line already protect.
    """

    manager: str
    authorities: tuple[str, ...]
    trusted_keys: tuple[TrustedKey, ...] = ()
    state: str = "new"
    host_uid: str = ""
    host_name: str = ""
    project: str = ""
    certificate: str = ""
    registration_code: str = ""
    reason: str = ""
    message: str = ""
    site: str = ""
    labels: dict[str, str] = {}
    proxy: str = ""

    @property
    def approved(self) -> bool:
        return self.state == "approved"

    def channel_keys(self) -> tuple[TrustedKey, ...]:
        return tuple(key for key in self.trusted_keys if key.role is KeyRole.CHANNEL)


@dataclass(frozen=True, slots=True)
class HostKeys:
    """The host's private keys."""

    identity: ec.EllipticCurvePrivateKey
    sealing: x25519.X25519PrivateKey

    @property
    def fingerprint(self) -> str:
        return pki.fingerprint(self.identity.public_key())


def load_identity(root: Root) -> Identity:
    """Raises NotRegistered."""
    if not root.exists(paths.IDENTITY):
        raise NotRegistered
    return msgspec.json.decode(root.read(paths.IDENTITY), type=Identity)


def save_identity(root: Root, identity: Identity) -> None:
    """Durable before it returns."""
    root.write(paths.IDENTITY, msgspec.json.encode(identity), mode=0o600)


def load_or_make_keys(root: Root) -> HostKeys:
    """The host's keys, made on first use."""
    if not root.exists(paths.HOST_KEY):
        # The sealing key first: whoever sees a host key may rely on both.
        root.write(paths.SEALING_KEY, pki.private_pem(pki.new_sealing_key()), mode=0o600)
        root.write(paths.HOST_KEY, pki.private_pem(pki.new_host_key()), mode=0o600)
    return HostKeys(
        identity=pki.load_host_key(root.read(paths.HOST_KEY)),
        sealing=pki.load_sealing_key(root.read(paths.SEALING_KEY)),
    )


class Counter:
    """Numbers that only grow, across restarts."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._next = 1
        if root.exists(paths.COUNTER):
            self._next = int(root.read(paths.COUNTER)) + 1
        self._reserved = self._next - 1

    def take(self) -> int:
        """The next number; never seen before by anyone.

        Raises DiskFull only when the last block is used up: a block is reserved well before, so
        that a host with a full disk can still say so.
        """
        if self._next > self._reserved - _COUNTER_BLOCK // 2:
            try:
                self._reserve()
            except (DiskFull, OSError):
                if self._next > self._reserved:
                    raise
        number = self._next
        self._next += 1
        return number

    def _reserve(self) -> None:
        end = self._next + _COUNTER_BLOCK
        self._root.write(paths.COUNTER, str(end).encode(), mode=0o600)
        self._reserved = end


def boot_id(root: Root) -> str:
    """This boot's id, or a fresh one where the kernel offers none."""
    place = "/proc/sys/kernel/random/boot_id"
    return root.read(place).decode().strip() if root.exists(place) else str(uuid.uuid4())
