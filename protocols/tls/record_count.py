"""Counts the records that leave an engine under its application key, and proves the count.

Two records under one key and sequence number would give the key away. So the number is not taken from what a
hand-shake usually sends: every record is counted from our Finished on, and the first and the last must open
under the secret at their place.
"""

from __future__ import annotations

from protocols.tls.key_schedule import Suite, traffic_keys
from protocols.tls.record_protection import Opener

_HEADER = 5
_APPLICATION_DATA = 23


class RecordCount:
    """Fed with all ciphertext in the order in which it leaves."""

    __slots__ = ("_first", "_last", "_protected_before", "_whole", "counting", "records")

    def __init__(self) -> None:
        self.counting = False
        """Our Finished has left: what comes is under the application key."""
        self.records = 0
        self._whole = True
        self._first = self._last = b""
        self._protected_before = 0

    def begin(self) -> None:
        """The ciphertext so far ends with our Finished."""
        self.counting = True

    def add(self, ciphertext: bytes) -> None:
        """Whole records, as OpenSSL makes them."""
        at = 0
        while at < len(ciphertext):
            end = at + _HEADER + int.from_bytes(ciphertext[at + 3 : at + _HEADER], "big")
            if len(ciphertext) < at + _HEADER or end > len(ciphertext):
                self._whole = False
                return
            if self.counting:
                self.records += 1
                self._last = ciphertext[at:end]
                self._first = self._first or self._last
            elif ciphertext[at] == _APPLICATION_DATA:
                self._protected_before += 1
                self._last = ciphertext[at:end]
            at = end

    def proved(self, suite: Suite, application: bytes, handshake: bytes) -> bool:
        """Whether `records` is what the secrets of our direction say it is.

        With none counted, the last record before has to be one of the hand-shake: then none was overlooked.
        """
        if not self.counting or not self._whole:
            return False
        if self.records:
            return _opens(suite, application, self._first, 0) and _opens(
                suite, application, self._last, self.records - 1
            )
        return any(_opens(suite, handshake, self._last, at) for at in range(self._protected_before))


def _opens(suite: Suite, secret: bytes, record: bytes, sequence: int) -> bool:
    opener = Opener(suite.id, secret, *traffic_keys(suite, secret), sequence)
    _, _, kind, _ = opener.open(record, 0, True)
    return kind > 0
