"""Leaving OpenSSL: counts the records that leave under the application key, proves the count, gives the state.

Two records under one key and sequence number would give the key away. So the number is not taken from what a
hand-shake usually sends: every record is counted from our Finished on, and the last must open under the secret at
its place, which it does only if none was missed or counted twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from protocols.tls import binding
from protocols.tls import handshake_notes as labels
from protocols.tls.handshake_notes import HandshakeNotes
from protocols.tls.key_schedule import SUITES_BY_NAME, Suite, traffic_keys
from protocols.tls.record_protection import Sealer
from protocols.tls.record_state import DetachedState

_HEADER = 5
TLS_1_3 = "TLSv1.3"


class RecordCount:
    """Fed with all ciphertext in the order in which it leaves."""

    __slots__ = ("_before", "_last", "_whole", "counting", "proof", "records")

    def __init__(self) -> None:
        self.counting = False
        """Our Finished has left: what comes is under the application key."""
        self.records = 0
        self.proof: Sealer | None = None
        """Our direction behind the last record, once it is proved that there are so many."""
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
        at, end, size = 0, 0, len(ciphertext)
        while end + _HEADER <= size:
            at, end = end, end + _HEADER + (ciphertext[end + 3] << 8 | ciphertext[end + 4])
            self.records += 1
        if end != size:
            self._whole = False
        elif size:
            self._last = ciphertext[at:]
            self._before = b""

    def proved(self, suite: Suite, application: bytes, handshake: Callable[[], bytes]) -> bool:
        """Whether `records` is what the secrets of our direction say it is.

        With none counted, the last record before has to be one of the hand-shake, whose secret is asked for then: so none
        was overlooked.
        """
        if not self.counting or not self._whole:
            return False
        if not self.records:
            return _ends_in_handshake(suite, handshake(), self._before)
        ours = _sealer(suite, application, self.records - 1)
        if not ours.sealed(self._last):
            return False
        self.proof = ours
        return True


def _ends_in_handshake(suite: Suite, handshake: bytes, flight: bytes) -> bool:
    """Whether the last record of the flight opens under the secret of the hand-shake, at whatever place."""
    at, records, last = 0, 0, b""
    while at < len(flight):
        end = at + _HEADER + int.from_bytes(flight[at + 3 : at + _HEADER], "big")
        last = flight[at:end]
        records += 1
        at = end
    ours = _sealer(suite, handshake, 0)
    for place in range(records):
        ours.sequence = place
        if ours.sealed(last):
            return True
    return False


def _sealer(suite: Suite, secret: bytes, sequence: int) -> Sealer:
    key, iv = traffic_keys(suite, secret)
    return Sealer(suite.id, secret, key, iv, sequence)


def detached_state(
    connection: Any, cipher: str, notes: HandshakeNotes, count: RecordCount, is_server: bool
) -> DetachedState | None:
    """What a record layer goes on with for an OpenSSL.SSL.Connection that has read nothing since its hand-shake, over TLS
    1.3 with the suite of OpenSSL's name `cipher`.

    All its output has to be in `count`. None when the state is not certain; then nothing has changed.
    """
    suite = SUITES_BY_NAME.get(cipher)
    if suite is None or binding.pending(connection):
        return None
    try:
        ours, theirs = notes.secret(labels.SERVER_APPLICATION), notes.secret(labels.CLIENT_APPLICATION)
        if not is_server:
            ours, theirs = theirs, ours
        exporter = notes.secret(labels.EXPORTER)
        of_handshake = labels.SERVER_HANDSHAKE if is_server else labels.CLIENT_HANDSHAKE
        if not count.proved(suite, ours, lambda: notes.secret(of_handshake)):
            return None
    except KeyError:
        return None
    return DetachedState(
        suite=suite.id,
        is_server=is_server,
        read_secret=theirs,
        write_secret=ours,
        read_sequence=0,
        write_sequence=count.records,
        unread=binding.take_unread(connection),
        exporter_secret=exporter,
        sealer=count.proof,
    )
