"""Who connects: identities, how strongly they were proved, and connection generations."""

from __future__ import annotations

from enum import IntEnum
from sys import intern
from typing import NamedTuple

from msgspec import Struct, field

Serial = tuple[str, bytes]
"""A certificate as revocation lists name it: its issuer (DER of the name, in hexadecimal digits) and its serial number
(big-endian, signed)."""
Serials = tuple[Serial, ...]
"""Of a certificate, and of the CAs between it and a trusted one."""


class Strength(IntEnum):
    """How strongly a session was authenticated; a route may ask for at least one of these."""

    ANONYMOUS = 0
    TOKEN = 1
    CERTIFICATE = 2


class Generation(NamedTuple):
    """The place of a connection in a device's life; a higher one takes the session over.

    `boot` grows with each start of the app, `counter` with each connection since then.
    """

    boot: int
    counter: int


class Credentials(Struct, frozen=True):
    """What a peer showed to prove who it is, before anyone has looked at it."""

    device: str
    token: str = ""
    """A bearer token; of MQTT the password."""
    username: str = ""
    """Of MQTT; empty elsewhere."""
    app: str = ""
    app_version: str = ""
    certificate_identity: str = ""
    """Device named by a verified client certificate, empty when there was none."""
    loopback: bool = False
    """The peer's address is a loopback address (development credentials are accepted only then)."""
    peer: str = ""
    """Address of the peer, as ConnectionInfo has it."""


class Identity(Struct, frozen=True, gc=False):
    """Who a session belongs to, once an authenticator has said so."""

    device: str
    user: str = ""
    app: str = ""
    app_version: str = ""
    strength: Strength = Strength.TOKEN
    authenticator: str = ""
    """Name of the authenticator that accepted, for logs."""
    expires_at: float | None = None
    """Wall-clock second at which the proof ends (a JWT's exp); the session is closed then."""
    attributes: dict[str, str] = field(default_factory=dict)
    """Facts for visibility filters and routing: os, region, and what a token's claims add."""
    bound: bool = False
    """The token names this device; without that the device id is only what the device says."""

    @property
    def owner(self) -> str:
        """Who it is where different users are counted: the user, else the device if a token or certificate names it.
        Empty: nobody in particular, since who only says a device id can be as many as they like."""
        return self.user or (self.device if self.bound or self.strength is Strength.CERTIFICATE else "")


class ConnectionInfo(Struct, gc=False):
    """One transport connection, as logs, filters and authenticators see it."""

    id: int
    """Number of the connection in this worker, never reused."""
    listener: str
    transport: str
    """tls | tcp | unix."""
    peer: str
    """Address of the peer; behind a trusted PROXY header, the address that it named."""
    peer_port: int = 0
    local: str = ""
    local_port: int = 0
    alpn: str = ""
    tls_version: str = ""
    cipher: str = ""
    server_name: str = ""
    certificate_identity: str = ""
    certificate: bytes = b""
    """The peer's verified certificate in DER, empty when it showed none. Of a hand-shake that was refused, what it showed,
    for logs: nothing is proved by it, and no binding comes to see it."""
    fingerprint: bytes = b""
    """SHA-256 of the certificate that it stands on, shown now or when its ticket's chain began; empty without one."""
    serials: Serials = ()
    """Of that certificate and of the CAs above it, as they were held against the revocation lists; empty without a
    certificate, and where it came with a ticket and this process has not seen it."""
    proved_at: float = 0.0
    """Wall-clock second at which its ticket was issued; 0 without one."""
    resumed: bool = False
    """The hand-shake was completed by a ticket: no certificate was shown."""
    ticket: bytes = b""
    """Identity of the gateway's own ticket (TicketKeys) by which it was; empty for OpenSSL's own."""
    early: bool = False
    """0-RTT data has come, and the hand-shake is not complete: the peer may be a replay."""
    loopback: bool = False
    accepted_at: float = 0.0
    """Wall-clock second."""
    device: str = ""
    """Who was welcomed on it, or refused, for logs; empty before, and where several devices share a connection."""
    user: str = ""
    websocket: bool = False
    """It was upgraded: the protocol rides in WebSocket messages."""
    protocol: str = ""
    """What the peer speaks, once it has introduced itself: `mmtp 1`, `mqtt 3.1`, `mqtt 3.1.1`, `mqtt 5`."""

    def share_words(self) -> None:
        """Of words that many connections have in common, keep one copy for all."""
        self.alpn, self.tls_version, self.cipher = intern(self.alpn), intern(self.tls_version), intern(self.cipher)
        self.serials = tuple((intern(issuer), number) for issuer, number in self.serials)
