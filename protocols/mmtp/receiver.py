"""From bytes to events: frames are cut, held against the state machine, and handed to whom they concern."""

from __future__ import annotations

from collections.abc import Callable

from protocols.errors import RemoteError
from protocols.mmtp.acks import Acknowledger
from protocols.mmtp.agreement import Agreement
from protocols.mmtp.bodies import ZSTD_CAPABILITY
from protocols.mmtp.bundles import EMPTY_BUNDLE
from protocols.mmtp.calls import Calls
from protocols.mmtp.device_calls import DeviceCalls
from protocols.mmtp.device_exchange import DeviceExchange, HeaderMemory, Wishes
from protocols.mmtp.events import (
    GoawayReceived,
    HelloReceived,
    PingReceived,
    PongReceived,
    PushesAcked,
    PushReceived,
    WelcomeReceived,
)
from protocols.mmtp.exchange import Exchange
from protocols.mmtp.fields import expect_end
from protocols.mmtp.flow import LARGEST_CREDIT, SMALL_INCREMENT
from protocols.mmtp.frames import INCOMPLETE, LAST_KIND, PONG_FRAME, FrameType, cut
from protocols.mmtp.gateway_calls import GatewayCalls
from protocols.mmtp.gateway_exchange import GatewayExchange
from protocols.mmtp.handshake import NamedStates, decode_goaway, decode_hello, decode_welcome
from protocols.mmtp.profiles import TEMPLATE_CAPABILITY
from protocols.mmtp.push_receiver import PushReceiver
from protocols.mmtp.pushes import PushSender
from protocols.mmtp.settings import DEFAULT_LIMITS, Limits, apply
from protocols.mmtp.state import ConnectionState, Sent
from protocols.mmtp.statuses import Status
from protocols.mmtp.uses import DICT_CAPABILITY, HISTORY_CAPABILITY, Uses
from protocols.mmtp.varint import decode_varint
from protocols.mmtp.wire import Wire

PUSHES_TARGET = 1
LAST_WINDOW_TARGET = 129
MAX_HELD = 256
"""Frames between HELLO and WELCOME."""
MAX_HELD_BYTES = 64 * 1024
"""Their payloads, beside what credit allows of bodies."""

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


class HeldFrames:
    """Frames that came between HELLO and WELCOME; bounded by credit for bodies, and MAX_HELD for the rest."""

    __slots__ = ("_size", "frames")

    def __init__(self) -> None:
        self.frames: list[tuple[FrameType, int, bytes]] = []
        self._size = 0

    def add(self, kind: FrameType, flags: int, payload: bytes, enforced: Limits) -> bool:
        """False, and it is not held, when that would be too much."""
        self._size += len(payload)
        if len(self.frames) >= MAX_HELD or self._size > MAX_HELD_BYTES + enforced.connection_window:
            return False
        self.frames.append((kind, flags, payload))
        return True


class GatewayReceiver(Receiver):
    """What only the gateway receives."""

    __slots__ = ("_gateway_calls", "_held", "_pushes", "gateway_exchange")

    def __init__(self, wire: Wire, calls: GatewayCalls, agreement: Agreement, pushes: PushSender) -> None:
        super().__init__(wire, calls, agreement)
        self._gateway_calls = calls
        self._pushes = pushes
        self._held: HeldFrames | None = None
        """What waits for WELCOME, since it cannot be decoded before."""
        self.gateway_exchange: GatewayExchange | None = None
        """`exchange`, as what it is."""

    def begin_exchange(self, named: NamedStates | None, *, plain: bool = False) -> GatewayExchange:
        """The exchange, made if it is not there."""
        exchange = self.gateway_exchange
        if exchange is None:
            self.exchange = self.gateway_exchange = exchange = GatewayExchange(self._wire, named, plain=plain)
        return exchange

    def release(self) -> None:
        """Receive what was held. Raises RemoteError."""
        held, self._held = self._held, None
        if held is not None:
            for kind, flags, payload in held.frames:
                if self._wire.closed:
                    return
                self.handlers[kind](self, flags, payload, 0, len(payload))

    def forget(self) -> None:
        """See Receiver."""
        super().forget()
        self._held = None

    def _hold(self, kind: FrameType, flags: int, data: bytes, start: int, stop: int) -> None:
        held = self._held
        if held is None:
            raise AssertionError("nothing is held")
        if not held.add(kind, flags, data[start:stop], self._wire.enforced):
            if self.gateway_exchange is not None:
                self.gateway_exchange.give_up()
            self.release()
            self.handlers[kind](self, flags, data, start, stop)

    def _request(self, flags: int, data: bytes, start: int, stop: int) -> None:
        if self._held is not None:
            self._hold(FrameType.REQUEST, flags, data, start, stop)
        else:
            self._gateway_calls.request_came(flags, data, start, stop)

    def _data(self, flags: int, data: bytes, start: int, stop: int) -> None:
        if self._held is not None:
            self._hold(FrameType.DATA, flags, data, start, stop)
        else:
            self._calls.data_came(flags, data, start, stop)

    def _reset(self, flags: int, data: bytes, start: int, stop: int) -> None:
        if self._held is not None:
            self._hold(FrameType.RESET, flags, data, start, stop)
        else:
            self._calls.reset_came(data, start, stop)

    def _window(self, flags: int, data: bytes, start: int, stop: int) -> None:
        # it may be credit of a call whose REQUEST is held
        if self._held is not None:
            self._hold(FrameType.WINDOW, flags, data, start, stop)
        else:
            super()._window(flags, data, start, stop)

    def _dict(self, flags: int, data: bytes, start: int, stop: int) -> None:
        if self._held is not None:
            self._hold(FrameType.DICT, flags, data, start, stop)
        else:
            super()._dict(flags, data, start, stop)

    def _table(self, flags: int, data: bytes, start: int, stop: int) -> None:
        if self._held is not None:
            self._hold(FrameType.TABLE, flags, data, start, stop)
        else:
            super()._table(flags, data, start, stop)

    def _ack(self, flags: int, data: bytes, start: int, stop: int) -> None:
        if flags:
            tokens = self._pushes.acked_ranges(data, start, stop)
        else:
            tokens = self._pushes.acked(decode_varint(data, start, stop)[0])
        self._wire.events.append(PushesAcked(tokens))

    def _push_window(self, increment: int) -> None:
        self._pushes.extra_bytes += increment
        if self._pushes.extra_bytes > LARGEST_CREDIT:
            raise RemoteError(Status.FLOW_CONTROL, f"window: more than {LARGEST_CREDIT} bytes of credit")

    def _hello(self, flags: int, data: bytes, start: int, stop: int) -> None:
        wire = self._wire
        hello = decode_hello(data, start, stop)
        wire.hello = hello
        wire.timer = None
        wire.peer = apply(DEFAULT_LIMITS, hello.settings)
        self._gateway_calls.call_base = hello.call_base
        wire.enter(wire.table[wire.state, FrameType.HELLO])
        if hello.headers is not None or hello.bundle:
            self.begin_exchange(hello.headers, plain=hello.plain)
            if not hello.plain:
                self._held = HeldFrames()
        wire.events.append(HelloReceived(hello))

    handlers = (
        Receiver._ping, Receiver._pong, _ack, _request,
        Receiver._never, _data, _reset, Receiver._never,
        _hello, Receiver._never, Receiver._settings, _dict,
        _table, _window, Receiver._goaway, Receiver._ext,
    )  # type: ignore[assignment]  # their self is this class, which has them  # fmt: skip


