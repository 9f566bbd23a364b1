"""The state of a TLS 1.3 connection after its hand-shake, and its form in bytes for another process.

Version 1, big-endian: version (1) | flags (1) | suite (2) | control messages (2) | empty records (1) |
read sequence (8) | write sequence (8) | read secret, write secret (each as long as the suite's hash) |
exporter secret, handshake fragment, unread, unsent (each: length (4), bytes). Nothing follows.
The bytes hold the connection's keys: they are for a trusted channel, never for a file or a log.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from protocols.tls.key_schedule import SUITES
from protocols.tls.record_protection import Sealer

VERSION = 1
MAX_SEQUENCE = 1 << 48
"""A sequence number from here on is none that a connection could reach (RFC 8446 section 5.5 stops it far before)."""

_HEAD = struct.Struct("!BBHHBQQ")
_LENGTH = struct.Struct("!I")
_IS_SERVER, _CLOSED, _PEER_CLOSED, _UPDATE_DUE, _UPDATE_ASKED = (1 << bit for bit in range(5))
_FLAGS = (1 << 5) - 1


@dataclass(slots=True)
class DetachedState:
    """What a RecordLayer goes on with. Secrets are application traffic secrets, of the key in use.

    The first fields are what an engine knows when the hand-shake is complete; a connection that has
    gone on since has the others as well.
    """

    suite: int
    """Number of the cipher suite, one of key_schedule.SUITES."""
    is_server: bool
    read_secret: bytes = field(repr=False)
    write_secret: bytes = field(repr=False)
    read_sequence: int = 0
    """Records that were read under the secret."""
    write_sequence: int = 0
    """Records that were written under the secret: counted, never inferred, since a nonce must not come twice."""
    unread: bytes = field(default=b"", repr=False)
    """Ciphertext that has come and was not opened."""
    exporter_secret: bytes = field(default=b"", repr=False)
    """The exporter_master_secret, empty when nobody will ask for keying material."""
    unsent: bytes = field(default=b"", repr=False)
    """Ciphertext that was not given to the transport."""
    fragment: bytes = field(default=b"", repr=False)
    """The beginning of a handshake message whose rest is still to come."""
    closed: bool = False
    """Our close_notify is sent, or in `unsent`."""
    peer_closed: bool = False
    update_due: bool = False
    """The peer has asked for a KeyUpdate that is not in `unsent`."""
    update_asked: bool = False
    """We have asked the peer for a KeyUpdate, which has not come."""
    control_messages: int = 0
    empty_records: int = 0
    sealer: Sealer | None = field(default=None, repr=False, compare=False)
    """Of the write secret and at the write sequence, where the count of records was proved with it. Never among the
    bytes."""
    write_keys: tuple[bytes, bytes] | None = field(default=None, repr=False, compare=False)
    """Key and IV of the write secret, where they have been derived. Never among the bytes."""

    def check(self) -> None:
        """Raises ValueError, with what was expected, when no record layer can go on from this."""
        suite = SUITES.get(self.suite)
        if suite is None:
            raise ValueError(f"TLS state: expected a suite of {', '.join(map(hex, SUITES))}, got {self.suite:#x}")
        for name, secret in (("read", self.read_secret), ("write", self.write_secret)):
            if len(secret) != suite.secret_size:
                raise ValueError(f"TLS state: expected a {name} secret of {suite.secret_size} bytes, got {len(secret)}")
        if len(self.exporter_secret) not in (0, suite.secret_size):
            raise ValueError(
                f"TLS state: expected an exporter secret of {suite.secret_size} bytes or none, "
                f"got {len(self.exporter_secret)}"
            )
        for name, sequence in (("read", self.read_sequence), ("write", self.write_sequence)):
            if not 0 <= sequence < MAX_SEQUENCE:
                raise ValueError(f"TLS state: expected a {name} sequence below 2**48, got {sequence}")

    def to_bytes(self) -> bytes:
        """The form of this module's docstring."""
        flags = (
            _IS_SERVER * self.is_server
            | _CLOSED * self.closed
            | _PEER_CLOSED * self.peer_closed
            | _UPDATE_DUE * self.update_due
            | _UPDATE_ASKED * self.update_asked
        )
        head = _HEAD.pack(
            VERSION,
            flags,
            self.suite,
            self.control_messages,
            self.empty_records,
            self.read_sequence,
            self.write_sequence,
        )
        parts = [head, self.read_secret, self.write_secret]
        for part in (self.exporter_secret, self.fragment, self.unread, self.unsent):
            parts += (_LENGTH.pack(len(part)), part)
        return b"".join(parts)

    @classmethod
    def from_bytes(cls, data: bytes) -> DetachedState:
        """The state of these bytes; ValueError when they are not one of this version, whole and consistent."""
        if not data:
            raise ValueError("TLS state: expected a version, got nothing")
        if data[0] != VERSION:
            raise ValueError(f"TLS state: expected version {VERSION}, got {data[0]}")
        if len(data) < _HEAD.size:
            raise ValueError(f"TLS state: expected a head of {_HEAD.size} bytes, got {len(data)}")
        _, flags, number, controls, empties, read_sequence, write_sequence = _HEAD.unpack_from(data)
        if flags & ~_FLAGS:
            raise ValueError(f"TLS state: expected no flags beside {_FLAGS:#x}, got {flags:#x}")
        if number not in SUITES:
            raise ValueError(f"TLS state: expected a suite of {', '.join(map(hex, SUITES))}, got {number:#x}")
        size = SUITES[number].secret_size
        at = _HEAD.size + 2 * size
        parts = []
        for name in ("exporter secret", "handshake fragment", "unread bytes", "unsent bytes"):
            if len(data) < at + 4:
                raise ValueError(f"TLS state: expected the length of the {name} at byte {at}, got {len(data)} bytes")
            (length,) = _LENGTH.unpack_from(data, at)
            at += 4
            if len(data) < at + length:
                raise ValueError(f"TLS state: expected {length} bytes of {name}, got {len(data) - at}")
            parts.append(bytes(data[at : at + length]))
            at += length
        if at != len(data):
            raise ValueError(f"TLS state: expected {at} bytes, got {len(data)}")
        exporter, fragment, unread, unsent = parts
        state = cls(
            suite=number,
            is_server=bool(flags & _IS_SERVER),
            read_secret=bytes(data[_HEAD.size : _HEAD.size + size]),
            write_secret=bytes(data[_HEAD.size + size : _HEAD.size + 2 * size]),
            read_sequence=read_sequence,
            write_sequence=write_sequence,
            unread=unread,
            exporter_secret=exporter,
            unsent=unsent,
            fragment=fragment,
            closed=bool(flags & _CLOSED),
            peer_closed=bool(flags & _PEER_CLOSED),
            update_due=bool(flags & _UPDATE_DUE),
            update_asked=bool(flags & _UPDATE_ASKED),
            control_messages=controls,
            empty_records=empties,
        )
        state.check()
        return state
