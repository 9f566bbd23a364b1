"""Seals and opens TLS 1.3 records (RFC 8446 section 5.2) with the AEADs of cryptography; the twin in C does the same.

A Sealer or an Opener is one direction of one connection. Its AEAD weighs 2.5 KB, the keys themselves 0.2: so at most
MAX_AWAKE directions of a process have one, those that were made last. Making it again costs as much as a small record.
"""

from __future__ import annotations

import itertools
import weakref

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from protocols.tls.alerts import BAD_RECORD_MAC, DECODE_ERROR, RECORD_OVERFLOW, UNEXPECTED_MESSAGE
from protocols.tls.key_schedule import SUITES

ALERT = 21
HANDSHAKE = 22
APPLICATION_DATA = 23
MAX_PLAINTEXT = 1 << 14
MAX_CIPHERTEXT = MAX_PLAINTEXT + 256
MAX_AWAKE = 1024
MAX_EMPTY_RECORDS = 32
"""Empty records of application data in a row; they cost us as much as others and tell nothing."""

WRONG_TYPE, WRONG_VERSION, TOO_LONG, TOO_SHORT, BAD_TAG, TOO_MUCH_PLAINTEXT, NO_TYPE, EMPTY_FLOOD = range(-1, -9, -1)
REFUSALS: dict[int, tuple[int, str]] = {
    WRONG_TYPE: (UNEXPECTED_MESSAGE, "expected a record of type application_data"),
    WRONG_VERSION: (DECODE_ERROR, "expected the record version 0x0303"),
    TOO_LONG: (RECORD_OVERFLOW, f"expected a record of at most {MAX_CIPHERTEXT} bytes"),
    TOO_SHORT: (BAD_RECORD_MAC, "expected a record of at least 17 bytes"),
    BAD_TAG: (BAD_RECORD_MAC, "a record that does not authenticate"),
    TOO_MUCH_PLAINTEXT: (RECORD_OVERFLOW, f"expected a plaintext of at most {MAX_PLAINTEXT} bytes with its padding"),
    NO_TYPE: (UNEXPECTED_MESSAGE, "expected a content type, got a record of padding"),
    EMPTY_FLOOD: (UNEXPECTED_MESSAGE, f"expected at most {MAX_EMPTY_RECORDS} empty records in a row"),
}
"""Kinds below zero that open() gives, with the alert and the words for them."""

Opened = tuple[bytes, int, int, bytes]
"""Application data of all records that were opened, where the next record begins, and what stopped there: kind 0 an
incomplete record or the end; 1 to 255 a record of that content type, with its content; below zero one of REFUSALS."""

_CHACHA20 = 0x1303
_TAG = 16
_WIPED = "the keys of this direction are wiped"
_awake: list[weakref.ref[_Direction] | None] = [None] * MAX_AWAKE
"""A ring of those that have an AEAD; an entry may be out of date."""
_places = itertools.cycle(range(MAX_AWAKE))


class _Direction:
    __slots__ = ("__weakref__", "_aead", "_iv", "_keys", "_place", "_suite", "sequence")

    def __init__(self, suite: int, secret: bytes, key: bytes, iv: bytes, sequence: int) -> None:
        self._suite = suite
        self._keys = bytearray(secret + key)
        self._iv = int.from_bytes(iv, "big")
        self._aead: AESGCM | ChaCha20Poly1305 | None = None
        self._place = -1
        self.sequence = sequence
        """Records sealed or opened under the key."""

    def rekey(self, secret: bytes, key: bytes, iv: bytes) -> None:
        """Go on with the next key; the secret is only kept."""
        self.wipe()
        self._keys = bytearray(secret + key)
        self._iv = int.from_bytes(iv, "big")

    def secret(self) -> bytes:
        """The traffic secret of the key."""
        if not self._keys:
            raise ValueError(_WIPED)
        return bytes(self._keys[: self._secret_size()])

    @property
    def awake(self) -> bool:
        """Whether the AEAD is there."""
        return self._aead is not None

    def rest(self) -> None:
        """Drop the AEAD until the next record."""
        self._aead = None

    def wipe(self) -> None:
        """Overwrite the keys; whatever needs them raises ValueError from now on.

        Copies that were Python's bytes on their way cannot be overwritten.
        """
        self._keys[:] = bytes(len(self._keys))
        self._keys = bytearray()
        self._aead = None
        self._iv = self.sequence = 0

    def _secret_size(self) -> int:
        return SUITES[self._suite].secret_size

    def _aead_of(self) -> AESGCM | ChaCha20Poly1305:
        aead = self._aead
        if aead is None:
            if not self._keys:
                raise ValueError(_WIPED)
            key = bytes(self._keys[self._secret_size() :])
            place = next(_places)
            reference = _awake[place]
            other = reference() if reference is not None else None
            if other is not None and other._place == place:
                other.rest()
            _awake[place] = weakref.ref(self)
            self._place = place
            self._aead = aead = ChaCha20Poly1305(key) if self._suite == _CHACHA20 else AESGCM(key)
        return aead


