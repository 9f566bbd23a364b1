"""What an OpenSSL connection tells when its hand-shake is complete."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from protocols.tls import binding
from protocols.tls.engine import EARLY_ACCEPTED, HandshakeCompleted
from protocols.tls.handshake_notes import CLIENT_EARLY, HandshakeNotes


def completed_event(connection: Any, notes: HandshakeNotes, is_server: bool, early: str) -> HandshakeCompleted:
    """The event of an OpenSSL.SSL.Connection whose hand-shake is done; `early` is what is known of early data so far."""
    name = connection.get_servername() if is_server else None
    resumed = binding.session_reused(connection)
    # Without a request for a certificate there is none, and without verification it would prove nothing.
    asked = connection.get_context().get_verify_mode() & SSL.VERIFY_PEER
    certificate = connection.get_peer_certificate(as_cryptography=True) if asked else None
    chain = connection.get_verified_chain(as_cryptography=True) if certificate and not resumed else None
    # A server makes the early secret only when it accepts; there may have been no byte of data under it.
    if notes.early_data_ended or (is_server and CLIENT_EARLY in notes.lines):
        early = EARLY_ACCEPTED
    identity = b""
    if resumed:
        identity = notes.chosen if is_server or notes.offered is None else notes.offered.identity
    return HandshakeCompleted(
        alpn=connection.get_alpn_proto_negotiated().decode("latin-1"),
        version=connection.get_protocol_version_name(),
        cipher=connection.get_cipher_name() or "",
        server_name=name.decode("latin-1") if name else "",
        peer_certificate=certificate.public_bytes(Encoding.DER) if certificate else b"",
        peer_chain=tuple(one.public_bytes(Encoding.DER) for one in chain or ()),
        resumed=resumed,
        psk_identity=identity,
        early=early,
        group=connection.get_group_name() or "",
    )
