"""Calls on the long connection: sending those that wait, collecting their answers."""

from __future__ import annotations

from collections.abc import Callable

from accessgw.client.calls import CallTable, OpenCall
from accessgw.client.commands import CallChunk, CallHead, CallRoom, Command
from accessgw.client.link import Link
from accessgw.client.model import CallFailed, Reply
from accessgw.client.settings import ClientSettings
from protocols.errors import LocalError
from protocols.mmtp import events as wire
from protocols.mmtp.statuses import Status

MISSES = frozenset((Status.STATE_MISS, Status.DICTIONARY_MISS))
"""The gateway could not read the request, so it was not executed."""
_CALL_OVERHEAD = 64
"""Bytes of a REQUEST around its names, values and body, and more than them."""
MAX_MISSES = 4
"""Of one call, before a miss is judged like any other status."""


class LongCalls:
    """What happens to calls on a link; `ended` decides whether a last frame is the call's outcome."""

    def __init__(
        self,
        settings: ClientSettings,
        calls: CallTable,
        *,
        emit: Callable[[Command], None],
        ended: Callable[[OpenCall, Reply | CallFailed, float], None],
        finish: Callable[[OpenCall, Reply | CallFailed], None],
        missed: Callable[[OpenCall, int, float], None],
    ) -> None:
        """`missed`: send it again, nothing has happened yet."""
        self._settings = settings
        self._calls = calls
        self._emit = emit
        self._ended = ended
        self._finish = finish
        self._missed = missed

    def send(self, link: Link, now: float) -> None:
        """Send what waits, as far as the link takes it."""
        while len(link.calls) < self._settings.max_open and (call := self._calls.next_waiting()) is not None:
            if not link.welcomed and (link.missed or (call.streaming and link.named_headers is not None)):
                return  # what cannot be repeated waits for WELCOME, which says whether the gateway can read it
            try:
                number = link.connection.request(
                    call.operation,
                    call.headers,
                    call.body,
                    more=call.more,
                    call_id=call.call_id,
                    timeout=max(0.001, call.deadline - now),
                    age=now - call.created,
                    secret=call.secret or call.plain,
                )
            except LocalError as error:
                if link.calls:
                    return  # the gateway's own limit is lower than ours: an answer makes room
                self._calls.took_waiting()
                self._finish(call, CallFailed(Status.PROTOCOL, str(error)))
                continue
            if number < 0:
                return  # the protocol has ended; the transport's end follows
            self._calls.took_waiting()
            self._calls.sent(call, (link.call_base + number) % 2**64)
            call.link = link.attempt
            call.number = number
            link.calls[number] = call.key
            link.asked(now)
            # a silent link gets new calls too, but none of them waits for it to prove itself
            call.short_at = now if link.suspect else None
            if call.more:
                self._emit(CallRoom(call.key))

    def send_early(self, link: Link, room: int, now: float) -> bool:
        """Send calls as early data of at most `room` bytes. Whether there is one."""
        for call in self._calls.early():
            room -= len(call.body) + _CALL_OVERHEAD
            room -= len(call.operation.encode()) + sum(len(n.encode()) + len(v.encode()) + 8 for n, v in call.headers)
            if room < 0 or len(link.calls) >= self._settings.max_open:
                break
            try:
                number = link.connection.request(
                    call.operation,
                    call.headers,
                    call.body,
                    call_id=call.call_id,
                    timeout=max(0.001, call.deadline - now),
                    age=now - call.created,
                )
            except LocalError:
                break  # said when it is sent on the connection
            self._calls.waiting.remove(call.key)
            self._calls.sent(call, (link.call_base + number) % 2**64)
            call.link = link.attempt
            call.number = number
            link.calls[number] = call.key
        return bool(link.calls)

    def unsend(self, link: Link) -> bool:
        """TLS refused the early data of the link. Whether all of its calls are to be sent again."""
        calls = [self._calls.get(key) for key in link.calls.values()]
        there = [call for call in calls if call is not None and call.link == link.attempt]
        self._calls.unsend(there)
        return len(there) == len(calls)

    def upload(self, link: Link, call: OpenCall, data: bytes, more: bool, now: float) -> None:
        """The next part of a streaming request body."""
        link.connection.send_data(call.number, data, more)
        link.asked(now)
        if more and not link.connection.unsent(call.number):
            self._emit(CallRoom(call.key))

    def response(self, link: Link, event: wire.ResponseReceived, now: float) -> None:
        """RESPONSE came."""
        call = self._call(link, event.call, last=not event.more)
        if call is not None:
            call.status = event.status
            call.reply_headers = event.headers
            if call.streaming:
                self._emit(CallHead(call.key, event.status, event.headers))
        self._part(link, call, event.call, event.body, event.wire_size)
        self._last(call, event.more, now)

    def data(self, link: Link, event: wire.DataReceived, now: float) -> None:
        """DATA came."""
        call = self._call(link, event.call, last=not event.more)
        self._part(link, call, event.call, event.data, event.wire_size)
        self._last(call, event.more, now)

    def reset(self, link: Link, event: wire.CallReset, now: float) -> None:
        """RESET came."""
        call = self._call(link, event.call, last=True)
        if call is None:
            return
        call.link = None
        if event.status in MISSES and not call.streaming and call.misses < MAX_MISSES:
            call.misses += 1
            call.attempts -= 1
            if event.status == Status.STATE_MISS:
                link.missed = True
            else:
                call.plain = True
            self._missed(call, event.status, now)
        else:
            self._ended(call, CallFailed(event.status, "refused by the gateway"), now)

    def drained(self, link: Link, event: wire.CallDrained) -> None:
        """All of a streaming body that waited for credit has left."""
        call = self._call(link, event.call, last=False)
        if call is not None and call.more:
            self._emit(CallRoom(call.key))

    def _call(self, link: Link, number: int, *, last: bool) -> OpenCall | None:
        key = link.calls.get(number)
        if last:
            link.calls.pop(number, None)
            link.settled()
        return None if key is None else self._calls.get(key)

    def _part(self, link: Link, call: OpenCall | None, number: int, data: bytes, wire_size: int) -> None:
        """Bytes of a body; those of a streaming call are given back when the application has taken them."""
        if call is not None and call.streaming and data:
            self._emit(CallChunk(call.key, data, wire_size))
            return
        link.connection.consumed(number, wire_size)
        if call is not None and data:
            call.size += len(data)
            call.parts.append(data)
            if call.size > self._settings.max_reply:
                if link.calls.get(number) == call.key:
                    link.connection.reset(number, Status.CANCELLED)
                self._finish(
                    call, CallFailed(Status.FRAME_SIZE, f"an answer of more than {self._settings.max_reply} bytes")
                )

    def _last(self, call: OpenCall | None, more: bool, now: float) -> None:
        if call is not None and not more and self._calls.get(call.key) is call:
            call.link = None
            self._ended(call, call.reply("long", now), now)
