"""MMTP by protocols.mmtp, both roles joined by a pipe: cold, warm, warm with history of pushes, and with profile H."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from loadtest.corpus.calls import CALLS
from loadtest.corpus.devices import CARRIERS, CHANNELS, JSON, OPERATION, PROTOBUF, SYSTEMS, Headers
from loadtest.corpus.sessions import Exchange, Pushed, Session
from loadtest.wire.tally import (
    ACKS,
    BODIES,
    CREDENTIAL,
    FRAMING,
    HANDSHAKE,
    HEADERS,
    HEARTBEATS,
    Tally,
    without_operation,
)
from protocols.mmtp import Connection, Hello, Role, StreamCursor, Welcome, encode_push
from protocols.mmtp.bundles import Bundle
from protocols.mmtp.device_exchange import HeaderMemory
from protocols.mmtp.events import (
    CheckpointAcked,
    CheckpointTaken,
    DataReceived,
    Event,
    PushReceived,
    RequestReceived,
    ResponseReceived,
)
from protocols.mmtp.frames import ATTRIBUTES, FrameType
from protocols.mmtp.gateway_exchange import FoundStates
from protocols.mmtp.profiles import Checkpoint
from protocols.mmtp.shared_bodies import SharedBody
from protocols.mmtp.tables import GENERIC, AppTable, TableName, ValueType
from protocols.mmtp.varint import decode_varint

HISTORY = 4096
SECONDS = 1.0
"""Between two events of a session: more than an acknowledgement waits for company."""


def _application_table() -> AppTable:
    """What the app's developers would declare: operations, media types, and how values look."""
    names = [
        TableName(OPERATION, ValueType.ENUM, tuple(sorted(call.operation for call in CALLS))),
        TableName("content-type", ValueType.ENUM, (JSON, PROTOBUF)),
        TableName("x-time", ValueType.TIME),
        TableName("x-server-time", ValueType.TIME),
    ]
    hexadecimal = ("x-trace-id", "x-sign", "x-device-id", "x-install")
    names += [TableName(name, ValueType.HEX) for name in hexadecimal]
    names += [TableName(name, ValueType.UINT) for name in ("x-build", "x-carrier", "x-result")]
    plain = (
        "accept-language accept-encoding cache-control user-agent x-app x-channel x-os x-model x-screen x-device-print "
        "x-timezone x-network x-zone"
    )
    names += [TableName(name, ValueType.STRING) for name in plain.split()]
    pairs = (
        ("accept-encoding", "gzip, deflate"),
        ("cache-control", "no-cache"),
        ("x-app", "lantern"),
        ("accept-language", "zh-CN"),
        ("accept-language", "en-SG"),
        ("x-timezone", "Asia/Shanghai"),
        ("x-network", "wifi"),
        ("x-network", "5g"),
        ("x-network", "4g"),
        *(("x-channel", value) for value in (*CHANNELS, "apple-store")),
        *(("x-carrier", value) for value in CARRIERS),
        *(("x-os", value) for value in SYSTEMS),
    )
    return AppTable(7, 1, tuple(names), pairs)


APPLICATION = _application_table()


@dataclass(frozen=True)
class Mode:
    """What a connection begins with."""

    name: str
    capabilities: frozenset[str]
    table: AppTable | None = None
    """None: profile H."""
    resumed: bool = False
    """Header states of an earlier connection of the device are there."""
    bundle: Bundle | None = None
    history: int = 0


def modes(bundle: Bundle) -> dict[str, Mode]:
    """All that are measured, by name."""
    cold = frozenset(("zstd", "template"))
    warm = cold | {"dict"}
    return {
        mode.name: mode
        for mode in (
            Mode("profile H", frozenset(("zstd",))),
            Mode("cold, generic table", cold, GENERIC),
            Mode("cold", cold, APPLICATION),
            Mode("warm", warm, APPLICATION, True, bundle),
            Mode("warm + history", warm | {"history"}, APPLICATION, True, bundle, HISTORY),
        )
    }


