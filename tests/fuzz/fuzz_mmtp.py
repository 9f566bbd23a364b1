"""Feeds MMTP connections that have templates, dictionaries and histories with changed bytes:
python -m tests.fuzz.fuzz_mmtp --packets N.

Two connections talk to each other, and what one says is changed before the other hears it. Nothing but RemoteError may
come of it. The same seed feeds the same bytes.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from typing import Any

from protocols.errors import LocalError, RemoteError
from protocols.mmtp import Connection, Hello, Limits, Role, StreamCursor, Welcome, encode_push
from protocols.mmtp import events as ev
from protocols.mmtp.bundles import Bundle
from protocols.mmtp.device_exchange import HeaderMemory
from protocols.mmtp.dict_frames import DictKind
from protocols.mmtp.dictionaries import Dictionary
from protocols.mmtp.frames import INCOMPLETE, FrameType, TableKind, cut, encode_frame
from protocols.mmtp.gateway_exchange import FoundStates
from protocols.mmtp.header_rules import is_credential
from protocols.mmtp.mini import MAX_MINI
from protocols.mmtp.profiles import Checkpoint
from protocols.mmtp.shared_bodies import SharedBody
from protocols.mmtp.tables import GENERIC, AppTable, TableName, ValueType, decode_table
from protocols.mmtp.templates import TemplateState, decode_state
from protocols.mmtp.varint import encode_varint
from tests.fuzz.command import run
from tests.fuzz.faults import with_faults

_TABLES = (
    GENERIC,
    AppTable(7, 1, (*GENERIC.names, TableName("x-os", ValueType.ENUM, ("ios", "android", "é"))), (("x-os", "ios"),)),
    AppTable(8, 2, (TableName(":op"), TableName("a", ValueType.TIME), TableName("b", ValueType.HEX)), (("a", "1"),)),
)
_DICTIONARIES = tuple(
    Dictionary(number, b'{"order":"20260101","state":"paid","amount":"%d.00"}' % number * 20, classes)
    for number, classes in enumerate((("q*", "a*"), ("p*",), ("qpay", "apay", "pnews"), ("qpay",), ("pnews", "a*")), 1)
)
_LIMITS = (
    Limits(),
    Limits(max_open_calls=2, call_window=500, connection_window=900),
)
_CAPABILITIES = ("zstd", "template", "dict", "history")
_NAMES = ("content-type", "x-os", "a", "b", "timestamp", "x-trace-id", "authorization", "cookie", "x-rare", "sequence")
_VALUES = ("application/json", "ios", "1700000000123", "0af7651916cd43dd", "Bearer abc", "é", "", "0", "x" * 90)
_OPERATIONS = ("pay", "list", "orders.get")
_ROOM = 64
"""Entries of anything that is made up."""


class Maker:
    """Makes connections that talk in order, and bytes that are not."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.states: list[TemplateState] = []
        """Some that were made, for the next connections."""

    def change(self, data: bytes) -> bytes:
        """The bytes with up to three faults."""
        return with_faults(data, self.random, (0, 0, 0, 1, 1, 2, 3))

    def reframed(self, data: bytes) -> bytes:
        """One frame gets faults in its payload only, so that its length is right."""
        frames = []
        pos = 0
        while pos < len(data):
            start, stop, _ = cut(data, pos, len(data), 1 << 20)
            if start == INCOMPLETE:
                return self.change(data)
            if stop > start:
                frames.append((pos, start, stop))
            pos = stop
        if not frames:
            return self.change(data)
        pos, start, stop = self.random.choice(frames)
        if start == pos + 1:  # of fixed length
            return self.change(data)
        payload = self.change(data[start:stop])
        return data[: pos + 1] + encode_varint(len(payload)) + payload + data[stop:]

    def headers(self) -> list[tuple[str, str]]:
        pick = self.random
        return [(pick.choice(_NAMES), pick.choice(_VALUES)) for _ in range(pick.randrange(7))]

    def body(self) -> bytes:
        pick = self.random
        if pick.random() < 0.2:
            return pick.randbytes(pick.randrange(400))
        return b'{"order":"%d","state":"paid","amount":"%d.00"}' % (pick.randrange(10**8), pick.randrange(99))

    def made_up(self) -> bytes:
        """A frame that nobody asked for."""
        pick = self.random
        id = encode_varint(pick.choice((0, 1, 2, 3, 7, 8, 9, 300, 1 << 63)))
        rest = pick.choice((b"", bytes(8), encode_varint(pick.randrange(4)), pick.randbytes(pick.randrange(40)),
                            pick.choice(_DICTIONARIES).digest, b"q*", pick.choice(_TABLES).digest))  # fmt: skip
        kind = pick.choice((FrameType.DICT, FrameType.TABLE))
        return encode_frame(kind, pick.choice(tuple(DictKind if kind is FrameType.DICT else TableKind)), id + rest)

    def pair(self) -> Pair:
        return Pair(self)


