"""The interfaces of TLS connections: ciphertext in, plaintext events and ciphertext out, no sockets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from protocols.tls.record_state import DetachedState

EARLY_NONE = ""
EARLY_ACCEPTED = "accepted"
EARLY_REFUSED = "refused"

MAX_SHOWN = 8192
"""Bytes of a certificate that was refused, above which it is not told."""


# Events that every connection has are not frozen: that would make them three times as slow to make. Nobody changes them.


@dataclass(slots=True)
class EarlyDataReceived:
    """0-RTT plaintext, server side, before HandshakeCompleted (RFC 8446 2.3).

    The binder of the pre-shared key has been verified, so the bytes are from a holder of the key; but
    they may be a replay until HandshakeCompleted. `identity` and `client_random` tell replays apart
    (both are covered by the binder: a replay cannot change them), and are the same in every event of a connection.
    """

    data: bytes
    identity: bytes = b""
    """Of the pre-shared key or ticket in use."""
    client_random: bytes = b""
    """32 bytes."""
    alpn: str = ""
    server_name: str = ""


@dataclass(slots=True)
class HandshakeCompleted:
    """The hand-shake is done; application data may follow."""

    alpn: str
    version: str
    cipher: str
    server_name: str
    peer_certificate: bytes = b""
    """The peer's verified certificate in DER, empty when it showed none."""
    peer_chain: tuple[bytes, ...] = ()
    """The chain that was verified in this hand-shake, DER, leaf first. Empty when resumed or not verified."""
    resumed: bool = False
    """By an external pre-shared key or by a ticket: no certificate was shown."""
    psk_identity: bytes = b""
    """The external pre-shared key that was chosen, empty for tickets of TLS itself."""
    early: str = EARLY_NONE
    """EARLY_NONE when no 0-RTT data was offered, else EARLY_ACCEPTED or EARLY_REFUSED. A client whose early
    data was refused has to send it again, or start its protocol anew. A server that never takes any does not look
    for it, and says EARLY_NONE."""
    group: str = ""
    """Of the key exchange, as OpenSSL names it."""


@dataclass(slots=True, frozen=True)
class HandshakeRefused:
    """A server's hand-shake has failed, and the RemoteError comes next: what is known of the client, for logs only."""

    version: str = ""
    server_name: str = ""
    certificate: bytes = b""
    """DER of what the client showed; empty when it came to none, or to one above MAX_SHOWN. It proves nothing."""

    @classmethod
    def of(cls, version: str, server_name: bytes, certificate: bytes) -> HandshakeRefused:
        """In OpenSSL's words."""
        return cls(
            "" if version == "unknown" else version,
            server_name.decode("latin-1"),
            certificate if len(certificate) <= MAX_SHOWN else b"",
        )


@dataclass(slots=True)
class PlaintextReceived:
    """Decrypted application data."""

    data: bytes


@dataclass(slots=True)
class CloseNotifyReceived:
    """The peer ended its side in order."""


@dataclass(slots=True, frozen=True)
class SessionTicketReceived:
    """A ticket of the server, after the hand-shake and on a detached client only (RFC 8446 section 4.6.1).

    Its key needs the resumption_master_secret, which a detached connection does not have.
    """

    ticket: bytes = field(repr=False)
    nonce: bytes = field(repr=False)
    lifetime: int
    """Seconds."""
    age_add: int
    max_early_data: int = 0
    """Bytes of 0-RTT data that the server takes with it; 0: none."""


TlsEvent = (
    EarlyDataReceived
    | HandshakeCompleted
    | HandshakeRefused
    | PlaintextReceived
    | SessionTicketReceived
    | CloseNotifyReceived
)


class TlsRecords(Protocol):
    """The records of one TLS connection, by an engine or, after detach(), by a record layer.

    Errors of the peer raise RemoteError with the TLS alert number as its code; the alert itself is
    then in to_send(). One thread at a time may use an object.
    """

    handshaken: bool

    def feed(self, data: bytes) -> None:
        """Ciphertext from the peer."""

    def feed_eof(self) -> None:
        """The peer's FIN; raises RemoteError when close_notify had not come."""

    def events(self) -> list[TlsEvent]:
        """What happened since the last call, in order."""

    def encrypt(self, data: bytes) -> None:
        """Plaintext to send; after the hand-shake, and on a server from the first EarlyDataReceived on.

        LocalError before, and after the end.
        """

    def to_send(self) -> bytes:
        """Ciphertext for the peer, empty when there is none."""

    def close(self) -> None:
        """Queue close_notify; nothing after refuse()."""

    def refuse(self, code: int) -> None:
        """Instead of close(): queue a fatal alert of that number, for a reason that TLS itself does not know of. The
        connection is dead then (RFC 8446 section 6.2). After the hand-shake; without effect after the end.

        Of an engine, which is not detached, it is close_notify: OpenSSL sends no alert that it has not found itself.
        """


class TlsEngine(TlsRecords, Protocol):
    """One TLS connection from its hand-shake on, server or client side."""

    only_finished_left: bool
    """A server's TLS 1.3 hand-shake that has signed and asked for no certificate: only the client's Finished is to come,
    perhaps after early data. False where that is not known."""

    def early(self, data: bytes) -> None:
        """0-RTT data of a client that offers a pre-shared key; before start(). LocalError when it may not."""

    def start(self) -> None:
        """Client side: produce the ClientHello, with the early data; once. Server side: does nothing."""

    def detach(self) -> DetachedState | None:
        """After HandshakeCompleted: what a RecordLayer goes on with, and this engine is dead; or None.

        None is for a connection that has to stay here: not TLS 1.3, a suite that the record layer does not know,
        data already decrypted or on its way inside, a count that could not be proved. Collect events()
        and to_send() before. An engine made `detachable` reads no application data until it is asked this; after
        None it goes on, and what had waited is in events().
        """
