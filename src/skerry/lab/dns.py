"""A resolver that answers at once: the lab's names, and NXDOMAIN for everything else.

kubeadm loses a minute in look-ups when nothing answers. The parser accepts exactly one plain
question in at most 512 bytes and drops or refuses all else; it never follows a pointer.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

import anyio
import anyio.abc

_HEADER = struct.Struct("!HHHHHH")
_MAX_PACKET_BYTES = 512
_MAX_NAME_BYTES = 255
_MAX_LABEL_BYTES = 63
_TTL_S = 5
_TYPE_A = 1
_CLASS_IN = 1
_FLAG_RESPONSE = 0x8000
_FLAG_AUTHORITATIVE = 0x0400
_FLAG_RECURSION_DESIRED = 0x0100
_FLAG_RECURSION_AVAILABLE = 0x0080
_OPCODE_MASK = 0x7800
_NO_ERROR, _FORMAT_ERROR, _NAME_ERROR, _NOT_IMPLEMENTED = 0, 1, 3, 4


@dataclass(frozen=True, slots=True)
class Question:
    """The one question of a query. `name` is lower-case without the last dot; `wire` its bytes."""

    name: str
    kind: int
    klass: int
    wire: bytes


def answer(packet: bytes, names: Mapping[str, IPv4Address]) -> bytes | None:
    """The answer to a query packet, or None when it deserves none (RFC 1035 section 4)."""
    if not _HEADER.size <= len(packet) <= _MAX_PACKET_BYTES:
        return None
    ident, flags, questions, *_ = _HEADER.unpack_from(packet)
    if flags & _FLAG_RESPONSE:
        return None  # Answering answers would let two resolvers talk for ever.
    if flags & _OPCODE_MASK:
        return _reply(ident, flags, _NOT_IMPLEMENTED, b"")
    question = parse_question(packet) if questions == 1 else None
    if question is None:
        return _reply(ident, flags, _FORMAT_ERROR, b"")
    address = names.get(question.name)
    if address is None:
        return _reply(ident, flags, _NAME_ERROR, question.wire)
    if question.kind != _TYPE_A or question.klass != _CLASS_IN:
        return _reply(ident, flags, _NO_ERROR, question.wire)
    # 0xC00C points at the name in the question, which starts right after the header.
    record = struct.pack("!HHHIH", 0xC00C, _TYPE_A, _CLASS_IN, _TTL_S, 4) + address.packed
    return _reply(ident, flags, _NO_ERROR, question.wire, record)


def parse_question(packet: bytes) -> Question | None:
    """Read the question that follows the header; None when it is malformed."""
    labels: list[str] = []
    at = _HEADER.size
    while True:
        if at >= len(packet) or at - _HEADER.size >= _MAX_NAME_BYTES:
            return None
        size = packet[at]
        at += 1
        if size == 0:
            break
        if size > _MAX_LABEL_BYTES or at + size > len(packet):
            return None
        labels.append(packet[at : at + size].decode("latin-1").lower())
        at += size
    if at + 4 > len(packet):
        return None
    kind, klass = struct.unpack_from("!HH", packet, at)
    return Question(".".join(labels), kind, klass, packet[_HEADER.size : at + 4])


def _reply(ident: int, flags: int, code: int, question: bytes, record: bytes = b"") -> bytes:
    out = (
        _FLAG_RESPONSE
        | _FLAG_AUTHORITATIVE
        | _FLAG_RECURSION_AVAILABLE
        | flags & (_FLAG_RECURSION_DESIRED | _OPCODE_MASK)
        | code
    )
    header = _HEADER.pack(ident, out, 1 if question else 0, 1 if record else 0, 0, 0)
    return header + question + record


async def serve(
    address: IPv4Address,
    names: Mapping[str, IPv4Address],
    *,
    port: int = 53,
    task_status: anyio.abc.TaskStatus[int] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Answer on `address` until cancelled; reports the port once it listens.

    `names` is read at every question, so a host added later is found at once.
    """
    async with await anyio.create_udp_socket(
        family=socket.AddressFamily.AF_INET, local_host=str(address), local_port=port
    ) as udp:
        task_status.started(udp.extra(anyio.abc.SocketAttribute.local_port))  # noqa: S610
        async for packet, (client, client_port) in udp:
            if (reply := answer(packet, names)) is not None:
                try:
                    await udp.sendto(reply, client, client_port)
                except OSError:
                    continue  # The asker is gone, with its container; others are waiting.
