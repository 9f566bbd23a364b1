"""Frames as the device receives them: WELCOME, answers, pushes."""

from __future__ import annotations

from protocols.errors import RemoteError
from protocols.mmtp.acks import Acknowledger
from protocols.mmtp.agreement import Agreement
from protocols.mmtp.bodies import ZSTD_CAPABILITY
from protocols.mmtp.bundles import EMPTY_BUNDLE
from protocols.mmtp.device_calls import DeviceCalls
from protocols.mmtp.device_exchange import DeviceExchange, HeaderMemory, Wishes
from protocols.mmtp.events import PushReceived, WelcomeReceived
from protocols.mmtp.frames import FrameType
from protocols.mmtp.handshake import decode_welcome
from protocols.mmtp.profiles import TEMPLATE_CAPABILITY
from protocols.mmtp.push_receiver import PushReceiver
from protocols.mmtp.receiver import Receiver
from protocols.mmtp.state import Sent
from protocols.mmtp.statuses import Status
from protocols.mmtp.uses import DICT_CAPABILITY, HISTORY_CAPABILITY, Uses
from protocols.mmtp.wire import Wire


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
