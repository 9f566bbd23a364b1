"""DICT and TABLE frames as the gateway sees them: states named by HELLO, offers, chunks (specification, 7.3, 8.4)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from protocols.errors import LocalError, RemoteError
from protocols.mmtp.bundles import EMPTY_BUNDLE, MAX_DICTIONARIES, Bundle
from protocols.mmtp.dict_frames import (
    DictKind,
    DictOffer,
    decode_have,
    decode_retire,
    decode_use,
    decode_want,
    encode_chunk,
    encode_drop,
    encode_offer,
    encode_retire,
    encode_use,
    offer_of,
)
from protocols.mmtp.dictionaries import Dictionary
from protocols.mmtp.digests import whole_digest
from protocols.mmtp.events import DOWN, UP, DictionaryHeld, DictionaryRetired, TableHeld
from protocols.mmtp.exchange import MAX_TABLES, Exchange, dict_frame, table_frame, unknown_kind
from protocols.mmtp.fields import expect_end
from protocols.mmtp.frames import PING_ANSWER_FRAME, FrameType, TableKind, encode_frame
from protocols.mmtp.handshake import DOWN_ACCEPTED, UP_ACCEPTED, Hello, NamedStates
from protocols.mmtp.nothing import NOTHING
from protocols.mmtp.profiles import Checkpoint
from protocols.mmtp.statuses import Status
from protocols.mmtp.tables import GENERIC, AppTable
from protocols.mmtp.templates import TemplateState
from protocols.mmtp.transfers import CHUNK, pack
from protocols.mmtp.uses import Uses
from protocols.mmtp.varint import encode_varint
from protocols.mmtp.wire import Wire


@dataclass(slots=True, frozen=True)
class FoundStates:
    """What the gateway found of that which HELLO named (Hello.headers); a wrong or missing one costs bytes only."""

    table: AppTable | None = None
    """The table; the generic one is found without."""
    up: TemplateState | None = None
    down: TemplateState | None = None


class PackedDictionary:
    """A dictionary as it is offered: packed once for all connections, in full and against a base."""

    __slots__ = ("base", "delta", "dictionary", "offer", "packed")

    def __init__(self, dictionary: Dictionary, base: Dictionary | None = None) -> None:
        """Takes some 20 ms, so a thread may do it."""
        self.dictionary = dictionary
        self.packed = pack(dictionary.content)
        delta = pack(dictionary.content, base.content) if base is not None and base.id != dictionary.id else None
        if delta is not None and len(delta) >= len(self.packed):
            delta = None
        self.delta = delta
        self.base = base if delta is not None else None
        self.offer: DictOffer = (
            offer_of(dictionary, len(self.packed), self.base.id, len(delta))
            if self.base is not None and delta is not None
            else offer_of(dictionary, len(self.packed))
        )


@lru_cache(maxsize=64)
def packed_dictionary(dictionary: Dictionary, base: Dictionary | None = None) -> PackedDictionary:
    """PackedDictionary, kept: rollouts offer few dictionaries to many devices."""
    return PackedDictionary(dictionary, base)


_NONE: frozenset[Any] = frozenset()
"""One for all: an empty frozenset of one's own weighs 216 bytes."""


class _Outgoing:
    __slots__ = ("content", "id", "kind", "offset")

    def __init__(self, kind: FrameType, id: int, content: bytes) -> None:
        self.kind = kind
        self.id = id
        self.content = content
        self.offset = 0


