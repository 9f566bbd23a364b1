"""SCRAM-SHA-256 (RFC 5802, RFC 7677), both sides: messages in, messages out; without channel binding."""

from __future__ import annotations

import binascii
import hashlib
import hmac
import re
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import dataclass, field

from protocols.errors import LocalError, RemoteError
from protocols.saslprep import saslprep

METHOD = "SCRAM-SHA-256"
"""Name of the mechanism, as SASL and MQTT's enhanced authentication know it."""
MAX_MESSAGE = 4096
"""Bytes of one message; longer ones are refused unread."""
MIN_ITERATIONS = 4096
"""RFC 7677, section 4."""
MAX_ITERATIONS = 10_000_000
"""A client computes this many hashes for whatever the server asks: more is an attack."""
HASH = 32

_NONCE = re.compile(r"[\x21-\x2b\x2d-\x7e]{1,1024}")
_EXTENSION = re.compile(r"[A-Za-z]=[^,\x00]+")
_BAD_ESCAPE = re.compile(r"=(?!2C|3D)")
_VERIFIER = re.compile(r"SCRAM-SHA-256\$([1-9][0-9]{0,8}):([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+):([A-Za-z0-9+/=]+)")


class ScramError(RemoteError):
    """The peer broke the exchange or could not prove what it claims.

    `value` is what RFC 5802, section 7, calls the server error value. SCRAM has no numbers: `code` is 0.
    """

    def __init__(self, value: str, message: str) -> None:
        super().__init__(0, message)
        self.value = value


@dataclass(frozen=True, slots=True)
class Verifier:
    """What a server keeps of a password: enough to check a proof, not enough to make one."""

    iterations: int
    salt: bytes
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)

    @classmethod
    def of(cls, password: str, salt: bytes, iterations: int) -> Verifier:
        """Raises ValueError for a password that SASLprep refuses."""
        salted = _salted(saslprep(password, stored=True), salt, iterations)
        return cls(iterations, salt, _h(_hmac(salted, b"Client Key")), _hmac(salted, b"Server Key"))

    @classmethod
    def parse(cls, text: str) -> Verifier:
        """From `SCRAM-SHA-256$ITERATIONS:SALT$STOREDKEY:SERVERKEY`, the form that PostgreSQL keeps.
        Raises ValueError."""
        found = _VERIFIER.fullmatch(text)
        if found is None:
            raise ValueError("expected SCRAM-SHA-256$ITERATIONS:SALT$STOREDKEY:SERVERKEY")
        iterations = int(found[1])
        if not MIN_ITERATIONS <= iterations <= MAX_ITERATIONS:
            raise ValueError(f"expected {MIN_ITERATIONS} to {MAX_ITERATIONS} iterations, got {iterations}")
        try:
            salt, stored_key, server_key = (b64decode(part, validate=True) for part in found.groups()[1:])
        except binascii.Error as error:
            raise ValueError(f"expected base64: {error}") from None
        if not salt or len(stored_key) != HASH or len(server_key) != HASH:
            raise ValueError(f"expected a salt and two keys of {HASH} bytes")
        return cls(iterations, salt, stored_key, server_key)

    def __str__(self) -> str:
        return f"{METHOD}${self.iterations}:{_b64(self.salt)}${_b64(self.stored_key)}:{_b64(self.server_key)}"


