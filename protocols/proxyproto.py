"""The PROXY protocol, versions 1 and 2: what a balancer says about the client before its first byte.

https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt. Only stream transports are taken.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address, ip_address

from protocols.errors import LocalError, RemoteError

V1_PREFIX = b"PROXY "
V2_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
MAX_V1 = 107
"""Longest line of version 1, CRLF included (section 2.1)."""
MAX_V2 = 4096
"""Longest header of version 2 that is taken, its TLVs included."""
PROTOCOL = 1
"""Code of the errors: the MMTP status `protocol`; a peer that cannot say who it speaks for is told nothing."""

_PORT = re.compile(r"0|[1-9][0-9]{0,4}")
_V4_STREAM = 0x11
_V6_STREAM = 0x21
_UNIX_STREAM = 0x31
_SIZES = {_V4_STREAM: 12, _V6_STREAM: 36, _UNIX_STREAM: 216}


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """What the balancer said. Without addresses (`known` False) the connection's own ones count."""

    version: int
    local: bool = False
    """The balancer speaks for itself (LOCAL: a health check)."""
    source: str = ""
    source_port: int = 0
    destination: str = ""
    destination_port: int = 0
    tlvs: tuple[tuple[int, bytes], ...] = ()
    """Version 2: (type, value) in order."""

    @property
    def known(self) -> bool:
        """The client's address was given."""
        return bool(self.source)


class ProxyHeaderParser:
    """Takes the first bytes of a connection until the header is complete."""

    __slots__ = ("_buffer", "remaining")

    def __init__(self) -> None:
        self._buffer = b""
        self.remaining = b""
        """Bytes after the header, once `feed` gave it."""

    def feed(self, data: bytes) -> ProxyHeader | None:
        """The header once complete, None before; RemoteError for anything that is none."""
        data = self._buffer + data
        if data[:1] == b"P":
            return self._feed_v1(data)
        if not V2_SIGNATURE.startswith(data[:12]):
            raise RemoteError(PROTOCOL, f"expected a PROXY header, got {data[:16]!r}")
        return self._feed_v2(data)

    def _feed_v1(self, data: bytes) -> ProxyHeader | None:
        end = data.find(b"\n", 0, MAX_V1)
        line = data[:end] if end >= 0 else data[:MAX_V1]
        if not V1_PREFIX.startswith(line[:6]) or b"\r" in line[:-1] or (end >= 0 and line[-1:] != b"\r"):
            raise RemoteError(PROTOCOL, f"expected a PROXY line, got {line[:40]!r}")
        if end < 0:
            if len(data) >= MAX_V1:
                raise RemoteError(PROTOCOL, f"PROXY line of more than {MAX_V1} bytes")
            self._buffer = data
            return None
        header = _parse_v1(line[:-1])
        self._buffer = b""
        self.remaining = data[end + 1 :]
        return header

    def _feed_v2(self, data: bytes) -> ProxyHeader | None:
        if len(data) >= 16:
            size = 16 + int.from_bytes(data[14:16], "big")
            if size > MAX_V2:
                raise RemoteError(PROTOCOL, f"PROXY header of {size} bytes, at most {MAX_V2} are taken")
            if len(data) >= size:
                header = _parse_v2(data[12], data[13], data[16:size])
                self._buffer = b""
                self.remaining = data[size:]
                return header
        self._buffer = data
        return None


def starts_proxy_header(data: bytes) -> bool:
    """Whether the first bytes of a connection are a PROXY header, or may become one."""
    return V1_PREFIX.startswith(data[:6]) or V2_SIGNATURE.startswith(data[:12])


def _parse_v1(line: bytes) -> ProxyHeader:
    try:
        words = line.decode("ascii").split(" ")
    except UnicodeDecodeError:
        raise RemoteError(PROTOCOL, "PROXY line with bytes beyond ASCII") from None
    if len(words) >= 2 and words[1] == "UNKNOWN":
        return ProxyHeader(1)
    if len(words) != 6 or words[1] not in {"TCP4", "TCP6"} or b"%" in line:
        raise RemoteError(PROTOCOL, f"PROXY line: expected TCP4 or TCP6 with two addresses and ports, got {line!r}")
    kind = IPv4Address if words[1] == "TCP4" else IPv6Address
    try:
        source, destination = str(kind(words[2])), str(kind(words[3]))
    except AddressValueError as error:
        raise RemoteError(PROTOCOL, f"PROXY line: {error}") from None
    return ProxyHeader(1, False, source, _port(words[4]), destination, _port(words[5]))


