"""Between a gateway and the process that holds its private keys: requests and signatures in frames, on a local socket.

A frame is length (2 bytes, big-endian, of what follows), type (1), body:

    1 HELLO      "agws", version (1), and of the signer: the keys that it has (32 bytes each)
    2 KEYS       signer: the keys that it has from now on
    3 REQUEST    gateway: id (4), key (32), algorithm (1), data
    4 SIGNATURE  signer: id (4), signature
    5 FAILURE    signer: id (4), code (1), message in UTF-8

Both sides say HELLO first. A key is named by the SHA-256 of its SubjectPublicKeyInfo. Answers come in any order.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from protocols.errors import LocalError, RemoteError

VERSION = 1

RSA_BLOCK = 1
"""RSA's private operation on a block that is padded already and as long as the modulus (RFC 8017 5.2.1)."""
ECDSA_DIGEST = 2
"""ECDSA over a digest; the signature is in DER (RFC 8422 5.10)."""
ALGORITHMS = frozenset({RSA_BLOCK, ECDSA_DIGEST})

UNKNOWN_KEY, BAD_REQUEST, BUSY, FAILED = 1, 2, 3, 4
"""Codes of FAILURE: no such key; the data does not fit key or algorithm; too many wait; the back end failed."""
MALFORMED, WRONG_VERSION = 16, 17
"""Codes of RemoteError for a peer that does not speak this protocol."""

MAX_DATA = 2048
"""Bytes of data or of a signature: RSA keys up to 16384 bits."""
MAX_KEYS = 1024

_MAGIC = b"agws"
_HELLO, _KEYS, _REQUEST, _SIGNATURE, _FAILURE = 1, 2, 3, 4, 5
_HEADER = struct.Struct("!HB")
_REQUEST_HEAD = struct.Struct("!I32sB")
_ID = struct.Struct("!I")
_FAILURE_HEAD = struct.Struct("!IB")
_MAX_FRAME = 1 + 5 + 32 * MAX_KEYS
_MAX_REQUEST = 1 + _REQUEST_HEAD.size + MAX_DATA
_MAX_MESSAGE = 200


@dataclass(slots=True, frozen=True)
class KeysOffered:
    """The signer's HELLO, or its KEYS afterwards."""

    keys: frozenset[str]
    """64 hexadecimal digits each."""


@dataclass(slots=True, frozen=True)
class GatewayGreeted:
    """The gateway's HELLO."""


@dataclass(slots=True, frozen=True)
class SignatureRequested:
    """A gateway's REQUEST."""

    id: int
    key: str
    algorithm: int
    data: bytes


@dataclass(slots=True, frozen=True)
class SignatureMade:
    """The answer to the request of that id."""

    id: int
    signature: bytes


@dataclass(slots=True, frozen=True)
class SignatureRefused:
    """The request of that id cannot be served; `code` may be one that we do not know."""

    id: int
    code: int
    message: str


SigningEvent = KeysOffered | GatewayGreeted | SignatureRequested | SignatureMade | SignatureRefused


def check_request(key: str, algorithm: int, data: bytes) -> bytes:
    """The key in bytes. LocalError for what no signer takes."""
    try:
        digits = bytes.fromhex(key)
    except ValueError:
        digits = b""
    if len(digits) != 32 or algorithm not in ALGORITHMS or not 0 < len(data) <= MAX_DATA:
        raise LocalError(
            f"expected a key of 32 bytes, an algorithm of {sorted(ALGORITHMS)} and 1 to {MAX_DATA} bytes of data,"
            f" got {len(digits)}, {algorithm} and {len(data)}"
        )
    return digits