class ServerFirst:
    """The client's first message, read and checked; the server's answer needs the verifier of `user`.

    Raises ScramError for anything but a client-first-message without channel binding.
    """

    __slots__ = ("_bare", "_gs2", "_nonce", "user")

    def __init__(self, data: bytes) -> None:
        binding, separator, rest = _text(data).partition(",")
        authzid, comma, bare = rest.partition(",")
        if not separator or not comma:
            raise ScramError("other-error", "expected a client-first-message with a GS2 header")
        if binding.startswith("p="):
            raise ScramError("server-does-not-support-channel-binding", "there is no channel binding here")
        if binding not in ("n", "y"):
            raise ScramError("other-error", "expected a GS2 header that begins with n or y")
        parts = bare.split(",")
        if parts[0].startswith("m="):
            raise ScramError("extensions-not-supported", "mandatory extensions are not supported")
        if len(parts) < 2 or not parts[0].startswith("n=") or not parts[1].startswith("r="):
            raise ScramError("other-error", "expected n= and r= in the client-first-message")
        _check_extensions(parts[2:])
        self.user = _user(parts[0][2:])
        """Name in the prepared form."""
        if authzid and (not authzid.startswith("a=") or _user(authzid[2:]) != self.user):
            raise ScramError("other-error", "nobody may act for another here")
        self._nonce = parts[1][2:]
        if _NONCE.fullmatch(self._nonce) is None:
            raise ScramError("other-error", "expected a nonce of printable characters")
        self._gs2 = f"{binding},{authzid},"
        self._bare = bare

    def challenge(self, verifier: Verifier, nonce: str) -> ServerFinal:
        """`nonce` is our part, printable and without commas.
        A verifier of nobody's gives a challenge like any other."""
        if _NONCE.fullmatch(nonce) is None:
            raise LocalError("expected a nonce of printable characters without commas")
        whole = self._nonce + nonce
        message = f"r={whole},s={_b64(verifier.salt)},i={verifier.iterations}"
        return ServerFinal(verifier, self._gs2, whole, f"{self._bare},{message}", message.encode())


class ServerFinal:
    """The server's first message, sent as `message`; waits for the client's proof."""

    __slots__ = ("_gs2", "_nonce", "_so_far", "_verifier", "message")

    def __init__(self, verifier: Verifier, gs2: str, nonce: str, so_far: str, message: bytes) -> None:
        self._verifier = verifier
        self._gs2 = gs2
        self._nonce = nonce
        self._so_far = so_far
        self.message = message

    def finish(self, data: bytes) -> bytes:
        """The server-final-message for the client's proof; ScramError when the proof or anything else is wrong."""
        text = _text(data)
        head, _, proof = text.rpartition(",p=")
        parts = head.split(",")
        if len(parts) < 2 or not parts[0].startswith("c=") or not parts[1].startswith("r="):
            raise ScramError("other-error", "expected c=, r= and p= in the client-final-message")
        _check_extensions(parts[2:])
        if not hmac.compare_digest(_unb64(parts[0][2:]), self._gs2.encode()):
            raise ScramError("channel-bindings-dont-match", "the GS2 header is not the one of the first message")
        if not hmac.compare_digest(parts[1][2:].encode(), self._nonce.encode()):
            raise ScramError("other-error", "the nonce is not the one of this exchange")
        shown = _unb64(proof)
        if len(shown) != HASH:
            raise ScramError("invalid-proof", f"expected a proof of {HASH} bytes, got {len(shown)}")
        auth_message = f"{self._so_far},{head}".encode()
        client_key = _xor(shown, _hmac(self._verifier.stored_key, auth_message))
        if not hmac.compare_digest(_h(client_key), self._verifier.stored_key):
            raise ScramError("invalid-proof", "wrong user name or password")
        return b"v=" + b64encode(_hmac(self._verifier.server_key, auth_message))


