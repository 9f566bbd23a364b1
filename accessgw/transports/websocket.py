"""A Connection inside WebSocket messages, so that any binding works there unchanged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from accessgw.core.interfaces.connections import Binding, BindingFactory, Connection
from accessgw.model.reasons import CloseReason
from protocols.errors import LocalError, RemoteError
from protocols.http.websocket import (
    DEFAULT_MAX_MESSAGE,
    GOING_AWAY,
    INTERNAL_ERROR,
    NORMAL,
    POLICY_VIOLATION,
    PROTOCOL_ERROR,
    TRY_AGAIN_LATER,
    BytesReceived,
    CloseReceived,
    Role,
    WebSocket,
)

CLOSE_CODES = {
    CloseReason.PROTOCOL_ERROR: PROTOCOL_ERROR,
    CloseReason.INTERNAL: INTERNAL_ERROR,
    CloseReason.OVERLOAD: TRY_AGAIN_LATER,
    **dict.fromkeys((CloseReason.MAX_AGE, CloseReason.DRAINING, CloseReason.RESTART), GOING_AWAY),
    **dict.fromkeys(
        (
            CloseReason.IDLE, CloseReason.HELLO_TIMEOUT, CloseReason.FLOOD, CloseReason.AUTH_FAILED,
            CloseReason.AUTH_UNAVAILABLE, CloseReason.AUTH_EXPIRED, CloseReason.REVOKED, CloseReason.FORBIDDEN,
            CloseReason.REPLACED, CloseReason.STALE_GENERATION, CloseReason.SLOW_READER, CloseReason.OPERATOR,
        ),
        POLICY_VIOLATION,
    ),
}  # fmt: skip
"""What the close frame says for our reasons (RFC 6455 7.4.1); 1000 for all others. Its text is the reason's name."""


@dataclass(slots=True, frozen=True)
class WebSocketEndpoint:
    """What is served on one path of HTTP listeners."""

    factory: BindingFactory
    subprotocols: tuple[str, ...]
    """Those understood, best first; a client that offers some must offer one of them."""
    required: bool = False
    """A client that offers none is refused."""
    max_message: int = DEFAULT_MAX_MESSAGE
    """Bytes of one message from the peer; it is not kept as a whole, so this costs no memory."""


class WebSocketConnection:
    """A Connection for the binding inside, and the Binding of the connection that it rides on.

    What write() gets is one binary message. Where the peer's messages begin and end means nothing to the binding.
    """

    __slots__ = ("_binding", "_lower", "_wire", "info")

    def __init__(self, lower: Connection, max_message: int) -> None:
        self.info = lower.info
        self._lower = lower
        self._wire = WebSocket(Role.SERVER, max_message=max_message)
        self._binding: Binding | None = None

    def open(self, factory: BindingFactory, rest: bytes) -> None:
        """Take the connection over after the 101 answer; `rest` came behind the request."""
        lower = self._lower
        self.info.websocket = True
        lower.hand_over(self, self._farewell)
        lower.await_hello()
        self._binding = factory(self)
        if rest:
            self.data_received(rest)

    # ------------------------------------------------------------------ Binding

    def data_received(self, data: bytes) -> None:
        wire = self._wire
        failure = ""
        try:
            wire.receive(data)
        except RemoteError as error:
            # Not the error: this frame is in its traceback, so that both would wait for the garbage collector.
            failure = f"{error.code}: {error}"
        parts: list[bytes] = []
        closed: CloseReceived | None = None
        for event in wire.events():
            if isinstance(event, BytesReceived):
                parts.append(event.data)
            elif isinstance(event, CloseReceived):
                closed = event
        inside = parts[0] if len(parts) == 1 else b"".join(parts)
        if inside and self._binding is not None:
            self._lower.touch()
            self._binding.data_received(inside)
        if wire.closed:
            # The close frame is the last: the binding can say nothing more.
            self._flush()
            if failure:
                self._lower.close(CloseReason.PROTOCOL_ERROR, failure)
            elif closed is not None:
                self._lower.close(CloseReason.PEER_CLOSED, f"WebSocket close {closed.code}")
        else:
            self._flush()

    def drained(self) -> None:
        if self._binding is not None:
            self._binding.drained()

    def aged(self) -> None:
        if self._binding is not None:
            self._binding.aged()

    def expired(self) -> None:
        if self._binding is not None:
            self._binding.expired()

    def late(self) -> None:
        if self._binding is not None:
            self._binding.late()

    def connection_lost(self, reason: CloseReason, detail: str) -> None:
        binding, self._binding = self._binding, None
        if binding is not None:
            binding.connection_lost(reason, detail)

    # ------------------------------------------------------------------ Connection

    @property
    def buffered(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return self._lower.buffered

    def write(self, data: bytes) -> None:
        if data and not self._wire.closing:
            self._wire.send(data)
            self._lower.write(self._wire.to_send())

    def close(self, reason: CloseReason, detail: str = "") -> None:
        self._lower.close(reason, detail)

    def finish(self, reason: CloseReason, detail: str = "") -> None:
        # The close frames are still to be exchanged.
        self._lower.close(reason, detail)

    def abort(self, reason: CloseReason, detail: str = "") -> None:
        self._lower.abort(reason, detail)

    def retire(self) -> None:
        self._lower.retire()

    def pause(self) -> None:
        self._lower.pause()

    def resume(self) -> None:
        self._lower.resume()

    def established(self) -> None:
        self._lower.established()

    def set_idle(self, seconds: float) -> None:
        self._lower.set_idle(seconds)

    def await_hello(self) -> None:
        self._lower.await_hello()

    def hand_over(self, binding: Binding, farewell: Callable[[CloseReason], bytes]) -> None:
        raise LocalError("a WebSocket carries one protocol for all of its life")

    def touch(self) -> None:
        self._lower.touch()

    # ------------------------------------------------------------------ inside

    def _flush(self) -> None:
        data = self._wire.to_send()
        if data:
            self._lower.write(data)

    def _farewell(self, reason: CloseReason) -> bytes:
        self._wire.close(CLOSE_CODES.get(reason, NORMAL), reason.value)
        return self._wire.to_send()
