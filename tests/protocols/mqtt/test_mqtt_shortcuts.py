"""The short ways of a server's connection for packets that come alone: they say what the long way says, or nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocols.errors import RemoteError
from protocols.mqtt.connection import Connection, Role
from protocols.mqtt.decoding import decode
from protocols.mqtt.encoding import encode
from protocols.mqtt.limits import Limits
from protocols.mqtt.lone_packets import plain_connect
from protocols.mqtt.packets import V5, V31, V311, Connack, Connect, Disconnect, Pingreq, Property, Will
from protocols.mqtt.state import State
from tests.protocols.mqtt.mqtt_strategies import connects

PLAIN = Connect("device-1", V311, True, 60, "user", b"secret")


def server(**limits: Any) -> Connection:
    return Connection(Role.SERVER, limits=Limits(**limits), now=0.0)


def opened(version: int = V311) -> Connection:
    made = server()
    made.receive(encode(Connect("c", version), version), 0.0)
    made.events()
    made.accept(Connack())
    made.to_send(0.0)
    return made


def agrees(data: bytes) -> None:
    """What the short way reads, the long way reads the same."""
    found = plain_connect(data)
    if found is not None:
        assert found == decode(data, 0)


@pytest.mark.parametrize("version", [V311, V5])
@pytest.mark.parametrize("username", [None, "", "user"])
@pytest.mark.parametrize("password", [None, b"", b"\xff\0"])
@pytest.mark.parametrize("clean", [False, True])
def test_a_plain_connect_is_read_in_one_pass(
    version: int, username: str | None, password: bytes | None, clean: bool
) -> None:
    if username is None:
        password = None
    connect = Connect("device-\N{SNOWMAN}", version, clean, 300, username, password)
    assert plain_connect(encode(connect, version)) == connect


@pytest.mark.parametrize(
    "connect",
    [
        Connect("c", V31),
        Connect("", V311),
        Connect("", V5),
        Connect("c" * 130, V311),
        Connect("c", V5, properties={Property.SESSION_EXPIRY: 1}),
        Connect("c", V311, will=Will("t", b"")),
        Connect("c", V311, bridge=True),
    ],
)
def test_all_others_are_left_to_the_long_way(connect: Connect) -> None:
    assert plain_connect(encode(connect, connect.version)) is None


@given(st.sampled_from([V311, V5]).flatmap(connects), st.data())
def test_a_connect_that_is_changed_is_never_read_otherwise(connect: Connect, data: st.DataObject) -> None:
    frame = bytearray(encode(connect, connect.version))
    agrees(bytes(frame))
    for _ in range(data.draw(st.integers(1, 3))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    agrees(bytes(frame))
    agrees(bytes(frame[: data.draw(st.integers(0, len(frame)))]))


@given(st.integers(0, 255), st.binary(max_size=40))
@example(0xC2, b"\0\1c\0\1u\0\1p")
@example(0x02, b"\0\1\0")
@example(0x82, b"\0\1c\0\1\0")
def test_hostile_bytes_behind_the_name_are_never_read_otherwise(flags: int, rest: bytes) -> None:
    for level in (b"\4", b"\5"):
        body = b"\0\4MQTT" + level + bytes([flags]) + b"\0\x3c" + rest
        agrees(bytes([0x10, len(body)]) + body)


def test_a_lone_connect_is_received_as_by_the_long_way() -> None:
    frame = encode(PLAIN, V311)
    short, long = server(), server()
    assert short.introduced_alone(frame) == PLAIN
    long.receive(frame, 0.0)
    assert long.events() == [PLAIN]
    for made in (short, long):
        assert (made.state, made.version, made.keep_alive) == (State.CONNECTING, V311, 60)
    short.accept_as_asked(True)
    long.accept(Connack(True))
    assert short.to_send(0.0) == long.to_send(0.0) != b""
    assert short.state is long.state is State.OPEN
    with pytest.raises(RemoteError):
        short.receive(frame, 0.0)


def test_a_connect_is_left_to_the_long_way_unless_it_comes_first_and_whole() -> None:
    frame = encode(PLAIN, V311)
    assert opened().introduced_alone(frame) is None
    assert server().introduced_alone(frame + b"\xe0\0") is None
    assert server(max_connect=len(frame) - 1).introduced_alone(frame) is None
    assert Connection(Role.CLIENT, now=0.0).introduced_alone(frame) is None
    begun = server()
    begun.receive(frame[:5], 0.0)
    assert begun.introduced_alone(frame[5:]) is None
    assert begun.introduced_alone(frame) is None


def test_a_short_connack_heeds_the_largest_packet_of_the_client() -> None:
    made = server()
    made.receive(encode(Connect("c", V5, properties={Property.MAXIMUM_PACKET_SIZE: 1000}), V5), 0.0)
    long = server()
    long.receive(encode(Connect("c", V5), V5), 0.0)
    made.accept_as_asked(False)
    long.accept(Connack())
    assert made.to_send(0.0) == long.to_send(0.0)
    assert made.state is State.OPEN


@pytest.mark.parametrize("version", [V311, V5])
def test_a_lone_disconnect_closes(version: int) -> None:
    made = opened(version)
    assert made.left_alone(encode(Disconnect(), version))
    assert made.closed and not made.events()
    assert not made.left_alone(encode(Disconnect(), version))


def test_a_disconnect_is_left_to_the_long_way_unless_it_comes_alone_on_an_open_connection() -> None:
    goodbye = encode(Disconnect(), V311)
    assert not server().left_alone(goodbye)
    assert not opened().left_alone(goodbye + goodbye)
    assert not opened().left_alone(encode(Pingreq(), V311))
    begun = opened()
    begun.receive(b"\x30", 0.0)
    assert not begun.left_alone(goodbye)
    waiting = opened()
    waiting.receive(encode(Pingreq(), V311), 0.0)
    assert not waiting.left_alone(goodbye)
    assert waiting.events() == [Pingreq()]
