"""Messages survive the socket; nothing else gets through."""

from __future__ import annotations

import os
import socket
from dataclasses import fields
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archiver.access import protocol
from archiver.access.protocol import Ask, Forget, Hello, How, Message, ProtocolError, Role, Watch

NUMBERS = {"id": 2**64 - 1, "pid": 2**32 - 1, "errno": 2**32 - 1, "left_ms": 2**32 - 1}


def _any(kind: type[Message]) -> st.SearchStrategy[Message]:
    values: dict[str, st.SearchStrategy[object]] = {}
    for each in fields(kind):
        if each.name in NUMBERS:
            values[each.name] = st.integers(0, NUMBERS[each.name])
        else:
            values[each.name] = st.sampled_from(Role if each.name == "role" else How)
    return st.builds(kind, **values)


messages = st.one_of([_any(kind) for kind in get_args(Message)])


def with_it(message: Message) -> int:
    """How many descriptors a message needs."""
    return 1 if isinstance(message, Ask | Watch | Forget) else 0


@given(messages)
def test_every_message_comes_back_as_it_was(message: Message) -> None:
    packet = protocol.encode(message)
    assert len(packet) <= protocol.MAX_PACKET
    assert protocol.decode(packet, with_it(message)) == message


@given(st.binary(max_size=protocol.MAX_PACKET), st.integers(0, 3))
def test_a_packet_is_a_message_or_an_error(packet: bytes, descriptors: int) -> None:
    try:
        message = protocol.decode(packet, descriptors)
    except ProtocolError:
        return
    assert protocol.encode(message) == packet


@given(messages, st.integers(0, 4))
def test_descriptors_that_a_message_has_no_use_for_are_refused(message: Message, count: int) -> None:
    allowed = {Ask: {1, 2}, Watch: {1}, Forget: {1}}.get(type(message), {0})  # type: ignore[call-overload]
    if count in allowed:
        protocol.decode(protocol.encode(message), count)
    else:
        with pytest.raises(ProtocolError):
            protocol.decode(protocol.encode(message), count)


@pytest.fixture
def pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_descriptors_travel_with_a_message(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    ends = os.pipe()
    protocol.send(ours, Ask(7, 42, How.READ, 1000), ends)
    received = protocol.receive(theirs)
    assert received is not None
    message, descriptors = received
    assert message == Ask(7, 42, How.READ, 1000)
    os.write(descriptors[1], b"through")
    assert os.read(ends[0], 10) == b"through"
    assert not any(map(os.get_inheritable, descriptors))


def test_what_came_along_with_a_packet_that_is_refused_is_closed(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    ends = os.pipe()
    before = open_descriptors()
    for count in (1, 2, 8, 50):
        socket.send_fds(ours, [protocol.encode(Hello(Role.DESK))], list(ends)[:1] * count)
        with pytest.raises(ProtocolError):
            protocol.receive(theirs)
    assert open_descriptors() == before


def test_a_packet_of_any_length_is_read_whole_or_refused(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    ours.send(protocol.encode(Hello(Role.DESK)) + bytes(1000))
    with pytest.raises(ProtocolError, match="too large"):
        protocol.receive(theirs)
    ours.close()
    assert protocol.receive(theirs) is None
