"""The look into a ClientHello: OpenSSL's own hellos, however they are cut, and anything else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.tls.client_hello import MAX_HELLO, NOTHING_OFFERED, HelloReader
from tests.protocols.tls.tls_links import IDENTITY, PSK, client

CLIENT = client()


def first_flight(psk=None, early=b""):
    device = CLIENT.engine("localhost", psk=psk)
    if early:
        device.early(early)
    device.start()
    return device.to_send()


PLAIN, WITH_KEY, WITH_EARLY = first_flight(), first_flight(PSK), first_flight(PSK, b"early")


@pytest.mark.parametrize(
    ("flight", "early", "identity"),
    [(PLAIN, False, b""), (WITH_KEY, False, b""), (WITH_EARLY, True, IDENTITY)],
    ids=["plain", "with a key", "with early data"],
)
def test_what_a_hello_offers(flight, early, identity):
    hello = HelloReader().feed(flight)
    assert (hello.early_data, hello.identity) == (early, identity)
    assert hello.random == (flight[11:43] if early else b"")


@given(st.lists(st.integers(1, 60), min_size=1), st.integers(1, 300))
def test_however_it_is_cut_into_reads_and_records(reads, record_size):
    message = WITH_EARLY[5 : 5 + int.from_bytes(WITH_EARLY[3:5], "big")]
    flight = b"".join(
        b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part
        for part in (message[at : at + record_size] for at in range(0, len(message), record_size))
    )
    reader, at, seen = HelloReader(), 0, None
    for size in reads * len(flight):
        if seen is not None or at >= len(flight):
            break
        seen = reader.feed(flight[at : at + size])
        at += size
    assert seen == HelloReader().feed(WITH_EARLY)


@settings(max_examples=300)
@given(st.data())
def test_hostile_bytes_are_nothing_or_a_wait(data):
    if data.draw(st.booleans()):
        flight = bytearray(data.draw(st.binary(max_size=300)))
    else:
        flight = bytearray(WITH_EARLY)
        for at, value in data.draw(st.lists(st.tuples(st.integers(0, len(flight) - 1), st.integers(0, 255)))):
            flight[at] = value
    HelloReader().feed(bytes(flight))


@settings(max_examples=300)
@given(st.sampled_from([PLAIN, WITH_KEY, WITH_EARLY]), st.data())
def test_one_that_comes_whole_is_read_as_one_that_comes_in_pieces(flight, data):
    changed = bytearray(flight)
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, len(flight) - 1), st.integers(0, 255)), max_size=4)):
        changed[at] = value
    reader, seen = HelloReader(), None
    for at in range(len(changed)):
        seen = reader.feed(bytes(changed[at : at + 1]))
        if seen is not None:
            break
    assert HelloReader().feed(bytes(changed)) == seen


@pytest.mark.parametrize(
    "flight",
    [b"GET / HTTP/1.1\r\n\r\n", b"\x15\x03\x01\x00\x02\x01\x00", b"\x16\x03\x01\x00\x05\x02\x00\x00\x01a", b"\x80\x10"],
)
def test_other_bytes_are_nothing(flight):
    assert HelloReader().feed(flight) is NOTHING_OFFERED


def test_a_hello_without_an_end_is_given_up():
    reader = HelloReader()
    record = b"\x16\x03\x01\x03\xe8"
    assert reader.feed(record + b"\x01\xff\xff\xff" + bytes(996)) is None
    fed = 0
    while (seen := reader.feed(record + bytes(1000))) is None:
        fed += 1000
        assert fed <= MAX_HELLO
    assert seen is NOTHING_OFFERED


def test_a_record_that_is_too_long_is_not_waited_for():
    assert HelloReader().feed(b"\x16\x03\x01\x40\x00\x01") is None
    assert HelloReader().feed(b"\x16\x03\x01\x40\x01\x01") is NOTHING_OFFERED


def test_a_hello_that_is_cut_inside_is_nothing():
    size = int.from_bytes(WITH_EARLY[3:5], "big")
    for length in range(34, size - 4, 7):
        body = WITH_EARLY[9 : 9 + length]
        message = b"\x01" + length.to_bytes(3, "big") + body
        hello = HelloReader().feed(b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message)
        assert hello is not None
        assert hello == NOTHING_OFFERED