def _port(word: str) -> int:
    if not _PORT.fullmatch(word) or int(word) > 65535:
        raise RemoteError(PROTOCOL, f"PROXY line: expected a port, got {word!r}")
    return int(word)


def _parse_v2(version_command: int, family: int, payload: bytes) -> ProxyHeader:
    if version_command >> 4 != 2 or version_command & 15 > 1:
        raise RemoteError(PROTOCOL, f"PROXY header: expected version 2 LOCAL or PROXY, got 0x{version_command:02x}")
    if version_command & 15 == 0:
        return ProxyHeader(2, local=True)  # section 2.2: the rest is to be ignored
    if family == 0:
        return ProxyHeader(2)
    size = _SIZES.get(family)
    if size is None:
        raise RemoteError(PROTOCOL, f"PROXY header: family and transport 0x{family:02x} are not taken")
    if len(payload) < size:
        raise RemoteError(PROTOCOL, f"PROXY header: {len(payload)} bytes where addresses take {size}")
    tlvs = _parse_tlvs(payload[size:])
    if family == _UNIX_STREAM:
        return ProxyHeader(2, tlvs=tlvs)
    width = 4 if family == _V4_STREAM else 16
    kind = IPv4Address if family == _V4_STREAM else IPv6Address
    source, destination = payload[:width], payload[width : 2 * width]
    source_port, destination_port = struct.unpack_from("!HH", payload, 2 * width)
    return ProxyHeader(2, False, str(kind(source)), source_port, str(kind(destination)), destination_port, tlvs)


def _parse_tlvs(data: bytes) -> tuple[tuple[int, bytes], ...]:
    found = []
    at = 0
    while at < len(data):
        end = at + 3 + int.from_bytes(data[at + 1 : at + 3], "big")
        if at + 3 > len(data) or end > len(data):
            raise RemoteError(PROTOCOL, "PROXY header: a TLV is longer than the header")
        found.append((data[at], data[at + 3 : end]))
        at = end
    return tuple(found)


# ------------------------------------------------------------------ encoding, for clients and tests


def encode_v1(source: str, source_port: int, destination: str, destination_port: int) -> bytes:
    """A line of version 1; LocalError when the addresses are of two families."""
    versions = {ip_address(source).version, ip_address(destination).version}
    if len(versions) != 1:
        raise LocalError(f"addresses of two families: {source} and {destination}")
    return f"PROXY TCP{versions.pop()} {source} {destination} {source_port} {destination_port}\r\n".encode("ascii")


def encode_v2(
    source: str, source_port: int, destination: str, destination_port: int, tlvs: Sequence[tuple[int, bytes]] = ()
) -> bytes:
    """A header of version 2 with addresses; LocalError when they are of two families or the TLVs too long."""
    first, second = ip_address(source), ip_address(destination)
    if first.version != second.version:
        raise LocalError(f"addresses of two families: {source} and {destination}")
    payload = first.packed + second.packed + struct.pack("!HH", source_port, destination_port)
    payload += b"".join(bytes((kind,)) + struct.pack("!H", len(value)) + value for kind, value in tlvs)
    if len(payload) + 16 > MAX_V2:
        raise LocalError(f"PROXY header of {len(payload) + 16} bytes, at most {MAX_V2} are taken")
    family = _V4_STREAM if first.version == 4 else _V6_STREAM
    return V2_SIGNATURE + bytes((0x21, family)) + struct.pack("!H", len(payload)) + payload


def encode_v2_local() -> bytes:
    """A header of version 2 by which the balancer speaks for itself."""
    return V2_SIGNATURE + b"\x20\x00\x00\x00"
