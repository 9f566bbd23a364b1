"""WebSocket frames of both roles (RFC 6455), without I/O: binary messages in and out, nothing else is carried.

The opening hand-shake is in protocols.http.websocket_handshake.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from wsproto import connection as library
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

from protocols.errors import LocalError, RemoteError

NORMAL = 1000
GOING_AWAY = 1001
PROTOCOL_ERROR = 1002
UNSUPPORTED_DATA = 1003
NO_STATUS = 1005
"""Stands for a close frame without a code; never sent."""
POLICY_VIOLATION = 1008
MESSAGE_TOO_BIG = 1009
INTERNAL_ERROR = 1011
TRY_AGAIN_LATER = 1013

DEFAULT_MAX_MESSAGE = 16 * 1024 * 1024
MAX_CONTROL = 125
"""Bytes of a ping (RFC 6455 5.5)."""

_FINAL_BINARY = 0x82


class Role(Enum):
    """Which side of the connection this is; a client masks what it sends (RFC 6455 5.1)."""

    SERVER = library.ConnectionType.SERVER
    CLIENT = library.ConnectionType.CLIENT


@dataclass(slots=True, frozen=True)
class BytesReceived:
    """A part of a binary message; parts come as they arrive, whatever the frames are."""

    data: bytes
    finished: bool
    """It was the last part of its message."""


@dataclass(slots=True, frozen=True)
class PongReceived:
    """The answer to a ping, or an unasked one."""

    payload: bytes


@dataclass(slots=True, frozen=True)
class CloseReceived:
    """The peer's close frame; nothing comes after it. `code` is NO_STATUS when it had none."""

    code: int
    reason: str


WebSocketEvent = BytesReceived | PongReceived | CloseReceived


