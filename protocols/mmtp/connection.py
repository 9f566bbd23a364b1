"""One MMTP connection, either role: bytes and the time in, events and bytes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import Enum
from typing import Any

from protocols.errors import LocalError, RemoteError
from protocols.mmtp import frames
from protocols.mmtp.acks import Acknowledger
from protocols.mmtp.attributes import RequestAttributes
from protocols.mmtp.bodies import ZSTD_CAPABILITY
from protocols.mmtp.device_calls import DeviceCalls
from protocols.mmtp.events import (
    Event,
    GoawayReceived,
    Headers,
    HelloReceived,
    PingReceived,
    PongReceived,
    PushesAcked,
    PushReceived,
    WelcomeReceived,
)
from protocols.mmtp.fields import expect_end
from protocols.mmtp.flow import LARGEST_CREDIT, SMALL_INCREMENT
from protocols.mmtp.frames import INCOMPLETE, FrameType, cut, encode_frame
from protocols.mmtp.gateway_calls import GatewayCalls
from protocols.mmtp.handshake import (
    Goaway,
    Hello,
    StreamCursor,
    Welcome,
    decode_goaway,
    decode_hello,
    decode_welcome,
    encode_goaway,
    encode_hello,
    encode_welcome,
)
from protocols.mmtp.pushes import PushReceiver, PushSender
from protocols.mmtp.settings import (
    DEFAULT_LIMITS,
    Limits,
    apply,
    check_settings,
    decode_settings,
    encode_settings,
    larger,
    settings_of,
)
from protocols.mmtp.state import CLIENT, SERVER, ConnectionState, Sent, moves
from protocols.mmtp.statuses import Status
from protocols.mmtp.varint import decode_varint
from protocols.mmtp.wire import Wire

CAPABILITIES = frozenset((ZSTD_CAPABILITY,))
"""Optional features that this package has."""

PUSHES_TARGET = 1
LAST_WINDOW_TARGET = 129
MAX_PONGS_OWED = 100
"""Pings of ours that may be unanswered; further ones ask for no answer."""


class Role(Enum):
    """Which side of the connection we are."""

    SERVER = "server"
    CLIENT = "client"


class Connection:
    """The protocol's connection object.

    After a RemoteError, a refusal, or the end of the transport it is `closed`, and every call does nothing;
    `closing_status` says with which status it was closed by us.
    """

    __slots__ = (
        "_acks", "_announced", "_buffer", "_calls", "_hello", "_last_call", "_moves", "_needed", "_pongs_owed", "_push_in",
        "_push_out", "_state", "_table", "_timer", "_wire", "closed", "closing_status", "role",
    )  # fmt: skip

    def __init__(self, role: Role, *, limits: Limits = DEFAULT_LIMITS, now: float) -> None:
        self.role = role
        self.closed = False
        self.closing_status: int = Status.OK
        server = role is Role.SERVER
        self._table = SERVER if server else CLIENT
        differs = bool(settings_of(limits))
        self._wire = Wire(limits, larger(limits, DEFAULT_LIMITS) if differs else limits, now)
        self._calls: GatewayCalls | DeviceCalls = GatewayCalls(self._wire) if server else DeviceCalls(self._wire)
        self._push_out = PushSender() if server else None
        self._push_in = None if server else PushReceiver(limits)
        self._acks = None if server else Acknowledger()
        self._hello: Hello | None = None
        self._buffer: bytearray | None = None
        self._needed = 0
        self._pongs_owed = 0
        self._last_call = -1
        self._announced: list[Limits] | None = None
        """Settings that the peer has not acknowledged."""
        self._timer: float | None = now + limits.hello_timeout if server else None
        self._enter(ConnectionState.AWAIT_HELLO if server else ConnectionState.START)

    @property
    def state(self) -> ConnectionState:
        """Where the connection stands."""
        return self._state

    def _enter(self, state: ConnectionState) -> None:
        self._state = state
        self._moves = moves(self._table, state)
        if state is ConnectionState.CLOSED:
            self.closed = True
            self._timer = None

    def _sends(self, what: Sent) -> ConnectionState:
        """The state after sending. Raises LocalError when it is not allowed now."""
        state = self._table.get((self._state, what))
        if state is None:
            raise LocalError(f"{what.name} is not allowed in state {self._state.name}")
        return state

    # --- bytes and time

    def receive(self, data: bytes, now: float) -> None:
        """Feed bytes. Events queue up, see events(). Raises RemoteError (a GOAWAY with its code is then in to_send(),
        events decoded before the violation are still in events()); after that every call does nothing."""
        if self.closed:
            return
        self._wire.now = now
        buffer = self._buffer
        if buffer is not None:
            buffer += data
            if len(buffer) < self._needed:
                return
            data = bytes(buffer)
            self._buffer = None
        pos = 0
        end = len(data)
        try:
            while pos < end:
                first = data[pos]
                if self._moves[first >> 4] is None:
                    raise RemoteError(
                        Status.PROTOCOL, f"{FrameType(first >> 4).name} is not allowed in state {self._state.name}"
                    )
                start, stop, needed = cut(data, pos, end, self._max_frame())
                if start == INCOMPLETE:
                    self._buffer = bytearray(data[pos:])
                    self._needed = needed
                    return
                _HANDLERS[first >> 4](self, first & 15, data, start, stop)
                if self.closed:
                    return
                pos = stop
        except RemoteError as error:
            self._fail(error.code, str(error))
            raise

    def _max_frame(self) -> int:
        if self._state is ConnectionState.AWAIT_HELLO:
            return self._wire.limits.max_hello
        return self._wire.enforced.max_frame

    def _fail(self, status: int, message: str) -> None:
        goaway = Goaway(status, message, self._calls.next_number - 1 if self.role is Role.SERVER else -1)
        self._wire.out.append(encode_frame(FrameType.GOAWAY, 0, encode_goaway(goaway)))
        self.closing_status = status
        self._buffer = None
        self._enter(ConnectionState.CLOSED)

    def receive_eof(self, now: float) -> None:
        """The transport's orderly end."""
        self._wire.now = now
        self._buffer = None
        self._enter(ConnectionState.CLOSED)

    def events(self) -> list[Event]:
        """What happened since the last call, in order."""
        events = self._wire.events
        if events:
            self._wire.events = []
        return events

    def to_send(self, now: float) -> bytes:
        """All bytes to write now, one piece, so that what leaves together leaves in one record."""
        wire = self._wire
        wire.now = now
        out = wire.out
        acks = self._acks
        if acks is not None and acks.pending and not self.closed and (out or acks.due(now)):
            out.append(acks.take())
        if not out:
            return b""
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        return data

    def next_timer(self) -> float | None:
        """When handle_timer wants to be called: the HELLO time-out, or an acknowledgement that waits."""
        if self._acks is not None and not self.closed:
            return self._acks.deadline
        return self._timer

    def handle_timer(self, now: float) -> None:
        """The time of next_timer() has come; see to_send() and `closed`."""
        self._wire.now = now
        if self._timer is not None and now >= self._timer and not self.closed:
            self._fail(Status.DEADLINE, "no complete HELLO in time")

    # --- hand-shake

    def send_hello(self, hello: Hello) -> None:
        """Client: the first frame. Settings that tell of our limits are added to hello.settings."""
        if self.closed:
            return
        state = self._sends(Sent.HELLO)
        settings = {**settings_of(self._wire.limits), **hello.settings}
        check_settings(settings)
        hello = replace(hello, settings=settings)
        self._wire.out.append(encode_frame(FrameType.HELLO, 0, encode_hello(hello)))
        self._wire.enforced = apply(self._wire.limits, settings)
        self._hello = hello
        self._enter(state)

    def send_welcome(self, welcome: Welcome) -> None:
        """welcome.result != 0 refuses: the connection is closed after it.

        Settings that tell of our limits are added to welcome.settings. Capabilities are cut to what HELLO named
        and this package has; an empty set asks for all of them.
        """
        if self.closed:
            return
        if welcome.result:
            state = self._sends(Sent.REFUSAL)
            self._wire.out.append(encode_frame(FrameType.WELCOME, 0, encode_welcome(welcome)))
            self.closing_status = welcome.result
            self._enter(state)
            return
        state = self._sends(Sent.WELCOME)
        settings = {**settings_of(self._wire.limits), **welcome.settings}
        check_settings(settings)
        offered = self._hello.capabilities if self._hello is not None else frozenset()
        used = (welcome.capabilities or CAPABILITIES) & CAPABILITIES & offered
        welcome = replace(welcome, settings=settings, capabilities=used)
        self._wire.out.append(encode_frame(FrameType.WELCOME, 0, encode_welcome(welcome)))
        self._wire.zstd = ZSTD_CAPABILITY in used
        if settings:
            self._announce(apply(self._wire.limits, settings))
        self._hello = None
        self._enter(state)

    def update_settings(self, settings: dict[int, int]) -> None:
        """SETTINGS: change what we accept (see protocols.mmtp.settings for the ids)."""
        if self.closed:
            return
        self._sends(Sent.SETTINGS)
        check_settings(settings)
        self._wire.out.append(encode_frame(FrameType.SETTINGS, 0, encode_settings(settings)))
        last = self._announced[-1] if self._announced else self._wire.enforced
        self._announce(apply(last, settings))

    def _announce(self, limits: Limits) -> None:
        """The peer may follow the old limits until it has acknowledged these."""
        self._wire.enforced = larger(limits, self._wire.enforced)
        self._announced = [*(self._announced or ()), limits]

    # --- calls

    def request(
        self,
        operation: str,
        headers: Headers,
        body: bytes,
        *,
        more: bool = False,
        call_id: int | None = None,
        timeout: float | None = None,
    ) -> int:
        """Open a call and return its number (-1 when closed). `call_id` marks a repetition (its own id and *resent*
        go along), `timeout` is in seconds. LocalError when too many are open, or the hand-shake has not begun."""
        if self.closed:
            return -1
        self._sends(Sent.REQUEST)
        attributes = RequestAttributes(call_id, timeout, call_id is not None)
        return self._device_calls().request(operation, headers, body, more, attributes)

    def respond(self, call: int, status: int, headers: Headers, body: bytes, *, more: bool = False) -> None:
        """Server: answer a call; what credit does not allow yet is queued. LocalError when it is not open, was
        answered, or the peer would not take the headers."""
        if self.closed:
            return
        self._sends(Sent.RESPONSE)
        self._gateway_calls().respond(call, status, headers, body, more)

    def send_data(self, call: int, data: bytes, more: bool) -> None:
        """Queues what credit does not allow yet; see unsent() and CallDrained."""
        if not self.closed:
            self._sends(Sent.DATA)
            self._calls.send_data(call, data, more)

    def reset(self, call: int, status: int) -> None:
        """Server: ends the call. Client: asks to cancel."""
        if not self.closed:
            self._sends(Sent.RESET)
            self._calls.reset(call, status)

    def unsent(self, call: int) -> int:
        """Body bytes of the call that wait for credit."""
        return self._calls.unsent(call)

    def consumed(self, call: int, size: int) -> None:
        """Give `size` wire bytes of body credit back (call and connection)."""
        if not self.closed:
            self._calls.consumed(call, size)

    def open_calls(self) -> int:
        """How many calls are open."""
        return len(self._calls.open)

    def _device_calls(self) -> DeviceCalls:
        if not isinstance(self._calls, DeviceCalls):
            raise LocalError("only the client opens calls")
        return self._calls

    def _gateway_calls(self) -> GatewayCalls:
        if not isinstance(self._calls, GatewayCalls):
            raise LocalError("only the server answers calls")
        return self._calls

    # --- both

    def ping(self, answer: bool = True) -> None:
        """PING; a PongReceived follows if `answer`."""
        if self.closed:
            return
        if self._state is ConnectionState.START:
            raise LocalError("PING is not allowed in state START")
        if answer and self._pongs_owed < MAX_PONGS_OWED:
            self._pongs_owed += 1
            self._wire.out.append(frames.PING_ANSWER_FRAME)
        else:
            self._wire.out.append(frames.PING_FRAME)

    def go_away(self, goaway: Goaway) -> None:
        """Server: last_call is filled in here; later calls are refused with the goaway's status."""
        if self.closed:
            return
        state = self._sends(Sent.GOAWAY)
        if self.role is Role.SERVER:
            if self._wire.refuse is None:
                self._last_call = self._calls.next_number - 1
            self._wire.refuse = goaway.status or Status.DRAINING
            goaway = replace(goaway, last_call=self._last_call)
        self._wire.out.append(encode_frame(FrameType.GOAWAY, 0, encode_goaway(goaway)))
        self.closing_status = goaway.status
        self._enter(state)

    # --- pushes, server

    def _sender(self) -> PushSender:
        if self._push_out is None:
            raise LocalError("only the server sends pushes")
        return self._push_out

    def push_room(self, size: int) -> bool:
        """There is room in the push window for a body of `size` bytes."""
        return not self.closed and self._sender().room(size, self._wire.peer)

    def introduce_stream(self, alias: int, cursor: StreamCursor) -> None:
        """The next push of `alias` carries the stream's names; its seq counts from cursor.seq + 1."""
        self.note_stream(cursor, alias, "")

    def note_stream(self, cursor: StreamCursor, alias: int, note: str) -> None:
        """Introduce the stream with a note, `truncated` or `history_lost`; cursor.seq is its floor."""
        if not self.closed:
            self._sends(Sent.PUSH)
            self._wire.out.append(self._sender().announce(alias, cursor, note))

    def send_push(self, alias: int, seq: int, frame: bytes, size: int, token: Any) -> None:
        """Send a push in order whose frame was made by pushes.encode_push; `token` comes back in PushesAcked.
        LocalError for a stream that was not introduced, and when push_room(size) is false."""
        if not self.closed:
            self._sends(Sent.PUSH)
            self._sender().sent(alias, seq, size, token, self._wire.peer)
            self._wire.out.append(frame)

    # --- pushes, client

    def _acknowledger(self) -> Acknowledger:
        if self._acks is None:
            raise LocalError("only the client acknowledges pushes")
        return self._acks

    def ack(self, count: int = 1) -> None:
        """`count` more pushes, in order of arrival, were processed; sent with the next bytes or by ack timer."""
        if not self.closed:
            self._acknowledger().processed(count, self._wire.now)

    def ack_ranges(self, indexes: Sequence[int]) -> None:
        """Pushes with these PushReceived.index were processed, though not all before them."""
        if not self.closed and indexes:
            self._wire.out.append(self._acknowledger().processed_out_of_order(indexes))

    # --- frames that come

    def _ping(self, flags: int, data: bytes, start: int, stop: int) -> None:
        self._wire.control_frame()
        if flags:
            self._wire.out.append(frames.PONG_FRAME)
        self._wire.events.append(_PING_RECEIVED)

    def _pong(self, flags: int, data: bytes, start: int, stop: int) -> None:
        if not self._pongs_owed:
            raise RemoteError(Status.PROTOCOL, "PONG: no PING asked for it")
        self._pongs_owed -= 1
        self._wire.events.append(PongReceived())

    def _ack(self, flags: int, data: bytes, start: int, stop: int) -> None:
        sender = self._sender()
        if flags:
            tokens = sender.acked_ranges(data, start, stop)
        else:
            tokens = sender.acked(decode_varint(data, start, stop)[0])
        self._wire.events.append(PushesAcked(tokens))

    def _request(self, flags: int, data: bytes, start: int, stop: int) -> None:
        self._gateway_calls().request_came(flags, data, start, stop)

    def _response(self, flags: int, data: bytes, start: int, stop: int) -> None:
        self._device_calls().response_came(flags, data, start, stop)

    def _data(self, flags: int, data: bytes, start: int, stop: int) -> None:
        self._calls.data_came(flags, data, start, stop)

    def _reset(self, flags: int, data: bytes, start: int, stop: int) -> None:
        self._calls.reset_came(data, start, stop)

    def _push(self, flags: int, data: bytes, start: int, stop: int) -> None:
        if self._push_in is None or self._acks is None:
            return
        wire = self._wire
        event, size = self._push_in.came(flags, data, start, stop, zstd=wire.zstd)
        if isinstance(event, PushReceived):
            self._acks.came(event.index, size, wire.enforced)
        if event is not None:
            wire.events.append(event)

    def _hello_came(self, flags: int, data: bytes, start: int, stop: int) -> None:
        hello = decode_hello(data, start, stop)
        self._hello = hello
        self._timer = None
        self._gateway_calls().call_base = hello.call_base
        self._wire.peer = apply(DEFAULT_LIMITS, hello.settings)
        self._enter(self._table[self._state, FrameType.HELLO])
        self._wire.events.append(HelloReceived(hello))

    def _welcome(self, flags: int, data: bytes, start: int, stop: int) -> None:
        welcome = decode_welcome(data, start, stop)
        wire = self._wire
        wire.events.append(WelcomeReceived(welcome))
        if welcome.result:
            self._enter(self._table[self._state, Sent.REFUSAL])
            return
        offered = self._hello.capabilities if self._hello is not None else frozenset()
        if not welcome.capabilities <= offered:
            raise RemoteError(Status.PROTOCOL, "WELCOME: names capabilities that HELLO did not")
        self._hello = None
        wire.zstd = ZSTD_CAPABILITY in welcome.capabilities
        self._enter(self._table[self._state, FrameType.WELCOME])
        if welcome.settings:
            self._follow(welcome.settings)

    def _settings(self, flags: int, data: bytes, start: int, stop: int) -> None:
        if not flags:
            self._wire.control_frame()
            self._follow(decode_settings(data, start, stop))
            return
        expect_end(start, stop)
        if not self._announced:
            raise RemoteError(Status.PROTOCOL, "SETTINGS: acknowledges what was not sent")
        heard, *later = self._announced
        self._announced = later or None
        for limits in later:
            heard = larger(limits, heard)
        self._wire.enforced = heard

    def _follow(self, settings: dict[int, int]) -> None:
        """The peer's settings hold from here on."""
        self._wire.peer = apply(self._wire.peer, settings)
        self._wire.out.append(frames.SETTINGS_ACK_FRAME)
        self._calls.flush()

    def _offer(self, flags: int, data: bytes, start: int, stop: int) -> None:
        """DICT and TABLE: no capability of ours names them, and who never wants declines."""
        self._wire.control_frame()
        if flags > frames.LAST_KIND:
            raise RemoteError(Status.PROTOCOL, f"DICT or TABLE: expected kind 0..{frames.LAST_KIND}, got {flags}")
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
            self._sender_window(increment)
        else:
            self._calls.window_came(target, increment)

    def _sender_window(self, increment: int) -> None:
        sender = self._push_out
        if sender is None:
            raise RemoteError(Status.PROTOCOL, "WINDOW: only the device has a window for pushes")
        sender.extra_bytes += increment
        if sender.extra_bytes > LARGEST_CREDIT:
            raise RemoteError(Status.FLOW_CONTROL, f"window: more than {LARGEST_CREDIT} bytes of credit")

    def _goaway(self, flags: int, data: bytes, start: int, stop: int) -> None:
        goaway = decode_goaway(data, start, stop)
        if self.role is Role.SERVER:
            self._wire.control_frame()
        self._wire.events.append(GoawayReceived(goaway))
        self._enter(self._table[self._state, FrameType.GOAWAY])

    def _ext(self, flags: int, data: bytes, start: int, stop: int) -> None:
        self._wire.control_frame()
        kind, _ = decode_varint(data, start, stop)
        if flags:
            raise RemoteError(Status.PROTOCOL, f"EXT: type {kind} is unknown and must be understood")


_PING_RECEIVED = PingReceived()

_HANDLERS: tuple[Callable[[Connection, int, bytes, int, int], None], ...] = (
    Connection._ping,
    Connection._pong,
    Connection._ack,
    Connection._request,
    Connection._response,
    Connection._data,
    Connection._reset,
    Connection._push,
    Connection._hello_came,
    Connection._welcome,
    Connection._settings,
    Connection._offer,
    Connection._offer,
    Connection._window,
    Connection._goaway,
    Connection._ext,
)
"""By frame type."""
