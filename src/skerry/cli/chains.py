"""Checks an exported audit chain without a manager, by the same lines as the store writes it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from skerry.client.answers import AuditLine
from skerry.lib import pki
from skerry.manager.store.chain import ChainBroken, verify_chain
from skerry.manager.store.protocol import Audit, StoredAudit
from skerry.model.meta import Record
from skerry.model.problems import DocumentInvalid, Problem
from skerry.wire import envelope as env


class _Head(Record, frozen=True, kw_only=True):
    """What a signed head says: record `sequence` has this hash."""

    sequence: int
    hash: str


def read_chain(file: Path) -> list[AuditLine]:
    """The records of an export, verified as one chain. Raises DocumentInvalid, ChainBroken."""
    lines: list[AuditLine] = []
    with file.open("rb") as stream:
        for number, text in enumerate(stream, start=1):
            if not text.strip():
                continue
            try:
                lines.append(msgspec.json.decode(text, type=AuditLine))
            except (msgspec.DecodeError, UnicodeDecodeError) as exc:
                problem = Problem(path=f"{file}:{number}", message=f"is no audit record: {exc}")
                raise DocumentInvalid("export", [problem]) from exc
    verify_chain([_stored(line) for line in lines])
    return lines


def check_against(chain: list[AuditLine], earlier: Path) -> int:
    """How many records an earlier export has, all of which stand unchanged. Raises ChainBroken."""
    old = read_chain(earlier)
    for line, before in zip(chain, old, strict=False):
        if line.hash != before.hash:
            raise ChainBroken(
                f"audit record {line.sequence} is another one than in {earlier}",
                hint="the chain was rewritten; keep both files and find out by whom",
            )
    if len(chain) < len(old):
        raise ChainBroken(
            f"the chain ends at record {len(chain)}, {earlier} has {len(old)}",
            hint="records were cut off, or the manager was restored from a backup",
        )
    return len(old)


def check_heads(chain: list[AuditLine], heads: Path, key: Path) -> int:
    """How many signed heads fit the chain. Raises ChainBroken, EnvelopeRefused."""
    trusted = env.TrustedKey(role=env.KeyRole.CHANNEL, public_pem=key.read_text())
    pki.load_signing_public(trusted.public_pem)
    hashes = {line.sequence: line.hash for line in chain}
    count = 0
    for text in heads.read_bytes().splitlines():
        if not text.strip():
            continue
        payload = env.verify(
            env.decode(text),
            payload_type=env.AUDIT_HEAD,
            role=env.KeyRole.CHANNEL,
            trusted=[trusted],
        )
        head = msgspec.json.decode(payload, type=_Head)
        if head.sequence and hashes.get(head.sequence) != head.hash:
            raise ChainBroken(
                f"audit record {head.sequence} does not have the hash that was signed",
                hint="the chain was rewritten or cut after that head was exported",
            )
        count += 1
    return count


def _stored(line: AuditLine) -> StoredAudit:
    audit = Audit(
        at=line.at,
        actor=line.actor,
        verb=line.verb,
        object_kind=line.kind,
        object_project=line.project,
        object_name=line.name,
        source=line.source,
        change=line.change,
    )
    return StoredAudit(
        sequence=line.sequence, audit=audit, previous_hash=line.previous_hash, hash=line.hash
    )
