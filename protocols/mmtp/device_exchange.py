"""DICT and TABLE frames as the device sees them: what it stores for its next connection (specification, 7.3, 8.4)."""

from __future__ import annotations

from dataclasses import dataclass

from protocols.errors import LocalError, RemoteError
from protocols.mmtp.bundles import MAX_DICTIONARIES
from protocols.mmtp.dict_frames import (
    DictKind,
    DictOffer,
    decode_chunk,
    decode_offer,
    decode_retire,
    decode_use,
    encode_drop,
    encode_have,
    encode_retire,
    encode_use,
    encode_want,
)
from protocols.mmtp.dictionaries import MAX_CONTENT, REQUEST_KIND, Dictionary
from protocols.mmtp.digests import read_digest
from protocols.mmtp.events import DOWN, UP, DictionaryReceived, DictionaryRetired, TableReceived, TableRetired
from protocols.mmtp.exchange import MAX_TABLES, Exchange, dict_frame, table_frame, unknown_kind
from protocols.mmtp.fields import expect_end
from protocols.mmtp.frames import TableKind
from protocols.mmtp.handshake import DOWN_ACCEPTED, UP_ACCEPTED, NamedStates, Welcome
from protocols.mmtp.profiles import Checkpoint
from protocols.mmtp.statuses import Status
from protocols.mmtp.tables import GENERIC, AppTable, decode_table
from protocols.mmtp.transfers import Incoming
from protocols.mmtp.uses import Uses
from protocols.mmtp.varint import decode_varint, encode_varint
from protocols.mmtp.wire import Wire


@dataclass(slots=True, frozen=True)
class HeaderMemory:
    """What a device has stored of its last connections to begin the next one with: its table, and the newest
    checkpoint of each direction (events.CheckpointAcked of `up`, events.CheckpointTaken of `down`)."""

    table: AppTable = GENERIC
    up: Checkpoint | None = None
    down: Checkpoint | None = None

    def __post_init__(self) -> None:
        """Raises LocalError for a state of another table."""
        for checkpoint in (self.up, self.down):
            if checkpoint is not None and checkpoint.state.table.digest != self.table.digest:
                raise LocalError(f"header memory: checkpoint {checkpoint.number} is of another table")

    @property
    def named(self) -> NamedStates:
        """What HELLO says of it."""
        up, down = self.up, self.down
        return NamedStates(
            self.table.id,
            self.table.digest,
            up.number if up is not None else 0,
            up.state.digest if up is not None else b"",
            down.number if down is not None else 0,
            down.state.digest if down is not None else b"",
        )


class Wishes:
    """Which offers the device wants."""

    __slots__ = ("dictionary_bytes", "tables")

    def __init__(self) -> None:
        self.dictionary_bytes = MAX_DICTIONARIES * MAX_CONTENT
        """Of the contents of all dictionaries, those held included."""
        self.tables = True


