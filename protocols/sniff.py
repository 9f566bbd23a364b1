"""Decides by its first byte what a connection on a plain port speaks."""

from __future__ import annotations

from protocols.errors import RemoteError

PROTOCOL = 1
"""Code of the error: the MMTP status `protocol`."""
_BEFORE_HELLO = frozenset((0x00, 0x01, 0xF0, 0xF1))
"""First bytes of PING and EXT."""
_CONNECT = 0x10


def sniff(data: bytes) -> str:
    """`mmtp/1`, `mqtt` or `http/1.1`, from at least one byte.

    An MMTP connection begins with a HELLO frame (type 8 in the high half of its first byte), before which
    PING and EXT may come (MMTP specification, section 2); an MQTT one with CONNECT, whose flags are zero
    (MQTT 5, 3.1.1); an HTTP request with a method, which is upper-case letters. RemoteError for anything else.
    """
    first = data[0]
    if first >> 4 == 8 or first in _BEFORE_HELLO:
        return "mmtp/1"
    if first == _CONNECT:
        return "mqtt"
    if 0x41 <= first <= 0x5A:
        return "http/1.1"
    what = "a TLS ClientHello" if first == 0x16 else f"0x{first:02x}"
    raise RemoteError(PROTOCOL, f"expected an MMTP HELLO, an MQTT CONNECT or an HTTP request, got {what}")