class GatewayExchange(Exchange):
    """Offers leave; wants, haves, states and uses come.

    Chunks leave CHUNK bytes at a time, behind everything else, and the next only when the device has answered a PING
    that followed the last: they never fill a slow path.
    """

    __slots__ = (
        "_armed",
        "_marker",
        "_may_start",
        "_named",
        "_offers",
        "_plain",
        "_queue",
        "_resumed",
        "_retiring",
        "_table",
        "_tables",
        "template",
    )

    received = UP
    sent = DOWN

    def __init__(self, wire: Wire, named: NamedStates | None, *, plain: bool = False) -> None:
        """`plain`: as Hello.plain."""
        super().__init__(wire)
        self._named = named
        self._plain = plain
        self._resumed: Checkpoint | None = None
        """State that TABLE start begins with; None: the empty one."""
        self._table: AppTable | None = None
        """Of our blocks."""
        self.template = False
        """The capability was agreed."""
        self._may_start = False
        self._offers: dict[int, PackedDictionary] = NOTHING
        self._tables: dict[int, AppTable] = NOTHING
        """Offered, and not yet there."""
        self._armed: frozenset[tuple[FrameType, int]] = _NONE
        """Offers that were not wanted yet: one offer is sent once."""
        self._retiring: frozenset[int] = _NONE
        """Retired, and the device has not said that it has heard of it."""
        self._queue: tuple[_Outgoing, ...] = ()
        self._marker = 0
        """PONGs up to the one that answers the PING after our last chunk; 0: none is awaited."""
        if named is not None and not plain:
            self.begin_profiles().missing = True

    # --- the hand-shake

    def give_up(self) -> None:
        """What HELLO named can not be waited for: its blocks stay undecoded."""
        self._named = None

    def grant(self, found: FoundStates | None, *, template: bool) -> tuple[tuple[int, bytes] | None, int]:
        """WELCOME leaves: (its table, its `accepted`). The blocks follow from here on."""
        self.template = template
        named, self._named = self._named, None
        profiles = self.profiles()
        if not template:
            self._may_start = profiles is not None or (self._plain and named is not None)
            return None, 0
        profiles = self.begin_profiles()
        found = found or FoundStates()
        table = _table_named(named, found.table)
        accepted = 0
        down: Checkpoint | None = None
        if table is not None and named is not None:
            if found.up is not None and named.up and _is(found.up, table, named.up_digest):
                self._resumed = Checkpoint(named.up, found.up)
            if self._resumed is not None or not named.up:
                accepted |= UP_ACCEPTED
                if not self._plain:
                    profiles.decode_from(table, self._resumed)
                    self._resumed = None
            state = found.down
            if named.down and state is not None and _is(state, table, named.down_digest):
                down = Checkpoint(named.down, state)
                accepted |= DOWN_ACCEPTED
        self._table = table or GENERIC
        profiles.encode_from(self._table, down)
        self._may_start = self._plain or not accepted & UP_ACCEPTED
        return (self._table.id, self._table.digest), accepted

    # --- offers

    def offer_table(self, table: AppTable) -> None:
        """Nothing happens while it stands offered. Raises LocalError without the capability, above MAX_TABLES, and
        while another one with its id stands offered."""
        if not self.template:
            raise LocalError("table: the device does not speak profile D")
        offered = self._tables.get(table.id)
        if offered is not None:
            if offered.digest != table.digest:
                raise LocalError(f"table {table.id}: another one with this id stands offered")
            return
        if len(self._tables) >= MAX_TABLES:
            raise LocalError(f"tables: expected at most {MAX_TABLES} offers")
        if not self._tables:
            self._tables = {}
        self._tables[table.id] = table
        self._arm(FrameType.TABLE, table.id)
        payload = encode_varint(table.id) + table.digest + encode_varint(len(table.encoded))
        self._wire.out.append(table_frame(TableKind.OFFER, payload))

    def retire_table(self, id: int) -> None:
        """The device must not name it any more."""
        self._tables.pop(id, None)
        self._cancel(FrameType.TABLE, id)
        self._wire.out.append(table_frame(TableKind.RETIRE, encode_varint(id)))

    def offer_dictionary(self, packed: PackedDictionary) -> None:
        """Nothing happens while it stands offered. Raises LocalError without the capability, above MAX_DICTIONARIES,
        and for one that the device has."""
        uses = self._agreed()
        id = packed.dictionary.id
        if id in self._offers:
            return
        if len(self._offers) + len(uses.held) >= MAX_DICTIONARIES:
            raise LocalError(f"dictionaries: a connection has at most {MAX_DICTIONARIES}")
        if id in uses.held or id in self._retiring:
            raise LocalError(f"dictionary {id}: the device has it, or is about to forget it")
        if not self._offers:
            self._offers = {}
        self._offers[id] = packed
        self._arm(FrameType.DICT, id)
        self._wire.out.append(dict_frame(DictKind.OFFER, encode_offer(packed.offer)))

    def retire_dictionary(self, id: int) -> None:
        """Our bodies use it no more; the device's until it has heard of it."""
        uses = self._agreed()
        self._offers.pop(id, None)
        self._cancel(FrameType.DICT, id)
        dictionary = uses.held.get(id)
        if dictionary is not None:
            uses.down.retire(dictionary)
        self._retiring |= {id}
        self._wire.out.append(dict_frame(DictKind.RETIRE, encode_retire(id)))

    def use_dictionary(self, id: int) -> None:
        """From here on the classes of the dictionary mean it. Raises LocalError when the device does not have it."""
        uses = self._agreed()
        dictionary = uses.held.get(id)
        if dictionary is None or id in self._retiring:
            raise LocalError(f"dictionary {id}: the device does not have it")
        uses.down.use(dictionary)
        self._wire.out.append(dict_frame(DictKind.USE, encode_use(id)))

    def drop_class(self, name: str) -> None:
        """From here on no dictionary belongs to this class name. Raises LocalError."""
        payload = encode_drop(name)
        self._agreed().down.drop(name)
        self._wire.out.append(dict_frame(DictKind.USE, payload))

    def holds(self, id: int) -> bool:
        """The device has the dictionary."""
        uses = self._wire.uses
        return uses is not None and id in uses.held and id not in self._retiring

    def _agreed(self) -> Uses:
        uses = self._wire.uses
        if uses is None or not uses.dictionaries:
            raise LocalError("dictionaries: the device does not take them")
        return uses

    # --- chunks

    @property
    def fills(self) -> bool:
        """See Exchange."""
        return bool(self._queue) and not self._marker

    def fill(self, out: list[bytes]) -> None:
        """The next CHUNK bytes of what the device wants, and the PING whose answer asks for more."""
        if not self._queue or self._marker:
            return
        outgoing = self._queue[0]
        part = outgoing.content[outgoing.offset : outgoing.offset + CHUNK]
        out.append(encode_frame(outgoing.kind, DictKind.CHUNK, encode_chunk(outgoing.id, outgoing.offset, part)))
        outgoing.offset += len(part)
        if outgoing.offset >= len(outgoing.content):
            self._queue = self._queue[1:]
        if self._queue:
            self._wire.pongs_owed += 1
            self._marker = self._wire.pongs_owed
            out.append(PING_ANSWER_FRAME)

    def pong_came(self) -> bool:
        """See Exchange."""
        if self._marker:
            self._marker -= 1
            return not self._marker
        return False

    def _cancel(self, kind: FrameType, id: int) -> None:
        self._armed -= {(kind, id)}
        self._queue = tuple([one for one in self._queue if one.kind is not kind or one.id != id])

    def _arm(self, kind: FrameType, id: int) -> None:
        self._cancel(kind, id)
        self._armed |= {(kind, id)}

    def _send(self, kind: FrameType, id: int, content: bytes) -> None:
        if (kind, id) in self._armed:
            self._armed -= {(kind, id)}
            self._queue += (_Outgoing(kind, id, content),)

    # --- what comes

    def _table_kind(self, kind: int, number: int, data: bytes, pos: int, end: int) -> None:
        if kind == TableKind.START:
            expect_end(pos, end)
            self._start_came(number)
        elif kind == TableKind.WANT:
            expect_end(pos, end)
            wanted = self._tables.get(number)
            if wanted is not None:
                self._send(FrameType.TABLE, number, wanted.encoded)
        elif kind == TableKind.HAVE:
            digest = whole_digest(data, pos, end)
            offered = self._tables.get(number)
            if offered is not None and offered.digest == digest:
                del self._tables[number]
                self._cancel(FrameType.TABLE, number)
                self._wire.events.append(TableHeld(number))
        else:
            raise unknown_kind("TABLE", kind)

    def _start_came(self, id: int) -> None:
        table = self._table
        if not self._may_start or (id and (table is None or table.id != id)):
            expected = "none" if not self._may_start else f"0 or {0 if table is None else table.id}"
            raise RemoteError(Status.PROTOCOL, f"TABLE: expected start of table {expected}, got {id}")
        self._may_start = False
        resumed, self._resumed = self._resumed, None
        profiles = self.begin_profiles()
        if id:
            profiles.decode_from(table, resumed)
        else:
            profiles.decode_from(None)

    def dict_came(self, kind: int, data: bytes, pos: int, end: int) -> None:
        """See Exchange."""
        self._count()
        uses = self.uses()
        if kind == DictKind.WANT:
            id, base = decode_want(data, pos, end)
            packed = self._offers.get(id)
            if packed is None:
                return
            if not base:
                self._send(FrameType.DICT, id, packed.packed)
            elif packed.base is None or packed.delta is None or packed.base.id != base:
                raise RemoteError(Status.PROTOCOL, f"DICT: {base} was not offered as the base of {id}")
            else:
                self._send(FrameType.DICT, id, packed.delta)
        elif kind == DictKind.HAVE:
            id, digest = decode_have(data, pos, end)
            packed = self._offers.get(id)
            if packed is not None and packed.dictionary.digest == digest and uses.hold(packed.dictionary):
                del self._offers[id]
                self._cancel(FrameType.DICT, id)
                self._wire.events.append(DictionaryHeld(id))
        elif kind == DictKind.USE:
            id, name = decode_use(data, pos, end)
            dictionary = uses.held.get(id)
            if name:
                uses.up.drop(name)
            elif dictionary is None:
                raise RemoteError(Status.PROTOCOL, f"DICT: use of dictionary {id}, which is not there")
            else:
                uses.up.use(dictionary)
        elif kind == DictKind.RETIRE:
            id = decode_retire(data, pos, end)
            self._retiring -= {id}
            if uses.forget(id) is not None:
                self._wire.events.append(DictionaryRetired(id))
        else:
            raise unknown_kind("DICT", kind)


def _table_named(named: NamedStates | None, found: AppTable | None) -> AppTable | None:
    """The table that HELLO named, if we have it."""
    if named is None:
        return None
    for table in (found, GENERIC):
        if table is not None and table.id == named.table and table.digest == named.table_digest:
            return table
    return None


def _is(state: TemplateState, table: AppTable, digest: bytes) -> bool:
    return state.table.digest == table.digest and state.digest == digest


def bundle_in_force(hello: Hello | None, bundle: Bundle | None) -> Bundle:
    """The bundle that HELLO named, if that is `bundle`."""
    if hello is None or bundle is None or not hello.bundle or bundle.digest != hello.bundle:
        return EMPTY_BUNDLE
    return bundle