class DeviceExchange(Exchange):
    """Wants and haves leave; offers, chunks and uses come. An offer is wanted if there is room for it."""

    __slots__ = ("_incoming", "_incoming_tables", "_memory", "_plain", "_table", "_wishes")

    received = DOWN
    sent = UP

    def __init__(self, wire: Wire, memory: HeaderMemory | None, wishes: Wishes, *, plain: bool = False) -> None:
        """`plain`: as Hello.plain."""
        super().__init__(wire)
        self._plain = plain
        self._memory = memory
        self._table = None if memory is None else memory.table
        """What the next connection begins with, as far as we know."""
        self._wishes = wishes
        self._incoming: dict[int, tuple[DictOffer, Incoming]] = {}
        """By id; for the device its own connection is the only one, so these need not be lazy."""
        self._incoming_tables: dict[int, Incoming] = {}
        if memory is not None and not plain:
            self.begin_profiles().encode_from(memory.table, memory.up)

    def welcomed(self, welcome: Welcome, *, template: bool) -> None:
        """WELCOME came: our blocks go on, or TABLE start begins them anew. Raises RemoteError(PROTOCOL)."""
        memory, self._memory = self._memory, None
        table = self._table_of(welcome, memory) if template else None
        accepted = welcome.accepted if template else 0
        if accepted and (memory is None or (accepted & DOWN_ACCEPTED and memory.down is None)):
            raise RemoteError(Status.PROTOCOL, f"WELCOME: accepts {accepted}, which HELLO did not name")
        if memory is None and table is None:
            return
        profiles = self.begin_profiles()
        if table is not None:
            resumed = memory.down if memory is not None and accepted & DOWN_ACCEPTED else None
            if resumed is not None and resumed.state.table.digest != table.digest:
                raise RemoteError(Status.PROTOCOL, "WELCOME: accepts a state of another table than it names")
            profiles.decode_from(table, resumed)
        if self._plain or not accepted & UP_ACCEPTED:
            resumed = memory.up if memory is not None and accepted & UP_ACCEPTED else None
            profiles.encode_from(table, resumed)
            self._wire.out.append(table_frame(TableKind.START, encode_varint(0 if table is None else table.id)))

    @staticmethod
    def _table_of(welcome: Welcome, memory: HeaderMemory | None) -> AppTable | None:
        if welcome.table is None:
            return None
        for table in (GENERIC,) if memory is None else (memory.table, GENERIC):
            if welcome.table == (table.id, table.digest):
                return table
        raise RemoteError(Status.PROTOCOL, f"WELCOME: names table {welcome.table[0]}, which HELLO did not")

    def fill(self, out: list[bytes]) -> None:
        """See Exchange; a device sends no chunks."""

    # --- TABLE

    def _table_kind(self, kind: int, number: int, data: bytes, pos: int, end: int) -> None:
        if kind == TableKind.OFFER:
            digest, pos = read_digest(data, pos, end)
            size, pos = decode_varint(data, pos, end)
            expect_end(pos, end)
            held = self._table
            if held is not None and held.id == number and held.digest == digest:
                self._have(held)
                return
            if number not in self._incoming_tables and len(self._incoming_tables) >= MAX_TABLES:
                return
            if not self._wishes.tables:
                return
            self._incoming_tables[number] = Incoming(number, size, size, digest, plain=True)
            self._wire.out.append(table_frame(TableKind.WANT, encode_varint(number)))
        elif kind == TableKind.CHUNK:
            offset, pos = decode_varint(data, pos, end)
            incoming = self._incoming_tables.get(number)
            if incoming is None or not incoming.chunk(offset, data[pos:end]):
                return
            del self._incoming_tables[number]
            table = decode_table(incoming.complete())
            if table.id != number:
                raise RemoteError(Status.PROTOCOL, f"TABLE: expected table {number}, got {table.id}")
            self._table = table
            self._have(table)
            self._wire.events.append(TableReceived(table))
        elif kind == TableKind.RETIRE:
            expect_end(pos, end)
            self._incoming_tables.pop(number, None)
            if self._table is not None and self._table.id == number:
                self._table = None
            self._wire.events.append(TableRetired(number))
        else:
            raise unknown_kind("TABLE", kind)

    def _have(self, table: AppTable) -> None:
        self._wire.out.append(table_frame(TableKind.HAVE, encode_varint(table.id) + table.digest))

    # --- DICT

    def dict_came(self, kind: int, data: bytes, pos: int, end: int) -> None:
        """See Exchange."""
        self._count()
        uses = self.uses()
        if kind == DictKind.OFFER:
            self._offered(decode_offer(data, pos, end), uses)
        elif kind == DictKind.CHUNK:
            id, offset, part = decode_chunk(data, pos, end)
            found = self._incoming.get(id)
            if found is not None and found[1].chunk(offset, part):
                del self._incoming[id]
                self._complete(*found, uses)
        elif kind == DictKind.USE:
            self._use(*decode_use(data, pos, end), uses)
        elif kind == DictKind.RETIRE:
            id = decode_retire(data, pos, end)
            self._incoming.pop(id, None)
            if uses.forget(id) is not None:
                self._wire.events.append(DictionaryRetired(id))
            self._wire.out.append(dict_frame(DictKind.RETIRE, encode_retire(id)))
        else:
            raise unknown_kind("DICT", kind)

    def _offered(self, offer: DictOffer, uses: Uses) -> None:
        id = offer.id
        held = uses.held.get(id)
        if held is not None:
            if held.digest == offer.digest:
                self._wire.out.append(dict_frame(DictKind.HAVE, encode_have(id, held.digest)))
                self._wire.events.append(DictionaryReceived(held))
            return
        base = uses.held.get(offer.base)
        packed_size = offer.packed_size if base is None else offer.delta_size
        # one that is on its way is offered anew: what came of it is dropped, whether or not there is room
        self._incoming.pop(id, None)
        if not self._room(max(offer.size, packed_size), uses):
            return
        incoming = Incoming(id, packed_size, offer.size, offer.digest, None if base is None else base.content)
        self._incoming[id] = (offer, incoming)
        self._wire.out.append(dict_frame(DictKind.WANT, encode_want(id, 0 if base is None else base.id)))

    def _room(self, size: int, uses: Uses) -> bool:
        if len(self._incoming) + len(uses.held) >= MAX_DICTIONARIES:
            return False
        coming = sum(max(offer.size, incoming.packed_size) for offer, incoming in self._incoming.values())
        return coming + sum(len(d.content) for d in uses.held.values()) + size <= self._wishes.dictionary_bytes

    def _complete(self, offer: DictOffer, incoming: Incoming, uses: Uses) -> None:
        try:
            dictionary = Dictionary(offer.id, incoming.complete(), offer.classes)
        except LocalError as error:
            raise RemoteError(Status.PROTOCOL, f"DICT: {error}") from None
        dictionary.check()
        if uses.hold(dictionary):
            self._wire.out.append(dict_frame(DictKind.HAVE, encode_have(offer.id, dictionary.digest)))
            self._wire.events.append(DictionaryReceived(dictionary))

    def _use(self, id: int, name: str, uses: Uses) -> None:
        """The gateway's bodies change, and ours of these classes with them."""
        if name:
            uses.down.drop(name)
            if name[0] == REQUEST_KIND:
                uses.up.drop(name)
                self._wire.out.append(dict_frame(DictKind.USE, encode_drop(name)))
            return
        dictionary = uses.held.get(id)
        if dictionary is None:
            raise RemoteError(Status.PROTOCOL, f"DICT: use of dictionary {id}, which is not there")
        uses.down.use(dictionary)
        if any(name[0] == REQUEST_KIND for name in dictionary.classes):
            uses.up.use(dictionary)
            self._wire.out.append(dict_frame(DictKind.USE, encode_use(id)))
