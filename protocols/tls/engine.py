"""The interface of TLS engines: ciphertext in, plaintext events and ciphertext out, no sockets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(slots=True, frozen=True)
class HandshakeCompleted:
    """The hand-shake is done; application data may follow."""

    alpn: str
    version: str
    cipher: str
    server_name: str
    peer_certificate: bytes = b""
    """The peer's verified certificate in DER, empty when it showed none."""


@dataclass(slots=True, frozen=True)
class PlaintextReceived:
    """Decrypted application data."""

    data: bytes


@dataclass(slots=True, frozen=True)
class CloseNotifyReceived:
    """The peer ended its side in order."""


TlsEvent = HandshakeCompleted | PlaintextReceived | CloseNotifyReceived


class TlsEngine(Protocol):
    """One TLS connection, server or client side.

    Errors of the peer raise RemoteError with the TLS alert number as its code; the alert itself is
    then in to_send().
    """

    handshaken: bool

    def start(self) -> None:
        """Client side: produce the ClientHello. Server side: does nothing."""

    def feed(self, data: bytes) -> None:
        """Ciphertext from the peer."""

    def feed_eof(self) -> None:
        """The peer's FIN; raises RemoteError when close_notify had not come."""

    def events(self) -> list[TlsEvent]:
        """What happened since the last call, in order."""

    def encrypt(self, data: bytes) -> None:
        """Plaintext to send; only after the hand-shake (LocalError before)."""

    def to_send(self) -> bytes:
        """Ciphertext for the peer, empty when there is none."""

    def close(self) -> None:
        """Queue close_notify."""
