"""The lab's resolver: right answers, and no packet can hurt it."""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.lab import dns

NAMES = {"n1": IPv4Address("10.200.7.10"), "n1.lab.internal": IPv4Address("10.200.7.10")}


def query(name: str, *, kind: int = 1, flags: int = 0x0100, questions: int = 1) -> bytes:
    labels = b"".join(bytes([len(p)]) + p.encode() for p in name.split(".") if p)
    return struct.pack("!HHHHHH", 7, flags, questions, 0, 0, 0) + (
        labels + b"\0" + struct.pack("!HH", kind, 1)
    )


def code_of(reply: bytes | None) -> int:
    assert reply is not None
    return int(struct.unpack("!H", reply[2:4])[0]) & 0xF


@pytest.mark.parametrize("name", ["n1", "N1", "n1.lab.internal"])
def test_lab_name_gets_its_address(name: str) -> None:
    reply = dns.answer(query(name), NAMES)

    assert reply is not None
    assert reply[:2] == b"\0\7"
    assert code_of(reply) == 0
    assert reply.endswith(b"\0\4" + NAMES["n1"].packed)


def test_other_names_do_not_exist() -> None:
    assert code_of(dns.answer(query("example.com"), NAMES)) == 3


def test_known_name_without_an_ipv6_address_still_exists() -> None:
    reply = dns.answer(query("n1", kind=28), NAMES)

    assert code_of(reply) == 0
    assert reply is not None
    assert struct.unpack("!H", reply[6:8]) == (0,)


@pytest.mark.parametrize(
    "packet",
    [b"", b"short", query("n1", flags=0x8100), query("n1") + b"x" * 512],
    ids=["empty", "no header", "an answer", "too long"],
)
def test_packets_that_deserve_no_answer_get_none(packet: bytes) -> None:
    assert dns.answer(packet, NAMES) is None


@pytest.mark.parametrize(
    "packet",
    [
        query("n1", questions=2),
        query("n1", questions=0),
        query("n1")[:-1],
        query("n1")[:12] + b"\xc0\x0c\0\1\0\1",
        query("n1")[:12] + b"\x3f" + b"a" * 5,
        query(".".join(["a" * 60] * 5)),
    ],
    ids=["two questions", "no question", "cut off", "pointer", "label past end", "long name"],
)
def test_malformed_questions_are_refused(packet: bytes) -> None:
    assert code_of(dns.answer(packet, NAMES)) == 1


@given(st.binary(max_size=600))
def test_prop_no_packet_raises_or_is_answered_at_length(packet: bytes) -> None:
    reply = dns.answer(packet, NAMES)

    assert reply is None or len(reply) <= len(packet) + 16


@given(st.binary(max_size=300))
def test_prop_no_question_raises(tail: bytes) -> None:
    reply = dns.answer(struct.pack("!HHHHHH", 1, 0x0100, 1, 0, 0, 0) + tail, NAMES)

    assert reply is not None
    assert code_of(reply) in (0, 1, 3)


@pytest.mark.anyio
async def test_server_answers_over_udp_and_finds_names_added_later() -> None:
    names: dict[str, IPv4Address] = {}
    loopback = IPv4Address("127.0.0.1")

    async def ask() -> bytes:
        async with await anyio.create_connected_udp_socket(
            "127.0.0.1", port, family=socket.AddressFamily.AF_INET
        ) as udp:
            await udp.send(query("late"))
            with anyio.fail_after(5):
                return await udp.receive()

    async with anyio.create_task_group() as group:
        port = await group.start(
            lambda *, task_status: dns.serve(loopback, names, port=0, task_status=task_status)
        )
        before = await ask()
        names["late"] = IPv4Address("10.200.7.11")
        after = await ask()
        group.cancel_scope.cancel()

    assert code_of(before) == 3
    assert after.endswith(names["late"].packed)
