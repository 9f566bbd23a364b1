"""Looks into a ClientHello before OpenSSL does: what it offers decides how it is to be received (RFC 8446 4.1.2)."""

from __future__ import annotations

from dataclasses import dataclass

HANDSHAKE = 22
CLIENT_HELLO = 1
PRE_SHARED_KEY = 41
EARLY_DATA = 42
RANDOM_SIZE = 32
MAX_HELLO = 1 << 16
"""Bytes of records; a ClientHello of ours is far smaller, and OpenSSL's own limit is near."""


@dataclass(slots=True, frozen=True)
class ClientHello:
    """The parts that OpenSSL's public interface does not tell."""

    random: bytes
    early_data: bool
    """0-RTT data follows."""
    identity: bytes
    """The first identity of pre_shared_key, which is the one that early data is under; empty when none is offered."""


NOTHING_OFFERED = ClientHello(b"", False, b"")
"""Stands for a ClientHello that could not be read: OpenSSL will say what is wrong with it."""


class HelloReader:
    """Collects the first flight until the ClientHello in it is whole, however the bytes and records are cut."""

    __slots__ = ("_message", "_rest", "_size")

    def __init__(self) -> None:
        self._rest = b""
        self._message = bytearray()
        self._size = 0

    def feed(self, data: bytes) -> ClientHello | None:
        """None as long as more is needed. Never raises: what is none is NOTHING_OFFERED."""
        self._size += len(data)
        try:
            if self._collect(self._rest + data):
                return _parse(bytes(self._message[4:]))
        except ValueError:
            return NOTHING_OFFERED
        return NOTHING_OFFERED if self._size > MAX_HELLO else None

    def _collect(self, data: bytes) -> bool:
        """Take what records are whole; True when the message is, and nothing but that message is in `_message`."""
        message = self._message
        at = 0
        while at < len(data):
            if data[at] != HANDSHAKE:
                raise ValueError("expected a record of type handshake")
            end = at + 5 + int.from_bytes(data[at + 3 : at + 5], "big")
            if len(data) < at + 5 or len(data) < end:
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
    random = body[2 : 2 + RANDOM_SIZE]
    at = 2 + RANDOM_SIZE
    for width in (1, 2, 1):  # legacy_session_id, cipher_suites, legacy_compression_methods
        at = _skip(body, at, width)
    early, identity = False, b""
    end = _skip(body, at, 2)
    at += 2
    while at < end:
        kind = int.from_bytes(body[at : at + 2], "big")
        after = _skip(body, at + 2, 2)
        if kind == EARLY_DATA:
            early = True
        elif kind == PRE_SHARED_KEY:
            first = at + 6  # past the length of the list
            identity = body[first + 2 : min(_skip(body, first, 2), after)]
        at = after
    return ClientHello(random, early, identity)


def _skip(data: bytes, at: int, width: int) -> int:
    """Past a vector whose length is told in `width` bytes at `at`. ValueError when it is cut off."""
    size = int.from_bytes(data[at : at + width], "big")
    end = at + width + size
    if end > len(data):
        raise ValueError("a vector that ends beyond its message")
    return end
