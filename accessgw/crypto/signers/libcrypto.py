"""Private keys in the system's libcrypto (OpenSSL 3), by ctypes: raw signatures, and keys that a provider holds.

The package cryptography pads and hashes itself; a hand-shake of the native engine has done that already. Calls
release the interpreter's lock.
"""

from __future__ import annotations

import ctypes
import hashlib
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from threading import RLock
from typing import Any

_LIBRARY = "libcrypto.so.3"
_NO_PADDING = 3
_STORE_PRIVATE_KEY = 4
_SEQUENCE, _LONG_FORM = 0x30, 0x80  # of DER (X.690 8.9 and 8.1.3.5)
_KINDS = {b"RSA": "rsa", b"EC": "ec"}
_DEFAULT = "default"
_DIGEST = 32
_OPAQUE = ctypes.c_void_p
_SIZE = ctypes.POINTER(ctypes.c_size_t)

# name -> (result, arguments)
_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "BIO_new_mem_buf": (_OPAQUE, [ctypes.c_char_p, ctypes.c_int]),
    "BIO_free": (ctypes.c_int, [_OPAQUE]),
    "PEM_read_bio_PrivateKey": (_OPAQUE, [_OPAQUE, _OPAQUE, _OPAQUE, ctypes.c_char_p]),
    "EVP_PKEY_free": (None, [_OPAQUE]),
    "EVP_PKEY_get_size": (ctypes.c_int, [_OPAQUE]),
    "EVP_PKEY_get_bits": (ctypes.c_int, [_OPAQUE]),
    "EVP_PKEY_is_a": (ctypes.c_int, [_OPAQUE, ctypes.c_char_p]),
    "EVP_PKEY_get0_provider": (_OPAQUE, [_OPAQUE]),
    "i2d_PUBKEY": (ctypes.c_int, [_OPAQUE, ctypes.POINTER(ctypes.POINTER(ctypes.c_ubyte))]),
    "EVP_PKEY_CTX_new_from_pkey": (_OPAQUE, [_OPAQUE, _OPAQUE, ctypes.c_char_p]),
    "EVP_PKEY_CTX_free": (None, [_OPAQUE]),
    "EVP_PKEY_sign_init": (ctypes.c_int, [_OPAQUE]),
    "d2i_PUBKEY": (_OPAQUE, [_OPAQUE, ctypes.POINTER(ctypes.c_char_p), ctypes.c_long]),
    "EVP_PKEY_verify_recover_init": (ctypes.c_int, [_OPAQUE]),
    "EVP_PKEY_verify_recover": (ctypes.c_int, [_OPAQUE, ctypes.c_char_p, _SIZE, ctypes.c_char_p, ctypes.c_size_t]),
    "EVP_PKEY_CTX_set_rsa_padding": (ctypes.c_int, [_OPAQUE, ctypes.c_int]),
    "EVP_PKEY_sign": (ctypes.c_int, [_OPAQUE, ctypes.c_char_p, _SIZE, ctypes.c_char_p, ctypes.c_size_t]),
    "ERR_get_error": (ctypes.c_ulong, []),
    "ERR_clear_error": (None, []),
    "ERR_error_string_n": (None, [ctypes.c_ulong, ctypes.c_char_p, ctypes.c_size_t]),
    "OSSL_PROVIDER_load": (_OPAQUE, [_OPAQUE, ctypes.c_char_p]),
    "OSSL_PROVIDER_get0_name": (ctypes.c_char_p, [_OPAQUE]),
    "OSSL_STORE_open": (_OPAQUE, [ctypes.c_char_p, _OPAQUE, _OPAQUE, _OPAQUE, _OPAQUE]),
    "OSSL_STORE_load": (_OPAQUE, [_OPAQUE]),
    "OSSL_STORE_eof": (ctypes.c_int, [_OPAQUE]),
    "OSSL_STORE_close": (ctypes.c_int, [_OPAQUE]),
    "OSSL_STORE_INFO_get_type": (ctypes.c_int, [_OPAQUE]),
    "OSSL_STORE_INFO_get1_PKEY": (_OPAQUE, [_OPAQUE]),
    "OSSL_STORE_INFO_free": (None, [_OPAQUE]),
    "CRYPTO_free": (None, [_OPAQUE, ctypes.c_char_p, ctypes.c_int]),
}


class LibcryptoError(Exception):
    """The library is absent or refused; the message has its own words."""


@cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(_LIBRARY)
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise LibcryptoError(f"signers need the system's {_LIBRARY} (OpenSSL 3): {error}") from error
    return library


