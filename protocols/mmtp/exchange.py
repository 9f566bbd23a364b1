"""DICT and TABLE frames of one connection, what both roles do alike (specification, 7.3, 8.4)."""

from __future__ import annotations

from abc import ABC, abstractmethod

from protocols.errors import RemoteError
from protocols.mmtp.events import CheckpointAcked, CheckpointTaken
from protocols.mmtp.fields import expect_end
from protocols.mmtp.frames import FrameType, TableKind, encode_frame
from protocols.mmtp.profiles import Profiles
from protocols.mmtp.statuses import Status
from protocols.mmtp.uses import Uses
from protocols.mmtp.varint import decode_varint, encode_varint
from protocols.mmtp.wire import Wire

FREE_FRAMES = 1024
"""DICT and TABLE frames of a peer that are no control frames: 256 dictionaries, of one chunk each, are offered, sent
and used with less."""
MAX_TABLES = 8
"""Offers of tables on a connection."""


class Exchange(ABC):
    """Lazily made: only where HELLO named a state or a bundle, or `template` or `dict` was agreed."""

    __slots__ = ("_free", "_wire")

    received: str
    """Direction of the peer's blocks: events.UP or events.DOWN."""
    sent: str

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._free = FREE_FRAMES

    def profiles(self) -> Profiles | None:
        """The header codecs, when one of them is or may become profile D."""
        headers = self._wire.headers
        return headers if isinstance(headers, Profiles) else None

    def begin_profiles(self) -> Profiles:
        """As profiles(), made if they are not there."""
        headers = self._wire.headers
        if not isinstance(headers, Profiles):
            self._wire.headers = headers = Profiles(headers, self.sent)
        return headers

    def uses(self) -> Uses:
        """The dictionaries. Raises RemoteError(PROTOCOL) where they were not agreed."""
        uses = self._wire.uses
        if uses is None or not uses.dictionaries:
            raise RemoteError(Status.PROTOCOL, "DICT: the capability was not agreed")
        return uses

    def _count(self) -> None:
        """A frame that costs its sender little came. Raises RemoteError(OVERLOAD)."""
        if self._free:
            self._free -= 1
        else:
            self._wire.control_frame()

    def pong_came(self) -> bool:
        """Whether it answers a PING of the transfers, which is nobody else's business."""
        return False

    @property
    def fills(self) -> bool:
        """fill() has something."""
        return False

    @abstractmethod
    def fill(self, out: list[bytes]) -> None:
        """What may leave behind everything else."""

    # --- TABLE

    def table_came(self, kind: int, data: bytes, pos: int, end: int) -> None:
        """TABLE. Raises RemoteError."""
        if kind == TableKind.CHECKPOINT:
            self._checkpoint_came(data, pos, end)
            return
        number, pos = decode_varint(data, pos, end)
        if kind == TableKind.CHECKPOINT_ACK:
            # Not counted: each answers a frame of ours.
            expect_end(pos, end)
            profiles = self.profiles()
            if profiles is None:
                raise RemoteError(Status.PROTOCOL, "TABLE: acknowledges a checkpoint of profile H")
            made = profiles.acked(number)
            self._wire.events.append(CheckpointAcked(self.sent, made.number, made.state))
        else:
            self._count()
            self._table_kind(kind, number, data, pos, end)

    def _checkpoint_came(self, data: bytes, pos: int, end: int) -> None:
        number, pos = decode_varint(data, pos, end)
        expect_end(pos, end)
        profiles = self.profiles()
        if profiles is None:
            raise RemoteError(Status.PROTOCOL, "TABLE: checkpoint of profile H")
        taken, early = profiles.came(number)
        if early:
            self._count()
        if taken is not None:
            self._wire.out.append(table_frame(TableKind.CHECKPOINT_ACK, encode_varint(number)))
            self._wire.events.append(CheckpointTaken(self.received, taken.number, taken.state))

    @abstractmethod
    def _table_kind(self, kind: int, number: int, data: bytes, pos: int, end: int) -> None:
        """What is left after checkpoints; `number` is the table's id."""

    @abstractmethod
    def dict_came(self, kind: int, data: bytes, pos: int, end: int) -> None:
        """DICT. Raises RemoteError."""


def table_frame(kind: TableKind, payload: bytes) -> bytes:
    """A TABLE frame."""
    return encode_frame(FrameType.TABLE, kind, payload)


def dict_frame(kind: int, payload: bytes) -> bytes:
    """A DICT frame."""
    return encode_frame(FrameType.DICT, kind, payload)


def unknown_kind(frame: str, kind: int) -> RemoteError:
    """What to raise for a kind that this side does not take."""
    return RemoteError(Status.PROTOCOL, f"{frame}: kind {kind} is not sent to this side")
