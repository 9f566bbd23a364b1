"""A TLS server at the other end of a Wire, by hand."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL, crypto

from tests.crypto.authority import Authority
from tests.upstreams.tls_servers import certificate
from tests.upstreams.upstream_fakes import Wire

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Server:
    """The other end of a Wire. What it sends comes in so many `pieces`."""

    def __init__(
        self,
        authority: Authority,
        wire: Wire,
        pieces: int = 1,
        name: str = "10.0.0.1",
        newest: int = SSL.TLS1_3_VERSION,
    ) -> None:
        self.pieces = pieces
        issued = certificate(authority, "s", name)
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.set_max_proto_version(newest)
        context.use_certificate(x509.load_der_x509_certificate(issued.der))
        key: Any = load_pem_private_key(Path(issued.key).read_bytes(), None)
        context.use_privatekey(crypto.PKey.from_cryptography_key(key))
        self.connection = SSL.Connection(context, None)
        self.connection.set_accept_state()
        self.wire = wire

    def turn(self) -> bytes:
        """Take what has come, answer as OpenSSL does, and give the plaintext."""
        data = self.wire.taken()
        if data:
            self.connection.bio_write(data)
        plaintext = b""
        try:
            self.connection.do_handshake()
            plaintext = self.connection.recv(65536)
        except SSL.WantReadError:
            pass
        self.flush()
        return plaintext

    def flush(self) -> None:
        with contextlib.suppress(SSL.WantReadError):
            data = self.connection.bio_read(65536)
            size = -(-len(data) // self.pieces)
            for at in range(0, len(data), size):
                self.wire.answer(data[at : at + size])

    def say(self, data: bytes) -> None:
        self.connection.send(data)
        self.flush()