class DeviceReceiver(Receiver):
    """What only the device receives."""

    __slots__ = ("_acks", "_device_calls", "_pushes", "bundle", "device_exchange", "wishes")

    def __init__(self, wire: Wire, calls: DeviceCalls, agreement: Agreement, acks: Acknowledger) -> None:
        super().__init__(wire, calls, agreement)
        self._device_calls = calls
        self._pushes = PushReceiver(wire.limits)
        self._acks = acks
        self.bundle = EMPTY_BUNDLE
        """What HELLO named, until WELCOME."""
        self.wishes = Wishes()
        self.device_exchange: DeviceExchange | None = None
        """`exchange`, as what it is."""

    def begin_exchange(self, memory: HeaderMemory | None, *, plain: bool = False) -> DeviceExchange:
        """The exchange, made if it is not there."""
        exchange = self.device_exchange
        if exchange is None:
            self.exchange = self.device_exchange = exchange = DeviceExchange(
                self._wire, memory, self.wishes, plain=plain
            )
        return exchange

    def _response(self, flags: int, data: bytes, start: int, stop: int) -> None:
        self._device_calls.response_came(flags, data, start, stop)

    def _push(self, flags: int, data: bytes, start: int, stop: int) -> None:
        wire = self._wire
        streams = self._pushes.streams
        event, size = self._pushes.came(flags, data, start, stop, zstd=wire.zstd, uses=wire.uses)
        if isinstance(event, PushReceived):
            self._acks.came(event.index, size, wire.enforced)
        elif streams == self._pushes.streams:
            wire.control_frame()
        if event is not None:
            wire.events.append(event)

    def _welcome(self, flags: int, data: bytes, start: int, stop: int) -> None:
        wire = self._wire
        welcome = decode_welcome(data, start, stop)
        wire.events.append(WelcomeReceived(welcome))
        if welcome.result:
            wire.enter(wire.table[wire.state, Sent.REFUSAL])
            return
        offered = wire.hello.capabilities if wire.hello is not None else frozenset()
        if not welcome.capabilities <= offered:
            raise RemoteError(Status.PROTOCOL, "WELCOME: names capabilities that HELLO did not")
        wire.hello = None
        used = welcome.capabilities
        wire.zstd = ZSTD_CAPABILITY in used
        wire.enter(wire.table[wire.state, FrameType.WELCOME])
        bundle, self.bundle = self.bundle, EMPTY_BUNDLE
        if welcome.bundle and (welcome.bundle != bundle.digest or DICT_CAPABILITY not in used):
            raise RemoteError(Status.PROTOCOL, "WELCOME: a bundle in force that HELLO did not name")
        if DICT_CAPABILITY in used or HISTORY_CAPABILITY in used:
            wire.uses = Uses(
                bundle if DICT_CAPABILITY in used else EMPTY_BUNDLE,
                dictionaries=DICT_CAPABILITY in used,
                history=HISTORY_CAPABILITY in used,
                in_force=bool(welcome.bundle),
            )
        else:
            wire.uses = None
        template = TEMPLATE_CAPABILITY in used
        if self.exchange is not None or template or DICT_CAPABILITY in used:
            self.begin_exchange(None).welcomed(welcome, template=template)
        if welcome.settings:
            self._agreement.follow(welcome.settings)

    handlers = (
        Receiver._ping, Receiver._pong, Receiver._never, Receiver._never,
        _response, Receiver._data, Receiver._reset, _push,
        Receiver._never, _welcome, Receiver._settings, Receiver._dict,
        Receiver._table, Receiver._window, Receiver._goaway, Receiver._ext,
    )  # type: ignore[assignment]  # their self is this class, which has them  # fmt: skip
