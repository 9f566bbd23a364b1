"""A PUBLISH that comes alone is read without the packet loop: it must say and refuse what the loop does."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocols.errors import LocalError, RemoteError
from protocols.mqtt.connection import Connection
from protocols.mqtt.encoding import encode, publish_frame, publish_parts
from protocols.mqtt.limits import Limits
from protocols.mqtt.packets import Puback, Publish
from tests.protocols.mqtt.mqtt_strategies import VERSIONS, open_server, publishes

LIMITS = Limits(max_packet=20_000)


def outcome(server: Connection, data: bytes, *, alone: bool) -> tuple:
    """Packets, what is to be told, the reason of an error, and whether it is closed."""
    code = None
    found = []
    try:
        publish = server.published_alone(data) if alone else None
        if publish is None:
            server.receive(data, 0.0)
        else:
            found = [publish]
    except RemoteError as error:
        code = error.code
    return found + server.events(), server.to_send(0.0), code, server.closed


def both(version: int, data: bytes, limits: Limits = LIMITS) -> tuple:
    """What comes of the same bytes on both ways."""
    alone = outcome(open_server(version, limits=limits), data, alone=True)
    assert alone == outcome(open_server(version, limits=limits), data, alone=False)
    return alone


@given(st.data(), st.sampled_from(VERSIONS))
def test_it_is_what_the_packet_loop_makes_of_it(data, version):
    publish = data.draw(publishes(version))
    frame = encode(publish, version)
    both(version, frame)
    both(version, frame[:-1])
    both(version, frame + frame)


@given(st.sampled_from(VERSIONS), st.binary(min_size=1, max_size=40), st.binary(max_size=3))
@example(5, b"\x32\x07\x00\x01a\x00\x00\x00x", b"")
@example(4, b"\x32\x06\x00\x01a\x00\x00x", b"")
@example(4, b"\x30\x86\x00\x00\x01abcd", b"")
@example(4, b"\x30\x80\x01" + b"\x00\x01a" + bytes(125), b"")
@example(5, b"\x32\x05\x00\x00\x00\x01\x00", b"")
@example(4, b"\x32\x05\xff\xff\x00\x01\x00", b"")
@example(5, b"\x30\x05\x00\x01#\x00x", b"")
def test_no_bytes_are_taken_in_another_way(version, data, more):
    both(version, data + more)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("size", [0, 1, 110, 130, 16_000, 16_384, 19_000, 30_000])
def test_of_any_size(version, size):
    frame = encode(Publish("a/b", bytes(size), 1, False, False, 7), version)
    found, _, code, _ = both(version, frame)
    if size < 20_000:
        assert found == [Publish("a/b", bytes(size), 1, False, False, 7)]
    else:
        assert not found and code == 0x95


def test_the_receive_maximum_counts_it():
    server = open_server(5, limits=Limits(receive_maximum=2))
    for packet_id in (1, 2):
        assert server.published_alone(encode(Publish("t", b"x", 1, False, False, packet_id), 5)) is not None
    server.puback(1)
    assert server.to_send(0.0) == encode(Puback(1), 5)
    assert server.published_alone(encode(Publish("t", b"x", 1, False, False, 3), 5)) is not None
    with pytest.raises(RemoteError) as caught:
        server.published_alone(encode(Publish("t", b"x", 1, False, False, 4), 5))
    assert caught.value.code == 0x93 and server.closed


def test_not_while_something_is_held_back():
    frame = encode(Publish("t", b"x", 1, False, False, 1), 4)
    server = open_server(4)
    server.receive(frame[:3], 0.0)
    assert server.published_alone(frame) is None
    server = open_server(4)
    server.receive(frame, 0.0)
    assert server.published_alone(frame) is None


@given(st.sampled_from(VERSIONS), st.sampled_from([0, 1, 2]), st.booleans(), st.binary(max_size=300))
def test_one_receivers_frame_is_that_of_many(version, qos, retain, payload):
    head, tail = publish_parts("a/é", payload, version, qos=qos, retain=retain, properties={})
    packet_id = b"\x01\x02" if qos else b""
    assert publish_frame("a/é", payload, version, qos << 1 | retain, packet_id) == head + packet_id + tail


def test_a_frame_needs_a_topic_name():
    with pytest.raises(LocalError):
        publish_frame("a/#", b"", 4, 0, b"")
