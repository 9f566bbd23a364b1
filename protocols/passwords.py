"""Files of `user:secret` lines, and the password hashes in them: argon2, and mosquitto's PBKDF2 and SHA-512."""

from __future__ import annotations

import binascii
import hashlib
import hmac
import re
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

MAX_FILE = 64 * 1024 * 1024
"""Bytes of a whole file."""
MAX_NAME = 256
MAX_ITERATIONS = 2_000_000
"""Of PBKDF2: about a second."""
MAX_MEMORY = 256 * 1024
"""KiB of one argon2 hash."""
MAX_TIME = 16
"""Passes of one argon2 hash over its memory."""
MAX_LANES = 16
MAX_WORK = 1024 * 1024
"""KiB times passes of one argon2 hash: about a second."""

_ARGON2 = re.compile(
    r"\$argon2(id|i|d)\$v=19\$m=([1-9][0-9]{0,8}),t=([1-9][0-9]{0,8}),p=([1-9][0-9]{0,8})"
    r"\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)"
)
_PBKDF2 = re.compile(r"\$7\$([1-9][0-9]{0,8})\$([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+)")
_SHA512 = re.compile(r"\$6\$([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+)")
_DIGEST = 64


class LineError(ValueError):
    """What is wrong in which line (counted from 1)."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(f"{line}: {message}")
        self.line = line


def parse_lines(data: bytes, parse: Callable[[str], T]) -> dict[str, T]:
    """User -> what `parse` makes of the rest of the line. Empty lines and those that begin with # are passed over.

    Raises LineError, also for a ValueError of `parse`. Messages quote no secrets.
    """
    if len(data) > MAX_FILE:
        raise LineError(1, f"expected a file of at most {MAX_FILE} bytes, got {len(data)}")
    entries: dict[str, T] = {}
    for number, raw in enumerate(data.split(b"\n"), 1):
        try:
            line = raw.decode().strip(" \t\r")
        except UnicodeDecodeError:
            raise LineError(number, "expected UTF-8") from None
        if not line or line.startswith("#"):
            continue
        user, colon, secret = line.partition(":")
        if not colon:
            raise LineError(number, "expected user:hash, got a line without a colon")
        problem = name_problem(user)
        if problem:
            raise LineError(number, problem)
        if user in entries:
            raise LineError(number, f"the user {user!r} stands in an earlier line already")
        try:
            entries[user] = parse(secret)
        except ValueError as error:
            raise LineError(number, str(error)) from None
    return entries


def name_problem(user: str) -> str:
    """Why `user` cannot be a name in such a file; empty when it can."""
    if not 1 <= len(user) <= MAX_NAME or not user.isprintable():
        return f"expected a user name of 1 to {MAX_NAME} printable characters"
    if ":" in user or user.startswith("#") or user != user.strip():
        return "expected a user name without colon, # at its beginning, or space around it"
    return ""


def password_bytes(password: str) -> bytes:
    """A password as it is hashed:
    UTF-8, or the very bytes where they were none (kept as surrogates by whoever decoded)."""
    try:
        return password.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return password.encode("utf-8", "surrogatepass")


@dataclass(frozen=True, slots=True)
class PasswordHash:
    """One hash, understood and within the bounds on what it may cost."""

    scheme: str
    """argon2id | argon2i | argon2d | pbkdf2 | sha512."""
    text: str
    """As it stands in the file."""
    salt: bytes = b""
    digest: bytes = b""
    iterations: int = 0

    @classmethod
    def parse(cls, text: str) -> PasswordHash:
        """Raises ValueError."""
        if text.startswith("$argon2"):
            return cls._argon2(text)
        if found := _PBKDF2.fullmatch(text):
            iterations = int(found[1])
            if iterations > MAX_ITERATIONS:
                raise ValueError(f"expected at most {MAX_ITERATIONS} iterations, got {iterations}")
            salt, digest = _decoded(found[2], found[3])
            return cls("pbkdf2", text, salt, digest, iterations)
        if found := _SHA512.fullmatch(text):
            salt, digest = _decoded(found[1], found[2])
            return cls("sha512", text, salt, digest)
        raise ValueError("expected a hash $argon2id$..., $7$iterations$salt$hash or $6$salt$hash")

    @classmethod
    def _argon2(cls, text: str) -> PasswordHash:
        found = _ARGON2.fullmatch(text)
        if found is None:
            raise ValueError("expected $argon2id$v=19$m=KIB,t=PASSES,p=LANES$salt$hash")
        memory, time, lanes = int(found[2]), int(found[3]), int(found[4])
        for name, most, got in (("m", MAX_MEMORY, memory), ("t", MAX_TIME, time), ("p", MAX_LANES, lanes)):
            if got > most:
                raise ValueError(f"expected {name} of at most {most}, got {got}")
        if memory * time > MAX_WORK:
            raise ValueError(f"expected m times t of at most {MAX_WORK}, got {memory * time}")
        if memory < 8 * lanes:
            raise ValueError(f"expected m of at least 8 times p, got {memory}")
        salt, digest = (_unpadded(part) for part in found.groups()[4:])
        if not 8 <= len(salt) <= 64 or not 16 <= len(digest) <= 128:
            raise ValueError("expected a salt of 8 to 64 bytes and a hash of 16 to 128")
        return cls(f"argon2{found[1]}", text)

    def verify(self, password: bytes) -> bool:
        """Compared in constant time; for pbkdf2 and sha512 (argon2 has a library of its own)."""
        if self.scheme == "pbkdf2":
            made = hashlib.pbkdf2_hmac("sha512", password, self.salt, self.iterations)
        else:
            made = hashlib.sha512(password + self.salt).digest()
        return hmac.compare_digest(made, self.digest)


def _decoded(salt: str, digest: str) -> tuple[bytes, bytes]:
    try:
        parts = b64decode(salt, validate=True), b64decode(digest, validate=True)
    except binascii.Error as error:
        raise ValueError(f"expected base64 in the hash: {error}") from None
    if not parts[0] or len(parts[1]) != _DIGEST:
        raise ValueError(f"expected a salt and a hash of {_DIGEST} bytes, got {len(parts[1])}")
    return parts


def _unpadded(text: str) -> bytes:
    try:
        return b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError(f"expected base64 in the hash: {error}") from None
