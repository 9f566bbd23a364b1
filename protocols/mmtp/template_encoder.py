"""Encoder of header blocks of profile D (specification, 7.2)."""

from __future__ import annotations

from collections.abc import Sequence
from operator import eq

from protocols.errors import LocalError
from protocols.mmtp.header_rules import OPERATION, is_credential, is_header_name, width_of
from protocols.mmtp.tables import AppTable
from protocols.mmtp.template_copies import find_copies
from protocols.mmtp.template_decoder import DROP, FULL, ONCE, OVERRIDES, SIZES
from protocols.mmtp.template_habits import Habits
from protocols.mmtp.template_state import (
    MAX_STATE,
    MAX_TEMPLATE_FIELDS,
    MAX_TEMPLATES,
    Field,
    Template,
    TemplateState,
    weight_of,
)
from protocols.mmtp.values import (
    ENUM,
    HEX,
    MAX_TIME,
    TIME,
    encode_string,
    encode_value,
    hex_bytes,
    time_code,
    uint_of,
    width,
)
from protocols.mmtp.varint import encode_varint

MAX_FIXED = 512
"""Bytes of a value that is put into a template before it was seen to repeat."""
_BASES = 4
"""Templates, the latest first, that a full block may copy from."""
_NO_LIMIT = 1 << 62

_Headers = Sequence[tuple[str, str]]