def _failure(what: str) -> LibcryptoError:
    """With the last word of OpenSSL's queue of errors, which is emptied."""
    library = _library()
    code = library.ERR_get_error()
    text = ctypes.create_string_buffer(256)
    if code:
        library.ERR_error_string_n(code, text, len(text))
        library.ERR_clear_error()
    return LibcryptoError(f"{what}: {text.value.decode('utf-8', 'replace') or 'no reason given'}")


class ProviderCalls:
    """Whether providers of keys are called by one thread at a time: not every one may be called by several."""

    one_by_one: AbstractContextManager[object] = RLock()
    at_once: AbstractContextManager[object] = nullcontext()
    turn = one_by_one
    """Held by each call, also by those that load keys and free them."""


@cache
def load_provider(name: str) -> None:
    """Have a provider of OpenSSL loaded (provider(7)), beside the default one. Raises LibcryptoError."""
    library = _library()
    # A first provider that is loaded by hand keeps the default one from loading by itself.
    for each in (_DEFAULT, name):
        if not library.OSSL_PROVIDER_load(None, each.encode()):
            raise _failure(f"the OpenSSL provider {each} does not load")


class PublicKey:
    """Checks what came back from a signer: a fifth of the cost of Python's pow(), and any number of threads may."""

    def __init__(self, der: bytes, chain: str = "") -> None:
        """A SubjectPublicKeyInfo of an RSA or EC key; `chain`: the file that it is from, for messages. Raises
        LibcryptoError."""
        self.chain = chain
        self._library = _library()
        self._handle = self._library.d2i_PUBKEY(None, ctypes.byref(ctypes.c_char_p(der)), len(der))
        if not self._handle:
            raise _failure("expected a public key")
        self.kind = _kind(self._library, self._handle, "public key")
        """rsa | ec."""
        self._size: int = self._library.EVP_PKEY_get_size(self._handle)
        self.id = hashlib.sha256(der).hexdigest()

    def is_signature(self, signature: bytes, data: bytes) -> bool:
        """Exact for RSA; of ECDSA only the form is looked at (a SEQUENCE of the right length), the rest is the client's
        to verify."""
        if self.kind == "ec":
            return 8 <= len(signature) <= self._size and signature[0] == _SEQUENCE and _is_whole(signature)
        return len(signature) == self._size and self._opened(signature) == data

    def _opened(self, signature: bytes) -> bytes:
        library = self._library
        context = library.EVP_PKEY_CTX_new_from_pkey(None, self._handle, None)
        try:
            size = ctypes.c_size_t(self._size)
            out = ctypes.create_string_buffer(self._size)
            if (
                library.EVP_PKEY_verify_recover_init(context) != 1
                or library.EVP_PKEY_CTX_set_rsa_padding(context, _NO_PADDING) != 1
                or library.EVP_PKEY_verify_recover(context, out, ctypes.byref(size), signature, len(signature)) != 1
            ):
                library.ERR_clear_error()
                return b""
            return out.raw[: size.value]
        finally:
            library.EVP_PKEY_CTX_free(context)

    def __del__(self) -> None:
        if handle := getattr(self, "_handle", 0):
            self._library.EVP_PKEY_free(handle)


def _is_whole(der: bytes) -> bool:
    if der[1] < _LONG_FORM:
        return len(der) == 2 + der[1]
    return der[1] == _LONG_FORM + 1 and len(der) == 3 + der[2]


def _kind(library: ctypes.CDLL, handle: int, origin: str) -> str:
    found = next((kind for name, kind in _KINDS.items() if library.EVP_PKEY_is_a(handle, name) == 1), "")
    if not found:
        raise LibcryptoError(f"{origin}: expected an RSA or EC key")
    return found


def _provider_of(library: ctypes.CDLL, handle: int) -> str:
    """Whose the key is, empty where it is OpenSSL's own."""
    provider = library.EVP_PKEY_get0_provider(handle)
    name: str = library.OSSL_PROVIDER_get0_name(provider).decode() if provider else ""
    return "" if name == _DEFAULT else name


