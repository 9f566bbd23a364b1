"""A TLS 1.3 client by hand, for what OpenSSL's never does: a false Finished, a KeyUpdate as its first record.

RFC 8446 sections 4 and 7: X25519, TLS_AES_128_GCM_SHA256, no certificate checked.
"""

from __future__ import annotations

import hashlib
import hmac
import os

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from protocols.tls.key_schedule import SUITES, hkdf_expand_label, traffic_keys
from protocols.tls.record_protection import Opener, Sealer

SUITE = SUITES[0x1301]


def vector(width, data):
    return len(data).to_bytes(width, "big") + data


def message(kind, body):
    return bytes([kind]) + vector(3, body)


def extension(kind, body):
    return kind.to_bytes(2, "big") + vector(2, body)


def extract(salt, secret):
    return hmac.digest(salt, secret, "sha256")


def derive(secret, label, messages):
    return hkdf_expand_label("sha256", secret, label, hashlib.sha256(messages).digest(), 32)


def sealer(secret):
    return Sealer(SUITE.id, secret, *traffic_keys(SUITE, secret), 0)


def opener(secret):
    return Opener(SUITE.id, secret, *traffic_keys(SUITE, secret), 0)


class MinimalClient:
    """start() -> ClientHello; answer(server's flight) -> our Finished; then `read` and `write` are the directions."""

    def __init__(self, alpn=b"mmtp/1"):
        self._key = X25519PrivateKey.generate()
        share = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        extensions = (
            extension(43, vector(1, b"\x03\x04"))
            + extension(10, vector(2, b"\x00\x1d"))
            + extension(13, vector(2, b"\x04\x03\x08\x04\x08\x07"))
            + extension(51, vector(2, b"\x00\x1d" + vector(2, share)))
            + extension(16, vector(2, vector(1, alpn)))
        )
        body = b"\x03\x03" + os.urandom(32) + b"\0" + vector(2, b"\x13\x01") + b"\x01\0" + vector(2, extensions)
        self._messages = message(1, body)

    def start(self):
        return b"\x16\x03\x01" + vector(2, self._messages)

    def answer(self, flight):
        size = int.from_bytes(flight[3:5], "big")
        hello = flight[5 : 5 + size]
        self._messages += hello
        at = 4 + 2 + 32 + 1 + hello[38] + 2 + 1 + 2
        while int.from_bytes(hello[at : at + 2], "big") != 51:
            at += 4 + int.from_bytes(hello[at + 2 : at + 4], "big")
        peer = X25519PublicKey.from_public_bytes(hello[at + 8 : at + 40])
        early = extract(bytes(32), bytes(32))
        shared = extract(derive(early, b"derived", b""), self._key.exchange(peer))
        write, read = (derive(shared, label, self._messages) for label in (b"c hs traffic", b"s hs traffic"))
        master = extract(derive(shared, b"derived", b""), bytes(32))
        rest, opened = flight[5 + size :], opener(read)
        while rest:
            end = 5 + int.from_bytes(rest[3:5], "big")
            if rest[0] == 23:
                _, _, kind, content = opened.open(rest[:end], 0, True)
                assert kind == 22
                self._messages += content
            rest = rest[end:]
        self.read, self.write = (
            direction(derive(master, label, self._messages))
            for direction, label in ((opener, b"s ap traffic"), (sealer, b"c ap traffic"))
        )
        finished = hkdf_expand_label("sha256", write, b"finished", b"", 32)
        proof = hmac.digest(finished, hashlib.sha256(self._messages).digest(), "sha256")
        return sealer(write).seal(22, message(20, proof))
