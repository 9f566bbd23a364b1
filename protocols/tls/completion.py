"""What an OpenSSL connection tells when its hand-shake is complete."""

from __future__ import annotations

from typing import Any

from protocols.tls import binding
from protocols.tls.engine import EARLY_ACCEPTED, HandshakeCompleted
from protocols.tls.handshake_notes import CLIENT_EARLY, HandshakeNotes


def completed_event(connection: Any, notes: HandshakeNotes, is_server: bool, early: str) -> HandshakeCompleted:
    """The event of an OpenSSL.SSL.Connection whose hand-shake is done; `early` is what is known of early data so far."""
    told = binding.negotiated(connection)
    resumed = binding.session_reused(connection)
    # Without a request for a certificate there is none, and without verification it would prove nothing.
    certificate = binding.peer_certificate(connection) if binding.asks_for_certificate(connection) else b""
    # A server makes the early secret only when it accepts; there may have been no byte of data under it.
    if notes.early_data_ended or (is_server and CLIENT_EARLY in notes.lines):
        early = EARLY_ACCEPTED
    identity = b""
    if resumed:
        identity = notes.chosen if is_server or notes.offered is None else notes.offered.identity
    return HandshakeCompleted(
        alpn=told.alpn,
        version=told.version,
        cipher=told.cipher,
        server_name=told.server_name if is_server else "",
        peer_certificate=certificate,
        peer_chain=binding.verified_chain(connection) if certificate and not resumed else (),
        resumed=resumed,
        psk_identity=identity,
        early=early,
        group=told.group,
    )