class PrivateKey:
    """An RSA or EC key, perhaps one that only a provider has. Any number of threads may sign with it:
    see ProviderCalls."""

    def __init__(self, handle: int, origin: str) -> None:
        """Owns `handle` (EVP_PKEY). Raises LibcryptoError for a key of another kind."""
        self._handle = handle
        self._library = _library()
        """Kept, so that it is there when the interpreter ends."""
        provider = _provider_of(self._library, handle)
        self._turn = ProviderCalls.turn if provider else ProviderCalls.at_once
        # Asked for no provider, OpenSSL takes the public half of the key to the default one, and misses the rest there.
        self._query = f"?provider={provider}".encode() if provider else None
        self.kind = _kind(self._library, handle, origin)
        """rsa | ec."""
        self.size: int = self._library.EVP_PKEY_get_size(handle)
        """Bytes of the longest signature; of an RSA key, of the modulus."""
        bits: int = self._library.EVP_PKEY_get_bits(handle)
        # Of a longer digest ECDSA takes the first bits (FIPS 186-5 section 6.4.1); a TPM refuses the rest.
        self._longest = bits // 8 if self.kind == "ec" and bits % 8 == 0 else None
        self.public = self._public(origin)
        """SubjectPublicKeyInfo in DER."""
        self.id = hashlib.sha256(self.public).hexdigest()
        if provider:
            self._try(f"{origin}: the OpenSSL provider {provider} does not sign with it")

    @classmethod
    def from_pem(cls, pem: bytes, origin: str) -> PrivateKey:
        """An unencrypted key, or what the PEM of a loaded provider stands for; `origin` is for messages. Raises
        LibcryptoError."""
        library = _library()
        with ProviderCalls.turn:
            bio = library.BIO_new_mem_buf(pem, len(pem))
            try:
                # An empty password, so that OpenSSL does not ask the terminal.
                handle = library.PEM_read_bio_PrivateKey(bio, None, None, b"")
            finally:
                library.BIO_free(bio)
            if not handle:
                raise _failure(f"{origin}: expected an unencrypted private key in PEM")
            return cls(handle, origin)

    @classmethod
    def from_store(cls, uri: str) -> list[PrivateKey]:
        """Every private key that the URI names (ossl_store(7)): file:, or of a provider's scheme, such as pkcs11:.

        Raises LibcryptoError, also when there is none.
        """
        with ProviderCalls.turn:
            return cls._of_store(_library(), uri)

    @classmethod
    def _of_store(cls, library: ctypes.CDLL, uri: str) -> list[PrivateKey]:
        shown = uri.partition("?")[0]
        store = library.OSSL_STORE_open(uri.encode(), None, None, None, None)
        if not store:
            raise _failure(f"{shown} does not open")
        found: list[PrivateKey] = []
        try:
            while not library.OSSL_STORE_eof(store):
                info = library.OSSL_STORE_load(store)
                if not info:
                    break
                try:
                    if library.OSSL_STORE_INFO_get_type(info) == _STORE_PRIVATE_KEY:
                        found.append(cls(library.OSSL_STORE_INFO_get1_PKEY(info), shown))
                finally:
                    library.OSSL_STORE_INFO_free(info)
        finally:
            library.OSSL_STORE_close(store)
        if not found:
            raise _failure(f"{shown}: no private key in it")
        library.ERR_clear_error()
        return found

    def sign(self, data: bytes) -> bytes:
        """The private operation on a padded block, or ECDSA in DER over a digest. Raises LibcryptoError."""
        with self._turn:
            return self._sign(data[: self._longest])

    def _sign(self, data: bytes) -> bytes:
        library = self._library
        context = library.EVP_PKEY_CTX_new_from_pkey(None, self._handle, self._query)
        try:
            size = ctypes.c_size_t(self.size)
            out = ctypes.create_string_buffer(self.size)
            good = library.EVP_PKEY_sign_init(context) == 1
            if good and self.kind == "rsa":
                good = library.EVP_PKEY_CTX_set_rsa_padding(context, _NO_PADDING) == 1
            if not good or library.EVP_PKEY_sign(context, out, ctypes.byref(size), data, len(data)) != 1:
                raise _failure("OpenSSL does not sign")
            return out.raw[: size.value]
        finally:
            library.EVP_PKEY_CTX_free(context)

    def _try(self, refused: str) -> None:
        """A signature of what is nobody's: not every provider makes raw ones. Raises LibcryptoError."""
        digest = bytes(_DIGEST)
        block = b"\x00\x01" + b"\xff" * (self.size - 3 - _DIGEST) + b"\x00" + digest
        try:
            self.sign(block if self.kind == "rsa" else digest)
        except LibcryptoError as error:
            raise LibcryptoError(f"{refused}: {error}") from error

    def _public(self, origin: str) -> bytes:
        der = ctypes.POINTER(ctypes.c_ubyte)()
        size = self._library.i2d_PUBKEY(self._handle, ctypes.byref(der))
        if size <= 0:
            raise _failure(f"{origin}: the key does not tell its public half")
        public = ctypes.string_at(der, size)
        self._library.CRYPTO_free(der, None, 0)
        return public

    def __del__(self) -> None:
        # Not set when the library is absent; a batch that still runs holds a reference.
        if handle := getattr(self, "_handle", 0):
            with getattr(self, "_turn", ProviderCalls.one_by_one):
                self._library.EVP_PKEY_free(handle)
