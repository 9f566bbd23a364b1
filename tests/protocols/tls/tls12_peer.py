"""A client that makes a TLS 1.2 hand-shake with OpenSSL and then writes any record, as OpenSSL's never would."""

from __future__ import annotations

import hmac
import os

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from OpenSSL import SSL

ALERT, HANDSHAKE, DATA = 21, 22, 23
NO_RENEGOTIATION = (ALERT, b"\1\x64")
OPTIONS = {"alpn": ["http/1.1"], "alpn_below_1_3": frozenset({"http/1.1"}), "minimum": "1.2"}
"""Of the server."""


def client_hello():
    """As of a renegotiation, but for the extension that a good one has."""
    body = b"\3\3" + os.urandom(32) + b"\0" + b"\0\2\xc0\x2b" + b"\1\0" + b"\0\0"
    return b"\1" + len(body).to_bytes(3, "big") + body


class Tls12Peer:
    """`carry(ciphertext) -> ciphertext` brings a flight to the server, and its answer."""

    def __init__(self, carry):
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_max_proto_version(SSL.TLS1_2_VERSION)
        context.set_cipher_list(b"ECDHE-ECDSA-AES128-GCM-SHA256")
        context.set_alpn_protos([b"http/1.1"])
        connection = SSL.Connection(context, None)
        connection.set_connect_state()
        complete = False
        while not complete:
            try:
                connection.do_handshake()
                complete = True
            except SSL.WantReadError:
                connection.bio_write(carry(connection.bio_read(1 << 16)))
        randoms = connection.server_random() + connection.client_random()
        block = _expand(connection.master_key(), b"key expansion" + randoms, 40)
        self._write, self._read = AESGCM(block[:16]), AESGCM(block[16:32])
        self._write_iv, self._read_iv = block[32:36], block[36:]
        self._written = self._received = 1

    def record(self, kind, content):
        """RFC 5246 section 6.2.3.3, RFC 5288 section 3."""
        number = self._written.to_bytes(8, "big")
        covered = number + bytes((kind, 3, 3)) + len(content).to_bytes(2, "big")
        sealed = number + self._write.encrypt(self._write_iv + number, content, covered)
        self._written += 1
        return bytes((kind, 3, 3)) + len(sealed).to_bytes(2, "big") + sealed

    def opened(self, ciphertext):
        """The records in it: type and content."""
        found = []
        while ciphertext:
            size = int.from_bytes(ciphertext[3:5], "big")
            covered = self._received.to_bytes(8, "big") + ciphertext[:3] + (size - 24).to_bytes(2, "big")
            sealed = ciphertext[5 : 5 + size]
            found.append((ciphertext[0], self._read.decrypt(self._read_iv + sealed[:8], sealed[8:], covered)))
            self._received += 1
            ciphertext = ciphertext[5 + size :]
        return found


def _expand(secret, seed, size):
    """The function PRF of RFC 5246 section 5, of SHA-256."""
    out, link = b"", seed
    while len(out) < size:
        link = hmac.digest(secret, link, "sha256")
        out += hmac.digest(secret, link + seed, "sha256")
    return out[:size]