class SigningConnection:
    """One side of a connection, sans-IO. RemoteError, with MALFORMED or WRONG_VERSION, ends it."""

    __slots__ = ("_buffer", "_greeted", "_is_signer", "_out", "_said_hello")

    def __init__(self, *, signer: bool) -> None:
        self._is_signer = signer
        self._buffer = bytearray()
        self._out: list[bytes] = []
        self._greeted = False
        """The peer has said HELLO."""
        self._said_hello = False

    def hello(self, keys: frozenset[str] = frozenset()) -> None:
        """Say HELLO, or as a signer later on: these are the keys now. LocalError for a gateway with keys, or twice."""
        if not self._is_signer and (keys or self._said_hello):
            raise LocalError("a gateway says HELLO once, and has no keys")
        if len(keys) > MAX_KEYS:
            raise LocalError(f"expected at most {MAX_KEYS} keys, got {len(keys)}")
        body = b"".join(bytes.fromhex(key) for key in sorted(keys))
        if self._said_hello:
            self._frame(_KEYS, body)
        else:
            self._said_hello = True
            self._frame(_HELLO, _MAGIC + bytes([VERSION]) + body)

    def request(self, id: int, key: str, algorithm: int, data: bytes) -> None:
        """Ask for a signature. LocalError for what no signer takes."""
        if self._is_signer or not self._said_hello:
            raise LocalError("requests are for a gateway that has said HELLO")
        digits = check_request(key, algorithm, data)
        self._frame(_REQUEST, _REQUEST_HEAD.pack(id, digits, algorithm) + data)

    def signature(self, id: int, signature: bytes) -> None:
        """Answer a request."""
        self._frame(_SIGNATURE, _ID.pack(id) + signature)

    def refuse(self, id: int, code: int, message: str) -> None:
        """Answer a request that cannot be served; the message is cut to 200 bytes."""
        self._frame(_FAILURE, _FAILURE_HEAD.pack(id, code) + message.encode()[:_MAX_MESSAGE])

    def to_send(self) -> bytes:
        """Bytes for the peer, empty when there are none."""
        if not self._out:
            return b""
        data = b"".join(self._out)
        self._out.clear()
        return data

    def receive(self, data: bytes) -> list[SigningEvent]:
        """What these bytes complete, in order."""
        buffer = self._buffer
        buffer += data
        events: list[SigningEvent] = []
        at = 0
        while len(buffer) - at >= _HEADER.size:
            length, kind = _HEADER.unpack_from(buffer, at)
            bound = _MAX_REQUEST if self._is_signer else _MAX_FRAME
            if not 0 < length <= bound:
                raise RemoteError(MALFORMED, f"expected a frame of 1 to {bound} bytes, got one of {length}")
            if len(buffer) - at < 2 + length:
                break
            events.append(self._event(kind, bytes(buffer[at + 3 : at + 2 + length])))
            at += 2 + length
        del buffer[:at]
        return events

    def _frame(self, kind: int, body: bytes) -> None:
        self._out.append(_HEADER.pack(1 + len(body), kind) + body)

    def _event(self, kind: int, body: bytes) -> SigningEvent:
        if not self._greeted:
            return self._hello_event(kind, body)
        if self._is_signer and kind == _REQUEST and len(body) > _REQUEST_HEAD.size:
            id, key, algorithm = _REQUEST_HEAD.unpack_from(body)
            return SignatureRequested(id, key.hex(), algorithm, body[_REQUEST_HEAD.size :])
        if not self._is_signer:
            if kind == _SIGNATURE and len(body) > _ID.size:
                return SignatureMade(_ID.unpack_from(body)[0], body[_ID.size :])
            if kind == _FAILURE and len(body) >= _FAILURE_HEAD.size:
                id, code = _FAILURE_HEAD.unpack_from(body)
                return SignatureRefused(id, code, body[_FAILURE_HEAD.size :].decode("utf-8", "replace"))
            if kind == _KEYS:
                return KeysOffered(_keys(body))
        raise RemoteError(MALFORMED, f"expected an answer or a request, got type {kind} with {len(body)} bytes")

    def _hello_event(self, kind: int, body: bytes) -> SigningEvent:
        if kind != _HELLO or not body.startswith(_MAGIC) or len(body) <= len(_MAGIC):
            raise RemoteError(MALFORMED, f"expected HELLO, got type {kind} with {len(body)} bytes")
        if body[len(_MAGIC)] != VERSION:
            raise RemoteError(WRONG_VERSION, f"expected version {VERSION}, got {body[len(_MAGIC)]}")
        keys = _keys(body[len(_MAGIC) + 1 :])
        self._greeted = True
        if not self._is_signer:
            return KeysOffered(keys)
        if keys:
            raise RemoteError(MALFORMED, f"expected no keys from a gateway, got {len(keys)}")
        return GatewayGreeted()


def _keys(body: bytes) -> frozenset[str]:
    if len(body) % 32:
        raise RemoteError(MALFORMED, f"expected keys of 32 bytes, got {len(body)} bytes")
    return frozenset(body[at : at + 32].hex() for at in range(0, len(body), 32))
