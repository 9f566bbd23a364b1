"""`accessgwctl passwd`: puts users into password files and takes them out; no gateway is asked.

A running gateway reads the file again within a second of the next login.
"""

from __future__ import annotations

import argparse
import fcntl
import getpass
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from protocols.passwords import LineError, PasswordHash, name_problem, parse_lines, password_bytes
from protocols.saslprep import saslprep
from protocols.scram import Verifier

ARGON2_MEMORY = 19 * 1024
"""KiB; with two passes and one lane about 20 ms, so that a worker checks some 50 passwords in a second per thread."""
ARGON2_TIME = 2
SCRAM_ITERATIONS = 4096
"""The client computes them at each login: many devices are slow."""
SALT = 16
MAX_PASSWORD = 65535


class PasswdError(Exception):
    """What is wrong, for a person at a shell."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("file", metavar="FILE", help="made when it is not there")
    parser.add_argument("user", metavar="USER", help="who gets a password, or another one")
    parser.add_argument("--delete", action="store_true", help="take the user out")
    parser.add_argument("--scram", action="store_true", help="a file for authenticators of kind scram")
    parser.add_argument("--stdin", action="store_true", help="the password is the first line of standard input")


def run(options: argparse.Namespace, salt: Callable[[int], bytes] = os.urandom) -> str:
    """Do it; what was done, in words. Raises PasswdError, and then the file is as it was."""
    user = _name(options.user, options.scram)
    path = Path(os.path.realpath(options.file))
    parse = Verifier.parse if options.scram else PasswordHash.parse
    secret = "" if options.delete else _secret(user, options, salt)
    try:
        with _locked(path.parent):
            before = path.read_bytes() if path.exists() else b""
            known = parse_lines(before, parse)
            if options.delete and user not in known:
                raise PasswdError(f"{options.file}: there is no user {user}")
            _replace(path, _edited(before, user, secret))
    except LineError as error:
        raise PasswdError(f"{options.file}:{error}; nothing was changed") from None
    except OSError as error:
        raise PasswdError(f"{options.file}: {error.strerror or error}") from None
    done = "was taken out" if options.delete else "has another password" if user in known else "was added"
    return f"{user} {done}"


def _name(user: str, scram: bool) -> str:
    try:
        name = saslprep(user, stored=True) if scram else user
    except ValueError as error:
        raise PasswdError(f"USER: {error}") from None
    problem = name_problem(name)
    if problem:
        raise PasswdError(f"USER: {problem}")
    return name


def _secret(user: str, options: argparse.Namespace, salt: Callable[[int], bytes]) -> str:
    password = _password(user, options.stdin)
    if options.scram:
        try:
            return str(Verifier.of(password, salt(SALT), SCRAM_ITERATIONS))
        except ValueError as error:
            raise PasswdError(f"the password: {error}") from None
    from argon2.low_level import Type, hash_secret

    made = hash_secret(password_bytes(password), salt(SALT), ARGON2_TIME, ARGON2_MEMORY, 1, 32, Type.ID)
    return made.decode()


def _password(user: str, stdin: bool) -> str:
    if stdin:
        raw = sys.stdin.buffer.readline(MAX_PASSWORD + 3)
        password = raw.decode("utf-8", "surrogateescape").removesuffix("\n").removesuffix("\r")
    else:
        try:
            password = getpass.getpass(f"Password of {user}: ")
            if getpass.getpass("The same again: ") != password:
                raise PasswdError("the passwords differ; nothing was changed")
        except EOFError:
            raise PasswdError("no password was given; nothing was changed") from None
    if not password:
        raise PasswdError("expected a password, got an empty one; nothing was changed")
    if len(password_bytes(password)) > MAX_PASSWORD:
        raise PasswdError(f"expected a password of at most {MAX_PASSWORD} bytes")
    return password


def _edited(before: bytes, user: str, secret: str) -> bytes:
    """The file with the user's line replaced, added, or (empty `secret`) left out; all other lines as they are."""
    line = f"{user}:{secret}".encode()
    lines: list[bytes] = []
    found = False
    for one in before.split(b"\n"):
        if one.strip(b" \t\r").partition(b":")[0] == user.encode():
            found = True
            if not secret:
                continue
            one = line  # noqa: PLW2901
        lines.append(one)
    while lines and not lines[-1]:
        lines.pop()
    if secret and not found:
        lines.append(line)
    return b"".join(one + b"\n" for one in lines)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Two of these at once would lose one's change."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replace(path: Path, content: bytes) -> None:
    """Whole or not at all, mode 0600, with the owner that the file had: a gateway must not lose sight of it."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), 0o600)
            if path.exists():
                old, new = path.stat(), os.fstat(file.fileno())
                if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
                    os.fchown(file.fileno(), old.st_uid, old.st_gid)
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
