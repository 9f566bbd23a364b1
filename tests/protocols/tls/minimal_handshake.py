"""A TLS 1.3 client by hand, for what OpenSSL's never does: a false Finished, a KeyUpdate as its first record.

RFC 8446 sections 4 and 7: X25519, TLS_AES_128_GCM_SHA256, no certificate checked.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from dataclasses import dataclass

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


@dataclass
class Offer:
    """A pre-shared key in a ClientHello, with its binder or with a false one."""

    identity: bytes
    key: bytes
    label: bytes = b"ext binder"
    binder_size: int = 32
    age: int = 0

    def early_secret(self):
        return extract(bytes(32), self.key)

    def binder(self, messages):
        if self.binder_size != 32:
            return os.urandom(self.binder_size)
        secret = hkdf_expand_label("sha256", derive(self.early_secret(), self.label, b""), b"finished", b"", 32)
        return hmac.digest(secret, hashlib.sha256(messages).digest(), "sha256")


class MinimalClient:
    """start() -> ClientHello; answer(server's flight) -> our Finished; then `read` and `write` are the directions."""

    def __init__(self, alpn=b"mmtp/1", offers=(), early=False):
        self._offers = offers
        self._key = X25519PrivateKey.generate()
        share = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        extensions = (
            extension(43, vector(1, b"\x03\x04"))
            + extension(10, vector(2, b"\x00\x1d"))
            + extension(13, vector(2, b"\x04\x03\x08\x04\x08\x07"))
            + extension(51, vector(2, b"\x00\x1d" + vector(2, share)))
            + extension(16, vector(2, vector(1, alpn)))
        )
        binders = b""
        if early:
            extensions += extension(42, b"")
        if offers:
            named = b"".join(vector(2, one.identity) + one.age.to_bytes(4, "big") for one in offers)
            binders = vector(2, b"".join(vector(1, bytes(one.binder_size)) for one in offers))
            extensions += extension(45, vector(1, b"\x01")) + extension(41, vector(2, named) + binders)
        body = b"\x03\x03" + os.urandom(32) + b"\0" + vector(2, b"\x13\x01") + b"\x01\0" + vector(2, extensions)
        hello = message(1, body)
        if offers:
            hello = hello[: -len(binders)]  # what binders cover
            hello += vector(2, b"".join(vector(1, one.binder(hello)) for one in offers))
        self._messages = hello

    def start(self):
        return b"\x16\x03\x01" + vector(2, self._messages)

    def answer(self, flight):
        size = int.from_bytes(flight[3:5], "big")
        hello = flight[5 : 5 + size]
        self._messages += hello
        at = 4 + 2 + 32 + 1 + hello[38] + 2 + 1 + 2
        early = extract(bytes(32), bytes(32))
        while at < len(hello):
            kind, length = (int.from_bytes(hello[at + by : at + by + 2], "big") for by in (0, 2))
            if kind == 51:
                peer = X25519PublicKey.from_public_bytes(hello[at + 8 : at + 40])
            elif kind == 41:
                early = self._offers[hello[at + 5]].early_secret()
            at += 4 + length
        shared = extract(derive(early, b"derived", b""), self._key.exchange(peer))
        write, read = (derive(shared, label, self._messages) for label in (b"c hs traffic", b"s hs traffic"))
        self._master = extract(derive(shared, b"derived", b""), bytes(32))
        rest, opened = flight[5 + size :], opener(read)
        while rest:
            end = 5 + int.from_bytes(rest[3:5], "big")
            if rest[0] == 23:
                _, _, kind, content = opened.open(rest[:end], 0, True)
                assert kind == 22
                self._messages += content
            rest = rest[end:]
        self.read, self.write = (
            direction(derive(self._master, label, self._messages))
            for direction, label in ((opener, b"s ap traffic"), (sealer, b"c ap traffic"))
        )
        finished = hkdf_expand_label("sha256", write, b"finished", b"", 32)
        proof = message(20, hmac.digest(finished, hashlib.sha256(self._messages).digest(), "sha256"))
        self._messages += proof
        return sealer(write).seal(22, proof)

    def ticket(self, record):
        """The offer that the NewSessionTicket in this record allows."""
        body = self.read.open(record, 0, True)[3][4:]
        age_add, nonce_size = int.from_bytes(body[4:8], "big"), body[8]
        nonce, rest = body[9 : 9 + nonce_size], body[9 + nonce_size :]
        identity = rest[2 : 2 + int.from_bytes(rest[:2], "big")]
        resumption = derive(self._master, b"res master", self._messages)
        key = hkdf_expand_label("sha256", resumption, b"resumption", nonce, 32)
        return Offer(identity, key, b"res binder", age=age_add)
