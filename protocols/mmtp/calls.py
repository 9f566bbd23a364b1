"""The calls of one connection: numbers, states, and bodies under credit, either role (specification, section 6)."""

from __future__ import annotations

from protocols.errors import LocalError, RemoteError
from protocols.mmtp.bodies import Declined
from protocols.mmtp.events import CallDrained, DataReceived
from protocols.mmtp.flow import ReceiveCredit, SendCredit
from protocols.mmtp.frames import MORE, encode_data, encode_reset, encode_window
from protocols.mmtp.nothing import NOTHING
from protocols.mmtp.state import CALL, CallInput, CallState
from protocols.mmtp.statuses import Status
from protocols.mmtp.uses import Parts
from protocols.mmtp.wire import Wire

CALL_BYTES = 128
PIECE = 32 * 1024
"""Largest body part in one DATA frame that we send."""


class Call:
    """One open call."""

    __slots__ = ("decompressor", "finishing", "number", "operation", "queue", "received", "sent", "state")

    def __init__(self, number: int, state: CallState, operation: str) -> None:
        self.number = number
        self.operation = operation
        """Names the classes of its bodies."""
        self.state = state
        self.sent = SendCredit()
        self.received = ReceiveCredit()
        self.decompressor: Parts | None = None
        self.queue: bytearray | None = None
        """Body bytes that wait for credit; None: nothing waits."""
        self.finishing = False
        """Our application has given the last byte of its body."""

    def came(self, event: CallInput) -> None:
        """The peer did it. Raises RemoteError(PROTOCOL) when it must not now."""
        state = CALL.get((self.state, event))
        if state is None:
            raise RemoteError(
                Status.PROTOCOL, f"call {self.number}: {event.name} is not allowed while {self.state.name}"
            )
        self.state = state

    def left(self, event: CallInput) -> None:
        """We did it. Raises LocalError when we must not now."""
        state = CALL.get((self.state, event))
        if state is None:
            raise LocalError(f"call {self.number}: {event.name} is not allowed while {self.state.name}")
        self.state = state