class Sealer(_Direction):
    """The writing direction."""

    __slots__ = ()

    def sealed(self, record: bytes) -> bool:
        """Whether this record, of whatever content, was sealed under this key at this place. If so, this direction goes on
        behind it."""
        header = record[:5]
        try:
            self._aead_of().decrypt((self._iv ^ self.sequence).to_bytes(12, "big"), record[5:], header)
        except InvalidTag:
            return False
        self.sequence += 1
        return True

    def seal(self, content_type: int, data: bytes) -> bytes:
        """`data` in as many records as it takes, at least one."""
        encrypt = self._aead_of().encrypt
        kind = bytes((content_type,))
        size = len(data)
        if size <= MAX_PLAINTEXT:
            header = b"\x17\x03\x03" + (size + 17).to_bytes(2, "big")
            nonce = (self._iv ^ self.sequence).to_bytes(12, "big")
            self.sequence += 1
            return header + encrypt(nonce, data + kind, header)
        records: list[bytes] = []
        for at in range(0, size, MAX_PLAINTEXT):
            part = data[at : at + MAX_PLAINTEXT]
            header = b"\x17\x03\x03" + (len(part) + 17).to_bytes(2, "big")
            nonce = (self._iv ^ self.sequence).to_bytes(12, "big")
            self.sequence += 1
            records += (header, encrypt(nonce, part + kind, header))
        return b"".join(records)


class Opener(_Direction):
    """The reading direction. `empty_records` counts those in a row that just came."""

    __slots__ = ("empty_records",)

    def __init__(self, suite: int, secret: bytes, key: bytes, iv: bytes, sequence: int) -> None:
        super().__init__(suite, secret, key, iv, sequence)
        self.empty_records = 0

    def open(self, data: bytes, at: int, single: bool) -> Opened:
        """Open records from `at` on, as long as they are whole and carry application data.

        With `single` at most one is opened, and application data comes as content, too.
        """
        decrypt = self._aead_of().decrypt
        total = len(data)
        plain: list[bytes] = []
        kind, content = 0, b""
        while total - at >= 5:
            header = data[at : at + 5]
            size = header[3] << 8 | header[4]
            if header[:3] != b"\x17\x03\x03":
                kind = WRONG_TYPE if header[0] != APPLICATION_DATA else WRONG_VERSION
                break
            if not 17 <= size <= MAX_CIPHERTEXT:
                kind = TOO_LONG if size > MAX_CIPHERTEXT else TOO_SHORT
                break
            end = at + 5 + size
            if end > total:
                break
            try:
                inner = decrypt((self._iv ^ self.sequence).to_bytes(12, "big"), data[at + 5 : end], header)
            except InvalidTag:
                kind = BAD_TAG
                break
            self.sequence += 1
            if size > MAX_PLAINTEXT + 1 + _TAG:
                kind = TOO_MUCH_PLAINTEXT
                break
            if not inner[-1]:
                inner = inner.rstrip(b"\0")
                if not inner:
                    kind = NO_TYPE
                    break
            found = inner[-1]
            content = inner[:-1]
            if found == APPLICATION_DATA:
                if content:
                    self.empty_records = 0
                else:
                    self.empty_records += 1
                    if self.empty_records > MAX_EMPTY_RECORDS:
                        kind = EMPTY_FLOOD
                        break
                if not single:
                    at = end
                    plain.append(content)
                    continue
            return b"".join(plain), end, found, content
        return plain[0] if len(plain) == 1 else b"".join(plain), at, kind, b""


def is_incomplete(unread: bytearray) -> bool:
    """Whether the record must be waited for. One that will be refused is not."""
    if len(unread) < 5:
        return True
    size = unread[3] << 8 | unread[4]
    return len(unread) < 5 + size and size <= MAX_CIPHERTEXT and unread.startswith(b"\x17\x03\x03")
