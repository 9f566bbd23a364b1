"""Counts the records that leave an engine under its application key, and proves the count.

Two records under one key and sequence number would give the key away. So the number is not taken from what a
hand-shake usually sends: every record is counted from our Finished on, and the last must open under the secret at
its place, which it does only if none was missed or counted twice.
"""

from __future__ import annotations

from protocols.tls.key_schedule import Suite, traffic_keys
from protocols.tls.record_protection import Opener

_HEADER = 5


class RecordCount:
    """Fed with all ciphertext in the order in which it leaves."""

    __slots__ = ("_before", "_last", "_whole", "counting", "records")

    def __init__(self) -> None:
        self.counting = False
        """Our Finished has left: what comes is under the application key."""
        self.records = 0
        self._whole = True
        self._last = self._before = b""

    def begin(self) -> None:
        """The ciphertext so far ends with our Finished."""
        self.counting = True

    def add(self, ciphertext: bytes) -> None:
        """Whole records, as OpenSSL makes them."""
        if not self.counting:
            self._before = ciphertext
            return
        at, size = 0, len(ciphertext)
        while at < size:
            end = at + _HEADER + int.from_bytes(ciphertext[at + 3 : at + _HEADER], "big")
            if size < at + _HEADER or end > size:
                self._whole = False
                return
            self.records += 1
            self._last = ciphertext[at:end]
            at = end
            self._before = b""

    def proved(self, suite: Suite, application: bytes, handshake: bytes) -> bool:
        """Whether `records` is what the secrets of our direction say it is.

        With none counted, the last record before has to be one of the hand-shake: then none was overlooked.
        """
        if not self.counting or not self._whole:
            return False
        if not self.records:
            return _ends_in_handshake(suite, handshake, self._before)
        return _opener(suite, application, self.records - 1).open(self._last, 0, True)[2] > 0


def _ends_in_handshake(suite: Suite, handshake: bytes, flight: bytes) -> bool:
    """Whether the last record of the flight opens under the secret of the hand-shake, at whatever place."""
    at, records, last = 0, 0, b""
    while at < len(flight):
        end = at + _HEADER + int.from_bytes(flight[at + 3 : at + _HEADER], "big")
        last = flight[at:end]
        records += 1
        at = end
    opener = _opener(suite, handshake, 0)
    for place in range(records):
        opener.sequence = place
        if opener.open(last, 0, True)[2] > 0:
            return True
    return False


def _opener(suite: Suite, secret: bytes, sequence: int) -> Opener:
    return Opener(suite.id, secret, *traffic_keys(suite, secret), sequence)
