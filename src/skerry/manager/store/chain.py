"""The audit chain: each record's hash covers the record and the hash before it.

Pure, so that an offline verifier uses the same few lines as the store. The hashed bytes are
canonical JSON of all fields with their names, the sequence and the previous hash; the record
before the first has the hash "".
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC

import msgspec

from skerry.lib.digest import canonical_json, sha256
from skerry.lib.errors import SkerryError
from skerry.manager.store.protocol import Audit, StoredAudit


class ChainBroken(SkerryError):
    """An audit record was changed, removed, added or reordered after it was written."""


def audit_hash(sequence: int, audit: Audit, previous_hash: str) -> str:
    """The hash of record `sequence`, "sha256:..."."""
    fields = {
        name: getattr(audit, name)
        for name in (
            "actor",
            "verb",
            "object_kind",
            "object_project",
            "object_name",
            "source",
            "change",
        )
    }
    at = msgspec.to_builtins(audit.at.astimezone(UTC))
    return sha256(
        canonical_json({"sequence": sequence, "at": at, "previous_hash": previous_hash, **fields})
    )


def verify_chain(
    records: Iterable[StoredAudit], *, sequence: int = 0, last_hash: str = ""
) -> tuple[int, str]:
    """Check records that follow (`sequence`, `last_hash`); answers the last sequence and hash.

    Raises ChainBroken naming the first record that does not fit.
    """
    for record in records:
        if record.sequence != sequence + 1:
            raise _broken(record.sequence, f"follows record {sequence}, so records are missing")
        if record.previous_hash != last_hash:
            raise _broken(record.sequence, "does not continue the record before it")
        if audit_hash(record.sequence, record.audit, record.previous_hash) != record.hash:
            raise _broken(record.sequence, "was changed after it was written")
        sequence, last_hash = record.sequence, record.hash
    return sequence, last_hash


def _broken(sequence: int, problem: str) -> ChainBroken:
    return ChainBroken(
        f"audit record {sequence} {problem}",
        hint="compare with the exported signed heads to find when the database was altered",
    )
