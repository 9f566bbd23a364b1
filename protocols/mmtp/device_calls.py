"""Calls as the device sees them: REQUEST leaves, RESPONSE comes."""

from __future__ import annotations

from protocols.errors import LocalError, RemoteError
from protocols.mmtp.attributes import (
    RequestAttributes,
    encode_request_attributes,
    read_block,
    skip_response_attributes,
)
from protocols.mmtp.bodies import Declined
from protocols.mmtp.calls import CALL_BYTES, Call, Calls
from protocols.mmtp.dictionaries import ANSWER_KIND, REQUEST_KIND
from protocols.mmtp.events import CallReset, Headers, ResponseReceived
from protocols.mmtp.fields import expect_end
from protocols.mmtp.frames import ATTRIBUTES, CODING_SHIFT, MORE, FrameType, frame_head
from protocols.mmtp.state import CallInput, CallState
from protocols.mmtp.statuses import Status
from protocols.mmtp.uses import pack
from protocols.mmtp.varint import decode_varint, encode_varint


class DeviceCalls(Calls):
    """Calls that we open."""

    __slots__ = ()

    _data_came = (CallInput.DOWN_LAST, CallInput.DOWN_MORE)
    _data_left = (CallInput.UP_LAST, CallInput.UP_MORE)

    def request(
        self, operation: str, headers: Headers, body: bytes, more: bool, attributes: RequestAttributes, *, secret: bool
    ) -> int:
        """REQUEST, with as much of the body as credit allows; returns the call's number."""
        wire = self._wire
        number = self.next_number
        if len(self.open) >= min(wire.peer.max_open_calls, CALL_BYTES - 1) or number - CALL_BYTES in self.open:
            raise LocalError(f"calls: {len(self.open)} are open, the gateway takes {wire.peer.max_open_calls}")
        coded = encode_request_attributes(attributes)
        block = wire.headers.encode(operation, headers, wire.limits, wire.peer)
        flags = ATTRIBUTES if coded else 0
        if not more and not secret:
            uses = wire.uses
            coding, body = pack(body, None if uses is None else uses.up, REQUEST_KIND, operation, wire.zstd)
            flags |= coding << CODING_SHIFT
        head = coded + encode_varint(len(block)) + block
        call = Call(number, CallState.UPLOADING, operation)
        body, more = self._first_part(call, body, more, len(head))
        if not more:
            call.state = CallState.WAITING
        self._begin(call)
        self.next_number = number + 1
        wire.out.append(frame_head(FrameType.REQUEST, flags | more, len(head) + len(body)) + head + body)
        wire.headers.after_block(wire.out, wire.events)
        return number

    def response_came(self, flags: int, data: bytes, start: int, stop: int) -> None:
        """RESPONSE."""
        wire = self._wire
        if start == stop:
            raise RemoteError(Status.PROTOCOL, "RESPONSE: expected a call byte")
        number = self._newest(data[start])
        start += 1
        if flags & ATTRIBUTES:
            start = skip_response_attributes(data, start, stop)
        status, start = decode_varint(data, start, stop)
        block, start = read_block(data, start, stop)
        headers = wire.headers.decode_response(block, wire.enforced)
        size = stop - start
        call = self.open.get(number)
        self._take_body(call, size)
        if call is None:
            return
        more = flags & MORE
        call.came(CallInput.RESPONSE_MORE if more else CallInput.RESPONSE_LAST)
        body = data[start:stop]
        coding = flags >> CODING_SHIFT & 3
        if coding:
            try:
                body, call.decompressor = wire.unpack(coding, body, bool(more), ANSWER_KIND, call.operation)
            except Declined as error:
                self._declined(call, error)
        wire.events.append(ResponseReceived(number, status, headers, body, bool(more), size))
        if not more:
            self._end(call)

    def reset_came(self, data: bytes, start: int, stop: int) -> None:
        """RESET from the gateway: the call has ended."""
        if start == stop:
            raise RemoteError(Status.PROTOCOL, "RESET: expected a call byte")
        number = self._newest(data[start])
        status, end = decode_varint(data, start + 1, stop)
        expect_end(end, stop)
        call = self.open.get(number)
        if call is None:
            self._wire.control_frame()
            return
        call.came(CallInput.RESET)
        self._wire.events.append(CallReset(number, status))
        self._end(call)

    def _more_to_come(self, call: Call) -> bool:
        return True

    def reset(self, number: int, status: int) -> None:
        """RESET: ask the gateway to end the call; nothing happens if it has ended."""
        call = self.open.get(number)
        if call is not None:
            self._reset(call, status, CallInput.CANCEL)