class Calls:
    """What both roles do alike. Subclasses say which inputs are the peer's."""

    __slots__ = ("_received", "_sent", "_waiting", "_wire", "next_number", "open")

    _data_came: tuple[CallInput, CallInput]
    """DATA from the peer: (last, more)."""
    _data_left: tuple[CallInput, CallInput]

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self.open: dict[int, Call] = NOTHING
        self.next_number = 0
        self._sent = SendCredit()
        self._received = ReceiveCredit()
        self._waiting: dict[int, Call] = NOTHING
        """Calls with body bytes that wait for credit."""

    def _newest(self, byte: int) -> int:
        """The call that a call byte means. Raises RemoteError(PROTOCOL) if there never was one."""
        number = self.next_number - 1 - ((self.next_number - 1 - byte) & 127)
        if byte >= CALL_BYTES or number < 0:
            raise RemoteError(Status.PROTOCOL, f"call byte {byte}: no such call")
        return number

    def _begin(self, call: Call) -> None:
        if not self.open:
            self.open = {}
        self.open[call.number] = call

    # --- bodies that come

    def _take_body(self, call: Call | None, size: int) -> None:
        """Count body bytes against both windows; those of ended and refused calls are given back at once."""
        if not size:
            return
        enforced = self._wire.enforced
        self._received.take(size, enforced.connection_window)
        if call is None:
            self._give_back(size)
        else:
            call.received.take(size, enforced.call_window)

    def _give_back(self, size: int) -> None:
        self._received.owe(size)
        increment = self._received.increment(self._wire.enforced.connection_window)
        if increment:
            self._wire.out.append(encode_window(0, increment))

    def consumed(self, number: int, size: int) -> None:
        """The application took body bytes. Nothing happens for a call that has ended: its bytes went back then."""
        call = self.open.get(number)
        if call is None:
            return
        call.received.owe(size)
        if self._more_to_come(call):
            increment = call.received.increment(self._wire.enforced.call_window)
            if increment:
                self._wire.out.append(encode_window((number & 127) + 2, increment))
        self._give_back(size)

    def _more_to_come(self, call: Call) -> bool:
        raise LocalError("calls have a role")

    def data_came(self, flags: int, data: bytes, start: int, stop: int) -> None:
        """DATA."""
        if start == stop:
            raise RemoteError(Status.PROTOCOL, "DATA: expected a call byte")
        number = self._newest(data[start])
        size = stop - start - 1
        more = flags & MORE
        if more and not size:
            self._wire.control_frame()
        call = self.open.get(number)
        self._take_body(call, size)
        if call is None:
            return
        call.came(self._data_came[more])
        body = data[start + 1 : stop]
        if call.decompressor is not None:
            try:
                body = call.decompressor.feed(body, not more)
            except Declined as error:
                self._declined(call, error)
                return
        self._wire.events.append(DataReceived(number, body, bool(more), size))
        if call.state is CallState.ENDED:
            self._end(call)

    def _declined(self, call: Call, error: Declined) -> None:
        raise RemoteError(Status.DICTIONARY_MISS, f"call {call.number}: {error}")

    def _end(self, call: Call) -> None:
        """The last frame was sent or came."""
        self.open.pop(call.number, None)
        self._waiting.pop(call.number, None)
        unconsumed = call.received.unconsumed
        if unconsumed:
            self._give_back(unconsumed)

    # --- bodies that leave

    def _wait(self, call: Call) -> None:
        if not self._waiting:
            self._waiting = {}
        self._waiting[call.number] = call

    def _room(self, call: Call) -> int:
        peer = self._wire.peer
        room = min(peer.call_window - call.sent.outstanding, peer.connection_window - self._sent.outstanding)
        return max(0, room)

    def _spend(self, call: Call, size: int) -> None:
        call.sent.outstanding += size
        self._sent.outstanding += size

    def _first_part(self, call: Call, body: bytes, more: bool, overhead: int) -> tuple[bytes, bool]:
        """The part of a body that goes with REQUEST or RESPONSE, and whether DATA follows; the rest is queued."""
        call.finishing = not more
        room = min(self._room(call), self._wire.peer.max_frame - overhead)
        if len(body) > room:
            call.queue = bytearray(body[room:])
            self._wait(call)
            body = body[:room]
            more = True
        self._spend(call, len(body))
        return body, more

    def send_data(self, number: int, data: bytes, more: bool) -> None:
        """The next part of our body. Raises LocalError after the last one."""
        call = self.open.get(number)
        if call is None:
            self._not_open(number)
            return
        if call.finishing:
            raise LocalError(f"call {number}: its body was complete")
        if (call.state, self._data_left[True]) not in CALL:
            raise LocalError(f"call {number}: DATA is not allowed while {call.state.name}")
        call.finishing = not more
        if call.queue is not None:
            call.queue += data
        elif data or not more:
            call.queue = bytearray(data)
            if not self._drain(call):
                self._wait(call)

    def reset(self, number: int, status: int) -> None:
        """RESET, with the meaning that it has in our role."""
        raise LocalError("calls have a role")

    def reset_came(self, data: bytes, start: int, stop: int) -> None:
        """RESET, with the meaning that it has in the peer's role."""
        raise LocalError("calls have a role")

    def _not_open(self, number: int) -> None:
        """The application names a call that is not open."""

    def _drain(self, call: Call) -> bool:
        """Send what credit allows; True when nothing waits any more."""
        queue = call.queue
        if queue is None:
            return True
        out = self._wire.out
        largest = min(PIECE, self._wire.peer.max_frame - 1)
        while queue:
            size = min(self._room(call), largest, len(queue))
            if not size:
                return False
            last = call.finishing and size == len(queue)
            self._spend(call, size)
            call.left(self._data_left[not last])
            out.append(encode_data(call.number, bytes(queue[:size]), not last))
            del queue[:size]
            if last:
                break
        else:
            if call.finishing:
                call.left(self._data_left[False])
                out.append(encode_data(call.number, b"", False))
        call.queue = None
        if call.state is CallState.ENDED:
            self._end(call)
        return True

    def flush(self) -> None:
        """Credit or settings came: send what waited."""
        for call in list(self._waiting.values()):
            if self._drain(call):
                self._waiting.pop(call.number, None)
                self._wire.events.append(CallDrained(call.number))

    def window_came(self, target: int, increment: int) -> None:
        """WINDOW for the connection (0) or a call (call byte + 2)."""
        if target == 0:
            self._sent.extend(increment)
        else:
            call = self.open.get(self._newest(target - 2))
            if call is None:
                return
            call.sent.extend(increment)
        if self._waiting:
            self.flush()

    def unsent(self, number: int) -> int:
        """Body bytes that wait for credit."""
        call = self.open.get(number)
        return len(call.queue) if call is not None and call.queue is not None else 0

    def _drop_queue(self, call: Call) -> None:
        call.queue = None
        call.finishing = True
        self._waiting.pop(call.number, None)

    def _reset(self, call: Call, status: int, event: CallInput) -> None:
        call.left(event)
        self._drop_queue(call)
        self._wire.out.append(encode_reset(call.number, status))
        if call.state is CallState.ENDED:
            self._end(call)
