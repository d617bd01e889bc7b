"""Learning a manager's authority before anything is trusted.

The manager gives its authority in the public install script. It is fetched without trust, so it
means nothing until its fingerprint was compared with one that came another way: `skerry serve`
prints it.
"""

from __future__ import annotations

import re

import httpx2

from skerry.client.connection import open_client, send
from skerry.client.contexts import Context
from skerry.lib import pki
from skerry.lib.errors import SkerryError

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----")
_MAX_CERTIFICATES = 8


class AuthorityUnknown(SkerryError):
    """The manager's authority could not be learned or is another one than expected."""

    exit_code = 4


async def offered_authority(
    server: str, *, transport: httpx2.AsyncBaseTransport | None = None
) -> str:
    """PEM of the authority that whoever answers at `server` claims. Raises AuthorityUnknown."""
    async with open_client(
        Context(name="", server=server), transport=transport, trust=False
    ) as client:
        answer = await send(client, "GET", "/install.sh")
    found = offered(answer.text)
    if not found:
        raise AuthorityUnknown(
            f"{server} does not say which authority it has",
            hint="give its certificate: skerry login --ca FILE (DATA/keys/ca.crt of the manager)",
        )
    return "\n".join(found) + "\n"


def offered(text: str) -> list[str]:
    """PEM of each certificate in a text, not believed yet."""
    return _PEM.findall(text)[:_MAX_CERTIFICATES]


def fingerprints(pem: str) -> tuple[str, ...]:
    """SHA-256 of each certificate's public key, 64 hex digits, as `skerry serve` prints it.

    Raises AuthorityUnknown.
    """
    try:
        found = [
            pki.fingerprint(pki.load_certificate(text).public_key())  # type: ignore[arg-type]  # any sort of key has a DER form
            for text in _PEM.findall(pem)
        ]
    except (pki.BadKey, ValueError) as exc:
        raise AuthorityUnknown("the authority is no certificate") from exc
    if not found:
        raise AuthorityUnknown("there is no certificate in it", hint="wanted is PEM text")
    return tuple(found)


def same_fingerprint(left: str, right: str) -> bool:
    """Whether two fingerprints are equal, however they are written (colons, case, prefix)."""
    return _bare(left) == _bare(right) and len(_bare(left)) == 64


def _bare(text: str) -> str:
    return text.lower().removeprefix("sha256:").replace(":", "").strip()
