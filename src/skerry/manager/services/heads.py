"""Signed heads of the audit chain, and what they tell about the database.

Every few minutes the chain's last record is signed by the channel key and appended to a file
beside the database and to the log, from where it can be kept elsewhere: a chain that was rewritten
or cut afterwards no longer has the hash that was signed. A database that is older than its own
heads was set back; the manager then only observes (see module restored).
"""

from __future__ import annotations

from datetime import datetime

import msgspec
import structlog

from skerry.lib.digest import canonical_json
from skerry.lib.pki import public_pem
from skerry.manager.services.centre import Caller, Centre, require
from skerry.model.meta import Record
from skerry.wire import envelope as env

log = structlog.get_logger("skerry.audit")

HEADS = "/audit/heads.jsonl"
PUBLIC_KEY = "/audit/channel.pub"
OLD_HEADS = "/audit/heads-before-{sequence}.jsonl"


class Head(Record, frozen=True, kw_only=True):
    """Payload of an AUDIT_HEAD envelope: at `at`, the chain ended in this record."""

    sequence: int
    hash: str
    at: datetime


async def export(centre: Centre) -> bool:
    """Sign and keep the chain's head if it moved; whether it did.

    Raises DiskFull, StoreUnavailable. Nothing is exported while the manager only observes: its
    older chain must not pass for the newer one.
    """
    sequence, last_hash = await centre.store.audit_head()
    if centre.live.restored is not None or sequence in (0, centre.live.head):
        return False
    head = Head(sequence=sequence, hash=last_hash, at=centre.clock.now())
    envelope = env.sign(env.AUDIT_HEAD, canonical_json(head), [centre.keys.channel])
    # First a line break: a crash may have left a torn line behind. Empty lines are skipped.
    centre.root.append(HEADS, b"\n" + envelope.encode() + b"\n")
    key = public_pem(centre.keys.channel.key.public_key()).encode()
    if not centre.root.exists(PUBLIC_KEY) or centre.root.read(PUBLIC_KEY) != key:
        centre.root.write(PUBLIC_KEY, key)
    centre.live.head = sequence
    log.info("audit.head", sequence=sequence, hash=last_hash)
    return True


def exported(centre: Centre, caller: Caller) -> bytes:
    """All heads so far, one envelope per line. Raises NotPermitted."""
    require(caller, "list", "AuditRecord", "")
    return b"".join(line + b"\n" for line in _lines(centre))


async def set_back(centre: Centre) -> str:
    """Why the database must be older than what this manager did before, or ""."""
    head = _last(centre)
    if head is None:
        return ""
    sequence, _ = await centre.store.audit_head()
    if sequence < head.sequence:
        return f"its audit chain ends at record {sequence}, record {head.sequence} was signed"
    found = await centre.store.audits(after=head.sequence - 1, limit=1)
    if not found or found[0].hash != head.hash:
        return f"audit record {head.sequence} is not the one that was signed"
    centre.live.head = head.sequence
    return ""


def begin_anew(centre: Centre) -> None:
    """Put the heads of a chain aside that this database does not continue."""
    head = _last(centre)
    if head is not None:
        centre.root.rename(HEADS, OLD_HEADS.format(sequence=head.sequence))
    centre.live.head = 0


def _last(centre: Centre) -> Head | None:
    """The newest head that was signed by this manager's key; torn and foreign lines do not count.

    Read from the end: the file only grows.
    """
    for line in reversed(_lines(centre)):
        try:
            payload = env.verify(
                env.decode(line),
                payload_type=env.AUDIT_HEAD,
                role=env.KeyRole.CHANNEL,
                trusted=[centre.keys.channel.trusted],
            )
        except env.EnvelopeRefused:
            continue
        return msgspec.json.decode(payload, type=Head)
    return None


def _lines(centre: Centre) -> list[bytes]:
    if not centre.root.exists(HEADS):
        return []
    return [line for line in centre.root.read(HEADS).splitlines() if line.strip()]
