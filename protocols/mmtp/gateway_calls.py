"""Calls as the gateway sees them: REQUEST comes, RESPONSE leaves."""

from __future__ import annotations

from protocols.errors import LocalError, RemoteError
from protocols.mmtp.attributes import NO_ATTRIBUTES, decode_request_attributes, read_block
from protocols.mmtp.bodies import RAW, Declined
from protocols.mmtp.calls import CALL_BYTES, Call, Calls
from protocols.mmtp.dictionaries import ANSWER_KIND, REQUEST_KIND
from protocols.mmtp.events import CallReset, Headers, RequestReceived
from protocols.mmtp.fields import expect_end
from protocols.mmtp.frames import ATTRIBUTES, CODING_SHIFT, MORE, FrameType, encode_reset, frame_head
from protocols.mmtp.state import UPLOAD_OPEN, CallInput, CallState
from protocols.mmtp.statuses import Status
from protocols.mmtp.uses import pack
from protocols.mmtp.varint import decode_varint, encode_varint
from protocols.mmtp.wire import Wire

_ID_MASK = (1 << 64) - 1


class GatewayCalls(Calls):
    """Calls that the peer opens."""

    __slots__ = ("call_base",)

    _data_came = (CallInput.UP_LAST, CallInput.UP_MORE)
    _data_left = (CallInput.DOWN_LAST, CallInput.DOWN_MORE)

    def __init__(self, wire: Wire) -> None:
        super().__init__(wire)
        self.call_base = 0

    def request_came(self, flags: int, data: bytes, start: int, stop: int) -> None:
        """REQUEST."""
        wire = self._wire
        number = self.next_number
        if number - CALL_BYTES in self.open:
            raise RemoteError(Status.PROTOCOL, f"call {number}: call {number - CALL_BYTES} is open")
        attributes = NO_ATTRIBUTES
        if flags & ATTRIBUTES:
            attributes, start = decode_request_attributes(data, start, stop)
        block, start = read_block(data, start, stop)
        refused = wire.refuse
        operation = ""
        headers: Headers = []
        if wire.headers.missing:
            refused = Status.STATE_MISS
        else:
            operation, headers = wire.headers.decode_request(block, wire.enforced)
        self.next_number = number + 1
        size = stop - start
        if refused is None and len(self.open) >= wire.enforced.max_open_calls:
            refused = Status.OVERLOAD
        more = flags & MORE
        if refused is not None:
            self._take_body(None, size)
            wire.out.append(encode_reset(number, refused))
            return
        call = Call(number, CallState.UPLOADING if more else CallState.WAITING, operation)
        self._take_body(call, size)
        body = data[start:stop]
        coding = flags >> CODING_SHIFT & 3
        if coding:
            try:
                body, call.decompressor = wire.unpack(coding, body, bool(more), REQUEST_KIND, operation)
            except Declined as error:
                self._declined(call, error)
                return
        self._begin(call)
        call_id = attributes.call_id
        if call_id is None:
            call_id = (self.call_base + number) & _ID_MASK
        wire.events.append(
            RequestReceived(
                number,
                call_id,
                operation,
                headers,
                body,
                bool(more),
                attributes.resent,
                attributes.timeout,
                size,
                attributes.age,
            )
        )

    def _declined(self, call: Call, error: Declined) -> None:
        """The device repeats it raw; an upload that had been reported is cancelled."""
        if call.number in self.open:
            self._wire.events.append(CallReset(call.number, Status.DICTIONARY_MISS))
        call.left(CallInput.RESET)
        self._wire.out.append(encode_reset(call.number, Status.DICTIONARY_MISS))
        self._end(call)

    def reset_came(self, data: bytes, start: int, stop: int) -> None:
        """RESET from the device: it asks to cancel."""
        self._wire.control_frame()
        if start == stop:
            raise RemoteError(Status.PROTOCOL, "RESET: expected a call byte")
        number = self._newest(data[start])
        status, end = decode_varint(data, start + 1, stop)
        expect_end(end, stop)
        call = self.open.get(number)
        if call is None:
            return
        call.came(CallInput.CANCEL)
        call.decompressor = None
        self._wire.events.append(CallReset(number, status))

    def _more_to_come(self, call: Call) -> bool:
        return call.state in UPLOAD_OPEN

    def _not_open(self, number: int) -> None:
        raise LocalError(f"call {number}: it is not open")

    def respond(self, number: int, status: int, headers: Headers, body: bytes, more: bool, *, secret: bool) -> None:
        """RESPONSE, with as much of the body as credit allows."""
        wire = self._wire
        call = self.open.get(number)
        if call is None:
            raise LocalError(f"call {number}: it is not open")
        if (call.state, CallInput.RESPONSE_MORE) not in _ANSWERABLE:
            raise LocalError(f"call {number}: it was answered")
        block = wire.headers.encode(None, headers, wire.limits, wire.peer)
        coding = RAW
        if not more and not secret:
            uses = wire.uses
            classes = None if uses is None else uses.down
            coding, body = pack(body, classes, ANSWER_KIND, call.operation, wire.zstd, witness=wire.witness)
        head = bytes((number & 127,)) + encode_varint(status) + encode_varint(len(block)) + block
        body, more = self._first_part(call, body, more, len(head))
        call.left(CallInput.RESPONSE_MORE if more else CallInput.RESPONSE_LAST)
        wire.out.append(
            frame_head(FrameType.RESPONSE, coding << CODING_SHIFT | more, len(head) + len(body)) + head + body
        )
        wire.headers.after_block(wire.out, wire.events)
        if not more:
            self._end(call)

    def reset(self, number: int, status: int) -> None:
        """RESET: end the call."""
        call = self.open.get(number)
        if call is None:
            raise LocalError(f"call {number}: it is not open")
        self._reset(call, status, CallInput.RESET)


_ANSWERABLE = frozenset((state, CallInput.RESPONSE_MORE) for state in (CallState.UPLOADING, CallState.WAITING))