class Mmtp:
    """Both ends."""

    def __init__(self, mode: Mode, session: Session, tally: Tally) -> None:
        self.arrived: list[tuple[Headers, bytes]] = []
        self._mode = mode
        self._session = session
        self._tally = tally
        self._now = 0.0
        self._sent: list[bytes] = []
        self._aliases: dict[str, int] = {}
        self._memory = HeaderMemory(mode.table) if mode.table is not None else None
        self._found = FoundStates(mode.table) if mode.table is not None else None
        self._device = Connection(Role.CLIENT, now=0.0)
        self._gateway = Connection(Role.SERVER, now=0.0)
        self._kept: dict[str, Checkpoint] = {}
        self.blocks: list[int] = []
        """Sizes of the request header blocks, with what keeps their states."""

    def open(self) -> None:
        if self._mode.resumed:
            self._remember()
        session, mode = self._session, self._mode
        streams = sorted({(push.biz, push.seq) for push in reversed(session.pushes)}, key=lambda stream: stream[1])
        first = dict(reversed(streams))
        cursors = [StreamCursor("user", session.user, biz, 1, first[biz] - 1) for biz in sorted(first)]
        hello = Hello(
            session.device,
            token=CREDENTIAL,
            app="lantern",
            app_version="7.42.0",
            capabilities=mode.capabilities,
            boot=12,
            counter=3,
            time=1.75e9,
            call_base=0x5AFE_0FF5_1CE5_EED5,
            cursors=cursors,
        )
        self._device.send_hello(hello, self._memory, mode.bundle)
        self._carry()
        welcome = Welcome(session="c2Vzc2lvbi0x", mac_key=b"k" * 32, time=1.75e9, heartbeat=240, idle_timeout=600)
        self._gateway.send_welcome(welcome, self._found, mode.bundle)
        self._carry()
        for alias, cursor in enumerate(cursors, 1):
            self._aliases[cursor.biz] = alias
            self._gateway.introduce_stream(alias, cursor, history=mode.history)
        self._carry()

    def _remember(self) -> None:
        """What both ends have kept of the device's connection before this one."""
        mode = Mode("before", frozenset(("template",)), self._mode.table)
        before = Mmtp(mode, Session(self._session.device, self._session.user, []), Tally())
        before.open()
        for exchange in self._session.before:
            before.call(exchange)
        assert self._mode.table is not None
        kept = before._kept
        self._memory = HeaderMemory(self._mode.table, kept.get("up"), kept.get("down"))
        self._found = FoundStates(self._mode.table, kept["up"].state, kept["down"].state)

    def call(self, exchange: Exchange) -> None:
        number = self.request(exchange.operation, exchange.request_headers, exchange.request)
        self._gateway.respond(number, 0, exchange.response_headers, exchange.response)
        self._carry()
        self._now += SECONDS
        self._carry()

    def request(self, operation: str, headers: Headers, body: bytes) -> int:
        """Half a call; its number."""
        number = self._device.request(operation, without_operation(headers), body)
        self._carry()
        return number

    def push(self, push: Pushed) -> None:
        alias = self._aliases[push.biz]
        if self._gateway.stream_has_history(alias):
            sent = self._gateway.offer_body(alias, push.seq, SharedBody(push.body), None)
            assert sent, "the push window is full"
        else:
            dictionary = self._gateway.push_dictionary(push.biz)
            frame = encode_push(alias, push.body, coding=2, dictionary=dictionary)
            self._gateway.send_push(alias, push.seq, frame, len(push.body), None)
        self._carry()
        self._now += SECONDS
        self._carry()

    def heartbeat(self) -> None:
        self._device.ping(False)
        self._carry()
        self._now += SECONDS

    # --- the pipe

    def _carry(self) -> None:
        moved = True
        while moved:
            moved = False
            for sender, receiver in ((self._device, self._gateway), (self._gateway, self._device)):
                out = sender.to_send(self._now)
                if out:
                    moved = True
                    self._sent.append(out)
                    receiver.receive(out, self._now)
                    for event in receiver.events():
                        self._came(receiver, event)
                for event in sender.events():
                    self._came(sender, event)

    def _came(self, receiver: Connection, event: Event) -> None:
        if isinstance(event, RequestReceived):
            self.arrived.append(([(OPERATION, event.operation), *event.headers], event.body))
            receiver.consumed(event.call, event.wire_size)
        elif isinstance(event, ResponseReceived):
            assert not event.more, "answers of the corpus fit into one frame"
            self.arrived.append((event.headers, event.body))
            receiver.consumed(event.call, event.wire_size)
        elif isinstance(event, PushReceived):
            self.arrived.append(([], event.body))
            receiver.ack()
        elif isinstance(event, (CheckpointAcked, CheckpointTaken)):
            if receiver is self._device and (event.direction == "up") == isinstance(event, CheckpointAcked):
                self._kept[event.direction] = Checkpoint(event.number, event.state)
        else:
            assert not isinstance(event, DataReceived)

    def close(self) -> None:
        for out in self._sent:
            self._tally.wrote(len(out))
            pos = 0
            while pos < len(out):
                pos = self._tell(out, pos)
        self._sent.clear()

    def _tell(self, out: bytes, begin: int) -> int:
        """Count one frame; where the next one begins."""
        tally = self._tally
        kind, flags = FrameType(out[begin] >> 4), out[begin] & 15
        pos = begin + 1
        if kind in (FrameType.PING, FrameType.PONG):
            tally.count(HEARTBEATS, 1)
            return pos
        if kind is FrameType.ACK and not flags:
            _, end = decode_varint(out, pos, len(out))
            tally.count(ACKS, end - begin)
            return end
        size, pos = decode_varint(out, pos, len(out))
        end = pos + size
        if kind in (FrameType.REQUEST, FrameType.RESPONSE):
            if kind is FrameType.RESPONSE:
                _, pos = decode_varint(out, pos + 1, end)
            if flags & ATTRIBUTES:
                length, pos = decode_varint(out, pos, end)
                pos += length
            block, pos = decode_varint(out, pos, end)
            if kind is FrameType.REQUEST:
                self.blocks.append(block)
            self._split(begin, end, headers=block, body=end - pos - block)
        elif kind is FrameType.PUSH:
            _, pos = decode_varint(out, pos, end)
            if flags & ATTRIBUTES:
                tally.count(HANDSHAKE, end - begin)
            else:
                self._split(begin, end, headers=0, body=end - pos)
        elif kind in (FrameType.WINDOW, FrameType.ACK):
            tally.count(ACKS, end - begin)
        elif kind is FrameType.TABLE:
            tally.count(HEADERS, end - begin)
        else:
            tally.count(HANDSHAKE, end - begin)
        return end

    def _split(self, begin: int, end: int, *, headers: int, body: int) -> None:
        self._tally.count(HEADERS, headers)
        self._tally.count(BODIES, body)
        self._tally.count(FRAMING, end - begin - headers - body)


def maker(mode: Mode) -> partial[Mmtp]:
    """What tally.speak takes."""
    return partial(Mmtp, mode)


__all__ = ["APPLICATION", "Mmtp", "Mode", "maker", "modes"]
