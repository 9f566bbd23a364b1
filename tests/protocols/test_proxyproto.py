"""PROXY v1 and v2, and the first byte of plain ports."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import LocalError, RemoteError
from protocols.proxyproto import (
    V2_SIGNATURE,
    ProxyHeader,
    ProxyHeaderParser,
    encode_v1,
    encode_v2,
    encode_v2_local,
    starts_proxy_header,
)
from protocols.sniff import sniff

ADDRESSES = st.ip_addresses(v=4).flatmap(lambda a: st.tuples(st.just(a), st.ip_addresses(v=4))) | st.ip_addresses(
    v=6
).flatmap(lambda a: st.tuples(st.just(a), st.ip_addresses(v=6)))
PORTS = st.integers(0, 65535)


def v2(command: int, family: int, payload: bytes, length: int | None = None) -> bytes:
    size = len(payload) if length is None else length
    return V2_SIGNATURE + bytes((command, family)) + struct.pack("!H", size) + payload


def test_the_examples_of_the_document() -> None:
    parser = ProxyHeaderParser()
    header = parser.feed(b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\nGET / HTTP/1.1\r\n")
    assert header == ProxyHeader(1, False, "192.168.0.1", 56324, "192.168.0.11", 443)
    assert parser.remaining == b"GET / HTTP/1.1\r\n"
    for line in (b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n"):
        header = ProxyHeaderParser().feed(line)
        assert header is not None and not header.known
    longest = f"PROXY TCP6 {'ffff:' * 7}ffff {'ffff:' * 7}ffff 65535 65535\r\n".encode()
    assert ProxyHeaderParser().feed(longest) is not None


def test_version_2_by_hand() -> None:
    payload = socket.inet_aton("10.1.2.3") + socket.inet_aton("10.0.0.1") + struct.pack("!HH", 4000, 443)
    header = ProxyHeaderParser().feed(v2(0x21, 0x11, payload + b"\x02\x00\x03a.b"))
    assert header == ProxyHeader(2, False, "10.1.2.3", 4000, "10.0.0.1", 443, ((2, b"a.b"),))
    unix = ProxyHeaderParser().feed(v2(0x21, 0x31, bytes(216)))
    assert unix is not None and not unix.known and not unix.local
    unspecified = ProxyHeaderParser().feed(v2(0x21, 0x00, b"anything"))
    assert unspecified is not None and not unspecified.known


def test_local_is_the_balancer_itself() -> None:
    parser = ProxyHeaderParser()
    header = parser.feed(encode_v2_local() + b"x")
    assert header is not None and header.local and not header.known and parser.remaining == b"x"


@given(ADDRESSES, PORTS, PORTS, st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=40)), max_size=5),
       st.binary(max_size=30), st.booleans(), st.data())  # fmt: skip
def test_round_trip_over_any_split(addresses, port, other, tlvs, rest, newer, data) -> None:
    source, destination = (str(a) for a in addresses)
    wire = encode_v2(source, port, destination, other, tlvs) if newer else encode_v1(source, port, destination, other)
    cut = data.draw(st.integers(0, len(wire) - 1))
    parser = ProxyHeaderParser()
    assert parser.feed(wire[:cut]) is None
    header = parser.feed(wire[cut:] + rest)
    assert header is not None
    assert (header.source, header.source_port) == (source, port)
    assert (header.destination, header.destination_port) == (destination, other)
    assert header.tlvs == (tuple(tlvs) if newer else ())
    assert parser.remaining == rest


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x80\x10",
        b"proxy TCP4 1.1.1.1 2.2.2.2 1 2\r\n",
        b"PROXYTCP4",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\n",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 1\r2\r\n",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 1 65536\r\n",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 1 02\r\n",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 1 -2\r\n",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 1\r\n",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2 3\r\n",
        b"PROXY TCP4 1.1.1.1  2.2.2.2 1 2\r\n",
        b"PROXY TCP4 1.1.1.256 2.2.2.2 1 2\r\n",
        b"PROXY TCP4 ::1 ::1 1 2\r\n",
        b"PROXY TCP6 1.1.1.1 2.2.2.2 1 2\r\n",
        b"PROXY UDP4 1.1.1.1 2.2.2.2 1 2\r\n",
        b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
        b"PROXY \r\n",
        b"PROXY TCP4 1.1.1.\xb9 2.2.2.2 1 2\r\n",
        b"PROXY UNKNOWN " + b"x" * 93,
        b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n",
        V2_SIGNATURE[:-1] + b"X",
        v2(0x11, 0x11, bytes(12)),
        v2(0x22, 0x11, bytes(12)),
        v2(0x21, 0x12, bytes(12)),
        v2(0x21, 0x41, bytes(12)),
        v2(0x21, 0x11, bytes(11)),
        v2(0x21, 0x21, bytes(35)),
        v2(0x21, 0x31, bytes(215)),
        v2(0x21, 0x11, bytes(12) + b"\x01"),
        v2(0x21, 0x11, bytes(12) + b"\x01\x00\x02a"),
        v2(0x21, 0x11, b"", 4081),
    ],
)
def test_malformed_headers_are_remote_errors(data: bytes) -> None:
    with pytest.raises(RemoteError):
        ProxyHeaderParser().feed(data)
    parser = ProxyHeaderParser()
    with pytest.raises(RemoteError):
        for at in range(len(data)):
            parser.feed(data[at : at + 1])


@given(st.binary(max_size=200), st.sampled_from([b"", b"PROXY ", V2_SIGNATURE, V2_SIGNATURE + b"\x21\x11\x00"]))
def test_hostile_bytes_raise_only_remote_error(data: bytes, start: bytes) -> None:
    parser = ProxyHeaderParser()
    try:
        header = parser.feed(start + data)
    except RemoteError:
        return
    assert header is None or isinstance(header, ProxyHeader)


def test_what_may_become_a_header() -> None:
    assert starts_proxy_header(b"PROXY TCP4") and starts_proxy_header(b"PR") and starts_proxy_header(V2_SIGNATURE)
    assert not starts_proxy_header(b"POST / HTTP/1.1") and not starts_proxy_header(b"\r\n\r\nGET")


def test_encoding_refuses_what_it_cannot_say() -> None:
    for encode in (encode_v1, encode_v2):
        with pytest.raises(LocalError):
            encode("1.1.1.1", 1, "::1", 2)
    with pytest.raises(LocalError):
        encode_v2("1.1.1.1", 1, "1.1.1.1", 2, [(1, bytes(4070))])


@given(st.binary(min_size=1, max_size=4))
def test_the_first_byte_decides(data: bytes) -> None:
    if 0x80 <= data[0] <= 0x8F or data[0] in {0x00, 0x01, 0xF0, 0xF1}:
        assert sniff(data) == "mmtp/1"
    elif data[0] == 0x10:
        assert sniff(data) == "mqtt"
    elif data[:1].isalpha() and data[:1].isupper():
        assert sniff(data) == "http/1.1"
    else:
        with pytest.raises(RemoteError):
            sniff(data)