class Pair:
    """A device and a gateway, mostly past WELCOME."""

    def __init__(self, maker: Maker) -> None:
        self.maker = maker
        pick = self.random = maker.random
        limits = pick.choice(_LIMITS)
        self.device = Connection(Role.CLIENT, limits=Limits(), now=0.0)
        self.gateway = Connection(Role.SERVER, limits=limits, now=0.0)
        self.calls: list[int] = []
        self.aliases: dict[int, tuple[str, int]] = {}
        """Biz and last number by alias."""
        self.found = FoundStates()
        self.bundle: Bundle | None = None
        named = pick.sample(_CAPABILITIES, pick.choice((4, 4, 4, 3, 2)))
        memory: HeaderMemory | None = None
        if "template" in named and pick.random() < 0.8:
            memory = self._memory()
        if "dict" in named and pick.random() < 0.6:
            self.bundle = Bundle(pick.sample(_DICTIONARIES, pick.randint(1, 3)))
        self.device.send_hello(Hello("d", capabilities=frozenset(named)), memory, self.bundle)
        self.welcomed = False
        self.spoiled = False
        """Something was changed on its way."""

    def _memory(self) -> HeaderMemory:
        pick, states = self.random, self.maker.states
        up = pick.choice(states) if states and pick.random() < 0.7 else None
        table = up.table if up is not None else pick.choice(_TABLES)
        down = next((state for state in states if state.table is table), None)
        knows = pick.random() < 0.8
        self.found = FoundStates(table, up if knows else None, down) if pick.random() < 0.9 else FoundStates()
        number = pick.choice((1, 40, (1 << 64) - 2))
        return HeaderMemory(
            table,
            None if up is None else Checkpoint(number, up),
            None if down is None else Checkpoint(number, down),
        )

    def act(self) -> None:
        """Something that one of the two may do now."""
        pick, device, gateway = self.random, self.device, self.gateway
        if not self.welcomed and pick.random() < 0.3:
            self.welcomed = True
            gateway.send_welcome(Welcome(), self.found, self.bundle if pick.random() < 0.8 else None)
            return
        made = self.maker
        match pick.randrange(12):
            case 0 | 1 | 2:
                number = device.request(
                    pick.choice(_OPERATIONS), made.headers(), made.body(), more=pick.random() < 0.1,
                    secret=pick.random() < 0.2,
                )  # fmt: skip
                if pick.random() < 0.1:
                    device.send_data(number, made.body(), False)
            case 3 | 4 | 5 if self.calls:
                call = self.calls.pop()
                gateway.respond(call, 0, made.headers(), made.body(), secret=pick.random() < 0.2)
            case 6:
                alias = pick.randrange(1, 5)
                cursor = StreamCursor("user", "u", pick.choice(("news", "chat")), 1, 0)
                self.aliases[alias] = (cursor.biz, 0)
                gateway.introduce_stream(alias, cursor, history=pick.choice((0, 200, 4096)))
            case 7 if self.aliases:
                self._push(pick.choice(list(self.aliases)))
            case 8:
                base = next(iter(gateway.classes_in_use().values()), None)
                gateway.offer_dictionary(pick.choice(_DICTIONARIES), base if pick.random() < 0.5 else None)
            case 9:
                held = gateway.held_dictionaries()
                if held:
                    pick.choice((gateway.use_dictionary, gateway.retire_dictionary))(pick.choice(held))
                else:
                    gateway.drop_class(pick.choice(("q*", "pnews")))
            case 10:
                gateway.offer_table(pick.choice(_TABLES[1:]))
            case 11:
                pick.choice((device, gateway)).rest()

    def _push(self, alias: int) -> None:
        pick, gateway = self.random, self.gateway
        body = self.maker.body()
        biz, last = self.aliases[alias]
        seq = last + 1
        if gateway.stream_has_history(alias):
            sent = gateway.offer_body(alias, seq, SharedBody(body), None, secret=pick.random() < 0.1)
        else:
            if not gateway.push_room(len(body)):
                return
            dictionary = gateway.push_dictionary(biz)
            gateway.send_push(alias, seq, encode_push(alias, body, dictionary=dictionary), len(body), None)
            sent = True
        if sent:
            self.aliases[alias] = (biz, seq)

    def hear(self, side: Connection, data: bytes) -> int:
        """Feeds it; how many events came of it. Raises RemoteError."""
        try:
            cut = self.random.randrange(len(data) + 1) if self.random.random() < 0.2 else len(data)
            side.receive(data[:cut], 0.0)
            side.receive(data[cut:], 0.0)
        finally:
            events = side.events()
            for event in events:
                self._look(side, event)
        return len(events)

    def _look(self, side: Connection, event: Any) -> None:
        match event:
            case ev.RequestReceived():
                assert sum(32 + len(name) + len(value) for name, value in event.headers) <= Limits().max_headers
                assert len(event.body) <= max(MAX_MINI, 200 * max(event.wire_size, 1))
                if not event.more and len(self.calls) < _ROOM:
                    self.calls.append(event.call)
                if event.wire_size:
                    side.consumed(event.call, event.wire_size)
            case ev.DataReceived() if event.wire_size:
                side.consumed(event.call, event.wire_size)
            case ev.PushReceived():
                side.ack()
            case ev.CheckpointTaken() | ev.CheckpointAcked():
                again = decode_state(event.state.encoded, event.state.table)
                assert again.encoded == event.state.encoded
                fields = [field for template in again.templates for field in template.fields]
                assert not any(is_credential(name) and value is not None for name, value in fields)
                self.maker.states = [*self.maker.states[-_ROOM:], event.state]
            case _:
                pass


