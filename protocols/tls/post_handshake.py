"""The handshake messages that may come after the hand-shake (RFC 8446 section 4.6): KeyUpdate and NewSessionTicket."""

from __future__ import annotations

import struct

from protocols.errors import RemoteError
from protocols.tls.alerts import DECODE_ERROR, ILLEGAL_PARAMETER, UNEXPECTED_MESSAGE
from protocols.tls.engine import SessionTicketReceived

NEW_SESSION_TICKET = 4
KEY_UPDATE = 24
MAX_TICKET_MESSAGE = 1 << 14
"""Bytes of a NewSessionTicket that a client keeps while it comes in."""

_NAMES = {
    0: "HelloRequest",
    1: "ClientHello",
    2: "ServerHello",
    5: "EndOfEarlyData",
    8: "EncryptedExtensions",
    11: "Certificate",
    13: "CertificateRequest",
    15: "CertificateVerify",
    20: "Finished",
    NEW_SESSION_TICKET: "NewSessionTicket",
}
_EARLY_DATA = 42
_MAX_LIFETIME = 604_800
_TICKET = struct.Struct("!II")


def take_message(data: bytes | bytearray, at: int, is_server: bool) -> tuple[int, bytes] | None:
    """The type and body of the message that begins at `at`, or None while it is incomplete.

    A message that may not come is refused at its first byte (RemoteError), one that is too long at its fourth.
    """
    left = len(data) - at
    if not left:
        return None
    kind = data[at]
    if kind != KEY_UPDATE and (kind != NEW_SESSION_TICKET or is_server):
        name = _NAMES.get(kind, f"handshake message {kind}")
        raise RemoteError(UNEXPECTED_MESSAGE, f"TLS: {name} after the hand-shake")
    if left < 4:
        return None
    size = int.from_bytes(data[at + 1 : at + 4], "big")
    if kind == KEY_UPDATE and size != 1:
        raise RemoteError(DECODE_ERROR, f"TLS KeyUpdate: expected a body of 1 byte, got {size}")
    if size > MAX_TICKET_MESSAGE:
        raise RemoteError(
            ILLEGAL_PARAMETER, f"TLS NewSessionTicket: expected at most {MAX_TICKET_MESSAGE} bytes, got {size}"
        )
    if left < 4 + size:
        return None
    return kind, bytes(data[at + 4 : at + 4 + size])


def key_update(requested: bool) -> bytes:
    """The message KeyUpdate."""
    return b"\x18\0\0\x01\x01" if requested else b"\x18\0\0\x01\0"


def is_update_requested(body: bytes) -> bool:
    """Whether the peer asks us to update as well (RFC 8446 section 4.6.3)."""
    if body[0] > 1:
        raise RemoteError(ILLEGAL_PARAMETER, f"TLS KeyUpdate: expected request_update 0 or 1, got {body[0]}")
    return body[0] == 1


def session_ticket(body: bytes) -> SessionTicketReceived:
    """The event of a NewSessionTicket (RFC 8446 section 4.6.1)."""
    try:
        lifetime, age_add = _TICKET.unpack_from(body)
        nonce, at = _vector(body, _TICKET.size, 1)
        ticket, at = _vector(body, at, 2)
        extensions, at = _vector(body, at, 2)
    except (struct.error, IndexError):
        raise _malformed("a message that ends in time") from None
    if at != len(body):
        raise _malformed(f"{at} bytes")
    if not ticket:
        raise _malformed("a ticket of at least 1 byte")
    if lifetime > _MAX_LIFETIME:
        raise RemoteError(
            ILLEGAL_PARAMETER, f"TLS NewSessionTicket: expected a lifetime of at most {_MAX_LIFETIME} s, got {lifetime}"
        )
    return SessionTicketReceived(ticket, nonce, lifetime, age_add, _max_early_data(extensions))


def _max_early_data(extensions: bytes) -> int:
    most, at = 0, 0
    seen: set[int] = set()
    while at < len(extensions):
        kind = int.from_bytes(extensions[at : at + 2], "big")
        try:
            value, at = _vector(extensions, at + 2, 2)
        except IndexError:
            raise _malformed("extensions that end in time") from None
        if kind in seen:
            raise RemoteError(ILLEGAL_PARAMETER, f"TLS NewSessionTicket: expected extension {kind} once, got it again")
        seen.add(kind)
        if kind == _EARLY_DATA:
            if len(value) != 4:
                raise _malformed("an early_data extension of 4 bytes")
            most = int.from_bytes(value, "big")
    return most


def _vector(data: bytes, at: int, width: int) -> tuple[bytes, int]:
    """The vector whose length is in `width` bytes at `at`, and where it ends; IndexError when it is cut off."""
    begin = at + width
    end = begin + int.from_bytes(data[at:begin], "big")
    if end > len(data):
        raise IndexError
    return data[begin:end], end


def _malformed(expected: str) -> RemoteError:
    return RemoteError(DECODE_ERROR, f"TLS NewSessionTicket: expected {expected}")