class TemplateEncoder:
    """One direction of one connection, sending side.

    Whether a field is a hole follows from what is seen of it (Habits), not from its name or type, but that times begin
    as holes, so do values above MAX_FIXED, and credentials always are.
    """

    __slots__ = ("_by_names", "_habits", "_order", "_slots", "_table", "_time", "changed")

    def __init__(self, table: AppTable) -> None:
        self._table = table
        self._slots: dict[int, Template] = {}
        self._by_names: dict[tuple[str, ...], int] = {}
        self._habits: dict[int, Habits] = {}
        self._order: list[int] = []
        """Slots, the one used last first."""
        self._time = 0
        self.changed = False
        """Whether the state differs from that of the last checkpoint in more than the time."""

    @classmethod
    def resumed(cls, table: AppTable, state: TemplateState) -> TemplateEncoder:
        """An encoder that goes on from `state`. Raises LocalError when that is of another table."""
        if state.table.digest != table.digest:
            raise LocalError("template state: of another table")
        encoder = cls(table)
        for template in state.templates:
            encoder._keep(template)
        encoder._order = [template.slot for template in state.templates]
        encoder._time = state.time
        encoder.changed = False
        return encoder

    def checkpoint(self) -> TemplateState:
        """The state after the last block."""
        self.changed = False
        return TemplateState(self._table, self._slots.values(), self._time)

    def encode(self, fields: _Headers, max_headers: int = _NO_LIMIT, max_fields: int = _NO_LIMIT) -> bytes:
        """The block of a list; `:op` can only be its first name. The bounds are what the peer takes: expanded bytes
        and fields.

        Raises LocalError, with the state as it was, for what no list may have and what is above the bounds.
        """
        if not fields:
            return b""
        count = len(fields)
        if count > max_fields:
            raise LocalError(f"headers: the peer takes {max_fields} fields, got {count}")
        order = self._order
        if order:
            slot = order[0]
            template = self._slots[slot]
            if count == len(template.fields):
                block = self._with(template, self._habits[slot], fields, max_headers)
                if block is not None:
                    return block
        return self._search(fields, max_headers)

    def _with(self, template: Template, habits: Habits, fields: _Headers, max_headers: int) -> bytes | None:
        """The block by this template; None when it is of other names."""
        known = template.fields
        same = list(map(eq, fields, known))
        if same == template.pattern:
            if not habits.settled:
                block = self._plain(template, habits, fields, max_headers)
                if block is not None:
                    return block
            overrides = []
        else:
            overrides = [place for place, fixed in enumerate(template.pattern) if same[place] is not fixed]
            for place in overrides:
                if fields[place][0] != known[place][0] or fields[place][1] == known[place][1]:
                    return None
        for place, name, *_ in template.plan:
            if fields[place][0] != name:
                return None
        return self._amend(template, habits, fields, overrides, max_headers)

    def _search(self, fields: _Headers, max_headers: int) -> bytes:
        fields = [(name, value) for name, value in fields]
        names = tuple([name for name, _ in fields])
        slot = self._by_names.get(names)
        block = None
        if slot is not None:
            block = self._with(self._slots[slot], self._habits[slot], fields, max_headers)
        if slot is None or block is None:
            return self._define(fields, max_headers)
        if self._order[0] != slot:
            self._order.remove(slot)
            self._order.insert(0, slot)
        return block

    def _plain(self, template: Template, habits: Habits, fields: _Headers, max_headers: int) -> bytes | None:
        """A block without overrides and sizes. None when the names or the sizes are others."""
        out = bytearray((template.slot << 2,))
        filled = _fill(template, fields, out, self._time)
        if filled is None:
            return None
        size, time, values = filled
        size += template.base
        if size > max_headers:
            raise _too_large(max_headers, size)
        self._time = time
        habits.note(values)
        return bytes(out)

    def _amend(
        self, template: Template, habits: Habits, fields: _Headers, overrides: list[int], max_headers: int
    ) -> bytes:
        """A block with whatever it needs: overrides, sizes of hex values."""
        old = template.fields
        room = MAX_STATE - sum([other.weight for other in self._slots.values()])
        settled: list[int] = []
        explicit = False
        # All values are coded first: habits and state change only when nothing can fail any more.
        codes, growth, time = self._code(overrides, template, fields)
        tail = bytearray()
        filled = None if habits.settled else _fill(template, fields, tail, time)
        if filled is None:
            for index in habits.settled:
                value = fields[index][1]
                if habits.latest(template, index) == value and width_of(value) <= room:
                    settled.append(index)
                    room -= width(value)
            sizes = {hole.place: hole.size for hole in template.holes}
            hexes = {hole.place: hex_bytes(fields[hole.place][1]) for hole in template.holes if hole.type == HEX}
            loose = [index for index, raw in hexes.items() if raw is None or len(raw) != sizes[index]]
            anew = [index for index in loose if habits.loose and hexes[index] is not None]
            overrides = sorted({*overrides, *settled, *anew})
            explicit = not {*overrides}.issuperset(loose)
            codes, growth, time = self._code(overrides, template, fields)
            tail.clear()
            for hole in template.holes:
                if hole.place not in overrides:
                    value = fields[hole.place][1]
                    raw = None if explicit else hexes.get(hole.place)
                    if raw is None:
                        raw, time = encode_value(hole.kind, value, time, hole.secret)
                    tail += raw
                    growth += width(value)
        else:
            more, time, _ = filled
            growth += more
        if template.base + growth > max_headers:
            raise _too_large(max_headers, template.base + growth)

        out = bytearray((template.slot << 2 | (SIZES if explicit else 0) | (OVERRIDES if overrides else 0),))
        new_values: dict[int, str] = {}
        new_holes: dict[int, int] = {}
        previous = -1
        for index, code in zip(overrides, codes, strict=True):
            value = fields[index][1]
            fixed = old[index][1]
            if fixed is None:
                hole_now = index not in settled
                if not hole_now:
                    habits.fixed(index)
            else:
                growth = width(value) - width(fixed)
                hole_now = habits.changes(index, len(code)) or growth > room
                room -= 0 if hole_now else growth
            if hole_now:
                new_holes[index] = hex_size(self._table, fields[index][0], value)
            else:
                new_values[index] = value
            follows = index != overrides[-1]
            out += encode_varint(index - previous - 1 << 2 | follows << 1 | hole_now)
            out += code
            previous = index
        out += tail
        habits.settled.clear()
        habits.loose = habits.loose + 1 if explicit else 0
        self._time = time
        if overrides:
            template = template.changed(self._table, new_values, new_holes)
            self._slots[template.slot] = template
            if settled or new_holes:
                habits.reshaped(template)
            self.changed = True
        habits.note([fields[hole.place][1] for hole in template.holes])
        return bytes(out)

    def _code(self, indexes: list[int], template: Template, fields: _Headers) -> tuple[list[bytes], int, int]:
        """The values of these fields in full, by how much they expand more than the template's, and the last time."""
        codes = []
        growth = 0
        time = self._time
        for index in indexes:
            name, value = fields[index]
            code, time = encode_value(self._table.kind(name), value, time)
            codes.append(code)
            growth += width(value) - width(template.fields[index][1] or "")
        return codes, growth, time

    def _define(self, fields: _Headers, max_headers: int) -> bytes:
        """A full block."""
        table = self._table
        size = 0
        for index, (name, value) in enumerate(fields):
            if not is_header_name(name) and (name != OPERATION or index):
                raise LocalError(f"header: expected a lower-case name, and {OPERATION} only first, got {name[:64]!r}")
            size += len(name) + width_of(value) + 32
        if size > max_headers:
            raise _too_large(max_headers, size)
        out = bytearray()
        time = self._time
        made: list[Field] = []
        sizes = []
        copies = find_copies([self._slots[slot] for slot in self._order[:_BASES]], fields)
        index = 0
        while index < len(fields):
            name, value = fields[index]
            copied = copies.get(index)
            if copied is not None and (copied.length > 1 or (name, value) not in table.pair_index):
                slot, start, count = copied
                out += encode_varint(((start << 5 | slot) + 2) << 2 | 3) + encode_varint(count)
                holes = [hole for _, hole in self._slots[slot].fields[start : start + count]]
            else:
                pair = table.pair_index.get((name, value))
                count = 1
                holes = [value]
                if pair is not None:
                    out += encode_varint(pair << 2 | 1)
                else:
                    hole = is_credential(name) or table.kind(name).type == TIME or len(value) > MAX_FIXED
                    place = table.index.get(name)
                    if place is None:
                        out += encode_varint(hole << 2 | 3) + encode_string(name)
                    else:
                        out += encode_varint(place << 2 | hole << 1)
                    data, time = encode_value(table.kind(name), value, time, is_credential(name))
                    out += data
                    made.append((name, None if hole else value))
                    sizes.append(hex_size(table, name, value) if hole else 0)
                    index += 1
                    continue
            for (name, value), fixed in zip(fields[index : index + count], holes, strict=True):
                made.append((name, fixed))
                sizes.append(hex_size(table, name, value) if fixed is None else 0)
                if fixed is None:
                    data, time = encode_value(table.kind(name), value, time, is_credential(name))
                    out += data
            index += count
        shared = [_shared(table, name, fixed) for name, fixed in made]
        head = self._place(tuple([name for name, _ in shared]), shared, sizes)
        self._time = time
        return head + bytes(out)

    def _place(self, names: tuple[str, ...], fields: list[Field], sizes: list[int]) -> bytes:
        """Keep a new template, in place of those that were not used for longest when there is no room for it."""
        weight = weight_of(self._table, fields)
        if weight > MAX_STATE or len(fields) > MAX_TEMPLATE_FIELDS:
            return bytes((ONCE,))
        head = bytearray()
        if len(self._slots) < MAX_TEMPLATES:
            slot = next(slot for slot in range(MAX_TEMPLATES) if slot not in self._slots)
        else:
            slot = self._order[-1]
            self._drop(slot)
        while sum([template.weight for template in self._slots.values()]) + weight > MAX_STATE:
            victim = self._order[-1]
            self._drop(victim)
            head.append(DROP | victim)
        self._keep(Template.of(self._table, slot, fields, sizes))
        self._order.insert(0, slot)
        head.append(FULL | slot)
        return bytes(head)

    def _keep(self, template: Template) -> None:
        self._slots[template.slot] = template
        self._habits[template.slot] = Habits(template)
        self._by_names[tuple([name for name, _ in template.fields])] = template.slot
        self.changed = True

    def _drop(self, slot: int) -> None:
        template = self._slots.pop(slot)
        del self._habits[slot]
        self._order.remove(slot)
        names = tuple([name for name, _ in template.fields])
        if self._by_names.get(names) == slot:
            del self._by_names[names]


