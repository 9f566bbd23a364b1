"""Frames as the gateway receives them: HELLO, calls, acknowledgements; what needs its WELCOME is held until then."""

from __future__ import annotations

from protocols.errors import RemoteError
from protocols.mmtp.agreement import Agreement
from protocols.mmtp.events import HelloReceived, PushesAcked
from protocols.mmtp.flow import LARGEST_CREDIT
from protocols.mmtp.frames import FrameType
from protocols.mmtp.gateway_calls import GatewayCalls
from protocols.mmtp.gateway_exchange import GatewayExchange
from protocols.mmtp.handshake import NamedStates, decode_hello
from protocols.mmtp.pushes import PushSender
from protocols.mmtp.receiver import Receiver
from protocols.mmtp.settings import DEFAULT_LIMITS, Limits, apply
from protocols.mmtp.statuses import Status
from protocols.mmtp.varint import decode_varint
from protocols.mmtp.wire import Wire

MAX_HELD = 256
"""Frames between HELLO and WELCOME."""
MAX_HELD_BYTES = 64 * 1024
"""Their payloads, beside what credit allows of bodies."""


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