class ClientExchange:
    """The client's side of one exchange: `first()`, then `respond`, then `finish`."""

    def __init__(self, user: str, password: str, nonce: Callable[[], str]) -> None:
        """Raises LocalError for a user name or password that SASLprep refuses, and for an unfit nonce."""
        try:
            self._user = saslprep(user)
            self._password = saslprep(password)
        except ValueError as error:
            raise LocalError(f"user name or password: {error}") from None
        self._nonce = nonce()
        if not self._user or _NONCE.fullmatch(self._nonce) is None:
            raise LocalError("expected a user name, and a nonce of printable characters without commas")
        escaped = self._user.replace("=", "=3D").replace(",", "=2C")
        self._bare = f"n={escaped},r={self._nonce}"
        self._server_signature = b""

    def first(self) -> bytes:
        """The client-first-message."""
        return f"n,,{self._bare}".encode()

    def respond(self, data: bytes) -> bytes:
        """The client-final-message for the server's challenge. Raises ScramError. Takes as long as `i` hashes take."""
        text = _text(data)
        parts = text.split(",")
        if len(parts) < 3 or [part[:2] for part in parts[:3]] != ["r=", "s=", "i="]:
            raise ScramError("other-error", "expected r=, s= and i= in the server-first-message")
        _check_extensions(parts[3:])
        nonce, salt, count = parts[0][2:], _unb64(parts[1][2:]), parts[2][2:]
        if not nonce.startswith(self._nonce) or len(nonce) == len(self._nonce) or _NONCE.fullmatch(nonce) is None:
            raise ScramError("other-error", "the server's nonce does not go on from ours")
        iterations = int(count) if re.fullmatch(r"[1-9][0-9]{0,8}", count) else 0
        if not salt or not MIN_ITERATIONS <= iterations <= MAX_ITERATIONS:
            raise ScramError("other-error", f"expected a salt and {MIN_ITERATIONS} to {MAX_ITERATIONS} iterations")
        salted = _salted(self._password, salt, iterations)
        without_proof = f"c={_b64(b'n,,')},r={nonce}"
        auth_message = f"{self._bare},{text},{without_proof}".encode()
        client_key = _hmac(salted, b"Client Key")
        proof = _xor(client_key, _hmac(_h(client_key), auth_message))
        self._server_signature = _hmac(_hmac(salted, b"Server Key"), auth_message)
        return f"{without_proof},p={_b64(proof)}".encode()

    def finish(self, data: bytes) -> None:
        """Check that the server knows the password too. Raises ScramError."""
        if not self._server_signature:
            raise LocalError("the server's challenge has not been answered yet")
        text = _text(data).partition(",")[0]
        if text.startswith("e="):
            raise ScramError(text[2:], f"the server refused: {text[2:]}")
        if not text.startswith("v=") or not hmac.compare_digest(_unb64(text[2:]), self._server_signature):
            raise ScramError("other-error", "the server could not prove that it knows the password")


def _text(data: bytes) -> str:
    if len(data) > MAX_MESSAGE:
        raise ScramError("other-error", f"expected a message of at most {MAX_MESSAGE} bytes, got {len(data)}")
    try:
        return bytes(data).decode()
    except UnicodeDecodeError:
        raise ScramError("invalid-encoding", "expected UTF-8") from None


def _user(saslname: str) -> str:
    if not saslname or "\0" in saslname or _BAD_ESCAPE.search(saslname):
        raise ScramError("invalid-username-encoding", "expected a user name with = and , written as =3D and =2C")
    try:
        user = saslprep(saslname.replace("=2C", ",").replace("=3D", "="))
    except ValueError as error:
        raise ScramError("invalid-username-encoding", f"user name: {error}") from None
    if not user:
        raise ScramError("invalid-username-encoding", "expected a user name, got an empty one")
    return user


def _check_extensions(parts: list[str]) -> None:
    """Optional ones are passed over (RFC 5802, section 5.1, `extensions`)."""
    for part in parts:
        if part.startswith("m="):
            raise ScramError("extensions-not-supported", "mandatory extensions are not supported")
        if _EXTENSION.fullmatch(part) is None:
            raise ScramError("other-error", "expected attributes of the form name=value")


def _unb64(text: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ScramError("invalid-encoding", "expected base64") from None


def _b64(data: bytes) -> str:
    return b64encode(data).decode()


def _salted(password: str, salt: bytes, iterations: int) -> bytes:
    return hashlib.pbkdf2_hmac("sha256", password.encode("utf-8", "surrogatepass"), salt, iterations)


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


def _h(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _xor(one: bytes, other: bytes) -> bytes:
    return (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).to_bytes(len(one), "big")