def _fill(template: Template, fields: _Headers, out: bytearray, time: int) -> tuple[int, int, list[str]] | None:
    """Append the values of the holes: their expanded bytes, the last time, and the values themselves. None when a
    name or a size is not as in the template."""
    if not template.pinned:
        return None
    extra = 0
    values = []
    for index, expected, type_, length, kind, secret in template.plan:
        name, value = fields[index]
        if name != expected:
            return None
        values.append(value)
        if type_ == HEX:
            try:
                raw = bytes.fromhex(value)
            except ValueError:
                return None
            if len(raw) != length or raw.hex() != value:
                return None
            out += raw
        elif (code := kind.codes.get(value)) is not None:
            out += code
            if type_ == ENUM and not value.isascii():
                extra += width(value) - len(value)
        elif type_ == TIME and (number := uint_of(value, MAX_TIME)) is not None:
            difference = time_code(number - time)
            time = number
            out += (
                encode_varint(difference)
                if not 127 < difference < 16384
                else bytes((difference & 127 | 128, difference >> 7))
            )
        else:
            coded, _ = encode_value(kind, value, time, secret)
            out += coded
            if not value.isascii():
                extra += width(value) - len(value)
    return sum(map(len, values)) + extra, time, values


def _shared(table: AppTable, name: str, value: str | None) -> Field:
    """A field as the table has it, if it does, so that the caller's equal strings are not kept."""
    place = table.index.get(name)
    if place is not None:
        name = table.names[place].name
        pair = None if value is None else table.pair_index.get((name, value))
        if pair is not None:
            return table.pairs[pair]
    return name, value


def hex_size(table: AppTable, name: str, value: str) -> int:
    """The size that a hole is pinned to by this value."""
    if table.kind(name).type != HEX:
        return 0
    raw = hex_bytes(value)
    return 0 if raw is None else len(raw)


def _too_large(max_headers: int, size: int) -> LocalError:
    return LocalError(f"headers: the peer takes {max_headers} expanded bytes, got {size}")