class WebSocket:
    """One connection after its opening hand-shake.

    `receive` takes bytes and raises RemoteError, whose code is the close code, for a peer that broke the
    protocol (1002, 1007), sent text (1003) or a message of more than `max_message` bytes (1009); what came before is
    still in `events`, and the close frame in `to_send`. Pings and the peer's close frame are answered here. No
    extension is offered or accepted.
    """

    __slots__ = ("_events", "_fragmented", "_held", "_left", "_masked", "_max_message", "_out", "_over", "_role",
                 "_size", "_wire", "closing")  # fmt: skip

    def __init__(self, role: Role, *, max_message: int = DEFAULT_MAX_MESSAGE) -> None:
        self._role = role
        self._max_message = max_message
        self._masked = 0x80 if role is Role.SERVER else 0
        """The mask bit that the peer's frames must have."""
        self._wire = library.Connection(role.value)
        self._held = b""
        """The beginning of a frame, too short to tell its size."""
        self._left = 0
        """Bytes of a frame that the library still has to get."""
        self._fragmented = False
        """A message goes on in the next data frame."""
        self._events: list[WebSocketEvent] = []
        self._out: list[bytes] = []
        self._size = 0
        """Bytes of the message that is coming in."""
        self._over = False
        """The peer has closed or erred: what it sends now means nothing."""
        self.closing = False
        """Our close frame was made: nothing may follow it."""

    @property
    def closed(self) -> bool:
        """Both sides have said their last frame (or the peer erred): the transport may end."""
        return self._over and self.closing

    # ------------------------------------------------------------------ in

    def receive(self, data: bytes) -> None:
        if self._held:
            data, self._held = self._held + data, b""
        position, end = 0, len(data)
        # A whole message in one frame, which nearly all are, is taken here at a third of the library's cost. Everything
        # else goes to the library frame by frame, so that both always know where the next one begins.
        while position < end and not self._over:
            if not self._left:
                header, size = _frame(data, position)
                if not header:
                    self._held = data[position:]
                    return
                stop = position + header + size
                if self._plain(data, position, header, size) and stop <= end:
                    self._take(
                        _unmask(data, position + header, stop) if self._masked else data[position + header : stop], True
                    )
                    position = stop
                    continue
                if not data[position] & 0x08:
                    self._fragmented = not data[position] & 0x80
                self._left = header + size
            stop = min(end, position + self._left)
            self._left -= stop - position
            self._feed(data[position:stop])
            position = stop

    def _plain(self, data: bytes, position: int, header: int, size: int) -> bool:
        """The frame is a whole binary message, its length in the shortest form, masked as it must be."""
        return (
            data[position] == _FINAL_BINARY
            and data[position + 1] & 0x80 == self._masked
            and not self._fragmented
            and header == (2 if size < 126 else 4 if size < 0x10000 else 10) + (4 if self._masked else 0)
        )

    def _feed(self, data: bytes) -> None:
        self._wire.receive_data(data)
        for event in self._wire.events():
            if isinstance(event, BytesMessage):
                self._take(bytes(event.data), event.message_finished)
            elif isinstance(event, Ping):
                if not self.closing:
                    self._out.append(bytes(self._wire.send(event.response())))
            elif isinstance(event, Pong):
                self._events.append(PongReceived(bytes(event.payload)))
            elif isinstance(event, TextMessage):
                self._fail(UNSUPPORTED_DATA, "expected a binary message, got text")
            elif isinstance(event, CloseConnection):
                self._closed_by_peer(event)

    def events(self) -> list[WebSocketEvent]:
        """What was received since the last call, in order."""
        events = self._events
        if events:
            self._events = []
        return events

    def _take(self, data: bytes, finished: bool) -> None:
        self._size += len(data)
        if self._size > self._max_message:
            self._fail(MESSAGE_TOO_BIG, f"a message of more than {self._max_message} bytes")
        self._events.append(BytesReceived(data, finished))
        if finished:
            self._size = 0

    def _closed_by_peer(self, event: CloseConnection) -> None:
        if self._wire.state not in {library.ConnectionState.REMOTE_CLOSING, library.ConnectionState.CLOSED}:
            # The library tells a broken frame by the close event that we should send.
            self._fail(int(event.code), str(event.reason))
        self._over = True
        if not self.closing:
            self.closing = True
            self._out.append(bytes(self._wire.send(CloseConnection(event.code))))
        self._events.append(CloseReceived(int(event.code), event.reason or ""))

    def _fail(self, code: int, message: str) -> None:
        self.close(code, message)
        self._over = True
        raise RemoteError(code, f"WebSocket: {message}")

    # ------------------------------------------------------------------ out

    def send(self, data: bytes) -> None:
        """One binary message in one frame; LocalError once the connection is closing."""
        if self.closing:
            raise LocalError("a message after the close frame")
        if self._role is Role.CLIENT:
            self._out.append(bytes(self._wire.send(BytesMessage(data))))
            return
        # Unmasked, a frame is a head and the data: a tenth of the library's time, which copies it four times.
        size = len(data)
        if size < 126:
            head = bytes((_FINAL_BINARY, size))
        elif size < 0x10000:
            head = bytes((_FINAL_BINARY, 126)) + size.to_bytes(2, "big")
        else:
            head = bytes((_FINAL_BINARY, 127)) + size.to_bytes(8, "big")
        self._out.append(head + data)

    def ping(self, payload: bytes = b"") -> None:
        """Ask for a pong; LocalError past 125 bytes, or once the connection is closing."""
        if self.closing or len(payload) > MAX_CONTROL:
            raise LocalError(f"expected a ping of at most {MAX_CONTROL} bytes before the close frame")
        self._out.append(bytes(self._wire.send(Ping(payload))))

    def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Queue a close frame (`reason` is cut at 123 bytes of UTF-8). Idempotent."""
        if not self.closing:
            self.closing = True
            self._out.append(bytes(self._wire.send(CloseConnection(code, reason))))

    def to_send(self) -> bytes:
        """Bytes for the peer, empty when there are none."""
        out = self._out
        if not out:
            return b""
        self._out = []
        return out[0] if len(out) == 1 else b"".join(out)


def _frame(data: bytes, position: int) -> tuple[int, int]:
    """Bytes of the frame's header and of its payload (RFC 6455 5.2); (0, 0) while they cannot be told."""
    if len(data) - position < 2:
        return 0, 0
    size = data[position + 1] & 0x7F
    header = 2
    if size >= 126:
        header = 4 if size == 126 else 10
        if len(data) - position < header:
            return 0, 0
        size = int.from_bytes(data[position + 2 : position + header], "big")
    return header + (4 if data[position + 1] & 0x80 else 0), size


def _unmask(data: bytes, start: int, stop: int) -> bytes:
    """data[start:stop] without the mask, which is the four bytes before it (RFC 6455 5.3)."""
    size = stop - start
    mask = (data[start - 4 : start] * (size // 4 + 1))[:size]
    return (int.from_bytes(data[start:stop], "big") ^ int.from_bytes(mask, "big")).to_bytes(size, "big")
