"""Looks into a ClientHello before OpenSSL does: what it offers decides how it is to be received (RFC 8446 4.1.2)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

HANDSHAKE = 22
CLIENT_HELLO = 1
PRE_SHARED_KEY = 41
EARLY_DATA = 42
RANDOM_SIZE = 32
_EXTENSION = struct.Struct(">HH")
"""Type and length."""
_OFFER = EARLY_DATA.to_bytes(2, "big") + b"\0\0"
"""The extension early_data. A hello without these bytes has none, and most have none."""
_HEAD = 9
"""Bytes of the heads of a record and of the message in it."""
MAX_HELLO = 1 << 16
"""Bytes of records; a ClientHello of ours is far smaller, and OpenSSL's own limit is near."""


@dataclass(slots=True, frozen=True)
class ClientHello:
    """The parts that OpenSSL's public interface does not tell."""

    early_data: bool
    """0-RTT data follows."""
    random: bytes = b""
    """32 bytes; empty without early data."""
    identity: bytes = b""
    """The first identity of pre_shared_key, which is the one that early data is under; empty without early data."""


MAX_RECORD = 1 << 14
"""Bytes of a plaintext record (RFC 8446 section 5.1)."""

NOTHING_OFFERED = ClientHello(False)
"""Without early data, as most are; and for what could not be read: OpenSSL will say what is wrong with it."""


class HelloReader:
    """Collects the first flight until the ClientHello in it is whole, however the bytes and records are cut."""

    __slots__ = ("_message", "_rest", "_size")

    def __init__(self) -> None:
        self._rest = b""
        self._message = bytearray()
        self._size = 0

    def feed(self, data: bytes) -> ClientHello | None:
        """None as long as more is needed. Never raises: what is none is NOTHING_OFFERED."""
        size = len(data)
        if not self._size and size > _HEAD and data[0] == HANDSHAKE and data[5] == CLIENT_HELLO:
            # Most come whole, in one record.
            length = data[3] << 8 | data[4]
            if length == size - 5 and data[6:9] == (length - 4).to_bytes(3, "big") and _OFFER not in data:
                return NOTHING_OFFERED
        self._size += size
        try:
            if self._collect(self._rest + data):
                return _parse(bytes(self._message[4:]))
        except (IndexError, ValueError, struct.error):
            return NOTHING_OFFERED
        return NOTHING_OFFERED if self._size > MAX_HELLO else None

    def _collect(self, data: bytes) -> bool:
        """Take what records are whole; True when the message is, and nothing but that message is in `_message`."""
        message = self._message
        at = 0
        while at < len(data):
            if data[at] != HANDSHAKE:
                raise ValueError("expected a record of type handshake")
            if len(data) < at + 5:
                break
            length = data[at + 3] << 8 | data[at + 4]
            if length > MAX_RECORD:
                raise ValueError("expected a record of at most 2**14 bytes")
            end = at + 5 + length
            if len(data) < end:
                break
            message += data[at + 5 : end]
            at = end
            if message and message[0] != CLIENT_HELLO:
                raise ValueError("expected a ClientHello")
            if len(message) >= 4:
                size = 4 + int.from_bytes(message[1:4], "big")
                if len(message) >= size:
                    del message[size:]
                    return True
        self._rest = data[at:]
        return False


def _parse(body: bytes) -> ClientHello:
    """IndexError, ValueError or struct.error when it is cut off inside."""
    if _OFFER not in body:
        return NOTHING_OFFERED
    random = body[2 : 2 + RANDOM_SIZE]
    at = 2 + RANDOM_SIZE
    at += 1 + body[at]  # legacy_session_id
    at += 2 + (body[at] << 8 | body[at + 1])  # cipher_suites
    at += 1 + body[at]  # legacy_compression_methods
    at += 2  # the length of the extensions, which go to the end
    early, identity, size, head = False, b"", len(body), _EXTENSION.unpack_from
    while at < size:
        kind, length = head(body, at)
        after = at + 4 + length
        if after > size:
            raise ValueError("an extension that ends beyond its message")
        if kind == EARLY_DATA:
            early = True
        elif kind == PRE_SHARED_KEY:
            first = at + 6  # past the length of the list
            end = first + 2 + (body[first] << 8 | body[first + 1])
            if end > after:
                raise ValueError("an identity that ends beyond its extension")
            identity = body[first + 2 : end]
        at = after
    return ClientHello(early, random, identity) if early else NOTHING_OFFERED
