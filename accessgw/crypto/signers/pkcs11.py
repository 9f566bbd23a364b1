"""Keys in a PKCS#11 token (extra `pkcs11`): hardware modules, or SoftHSM2 as the tests use it."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pkcs11
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)
from pkcs11.exceptions import UserAlreadyLoggedIn
from pkcs11.util.ec import encode_ec_public_key

from accessgw.crypto.signers.backend import Job, Refused, unfit
from protocols.signing import FAILED

_ONE_AT_A_TIME = threading.Lock()
"""Of the process: a reload opens the token while the back end before it still signs."""


class TokenUnavailable(Exception):
    """The module or the token cannot be used; the message says why, without the PIN."""


class Pkcs11Backend:
    """Raw RSA (CKM_RSA_X_509) and ECDSA (CKM_ECDSA) by a token, one at a time.

    python-pkcs11 calls C_Initialize without arguments, which promises the module that one thread calls it at a time
    (PKCS #11 v3.1, 5.4): two at once crash some modules. Keys are found by the token's private keys that may sign: an EC
    key needs its public half in the token as well, with the same CKA_ID. A session that fails is dropped, and the next
    request opens another.
    """

    name = "pkcs11"
    batch = 1
    linger = 0.0

    def __init__(self, module: str, token: str, pin: str) -> None:
        """`module`: path of the vendor's library. Raises TokenUnavailable."""
        self._pin = pin
        self._label = token
        try:
            with _ONE_AT_A_TIME:
                self._library = pkcs11.lib(module)
                self._session: _TokenSession | None = self._open()
        except (pkcs11.PKCS11Error, RuntimeError) as error:
            raise TokenUnavailable(f"{module}, token {token}: {_reason(error)}") from error
        self._keys = frozenset(self._session.keys)

    def keys(self) -> frozenset[str]:
        return self._keys

    def sign(self, jobs: Sequence[Job]) -> list[bytes | Refused]:
        return [self._sign(job) for job in jobs]

    def _sign(self, job: Job) -> bytes | Refused:
        with _ONE_AT_A_TIME:
            try:
                if self._session is None:
                    self._session = self._open()
                return self._session.sign(job)
            except (pkcs11.PKCS11Error, RuntimeError) as error:
                session, self._session = self._session, None
                if session is not None:
                    session.close()
                return Refused(FAILED, f"token {self._label}: {_reason(error)}")

    def _open(self) -> _TokenSession:
        token = self._library.get_token(token_label=self._label)
        try:
            session = token.open(user_pin=self._pin)
        except UserAlreadyLoggedIn:
            # A login is of the process, for all of its sessions (PKCS #11 v3.1, 5.6.8).
            session = token.open()
        return _TokenSession(session)


class _TokenSession:
    """One session and its keys; one thread at a time."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.keys: dict[str, tuple[Any, str, int]] = {}
        """Key object, kind, size in bytes."""
        publics = {
            key.id: key
            for key in session.get_objects(
                {pkcs11.Attribute.CLASS: pkcs11.ObjectClass.PUBLIC_KEY, pkcs11.Attribute.KEY_TYPE: pkcs11.KeyType.EC}
            )
        }
        wanted = {pkcs11.Attribute.CLASS: pkcs11.ObjectClass.PRIVATE_KEY, pkcs11.Attribute.SIGN: True}
        for key in session.get_objects(wanted):
            if key.key_type == pkcs11.KeyType.RSA:
                modulus = int.from_bytes(key[pkcs11.Attribute.MODULUS], "big")
                exponent = int.from_bytes(key[pkcs11.Attribute.PUBLIC_EXPONENT], "big")
                numbers = rsa.RSAPublicNumbers(exponent, modulus)
                self.keys[_id_of(numbers.public_key())] = key, "rsa", (modulus.bit_length() + 7) // 8
            elif key.key_type == pkcs11.KeyType.EC and key.id in publics:
                public = load_der_public_key(encode_ec_public_key(publics[key.id]))
                self.keys[_id_of(public)] = key, "ec", 0

    def close(self) -> None:
        """Tokens have few sessions, and nobody else closes them."""
        with suppress(pkcs11.PKCS11Error, RuntimeError):
            self._session.close()

    def sign(self, job: Job) -> bytes | Refused:
        key, kind, size = self.keys.get(job.key, (None, "", 0))
        refused = unfit(job, kind, size)
        if refused is not None:
            return refused
        if kind == "rsa":
            return bytes(key.sign(job.data, mechanism=pkcs11.Mechanism.RSA_X_509))
        raw = bytes(key.sign(job.data, mechanism=pkcs11.Mechanism.ECDSA))
        half = len(raw) // 2
        return encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))


def _id_of(public: Any) -> str:
    return hashlib.sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
