"""Digests and the one canonical encoding that is hashed and signed.

A digest is the text `sha256:<64 hex digits>`. Canonical JSON is msgspec's encoding with sorted
keys: what is signed is always the bytes that travel, never a re-encoding of them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Any

import msgspec

from skerry.lib.errors import SkerryError

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def sha256(data: bytes) -> str:
    """Digest of some bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def sha256_of_chunks(chunks: Iterable[bytes]) -> str:
    """Digest of what comes in pieces."""
    state = hashlib.sha256()
    for chunk in chunks:
        state.update(chunk)
    return f"sha256:{state.hexdigest()}"


def canonical_json(value: Any) -> bytes:
    """Encode a value so that equal values have equal bytes."""
    return msgspec.json.encode(value, order="sorted")


def is_digest(text: str) -> bool:
    """Whether the text is a digest in skerry's form."""
    return _DIGEST.fullmatch(text) is not None


def hex_of(digest: str) -> str:
    """The 64 hex digits of a digest. Raises SkerryError when it is not one."""
    if not is_digest(digest):
        raise SkerryError(f"not a sha256 digest: {digest[:100]!r}")
    return digest[len("sha256:") :]
