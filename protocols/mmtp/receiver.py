"""From bytes to events: frames are cut, held against the state machine, and handed to whom they concern.

Here is what both roles receive; gateway_receiver and device_receiver have the rest.
"""

from __future__ import annotations

from collections.abc import Callable

from protocols.errors import RemoteError
from protocols.mmtp.agreement import Agreement
from protocols.mmtp.calls import Calls
from protocols.mmtp.events import GoawayReceived, PingReceived, PongReceived
from protocols.mmtp.exchange import Exchange
from protocols.mmtp.fields import expect_end
from protocols.mmtp.flow import SMALL_INCREMENT
from protocols.mmtp.frames import INCOMPLETE, LAST_KIND, PONG_FRAME, FrameType, cut
from protocols.mmtp.handshake import decode_goaway
from protocols.mmtp.state import ConnectionState
from protocols.mmtp.statuses import Status
from protocols.mmtp.varint import decode_varint
from protocols.mmtp.wire import Wire

PUSHES_TARGET = 1
LAST_WINDOW_TARGET = 129

_PING_RECEIVED = PingReceived()
_PONG_RECEIVED = PongReceived()

Handler = Callable[["Receiver", int, bytes, int, int], None]


class Receiver:
    """What both roles receive; a subclass per role knows the rest. `handlers` is by frame type."""

    __slots__ = ("_agreement", "_buffer", "_calls", "_needed", "_wire", "exchange")

    handlers: tuple[Handler, ...]

    def __init__(self, wire: Wire, calls: Calls, agreement: Agreement) -> None:
        self._wire = wire
        self._calls = calls
        self._agreement = agreement
        self._buffer: bytearray | None = None
        self._needed = 0
        self.exchange: Exchange | None = None
        """Where HELLO named header states or dictionaries, or their capabilities were agreed."""

    def receive(self, data: bytes) -> None:
        """Feed bytes; a frame that is not complete is kept. Raises RemoteError."""
        buffer = self._buffer
        if buffer is not None:
            buffer += data
            if len(buffer) < self._needed:
                return
            data = bytes(buffer)
            self._buffer = None
        wire = self._wire
        handlers = self.handlers
        pos = 0
        end = len(data)
        while pos < end:
            first = data[pos]
            if wire.moves[first >> 4] is None:
                raise RemoteError(
                    Status.PROTOCOL, f"{FrameType(first >> 4).name} is not allowed in state {wire.state.name}"
                )
            start, stop, needed = cut(data, pos, end, self._largest())
            if start == INCOMPLETE:
                self._buffer = bytearray(data[pos:])
                self._needed = needed
                return
            handlers[first >> 4](self, first & 15, data, start, stop)
            if wire.closed:
                return
            pos = stop

    @property
    def between_frames(self) -> bool:
        """Nothing is kept of an incomplete frame."""
        return self._buffer is None

    def forget(self) -> None:
        """Drop what was kept of an incomplete frame."""
        self._buffer = None

    def _largest(self) -> int:
        if self._wire.state is ConnectionState.AWAIT_HELLO:
            return self._wire.limits.max_hello
        return self._wire.enforced.max_frame

    def _ping(self, flags: int, data: bytes, start: int, stop: int) -> None:
        wire = self._wire
        wire.control_frame()
        if flags:
            wire.out.append(PONG_FRAME)
        wire.events.append(_PING_RECEIVED)

    def _pong(self, flags: int, data: bytes, start: int, stop: int) -> None:
        wire = self._wire
        if not wire.pongs_owed:
            raise RemoteError(Status.PROTOCOL, "PONG: no PING asked for it")
        wire.pongs_owed -= 1
        if self.exchange is not None and self.exchange.pong_came():
            return
        wire.events.append(_PONG_RECEIVED)

    def _data(self, flags: int, data: bytes, start: int, stop: int) -> None:
        self._calls.data_came(flags, data, start, stop)

    def _reset(self, flags: int, data: bytes, start: int, stop: int) -> None:
        self._calls.reset_came(data, start, stop)

    def _settings(self, flags: int, data: bytes, start: int, stop: int) -> None:
        self._agreement.came(flags, data, start, stop)

    def _dict(self, flags: int, data: bytes, start: int, stop: int) -> None:
        if self.exchange is None:
            self._declined(flags, data, start, stop)
        else:
            self.exchange.dict_came(flags, data, start, stop)

    def _table(self, flags: int, data: bytes, start: int, stop: int) -> None:
        if self.exchange is None:
            self._declined(flags, data, start, stop)
        else:
            self.exchange.table_came(flags, data, start, stop)

    def _declined(self, flags: int, data: bytes, start: int, stop: int) -> None:
        """DICT and TABLE that nothing was agreed of: who never wants declines."""
        self._wire.control_frame()
        if flags > LAST_KIND:
            raise RemoteError(Status.PROTOCOL, f"DICT or TABLE: expected kind 0..{LAST_KIND}, got {flags}")
        decode_varint(data, start, stop)

    def _window(self, flags: int, data: bytes, start: int, stop: int) -> None:
        target, start = decode_varint(data, start, stop)
        increment, start = decode_varint(data, start, stop)
        expect_end(start, stop)
        if not increment or target > LAST_WINDOW_TARGET:
            raise RemoteError(Status.PROTOCOL, f"WINDOW: target {target}, increment {increment}")
        if increment < SMALL_INCREMENT:
            self._wire.control_frame()
        if target == PUSHES_TARGET:
            self._push_window(increment)
        else:
            self._calls.window_came(target, increment)

    def _push_window(self, increment: int) -> None:
        raise RemoteError(Status.PROTOCOL, "WINDOW: only the device has a window for pushes")

    def _goaway(self, flags: int, data: bytes, start: int, stop: int) -> None:
        wire = self._wire
        if wire.server:
            wire.control_frame()
        goaway = decode_goaway(data, start, stop)
        wire.events.append(GoawayReceived(goaway))
        wire.enter(wire.table[wire.state, FrameType.GOAWAY])

    def _ext(self, flags: int, data: bytes, start: int, stop: int) -> None:
        self._wire.control_frame()
        kind, _ = decode_varint(data, start, stop)
        if flags:
            raise RemoteError(Status.PROTOCOL, f"EXT: type {kind} is unknown and must be understood")

    def _never(self, flags: int, data: bytes, start: int, stop: int) -> None:
        """A frame that the state machine lets nobody send to this role."""
        raise RemoteError(Status.PROTOCOL, "frame of the other role")