def fuzz(packets: int, seed: int) -> Iterator[tuple[str, int]]:
    """Feeds that many pieces; gives (what became of each, status or 0). Anything but RemoteError goes through."""
    maker = Maker(seed)
    pick = maker.random
    pair = maker.pair()
    fed = 0
    while fed < packets:
        if pair.device.closed or pair.gateway.closed or pick.random() < 0.005:
            pair = maker.pair()
        for _ in range(pick.randrange(4)):
            try:
                pair.act()
            except LocalError:
                continue
        said, side = pick.choice(((pair.device, pair.gateway), (pair.gateway, pair.device)))
        data = said.to_send(0.0)
        genuine = data
        if pick.random() < 0.02:
            data += maker.made_up()
        if pick.random() < 0.12:
            data = maker.change(data) if pick.random() < 0.3 else maker.reframed(data)
        pair.spoiled |= data != genuine
        if not data:
            continue
        fed += 1
        code = events = 0
        try:
            events = pair.hear(side, data)
        except RemoteError as error:
            if not side.closed or not pair.spoiled:
                raise AssertionError(f"{data.hex()}: an error that does not close, or of nobody's making") from error
            code = error.code
            side.to_send(0.0)
        yield ("refused" if code else "taken" if events else "nothing"), code
        if fed % 10 == 0 and maker.states:
            yield from _stored(maker)


def _stored(maker: Maker) -> Iterator[tuple[str, int]]:
    """States and tables as they come out of a store or a file."""
    pick = maker.random
    state, table = pick.choice(maker.states), pick.choice(_TABLES)
    try:
        again = decode_state(maker.change(state.encoded), state.table)
        assert decode_state(TemplateState(again.table, again.templates, again.time).encoded, again.table) == again
        made = decode_table(maker.change(table.encoded))
        assert decode_table(made.encoded) == made
    except RemoteError as error:
        yield "not stored", error.code
    else:
        yield "stored", 0


if __name__ == "__main__":
    sys.exit(run(fuzz, __doc__, what="MMTP", counts=lambda outcome: not outcome[0].endswith("stored")))
