"""Bytes of the standards' non-normative examples, and of what clients in the field write, both ways."""

from __future__ import annotations

import pytest

from protocols.mqtt.decoding import decode
from protocols.mqtt.encoding import encode
from protocols.mqtt.packets import (
    Connack,
    Connect,
    Disconnect,
    Pingreq,
    Pingresp,
    Property,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    SubscriptionRequest,
    Unsuback,
    Unsubscribe,
    Will,
)
from protocols.mqtt.properties import encode_string, encode_varint, read_string, read_varint

VECTORS = [
    (4, "10 0e 0004 4d515454 04 02 003c 0002 6964", Connect("id", 4, True, 60)),
    (3, "10 10 0006 4d5149736470 03 02 003c 0002 6964", Connect("id", 3, True, 60)),
    (4, "10 0e 0004 4d515454 84 00 003c 0002 6964", Connect("id", 4, False, 60, bridge=True)),
    (
        4,
        "10 1e 0004 4d515454 04 ce 000a 0002 6964 0001 77 0002 6869 0004 75736572 0001 70",
        Connect("id", 4, True, 10, "user", b"p", Will("w", b"hi", 1)),
    ),
    (
        5,
        "10 14 0004 4d515454 05 02 000a 05 11 0000000a 0002 6964",
        Connect("id", 5, True, 10, properties={Property.SESSION_EXPIRY: 10}),
    ),
    (4, "20 02 01 00", Connack(True)),
    (4, "20 02 00 05", Connack(False, 5)),
    (5, "20 03 00 00 00", Connack()),
    (5, "20 06 00 00 03 21 0014", Connack(properties={Property.RECEIVE_MAXIMUM: 20})),
    (4, "32 08 0003 612f62 000a 78", Publish("a/b", b"x", 1, packet_id=10)),
    (5, "32 09 0003 612f62 000a 00 78", Publish("a/b", b"x", 1, packet_id=10)),
    (5, "3d 07 0001 61 000a 00 78", Publish("a", b"x", 2, True, True, 10)),
    (4, "30 03 0001 61", Publish("a", b"")),
    (4, "40 02 000a", Puback(10)),
    (5, "40 02 000a", Puback(10)),
    (5, "40 03 000a 10", Puback(10, 0x10)),
    (5, "40 08 000a 00 04 1f 0001 78", Puback(10, 0, {Property.REASON_STRING: "x"})),
    (5, "50 02 000a", Pubrec(10)),
    (5, "62 02 000a", Pubrel(10)),
    (5, "70 03 000a 92", Pubcomp(10, 0x92)),
    (
        4,
        "82 0e 000a 0003 612f62 01 0003 632f64 02",
        Subscribe(10, [SubscriptionRequest("a/b", 1), SubscriptionRequest("c/d", 2)]),
    ),
    (
        5,
        "82 0f 000a 00 0003 612f62 01 0003 632f64 02",
        Subscribe(10, [SubscriptionRequest("a/b", 1), SubscriptionRequest("c/d", 2)]),
    ),
    (
        5,
        "82 09 000a 02 0b 07 0001 23 2e",
        Subscribe(10, [SubscriptionRequest("#", 2, True, True, 2)], {Property.SUBSCRIPTION_IDENTIFIER: 7}),
    ),
    (4, "90 05 000a 00 02 80", Suback(10, [0, 2, 0x80])),
    (5, "90 06 000a 00 00 02 87", Suback(10, [0, 2, 0x87])),
    (4, "a2 0c 000a 0003 612f62 0003 632f64", Unsubscribe(10, ["a/b", "c/d"])),
    (5, "a2 0d 000a 00 0003 612f62 0003 632f64", Unsubscribe(10, ["a/b", "c/d"])),
    (4, "b0 02 000a", Unsuback(10)),
    (5, "b0 05 000a 00 00 11", Unsuback(10, [0, 0x11])),
    (4, "c0 00", Pingreq()),
    (4, "d0 00", Pingresp()),
    (4, "e0 00", Disconnect()),
    (5, "e0 07 00 05 11 00000078", Disconnect(0, {Property.SESSION_EXPIRY: 120})),
]


@pytest.mark.parametrize(("version", "data", "packet"), VECTORS)
def test_examples(version, data, packet):
    """[MQTT-2.2.1-2] [MQTT-2.2.2-1] [MQTT-3.9.3-1] [MQTT-3.11.3-1] [MQTT3-2.3.1-5] [MQTT3-3.9.3-1]"""
    frame = bytes.fromhex(data)
    assert encode(packet, version) == frame
    assert decode(frame, version) == packet


@pytest.mark.parametrize(
    ("version", "data", "packet"),
    [
        (5, "40 04 000a 00 00", Puback(10)), (5, "50 03 000a 00", Pubrec(10)), (5, "62 04 000a 92 00", Pubrel(10, 0x92)),
        (5, "e0 01 00", Disconnect()), (5, "e0 02 04 00", Disconnect(4)),
    ],
)  # fmt: skip
def test_longer_ways_to_say_the_same(version, data, packet):
    assert decode(bytes.fromhex(data), version) == packet


@pytest.mark.parametrize(
    ("value", "data"),
    [(0, "00"), (127, "7f"), (128, "8001"), (16383, "ff7f"), (16384, "808001"), (2097151, "ffff7f"),
     (2097152, "80808001"), (268435455, "ffffff7f")],
)  # fmt: skip
def test_the_table_of_lengths(value, data):
    """[MQTT-1.5.5-1]"""
    encoded = bytes.fromhex(data)
    assert encode_varint(value) == encoded
    assert read_varint(encoded, 0, len(encoded)) == (value, len(encoded))


def test_the_example_of_a_string():
    """[MQTT-1.5.4-1]: the letter A and U+2A6D4."""
    encoded = bytes.fromhex("0005 41 f0aa9b94")
    assert encode_string("A\U0002a6d4") == encoded
    assert read_string(encoded, 0, len(encoded)) == ("A\U0002a6d4", 7)
