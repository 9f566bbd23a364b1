"""Tickets in HELLO and WELCOME: what a device resumes TLS with, and sends early data under (specification, section 4.5)."""

from __future__ import annotations

from dataclasses import dataclass, field

from protocols.errors import LocalError, RemoteError
from protocols.mmtp.fields import expect_end
from protocols.mmtp.statuses import Status
from protocols.mmtp.varint import decode_varint, encode_varint

IDENTITY_SIZE = 17
KEY_SIZE = 32
FINGERPRINT_SIZE = 32
MAX_TICKETS = 16
"""In one WELCOME."""
_SIZE = IDENTITY_SIZE + KEY_SIZE


@dataclass(slots=True, frozen=True)
class DeviceTicket:
    """One external pre-shared key of TLS 1.3, to be used once."""

    identity: bytes
    key: bytes = field(repr=False)


@dataclass(slots=True, frozen=True)
class GrantedTickets:
    """WELCOME key 26."""

    lifetime: int
    """Seconds from now on."""
    max_early_data: int
    """Bytes of early data that may be sent under one; 0: none."""
    tickets: tuple[DeviceTicket, ...]


@dataclass(slots=True, frozen=True)
class ShownCertificate:
    """HELLO key 24: the client certificate that the device showed when it last made a full TLS hand-shake."""

    fingerprint: bytes
    """SHA-256 of its DER."""
    not_after: int
    """Second since 1970 at which it ends."""


def encode_tickets(granted: GrantedTickets) -> bytes:
    """Value of WELCOME key 26."""
    if len(granted.tickets) > MAX_TICKETS:
        raise LocalError(f"tickets: expected at most {MAX_TICKETS}, got {len(granted.tickets)}")
    parts = [encode_varint(granted.lifetime), encode_varint(granted.max_early_data)]
    for ticket in granted.tickets:
        if len(ticket.identity) != IDENTITY_SIZE or len(ticket.key) != KEY_SIZE:
            raise LocalError(f"ticket: expected {IDENTITY_SIZE} and {KEY_SIZE} bytes")
        parts += (ticket.identity, ticket.key)
    return b"".join(parts)


def decode_tickets(data: bytes, pos: int, end: int) -> GrantedTickets:
    """The inverse of encode_tickets. Raises RemoteError(PROTOCOL)."""
    lifetime, pos = decode_varint(data, pos, end)
    early, pos = decode_varint(data, pos, end)
    count, rest = divmod(end - pos, _SIZE)
    if rest or count > MAX_TICKETS:
        raise RemoteError(Status.PROTOCOL, f"tickets: expected 0..{MAX_TICKETS} of {_SIZE} bytes, got {end - pos}")
    tickets = tuple(
        DeviceTicket(data[at : at + IDENTITY_SIZE], data[at + IDENTITY_SIZE : at + _SIZE])
        for at in range(pos, end, _SIZE)
    )
    return GrantedTickets(lifetime, early, tickets)


def encode_certificate(shown: ShownCertificate) -> bytes:
    """Value of HELLO key 24."""
    if len(shown.fingerprint) != FINGERPRINT_SIZE:
        raise LocalError(f"fingerprint: expected {FINGERPRINT_SIZE} bytes, got {len(shown.fingerprint)}")
    return shown.fingerprint + encode_varint(shown.not_after)


def decode_certificate(data: bytes, pos: int, end: int) -> ShownCertificate:
    """The inverse of encode_certificate. Raises RemoteError(PROTOCOL)."""
    middle = pos + FINGERPRINT_SIZE
    if middle > end:
        raise RemoteError(Status.PROTOCOL, f"certificate: expected {FINGERPRINT_SIZE} bytes and a time")
    not_after, pos = decode_varint(data, middle, end)
    expect_end(pos, end)
    return ShownCertificate(data[middle - FINGERPRINT_SIZE : middle], not_after)
